"""The other sides of the ratios: programs of their own, run by path."""

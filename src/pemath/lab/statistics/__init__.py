"""What data-driven methods must know of a module, measured with its model on a few rows."""

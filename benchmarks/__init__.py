"""Measurements of what pemath promises: every figure is a ratio to a peer or to a stated limit."""

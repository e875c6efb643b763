"""Weights of a sum of modules that are learned from data: one file for each method.

What is fitted is always an exact weighted sum, so that the result is an expression with numbers.
"""

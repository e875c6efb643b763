"""The experiments of the paper: one file each. Each gives the independent cells that it consists of,
and a function that does one cell and says what came out.
"""

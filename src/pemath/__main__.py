"""`python -m pemath`."""

from pemath.cli import main

main()

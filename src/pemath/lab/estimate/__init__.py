"""What carrying out a recipe would do and cost, said without doing it."""

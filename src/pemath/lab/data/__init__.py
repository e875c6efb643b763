"""Labelled text: known tasks by name, the user's own files, and the split that experiments need."""

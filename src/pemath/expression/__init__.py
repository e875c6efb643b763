"""Expressions over adapters: an immutable tree, a parser, a printer and the linear normal form."""

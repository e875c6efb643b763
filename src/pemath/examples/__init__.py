"""Small real adapters and the reviews they are measured on: data, no code."""

"""Looking at adapters without composing them: one by itself, and two side by side."""

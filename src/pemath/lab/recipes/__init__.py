"""What an experiment is, in one YAML file: its sections, its checks, and the presets shipped."""

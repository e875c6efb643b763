"""How adapters lie on disk: safetensors files, PEFT folders, atomic output."""

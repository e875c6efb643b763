"""PEFT adapter folders: `adapter_config.json` beside `adapter_model.safetensors`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pemath.errors import ConfigError, PickleRefused, ReferenceNotFound, StorageError
from pemath.formats.files import open_regular
from pemath.formats.safetensors import TensorFile
from pemath.limits import LIMITS
from pemath.names import display, listing
from pemath.references import CONFIG, WEIGHTS

PICKLES = ("adapter_model.bin", "adapter_model.pt", "pytorch_model.bin")
PREFIX = "base_model.model."

_CONVERT = (
    "load it once where you trust it and save it again: "
    "`PeftModel.from_pretrained(base, FOLDER).save_pretrained(NEW)` writes safetensors"
)


@dataclass(frozen=True, eq=False)
class PeftFolder:
    """An adapter folder whose config and tensor header have been checked; no tensor is read yet."""

    path: Path
    config: Mapping[str, Any]
    tensors: TensorFile

    @classmethod
    def open(cls, path: Path) -> PeftFolder:
        """Open the adapter in `path`.

        Raises: ReferenceNotFound, ConfigError, PickleRefused, FileFormatError, StorageError.
        """
        if not path.is_dir():
            raise ReferenceNotFound("not a folder", where=display(path))
        config_path, weights_path = path / CONFIG, path / WEIGHTS
        if not config_path.is_file():
            below = sorted(p.parent.name for p in path.glob(f"*/{CONFIG}"))[:20]
            hint = (
                f"it holds adapters in subfolders {listing(below)}: "
                f"name one, as in `{display(path)}:{display(below[0])}`"
                if below
                else "give the folder that PEFT's save_pretrained wrote"
            )
            raise ReferenceNotFound(f"the folder has no {CONFIG}", where=display(path), hint=hint)
        config = read_json(config_path)
        if not weights_path.is_file():
            for name in PICKLES:
                if (path / name).exists():
                    raise PickleRefused(
                        f"the weights are a pickle (`{name}`), which can run code when it is read",
                        where=display(path),
                        expected=WEIGHTS,
                        hint=_CONVERT,
                    )
            raise ReferenceNotFound(f"the folder has no {WEIGHTS}", where=display(path))
        return cls(path, config, TensorFile.open(weights_path))

    def names(self, field: str) -> list[str]:
        """A field that lists names of modules. Raises ConfigError if it is no list of text."""
        value = self.config.get(field) or []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ConfigError(
                f"`{field}` is not a list of names",
                where=display(self.path / CONFIG),
                found=display(value, 60),
            )
        return value

    @property
    def peft_type(self) -> str:
        """PEFT's name of the kind, upper case."""
        return str(self.config.get("peft_type", "")).upper()

    @property
    def base_model(self) -> str | None:
        """The base model's name or path as the config gives it."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None


def module_name(tensor: str) -> str:
    """A tensor's name without the prefix that PEFT's wrapper adds."""
    return tensor.removeprefix(PREFIX)


def read_json(path: Path, most: int = LIMITS.config_bytes) -> dict[str, Any]:
    """A JSON object from a file of at most `most` bytes, and of bounded depth.

    Raises: ConfigError, StorageError.
    """
    try:
        with open_regular(path) as file:
            text = file.read(most + 1)
    except OSError as error:
        raise StorageError(f"cannot read the file: {error.strerror}", where=display(path)) from None
    if len(text) > most:
        raise ConfigError(
            "the file is too large",
            where=display(path),
            expected=f"at most {most} bytes",
        )
    return parse_json(text, display(path))


def parse_json(text: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object of bounded depth, without NaN and without a field that stands twice.

    Raises: ConfigError.
    """
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_not_json,
            parse_float=_finite,
        )
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"not valid JSON: {display(error)}", where=where) from None
    if not isinstance(value, dict):
        raise ConfigError("not a JSON object", where=where)
    if _depth(value) > LIMITS.json_depth:
        raise ConfigError("nested too deeply", where=where)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a field stands twice in one object")
    return found


def _not_json(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{display(text, 40)} is out of range")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object with sorted keys, two-space indent and a final newline."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level and depth <= LIMITS.json_depth:
        depth += 1
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return depth

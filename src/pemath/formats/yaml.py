"""YAML 1.2 files, bounded and without tags: plain values only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pemath.errors import ConfigError, StorageError
from pemath.limits import LIMITS
from pemath.names import display


def read_yaml(path: Path) -> Any:
    """The content of a YAML 1.2 file. Raises: StorageError, ConfigError with line and column."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        with open(path, "rb") as file:
            text = file.read(LIMITS.request_bytes + 1)
        if len(text) > LIMITS.request_bytes:
            raise ConfigError("the file is too large", where=display(path))
        return YAML(typ="safe", pure=True).load(text.decode("utf-8"))
    except OSError as error:
        raise StorageError(f"cannot read the file: {error.strerror}", where=display(path)) from None
    except (YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).split("\n", 1)[0]
        raise ConfigError(
            f"not valid YAML: {display(problem, 200)}", where=f"{display(path)}{place}"
        ) from None

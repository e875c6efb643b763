"""SHA-256 of the sources, computed beside everything else."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pemath.errors import StorageError
from pemath.expression.tree import Operand
from pemath.formats.files import sha256
from pemath.names import display
from pemath.references import CONFIG, WEIGHTS, Resolved


class Digests:
    """Hashes the files of resolved operands on a thread. Nothing is checked here: what cannot be
    read is refused when the adapter is opened.
    """

    def __init__(self, resolved: Mapping[Operand, Resolved]) -> None:
        self._resolved = resolved
        # Listed before anything else happens: a file that vanishes meanwhile is missed.
        self._paths = {operand: _files(source.folder) for operand, source in resolved.items()}
        self._found: dict[Operand, dict[str, str]] = {}
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        for operand, paths in self._paths.items():
            if not paths or not all(path.is_file() for path in paths):
                return
            try:
                self._found[operand] = {path.name: sha256(path) for path in paths}
            except OSError:
                return

    def sources(self, names: Mapping[Operand, str]) -> dict[str, dict[str, Any]]:
        """Reference, revision and digests of each operand, by its name.

        Raises: StorageError if a file vanished meanwhile.
        """
        self._thread.join()
        for operand, source in self._resolved.items():
            if operand not in self._found:
                raise StorageError("a source cannot be read any more", where=display(source.folder))
        return {
            names[operand]: {
                "reference": source.reference,
                "revision": source.revision,
                "files": self._found[operand],
            }
            for operand, source in self._resolved.items()
        }


def _files(folder: Path) -> list[Path]:
    """What an adapter's folder, or a checkpoint's, is read from."""
    if (folder / CONFIG).is_file():
        return [folder / CONFIG, folder / WEIGHTS]
    return sorted(folder.glob("*.safetensors"))

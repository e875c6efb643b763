"""Opening files of strangers."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO

from pemath.errors import StorageError
from pemath.names import display


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read. A FIFO or a device is refused, without waiting for it.

    Raises: OSError, StorageError.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise StorageError("not a regular file", where=display(path))
    return open(handle, "rb")


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Files that are there whole or not at all, also after a power cut. Torch-free."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".unfinished"
"""Ending of the names that files have while they are written."""


def put(path: Path, content: bytes | str) -> None:
    """Write a file, text in UTF-8; what was there stays until all of the new is on the disk, whatever stops this.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of the one at `path` at the end, and only if nothing was raised.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk: without that, a power cut may undo a rename."""
    if os.name != "posix":  # a folder cannot be opened elsewhere, where renames are journaled
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(content: bytes | memoryview) -> str:
    """The checksum that files are recorded with, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()

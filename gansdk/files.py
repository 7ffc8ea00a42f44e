"""Files that are there whole or not at all, also after a power cut. Torch-free."""

from __future__ import annotations

import errno
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


LARGE = 64 * 2**20
"""Bytes from which a file must hold what it claims."""


def read_held(path: Path, most: int | None = None) -> bytes:
    """The content of a file of at most `most` bytes.

    Raises:
        ValueError: it is larger, or mostly a hole: a file can claim terabytes and take no space.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        check_held(file, most)
        return file.read()


def check_held(file: BinaryIO, most: int | None = None) -> None:
    """Raise ValueError if an open file is larger than `most` bytes, or large and less than half of it on the disk."""
    size = os.fstat(file.fileno()).st_size
    if most is not None and size > most:
        raise ValueError(f"it has {size:,} bytes, more than the {most:,} expected")
    if size > LARGE and (held := _held(file, size)) < size // 2:
        raise ValueError(f"it claims {size:,} bytes, but only {held:,} of them are on the disk")


def _held(file: BinaryIO, size: int) -> int:
    """Bytes outside of holes."""
    if not hasattr(os, "SEEK_DATA"):
        return size
    held = position = 0
    start = file.tell()
    try:
        while position < size:
            data = os.lseek(file.fileno(), position, os.SEEK_DATA)
            position = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            held += position - data
    except OSError as error:
        return held if error.errno == errno.ENXIO else size  # no data behind; or a file system that does not tell
    finally:
        os.lseek(file.fileno(), start, os.SEEK_SET)
    return held


def sha256_of(path: Path) -> str:
    """The checksum of a file, however large.

    Raises:
        ValueError, OSError: as `read_held`.
    """
    with path.open("rb") as file:
        check_held(file)
        return hashlib.file_digest(file, "sha256").hexdigest()

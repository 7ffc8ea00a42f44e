"""Files that are there whole or not at all, also after a power cut. Torch-free."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any, BinaryIO

from gansdk.errors import OutputError

UNFINISHED = ".unfinished"
"""Ending of the names that files have while they are written."""
DAY_S = 86400.0
_LEFT = re.compile(
    r"\.(?P<name>.+)\.((?P<pid>\d+)-\d+-(?P<machine>[0-9a-f]{8})\.unfinished|unfinished-(?P<earlier>\d+))", re.DOTALL
)
"""Names of what is being written; the second way is that of an earlier version."""
_LONGEST = 40
"""Letters of a file's name that its unfinished form repeats: longer ones would be too long for some disks."""
_number = itertools.count()
_started = time.time()


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
    unfinished = unfinished_name(path)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)
    clear_unfinished(path.parent, path.name)


def unfinished_name(path: Path) -> Path:
    """A name beside `path` for what will take its place, never given twice; it says which process is at work."""
    return path.with_name(f".{path.name[:_LONGEST]}.{os.getpid()}-{next(_number)}-{_machine()}{UNFINISHED}")


def clear_unfinished(folder: Path, name: str | None = None) -> None:
    """Remove what processes that are gone left unfinished in a folder, of one name or of all; nothing else."""
    wanted = None if name is None else name[:_LONGEST]
    with suppress(OSError):
        for path in list(folder.iterdir()):
            left = _LEFT.fullmatch(path.name)
            if left and wanted in (None, left["name"]) and _is_abandoned(path, left):
                remove(path)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed at the end; what a kill leaves of one is removed by the next.

    Raises:
        OSError: it cannot be made.
    """
    place = Path(gettempdir())
    clear_unfinished(place, "gansdk")
    folder = unfinished_name(place / "gansdk")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove(folder)


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk: without that, a power cut may undo a rename."""
    if os.name != "posix":  # a folder cannot be opened elsewhere, where renames are journaled
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Let everything in a folder reach the disk."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def sha256(content: bytes | memoryview) -> str:
    """The checksum that files are recorded with, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


LARGE = 64 * 2**20
"""Bytes from which a file must hold what it claims."""


def read_held(path: Path, most: int | None = None) -> bytes:
    """The content of a file of at most `most` bytes.

    Raises:
        ValueError: it is larger, or mostly a hole: a file can claim terabytes and take no space; or no regular file.
        OSError: it cannot be read.
    """
    with regular(path) as file:
        check_held(file, most)
        return file.read(os.fstat(file.fileno()).st_size)


@contextmanager
def regular(path: Path) -> Iterator[BinaryIO]:
    """A file to read. Archives may hold pipes and links to devices, whose reading would never end.

    Raises:
        ValueError: it is no regular file.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"'{path.name}' is no regular file")
        yield file


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
    with regular(path) as file:
        check_held(file)
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # os.fdopen's can do all it needs


def _is_abandoned(path: Path, left: re.Match[str]) -> bool:
    """Whether nobody will go on with it. Of other machines' processes, only time can tell."""
    pid = int(left["pid"] or left["earlier"])
    if left["machine"] not in (None, _machine()):
        return time.time() - max(part.lstat().st_mtime for part in (path, *path.rglob("*"))) > DAY_S
    if pid == os.getpid():  # containers give the same numbers again
        return path.lstat().st_mtime < _started
    return not _is_running(pid)


def _is_running(pid: int) -> bool:
    if os.name != "posix":  # where a signal of 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


@cache
def _machine() -> str:
    """Tells machines apart, and containers, whose processes do not see each other."""
    try:
        container = os.readlink("/proc/self/ns/pid")
    except OSError:
        container = ""
    return hashlib.sha256(f"{platform.node()} {container}".encode()).hexdigest()[:8]


def move_aside(path: Path) -> Path | None:
    """Rename what is at `path` to the first free NAME.old-N; nothing already made is ever deleted.

    Raises:
        OutputError: it cannot be renamed.
    """
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return None
    aside = free_name(path)
    try:
        path.rename(aside)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"'{path}' cannot be moved aside to '{aside.name}': {error}. Choose another out_dir, or move it yourself."
        ) from error
    return aside


def free_name(path: Path) -> Path:
    """The first NAME.old-N beside `path` that nothing has."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.old-{number}")):
        number += 1
    return aside


def to_json(value: Any) -> Any:
    """The value as JSON data: tuples become lists, NaN and infinities null, anything unknown its text."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def json_text(value: Any) -> str:
    """The value as an indented JSON document."""
    return json.dumps(to_json(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

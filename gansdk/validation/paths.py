"""Paths that users give, refused in words before anything is computed for them. Torch-free."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path, PurePath

from gansdk.errors import GansdkError, InvalidOption, OutputError
from gansdk.text import quoted

_BESIDE = "." * 40
"""What names of unfinished files and of those moved aside have in addition, and a little more."""


def as_utf8(name: str | PurePath) -> str:
    r"""A name as reports and terminals can hold it: bytes that are not UTF-8 as escapes, "caf\udce9.png"."""
    return str(name).encode(errors="backslashreplace").decode()


def given_path(given: object, option: str, *, error: type[GansdkError] = InvalidOption) -> Path:
    """A path as it was given; whether anything is there is not looked at.

    Raises:
        InvalidOption: it is neither text nor a path, or has a character that no path has; or `error`.
    """
    if not isinstance(given, (str, Path)) or given == "":
        raise error(f"{option}={quoted(given)} is not a path. Pass a str or a pathlib.Path.")
    if "\0" in str(given):
        raise error(f"{option}={quoted(str(given))} has a null character, which paths cannot contain. Remove it.")
    return Path(given)


def output_path(given: object, option: str) -> Path:
    """A path to write to.

    Raises:
        InvalidOption: it is neither text nor a path.
        OutputError: nothing can be written there, or reports and JSON could not hold its name.
    """
    path = given_path(given, option)
    if as_utf8(path) != str(path):
        raise OutputError(
            f"{option}={quoted(str(path))} has bytes that are not UTF-8, which reports cannot contain. Choose another "
            "name."
        )
    whole = path.absolute()
    if file := next((parent for parent in whole.parents if os.path.isfile(parent)), None):
        raise OutputError(
            f"{quoted(str(file))} is a file, but {quoted(str(path))} would be inside it. Choose another name, or move "
            "it."
        )
    _look_at(path)
    if whole.name:
        _look_at(whole.with_name(whole.name + _BESIDE))
    return path


def check_folder(given: object, option: str) -> Path:
    """The path of a folder that can be written to, or be made.

    Raises:
        InvalidOption, OutputError: as `output_path`; or it is something else, or somebody else's.
    """
    path = output_path(given, option)
    mode = _look_at(path)
    if mode is not None and not os.path.isdir(path):
        raise OutputError(f"{quoted(str(path))} should be a folder, but is {_called(mode)}. Choose another name.")
    _check_writable(path)
    return path


def check_file(given: object, option: str) -> Path:
    """The path of a file that can be replaced, or be made.

    Raises:
        InvalidOption, OutputError: as `output_path`; or it is something else, or in somebody else's folder.
    """
    path = output_path(given, option)
    mode = _look_at(path)
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{quoted(str(path))} should be a file, but is {_called(mode)}. Choose another name.")
    _check_writable(path.absolute().parent)
    return path


def _look_at(path: Path) -> int | None:
    """The mode of what is at a path, of a link its own; None for nothing.

    Raises:
        OutputError: that cannot be known, so nothing can be written there either.
    """
    try:
        return os.lstat(path).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "one of its links leads back to itself" if error.errno == errno.ELOOP else error.strerror
        raise OutputError(f"{quoted(str(path))} cannot be written: {why}. Choose another place.") from error


def _check_writable(folder: Path) -> None:
    """Raise OutputError unless the user may write into a folder, or into the one it would be made in."""
    whole = folder.absolute()
    there = next(place for place in (whole, *whole.parents) if os.path.isdir(place))
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(
            f"{quoted(str(folder))} cannot be written: no permission to write to {quoted(str(there))}. Choose another "
            "place."
        )


def _called(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a file" if stat.S_ISREG(mode) else "no regular file"

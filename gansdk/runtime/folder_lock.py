"""One run at a time in a folder, whatever process, user or machine it is of. Torch-free."""

from __future__ import annotations

import errno
import getpass
import json
import os
import platform
import shlex
import sys
import warnings
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from gansdk.errors import GansdkWarning, OutputError, RunInUse

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".gansdk.lock"
"""In the folder while a run is under way, and after a kill until the next one is over. It says whose it is."""
_ATTEMPTS = 100
_LONGEST = 200
"""Letters of a holder's command that are shown."""
_held: set[FolderLock] = set()


class FolderLock:
    """Holds a folder, which is made if there is none, until the `with` block ends; a kill lets it go too.

    Where the file system has no locks, a warning says so and nothing is held.

    Raises:
        RunInUse: somebody holds it; the message says who, and since when.
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._file = self.folder / LOCK
        self._is_new = not self.folder.exists()
        if self.folder.is_file():
            raise OutputError(f"'{self.folder}' is a file, but a run needs a folder there. Choose another out_dir.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._acquire()
        except OSError as error:
            raise OutputError(f"out_dir={str(folder)!r} cannot be written: {error}. Choose another folder.") from error
        _held.add(self)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _held.discard(self)
        if self._descriptor is None:
            return
        if self._is_in_place(self._descriptor):
            with suppress(OSError):
                self._file.unlink()
        os.close(self._descriptor)
        self._descriptor = None
        if self._is_new:
            with suppress(OSError):  # something was saved there
                self.folder.rmdir()

    def check(self) -> None:
        """Make sure that the folder is still held before something is written there.

        Raises:
            OutputError: it was deleted or moved, so that another run may be in its place.
        """
        if self._descriptor is not None and not self._is_in_place(self._descriptor):
            raise OutputError(
                f"'{self.folder}' was deleted or moved during this run ('{LOCK}' no longer exists), so another run may "
                "be using its place. This run stops and writes nothing more there. Its saved state is in the moved "
                "folder: start it again with that folder, or with a new out_dir."
            )

    def forget(self) -> None:
        """Leave the lock to the process that this one was forked from."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _acquire(self) -> int | None:
        if fcntl is None:
            self._warn("this system has none")
            return None
        for _ in range(_ATTEMPTS):  # a holder may have finished, and removed its lock, after it was opened here
            descriptor = self._opened()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _holder(descriptor)
                os.close(descriptor)
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise RunInUse(
                        f"Another run is under way in '{self.folder}': {holder}. Wait until it ends, stop it, or "
                        "choose another out_dir. Nothing was changed."
                    ) from error
                with suppress(OSError):
                    self._file.unlink()
                self._warn(error.strerror)
                return None
            if self._is_in_place(descriptor) and self._is_signed(descriptor):
                return descriptor
            os.close(descriptor)
        self._warn("the lock file is replaced every time")
        return None

    def _opened(self) -> int:
        flags = os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            return os.open(self._file, flags | os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # another user's, which tells nevertheless whether it is held
            return os.open(self._file, flags | os.O_RDONLY)

    def _is_signed(self, descriptor: int) -> bool:
        """Whether the lock says now whose it is; one that a killed run of another user left is removed instead."""
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(_signature()).encode())
        except OSError as error:
            self._file.unlink()
            if error.errno in (errno.EBADF, errno.EINVAL):
                return False
            os.close(descriptor)
            raise
        return True

    def _is_in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._file))
        except OSError:
            return False

    def _warn(self, reason: str | None) -> None:
        warnings.warn(
            f"'{self.folder}' cannot be locked ({reason}), so a second run in it cannot be prevented. Make sure that "
            "there is only one.",
            GansdkWarning,
            stacklevel=6,
        )


def _signature() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (OSError, LookupError, ImportError):
        user = "unknown"
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "user": user,
        "command": shlex.join(sys.argv)[:_LONGEST],
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
    }


def _holder(descriptor: int) -> str:
    """Who signed a lock; whoever it is, the text is short and harmless to print."""
    try:
        facts = json.loads(os.pread(descriptor, 20 * _LONGEST, 0))
        texts = {name: _harmless(str(facts[name])) for name in ("pid", "host", "user", "command", "since")}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "an unidentified process"
    return "process {pid} on {host} (user {user}, command: {command}), since {since}".format(**texts)


def _harmless(text: str) -> str:
    return "".join(letter for letter in text[:_LONGEST] if letter.isprintable())


def _forget_all() -> None:
    for lock in tuple(_held):
        lock.forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    # A worker that outlives its killed parent must not keep the folder.
    os.register_at_fork(after_in_child=_forget_all)

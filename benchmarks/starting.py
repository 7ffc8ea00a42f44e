"""Starts of a command that can be killed: forked from a process that has imported torch already, or fresh ones.

A forked start has what a fresh one has but the wait for imports, as long as nothing but imports was done before and no
thread runs; `prepare` sees to both.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

PACKAGES = ("gansdk", "gansdk_pruners", "gansdk_distillers", "gansdk_adapters", "gansdk_metrics")
SLOW = (
    "accelerate.accelerator",
    "accelerate.utils",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "onnxscript",
    "skimage.metrics",
    "torch._dynamo",
    "torch.onnx._internal.exporter._core",
    "torch_pruning",
    "torchmetrics",
)
"""What commands import later; not onnxruntime, which starts a thread."""
COMMAND_LINE = "from gansdk.cli.app import main; main()"
CHANGES = frozenset({"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink"})
"""Python's names of what changes files, as audit hooks are told."""
GRACE_S = 30.0
"""Seconds that a process has to end in once others of its group have failed, as torchrun gives."""


def prepare() -> None:
    """Import what commands import."""
    for name in PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            if ".testing" not in found.name:
                importlib.import_module(found.name)
    for name in SLOW:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lose the threads"


@dataclass(frozen=True)
class Command:
    """What a user starts."""

    arguments: tuple[str, ...] = ()
    code: str = COMMAND_LINE
    processes: int = 1
    """With more than one, they are started as torchrun starts them."""

    @property
    def is_of_users(self) -> bool:
        """Whether a user types it, who should see no traceback, also of Ctrl-C."""
        return self.code == COMMAND_LINE and self.processes == 1


@dataclass(frozen=True)
class Fault:
    """A signal that the command meets right before it changes a file for the `number`-th time, counted from 1."""

    number: int
    signal: signal.Signals
    everybody: bool = True
    """Whether all processes of the command get it, or the one that changes the file."""


@dataclass(frozen=True)
class Place:
    """Folders of a case: what the command works in, its folder for temporary files, and what is known of its starts."""

    root: Path

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def operations(self) -> Path:
        """A line for every change of a file that the main process of the last start made."""
        return self.root / "operations"

    def make(self) -> Place:
        """Make the folders."""
        for folder in (self.work, self.temporary):
            folder.mkdir(parents=True)
        return self


@dataclass
class Start:
    """The processes of one start: in one process group, and children of this process."""

    pids: list[int]
    codes: dict[int, int] = field(default_factory=dict)
    """Exit codes of those that have ended; minus the signal for those that were killed."""
    workers: list[int] = field(default_factory=list)
    """Processes of a launcher, which are no children of this process."""

    def running(self) -> bool:
        """Whether anything of it still runs."""
        for pid in self.pids:
            if pid not in self.codes:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.codes[pid] = os.waitstatus_to_exitcode(status)
        self.workers += [pid for pid in _children(self.pids) if pid not in self.workers]
        return len(self.codes) < len(self.pids) or any(map(_runs, self.workers))

    def send(self, what: signal.Signals, *, rank: int | None = None) -> None:
        """Send a signal to all processes, or to the one of a rank."""
        everybody = self.workers or self.pids
        targets = [*self.workers, *self.pids] if rank is None else everybody[rank : rank + 1]
        for pid in targets:
            if pid not in self.codes:
                with suppress(ProcessLookupError):
                    os.kill(pid, what)

    def wait(self, timeout_s: float) -> bool:
        """Return once all have ended; those whose companions failed are ended, as torchrun does. False if it hangs."""
        end, failed_at = time.monotonic() + timeout_s, None
        while self.running():
            now = time.monotonic()
            if failed_at is None and any(self.codes.values()):
                failed_at = now
                self.send(signal.SIGTERM)
            if now > end or (failed_at is not None and now > failed_at + GRACE_S):
                self.send(signal.SIGKILL)
                end = now + GRACE_S
                hangs = failed_at is None
                while self.running() and time.monotonic() < end:
                    time.sleep(0.01)
                return not hangs
            time.sleep(0.005)
        return True

    @property
    def code(self) -> int:
        """The first exit code that is not 0, or 0."""
        return next(filter(None, self.codes.values()), 0)


def start(command: Command, place: Place, *, fresh: bool = False, fault: Fault | None = None) -> Start:
    """Start a command in a place; what it prints is appended to the log."""
    place.operations.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    if fresh and command.processes > 1:
        script = place.root / "script.py"
        script.write_text(command.code)
        launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={command.processes}", str(script))
        return Start([_fork(place, {}, 0, lambda: _replace(*launcher, *command.arguments))])
    if fresh:
        return Start([_fork(place, {}, 0, lambda: _replace("-c", command.code, *command.arguments))])
    pids: list[int] = []
    port = _free_port()
    for rank in range(command.processes):
        variables = _of_torchrun(rank, command.processes, port) if command.processes > 1 else {}
        watched = rank == 0
        pids.append(
            _fork(
                place,
                variables,
                pids[0] if pids else 0,
                lambda watched=watched: _run(command, place, fault, watched=watched),  # type: ignore[misc]
            )
        )
    return Start(pids)


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """The JSON that a function returns in a process of its own, so that this one does nothing but imports."""
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with os.fdopen(write, "w") as file:
                json.dump(function(*arguments), file)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise RuntimeError(f"{function.__name__} failed")
    return json.loads(text)


def last_line(place: Place) -> str:
    """What the starts in a place printed last."""
    lines = place.log.read_text(errors="replace").strip().splitlines() if place.log.exists() else []
    return lines[-1][:300] if lines else "it printed nothing"


def _fork(place: Place, variables: Mapping[str, str], group: int, go_on: Callable[[], int]) -> int:
    pid = os.fork()
    if pid:
        with suppress(PermissionError, ProcessLookupError):  # it has done so itself, or ended
            os.setpgid(pid, group or pid)
        return pid
    code = 1
    try:
        os.setpgid(0, group)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(place.work)
        os.environ.update(variables, TMPDIR=str(place.temporary))
        tempfile.tempdir = None
        code = go_on()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _replace(*arguments: str) -> NoReturn:
    os.execv(sys.executable, [sys.executable, *arguments])


def _run(command: Command, place: Place, fault: Fault | None, *, watched: bool) -> int:
    """What a fresh interpreter does with the command, and how it ends."""
    sys.argv = ["gansdk", *command.arguments]
    code: Any = 0
    if watched:
        _watch(place, fault)
    try:
        try:
            exec(compile(command.code, "command", "exec"), {"__name__": "__main__"})
        finally:
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
    except SystemExit as left:
        code = left.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def _watch(place: Place, fault: Fault | None) -> None:
    """Note every change of a file of the place, and let the fault happen."""
    notes = os.open(place.operations, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    done = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if event not in CHANGES or not (names := list(_changed(event, arguments, place.root))):
            return
        done += 1
        os.write(notes, f"{event.removeprefix('os.')} {' -> '.join(names)}\n".encode())
        if fault is not None and done == fault.number:
            (os.killpg if fault.everybody else os.kill)(os.getpgrp() if fault.everybody else os.getpid(), fault.signal)

    sys.addaudithook(hook)


def _changed(event: str, arguments: Sequence[Any], root: Path) -> Iterator[str]:
    """The names, relative to the place, of the files that an event is about to change."""
    if event == "open" and not _is_for_writing(*arguments[1:3]):
        return
    for name in arguments[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]:
        if isinstance(name, (str, bytes, os.PathLike)):
            path = os.path.abspath(os.fsdecode(name))
            if path.startswith(f"{root}{os.sep}"):
                yield os.path.relpath(path, root)


def _is_for_writing(mode: str | None, flags: int) -> bool:
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) if mode is None else bool(set(mode) & set("wax+"))


def _of_torchrun(rank: int, count: int, port: int) -> dict[str, str]:
    """The variables that torchrun gives to a process."""
    return {
        **dict.fromkeys(("RANK", "LOCAL_RANK", "ROLE_RANK"), str(rank)),
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE"), str(count)),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": str(port),
    }


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _children(pids: Sequence[int]) -> Iterator[int]:
    for pid in pids:
        with suppress(OSError):
            yield from map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

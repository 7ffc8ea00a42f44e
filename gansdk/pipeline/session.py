"""One start of a run, for students and for teachers alike: its folder, observers and warnings, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gansdk.events import Event, Finished, Warned, collected
from gansdk.interfaces import DataSource
from gansdk.recipe import Call, TeacherTraining
from gansdk.training.loop import Loop
from gansdk.training.processes import Processes
from gansdk.training.run_folder import RunFolder, open_run


@dataclass(frozen=True, kw_only=True)
class Session:
    """What `open_session` holds until its block ends."""

    target: Path | None
    """Where results go; None if nothing is written."""
    folder: RunFolder
    processes: Processes
    batch_size: int
    observers: Sequence[Callable[[Event], None]]
    warnings: Sequence[str]
    """What was warned about while everything was opened."""
    began: float

    def loop(self, source: DataSource | None, *, seed: int) -> Loop:
        """A training loop of its own for a student or a teacher."""
        return Loop(
            source=source,
            processes=self.processes,
            folder=self.folder,
            seed=seed,
            batch_size=self.batch_size,
            observers=self.observers,
        )

    @contextmanager
    def collecting(self, loop: Loop) -> Iterator[list[str]]:
        """The warnings of one result: those of the opening, and those that come up meanwhile, which are told."""
        warnings = list(self.warnings)
        with collected(warnings, lambda message: loop.emit(Warned(message=message))):
            yield warnings

    def once(self, write: Callable[[Path], object]) -> None:
        """Write to the target, if there is one, once for all processes."""
        if self.target is not None and self.processes.is_main:
            write(self.target)
        self.processes.wait()

    def finish(self, loop: Loop) -> None:
        """Tell that the run is over."""
        loop.emit(Finished(seconds=time.perf_counter() - self.began, output=str(self.target or "")))


@contextmanager
def open_session(
    call: Call | TeacherTraining,
    settings: Mapping[str, Any],
    *,
    target: Path | None,
    run_in: Path | None,
    results: Sequence[Path],
    reports: Sequence[str],
    check_places: Callable[[], None],
    processes: Processes,
    warnings: list[str],
    began: float,
) -> Iterator[Session]:
    """Take the run's folder, which no other run can use until the block ends, and tell of the warnings so far.

    `run_in` is the folder to keep the run in, None to keep nothing. `results` are the folders that it will write,
    `reports` the names of what else it writes into `run_in`; `check_places` refuses what is there and not ours.

    Raises:
        RunInUse: another run is under way there.
        GansdkError: as `RunFolder` and `check_places` say.
    """
    if processes.is_main:
        check_places()
    # Only the main process has the folder; the others are told what is in it.
    kept = run_in if processes.is_main else None
    run = open_run(kept, settings, resume=call.resume, students=results, others=reports)
    with ExitStack() as held:
        with collected(warnings):
            folder = held.enter_context(run)
        if processes.is_main:
            check_places()  # once more, now that no other run can write there
        processes.wait()
        session = Session(
            target=target,
            folder=folder,
            processes=processes,
            batch_size=call.batch_size,
            observers=call.observers,
            warnings=warnings,
            began=began,
        )
        loop = session.loop(None, seed=call.seed)
        for message in warnings:
            loop.emit(Warned(message=message))
        yield session


def stamped(settings: Mapping[str, Any], *, began: float) -> dict[str, Any]:
    """Settings with what is known once a result is there: how long it took since `began`, and by which torch."""
    return {**settings, "seconds": round(time.perf_counter() - began, 1), "torch": torch.__version__}

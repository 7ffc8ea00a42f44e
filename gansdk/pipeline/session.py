"""One start of a run: what its students share, from the checks before any compute to the floor under their quality."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gansdk.budget.budget import Budget
from gansdk.budget.cost import Cost, Limits
from gansdk.budget.order import check_order
from gansdk.errors import IncompatibleParts, InvalidOption, QualityFloorMissed
from gansdk.evaluation.quality import QualityFloor
from gansdk.events import DistillerChosen, Event, Finished, Warned, collected
from gansdk.generators.joint import source_of
from gansdk.interfaces import Metric, Student
from gansdk.pipeline.checks import check_feasible, check_images, check_measurable
from gansdk.pipeline.job import Job
from gansdk.pipeline.prepare import prepare
from gansdk.pipeline.result import REPORTS, CompressionResult, Ladder
from gansdk.recipe import Call, Recipe, recipe_of
from gansdk.registry.parts import open_metrics
from gansdk.registry.records import recorded, recorded_whole
from gansdk.saving.writing import check_target
from gansdk.training.loop import Loop
from gansdk.training.processes import Processes
from gansdk.training.run_folder import RunFolder, open_run
from gansdk.validation.paths import check_file, check_folder

STUDENT = "student"
"""A student's folder in the folder that is its own."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """What `begin` opened and checked, and what the students of one call have in common."""

    jobs: tuple[Job, ...]
    """One per student, from the largest budget to the smallest."""
    is_ladder: bool
    """Whether every student has a folder of its own, named by its budget."""
    target: Path | None
    """Where everything goes; None if nothing is written."""
    folder: RunFolder
    recipe: Recipe
    """What was requested, with the budgets of all students."""
    settings: dict[str, Any]
    """JSON facts that decide the results of all students alike, beside the recipe."""
    processes: Processes
    batch_size: int
    metrics: Sequence[Metric]
    floor: QualityFloor | None
    dry_run: bool
    observers: Sequence[Callable[[Event], None]]
    told: list[str]
    """What was warned about while everything was opened."""
    began: float

    def loop(self, job: Job) -> Loop:
        """A training loop of its own for a student."""
        return Loop(
            source=None if job.source is None else source_of(job.source, job.generator),
            processes=self.processes,
            folder=self.folder,
            seed=job.seed,
            batch_size=self.batch_size,
            observers=self.observers,
        )

    def rung(self, job: Job) -> str:
        """What stands in front of a student's stages and folders: "4x/", or nothing if there is only one."""
        return _rung(job, self.is_ladder)

    def place(self, job: Job) -> Path | None:
        """The folder that a student's folder goes into."""
        return None if self.target is None else self.target / self.rung(job)

    def limits(self, student: Student, full: Cost) -> list[Limits]:
        """What all budgets come to, in the order of the jobs, where the generator costs `full`.

        Raises:
            InvalidOption: the budgets are not in order.
            BudgetUnreachable: one is below the cost of the smallest plan.
            NothingPruned: there is nothing to prune.
        """
        limits = [job.budget.resolve(full) for job in self.jobs]
        check_order([job.budget for job in self.jobs], limits)
        for one in limits:
            check_feasible(student, one, floor_share=0.0)  # pruners have floors of their own, and check them first
        return limits

    def tell_chosen(self, loop: Loop) -> None:
        """Tell what distiller="auto" came to, which is the same for all students."""
        if (teaching := self.jobs[0].teaching) is not None:
            names, weight = teaching.distillers, teaching.task_weight
            loop.emit(DistillerChosen(distillers=names, task_weight=weight, reason=teaching.reason))

    @contextmanager
    def collecting(self, loop: Loop) -> Iterator[list[str]]:
        """The warnings of one student: those of the opening, and those that come up meanwhile, which are told."""
        warnings = list(self.told)
        with collected(warnings, lambda message: loop.emit(Warned(message=message))):
            yield warnings

    def settings_of(self, job: Job, *, seconds: float) -> dict[str, Any]:
        """JSON: how a student came to be."""
        scored_on = job.scored_on
        settings = job.settings()
        # What scores were measured on and by decides nothing of the student, so a run may go on with others.
        scoring = {
            "eval_data": None if scored_on is None or scored_on is job.source else recorded_whole(scored_on),
            "metrics": [recorded(metric) for metric in self.metrics],
        }
        return {
            **self.settings,
            **settings,
            "given": {**settings["given"], **scoring},
            "eval_data": None if scored_on is None or scored_on is job.source else scored_on.describe(),
            "teaching": job.taught(),
            "seconds": round(seconds, 1),
            "torch": torch.__version__,
        }

    def save(self, result: CompressionResult) -> None:
        """Write a student's folder, once for all processes."""
        if result.out_dir is not None and self.processes.is_main:
            result.save(result.out_dir / STUDENT)
        self.processes.wait()

    def report(self, made: Ladder) -> None:
        """Write what holds for all students together, once for all processes."""
        if self.target is not None and self.processes.is_main:
            for name in REPORTS:
                made.report(self.target / name)
        self.processes.wait()

    def finish(self, results: Sequence[CompressionResult], made: CompressionResult | Ladder) -> None:
        """Tell that the run is over, and whether its students are good enough.

        Raises:
            QualityFloorMissed: one is not; it holds what was made.
        """
        self.loop(self.jobs[0]).emit(Finished(seconds=time.perf_counter() - self.began, output=str(self.target or "")))
        if self.floor is None or self.dry_run:
            return
        found = [
            " ".join(filter(None, (self.floor.missed(part.quality, part.findings) for part in result.parts.values())))
            for result in results
        ]
        missed = [
            f"{job.budget.label}: {text}" if self.is_ladder else text
            for job, text in zip(self.jobs, found, strict=True)
            if text
        ]
        if missed:
            who = "All students are" if self.is_ladder else "The student is"
            place = (
                f"in {self.target}" if self.target else "in this error's result, and not saved: out_dir was not given"
            )
            raise QualityFloorMissed(f"{' '.join(missed)} {who} {place}.", result=made)


def _rung(job: Job, is_ladder: bool) -> str:
    return f"{job.budget.label}/" if is_ladder else ""


@contextmanager
def begin(
    call: Call,
    budgets: Sequence[Budget],
    *,
    run_in: str | Path | None,
    processes: Processes,
    is_ladder: bool = False,
) -> Iterator[Session]:
    """Open and check what `gansdk.compress` or `gansdk.ladder` was given.

    `run_in` is the folder to keep the run in, which no other run can use until the block ends.

    Raises:
        RunInUse: another run is under way in the output folder.
        GansdkError: of the kind that fits, for anything that cannot be opened or does not go together.
    """
    began = time.perf_counter()
    if call.model is None:
        raise InvalidOption("No model was given. Pass a checkpoint, a module or a folder, or a recipe that names one.")
    if not budgets:
        raise InvalidOption('No budget was given. Pass budget="4x", or a recipe that has one.')
    dry_run, batch_size = call.dry_run, call.batch_size
    target = None if call.out_dir is None or dry_run else check_folder(call.out_dir, "out_dir")
    floor = QualityFloor.parse(call.quality)
    told: list[str] = []
    with collected(told):
        measures = open_metrics(call.metrics)
        jobs = prepare(call, budgets, processes)
        if dry_run and jobs[0].pruner.trains:
            raise IncompatibleParts(
                f"The pruner {type(jobs[0].pruner).__name__} trains the student while it searches, and dry_run=True "
                "trains nothing. Leave one of them out, or use the pruner 'one-step'."
            )
        if not dry_run:
            for job in jobs:
                check_measurable(floor, measures, job)
    share = processes.share(batch_size)
    check_images(jobs[0], share)
    shared: dict[str, Any] = {"processes": processes.count}
    if is_ladder:
        shared["ladder"] = [str(budget) for budget in budgets]
    settings = {**jobs[0].settings(), **shared}
    students = [] if target is None else [target / _rung(job, is_ladder) / STUDENT for job in jobs]
    if processes.is_main:
        for student in students:
            check_target(student, jobs[0].generator.routes)
        if is_ladder and target is not None:
            for name in REPORTS:
                check_file(target / name, "out_dir")
    # Only the main process has the folder; the others are told what is in it.
    kept = run_in is not None and not dry_run and processes.is_main
    run = open_run(
        Path(run_in) if kept and run_in is not None else None,
        settings,
        resume=call.resume,
        students=students,
        others=REPORTS if is_ladder else (),
    )
    with ExitStack() as held:
        with collected(told):
            folder = held.enter_context(run)
        session = Session(
            jobs=jobs,
            is_ladder=is_ladder,
            target=target,
            folder=folder,
            recipe=recipe_of(call, budgets),
            settings=shared,
            processes=processes,
            batch_size=batch_size,
            metrics=measures,
            floor=floor,
            dry_run=dry_run,
            observers=call.observers,
            told=told,
            began=began,
        )
        processes.wait()
        loop = session.loop(jobs[0])
        for message in told:
            loop.emit(Warned(message=message))
        yield session

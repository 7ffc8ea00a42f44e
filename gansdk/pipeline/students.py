"""The students of one call, from the checks before any compute to the floor under their quality."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gansdk.budget.budget import Budget
from gansdk.budget.cost import Cost, Limits
from gansdk.budget.order import check_order
from gansdk.errors import InvalidOption, QualityFloorMissed
from gansdk.evaluation.quality import QualityFloor
from gansdk.events import DistillerChosen, collected
from gansdk.generators.joint import source_of
from gansdk.interfaces import Metric, Student
from gansdk.pipeline.checks import check_feasible
from gansdk.pipeline.job import Job
from gansdk.pipeline.prepare import open_all, prepare
from gansdk.pipeline.result import REPORTS, CompressionResult, Ladder
from gansdk.pipeline.session import Session, open_session, stamped
from gansdk.recipe import Call, Recipe, recipe_of
from gansdk.registry.records import recorded, recorded_whole
from gansdk.saving.writing import check_target
from gansdk.training.loop import Loop
from gansdk.training.processes import Processes
from gansdk.validation.paths import check_file, check_folder

STUDENT = "student"
"""A student's folder in the folder that is its own."""


@dataclass(frozen=True, kw_only=True)
class Students:
    """What the students of one call have in common, and the session that they are made in."""

    session: Session
    jobs: tuple[Job, ...]
    """One per student, from the largest budget to the smallest."""
    is_ladder: bool
    """Whether every student has a folder of its own, named by its budget."""
    recipe: Recipe
    """What was requested, with the budgets of all students."""
    settings: dict[str, Any]
    """JSON facts that decide the results of all students alike, beside the recipe."""
    metrics: Sequence[Metric]
    floor: QualityFloor | None
    dry_run: bool

    def loop(self, job: Job) -> Loop:
        """A training loop of its own for a student."""
        return self.session.loop(None if job.source is None else source_of(job.source, job.generator), seed=job.seed)

    def rung(self, job: Job) -> str:
        """What stands in front of a student's stages and folders: "4x/", or nothing if there is only one."""
        return _rung(job, self.is_ladder)

    def place(self, job: Job) -> Path | None:
        """The folder that a student's folder goes into."""
        return None if self.session.target is None else self.session.target / self.rung(job)

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

    def settings_of(self, job: Job, *, began: float) -> dict[str, Any]:
        """JSON: how a student came to be, which was begun at `began`."""
        given_to_score = None if job.scored_on is job.source else job.scored_on
        settings = job.settings()
        # What scores were measured on and by decides nothing of the student, so a run may go on with others.
        scoring = {
            "eval_data": None if given_to_score is None else recorded_whole(given_to_score),
            "metrics": [recorded(metric) for metric in self.metrics],
        }
        whole = {
            **self.settings,
            **settings,
            "given": {**settings["given"], **scoring},
            "eval_data": None if given_to_score is None else given_to_score.describe(),
            "teaching": job.taught(),
        }
        return stamped(whole, began=began)

    def save(self, result: CompressionResult, job: Job) -> None:
        """Write a student's folder, once for all processes."""
        self.session.once(lambda target: result.save(target / self.rung(job) / STUDENT))

    def report(self, ladder: Ladder) -> None:
        """Write what holds for all students together, once for all processes."""
        self.session.once(lambda target: [ladder.report(target / name) for name in REPORTS])

    def finish(self, results: Sequence[CompressionResult], made: CompressionResult | Ladder) -> None:
        """Tell that the run is over, and whether its students are good enough.

        Raises:
            QualityFloorMissed: one is not; it holds what was made.
        """
        self.session.finish(self.loop(self.jobs[0]))
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
            target = self.session.target
            place = f"in {target}" if target else "in this error's result, and not saved: out_dir was not given"
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
) -> Iterator[Students]:
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
    target = None if call.out_dir is None or call.dry_run else check_folder(call.out_dir, "out_dir")
    warnings: list[str] = []
    with collected(warnings):
        opened = open_all(call, budgets, share=processes.share(call.batch_size))
        jobs = prepare(opened, processes)
    shared: dict[str, Any] = {"processes": processes.count}
    if is_ladder:
        shared["ladder"] = [str(budget) for budget in budgets]
    places = [] if target is None else [target / _rung(job, is_ladder) / STUDENT for job in jobs]
    reports = REPORTS if is_ladder else ()

    def check_places() -> None:
        for place in places:
            check_target(place, opened.generator.routes)
        if target is not None:
            for name in reports:
                check_file(target / name, "out_dir")

    with open_session(
        call,
        {**jobs[0].settings(), **shared},
        target=target,
        run_in=None if run_in is None or call.dry_run else Path(run_in),
        results=places,
        reports=reports,
        check_places=check_places,
        processes=processes,
        warnings=warnings,
        began=began,
    ) as session:
        yield Students(
            session=session,
            jobs=jobs,
            is_ladder=is_ladder,
            recipe=recipe_of(call, budgets),
            settings=shared,
            metrics=opened.metrics,
            floor=opened.floor,
            dry_run=call.dry_run,
        )

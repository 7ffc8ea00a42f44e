"""`compress` and `ladder`: open, check, search, carve, prove, distil, evaluate, save. No method or family is named."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from gansdk.budget.budget import Budget
from gansdk.budget.cost import sum_of
from gansdk.budget.order import read_budgets
from gansdk.contracts import Route
from gansdk.evaluation.self_checks import SelfCheck
from gansdk.events import Event
from gansdk.files import temporary_folder
from gansdk.interfaces import Adapter, Distiller, Pruner
from gansdk.pipeline.job import Job
from gansdk.pipeline.result import CompressionResult, Ladder, joined
from gansdk.pipeline.session import Session, begin
from gansdk.pipeline.stages import (
    CARVED,
    TRACED,
    carve,
    check_traced,
    find_plan,
    finish_checks,
    make_student,
    recover,
    score,
    start,
    start_checks,
    warn_of_plan,
    why_unused,
)
from gansdk.registry.isolation import guarded
from gansdk.training.processes import Processes
from gansdk.validation.signatures import fitting


@guarded("compress")
def compress(
    model: Any,
    *,
    budget: Any,
    adapter: str | Mapping[str, Any] | Adapter = "auto",
    pruner: str | Mapping[str, Any] | Pruner = "one-step",
    distiller: str | Mapping[str, Any] | Distiller | Sequence[Any] | None = "auto",
    data: Any = None,
    eval_data: Any = None,
    steps: int | None = None,
    seed: int = 0,
    out_dir: str | Path | None = None,
    resume: Literal["auto", "never"] = "auto",
    device: str = "auto",
    dry_run: bool = False,
    quality: str | None = None,
    metrics: Any = (),
    batch_size: int = 8,
    patch: int | None = None,
    learning_rate: float | None = None,
    task_weight: float | None = None,
    discriminator: str | Path | Mapping[Route, str | Path] | None = None,
    transform: str | None = None,
    observers: Sequence[Callable[[Event], None]] = (),
) -> CompressionResult:
    """Make a small student of a generator that looks like it.

    Args:
        model: a module of a known family, a checkpoint path, a saved student's folder, or `gansdk.wrap(...)`. Several
            routes that the family trains together (A2B and B2A) are compressed in one run: a folder with a folder for
            each, or a mapping.
        budget: "10x", "macs<=2.6G", "params<=25%, size<=5MB", or a `gansdk.Budget`; of all routes together.
        adapter: the family, {"name": ..., option: value}, an instance, or "auto" to recognise it.
        pruner: a name, {"name": ..., option: value}, or an instance.
        distiller: likewise, or a list of them; None prunes only, and then needs neither data nor steps. "auto" is what
            the generator's family says (`Adapter.teaching`), with what is measured of the teacher on a few of the
            images: `pixel` for super-resolution and wrapped generators, whose student leaves the truth out where the
            teacher is perceptual, and `gka` for translation. The report says what it was, and why.
        data: a folder of images, "photos" (the embedded photographs), {"name": ..., option: value}, or a DataSource;
            distillers that make their own images need none, and score on it where it is given.
        eval_data: what student and teacher are scored on; left out, the held-out part of `data`.
        steps: training steps of the student; 2000 if left out. With 0 it stays as the pruner found and repaired it: for
            pruners that train, whose distiller then says what for.
        seed: of everything random; the same seed on the same machine gives the same student.
        out_dir: where the run, the student and the report go; left out, nothing is written.
        resume: "auto" continues a run found in `out_dir`; "never" moves it aside, to run.old-1, and starts anew. The
            student of the earlier run is kept as student.old-1 in both cases.
        device: "auto", or "cpu".
        dry_run: stop once the plan is found and carved; nothing is trained or written.
        quality: a floor for the student: bounds and checks with commas between, "finite,psnr-y>=29.5". A bound is of a
            metric's mean over all images, "worst-psnr-y>=25" of the worst one, "psnr-y-to-teacher>=30" against the
            teacher where there is a ground truth too; checks are those of
            `gansdk.evaluation.self_checks.CHECKS`, "checks" all of them. If missed, the student is still saved and
            QualityFloorMissed is raised.
        metrics: names, {"name": ..., option: value} or instances of what is measured besides: FID, KID, mIoU.
        batch_size: images a step, over all processes.
        patch: side of the training inputs in pixels; the source's own choice if left out.
        learning_rate: the largest of the schedule; the family's own if left out.
        task_weight: of the family's own loss, beside the distillers' terms: the distance to the truth of paired data
            (else to the teacher's images), and the adversarial losses of families that have them. With 0 the teacher
            alone is imitated, and no discriminator learns. Left out, it is 1, or what "auto" chooses. Distillers that
            bring a regime of their own take none.
        discriminator: checkpoint of the discriminator that the generator was trained against, for the student to go
            on with; a folder saved by `train_teacher` brings its own, and else the student's starts fresh, as wide as
            the adapter's `discriminator_width` says. "fresh" starts a new one in any case; {route: ...} for several.
        transform: one of those that the family's adapter offers, such as "mobile": the student is carved from the
            generator in that architecture, partly with fresh weights, which training must make up for. Budgets stay
            relative to the generator as given.
        observers: called with every event of the run.

    Raises:
        GansdkError: one of its kinds, before any compute is spent wherever that is possible.
    """
    asked = fitting(compress, locals())
    budgets = [Budget.parse(asked.pop("budget"))]
    processes = Processes(device)
    with (
        processes.together(),
        guarded("compress"),  # inside, so that the other processes are told whose fault it is
        begin(budgets, run_in=out_dir, processes=processes, **asked) as session,
    ):
        result = _make(session, session.jobs[0])
        session.finish([result], result)
    return result


@guarded("ladder")
def ladder(
    model: Any,
    *,
    budgets: str | Sequence[Any],
    adapter: str | Mapping[str, Any] | Adapter = "auto",
    pruner: str | Mapping[str, Any] | Pruner = "one-step",
    distiller: str | Mapping[str, Any] | Distiller | Sequence[Any] | None = "auto",
    data: Any = None,
    eval_data: Any = None,
    steps: int | None = None,
    seed: int = 0,
    out_dir: str | Path | None = None,
    resume: Literal["auto", "never"] = "auto",
    device: str = "auto",
    dry_run: bool = False,
    quality: str | None = None,
    metrics: Any = (),
    batch_size: int = 8,
    patch: int | None = None,
    learning_rate: float | None = None,
    task_weight: float | None = None,
    discriminator: str | Path | Mapping[Route, str | Path] | None = None,
    transform: str | None = None,
    observers: Sequence[Callable[[Event], None]] = (),
) -> Ladder:
    """Make several students of a generator, from large to small, and the curve of their quality against their cost.

    Each is made as by `compress`, with `steps` of its own. What a pruner does once for all of them is shared: shared
    weights are trained once, and subnets that were scored for one budget count for the others. The smallest student
    comes first, so that a budget out of reach is refused before anything is spent.

    `budgets` go from the largest to the smallest, each tighter than the one before: ["2x", "4x", "8x"]. In `out_dir` go
    `run`, a folder for every budget (`4x/student`), ladder.html and ladder.json. `quality` is a floor for every
    student; missed by any, all are saved and the error raised. Everything else is as for `compress`; a pruner or
    distillers given as instances serve all students one after the other.

    Raises:
        GansdkError: one of its kinds, before any compute is spent wherever that is possible.
    """
    asked = fitting(ladder, locals())
    wanted = read_budgets(asked.pop("budgets"))
    # What the students share passes from one to the next through the run's folder.
    folder = nullcontext(out_dir) if out_dir is not None or dry_run else temporary_folder()
    processes = Processes(device)
    with (
        processes.together(),
        guarded("ladder"),
        folder as run_in,
        begin(wanted, run_in=run_in, is_ladder=True, processes=processes, **asked) as session,
    ):
        results: list[CompressionResult] = []
        for job in reversed(session.jobs):
            results.append(_make(session, job, results))
        made = Ladder(results=results[::-1], out_dir=session.target)
        session.report(made)
        session.finish(made.results, made)
    return made


def _make(session: Session, job: Job, smaller: Sequence[CompressionResult] = ()) -> CompressionResult:
    """One student: its plan, its training, its scores and its folder; `smaller` were made before it."""
    began = time.perf_counter()
    loop = session.loop(job)
    with session.collecting(loop) as warnings:
        with guarded("trace"):
            student, costs = make_student(job)
        student.module.to(loop.processes.device)
        run = start(job, loop, student, session.rung(job))
        before = sum_of(costs.values())
        limits = session.limits(student, before)
        if not smaller:
            session.tell_chosen(loop)
        with guarded("trace"):
            checks = {TRACED: check_traced(job, run, student)}
        own = job.budget.resolve(before)
        with guarded("search"):
            plan = loop.processes.agree(find_plan(job, run, student, limits, own))
        warn_of_plan(plan, student, job.budget, {result.budget: result.plan for result in smaller})
        with guarded("carve"):
            carved, checks[CARVED] = carve(job, run, student, plan, before)
        checking: dict[Route, SelfCheck] = {}
        if not session.dry_run:
            with guarded("check"):
                checking = start_checks(job, run)
            with guarded("recover"):
                recover(job, run, student, carved, plan)
            if job.distillers and job.steps:
                with guarded("check"):
                    for route, part in carved.parts().items():
                        checking[route].before(part)
                run.enter("distil", carved)
                run.distil(job.steps)
        carved.train(False)
        with guarded("check"):
            findings = finish_checks(checking, job, run, carved) if checking else {}
        with guarded("evaluate"):
            evaluations = {} if session.dry_run else score(run, job, carved, session.metrics)
        carved.module.cpu().eval()
        settings = session.settings_of(job, seconds=time.perf_counter() - began)
        given = {route: part.discriminator for route, part in job.generator.parts.items()}
        critics = job.task.discriminators() if job.learns_by_task else given if job.keeps_discriminators else {}
        used, unused = own.usage(student.cost(plan)), why_unused(student, plan, own)
        parts = {
            route: CompressionResult(
                evaluation=evaluations.get(route),
                student=carved.parts()[route].module,
                teacher=job.generator.parts[route].module,
                generator=job.origin.parts[route],
                space=full.space,
                plan=student.split(plan)[route],
                budget=str(job.budget),
                before=costs[route],
                transformed=full.cost(full.space.full_plan()) if job.origin is not job.generator else None,
                after=full.cost(student.split(plan)[route]),
                used=used,
                unused=unused,
                warnings=warnings,
                history=loop.history,
                search=run.searched,
                compared=run.compared,
                checks=dict(checks),
                findings=findings.get(route, []),
                inputs=checking[route].inputs if checking else {},
                settings=settings,
                discriminator=critics.get(route),
                out_dir=session.place(job),
            )
            for route, full in student.parts().items()
        }
        result = joined(parts, job.origin, job.generator, carved.module, student.space, plan)
        with guarded("save"):
            session.save(result)
    return result

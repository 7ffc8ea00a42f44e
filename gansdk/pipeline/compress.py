"""`compress` and `ladder`: open, check, search, carve, prove, distil, evaluate, save. No method or family is named."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

from gansdk.budget.budget import Budget
from gansdk.budget.cost import sum_of
from gansdk.budget.order import read_budgets
from gansdk.contracts import Route
from gansdk.evaluation.self_checks import SelfCheck
from gansdk.files import temporary_folder
from gansdk.pipeline.job import Job
from gansdk.pipeline.result import CompressionResult, Ladder, joined
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
from gansdk.pipeline.students import Students, begin
from gansdk.recipe import Compression, Rungs, takes
from gansdk.registry.isolation import guarded
from gansdk.training.processes import Processes


@takes(Compression)
@guarded("compress")
def compress(call: Compression) -> CompressionResult:
    """Make a small student of a generator that looks like it.

    {arguments}

    Raises:
        GansdkError: one of its kinds, before any compute is spent wherever that is possible.
    """
    processes = Processes(call.device)
    with (
        processes.together(),
        guarded("compress"),  # inside, so that the other processes are told whose fault it is
        begin(
            call, [] if call.budget is None else [Budget.parse(call.budget)], run_in=call.out_dir, processes=processes
        ) as students,
    ):
        result = _make(students, students.jobs[0])
        students.finish([result], result)
    return result


@takes(Rungs)
@guarded("ladder")
def ladder(call: Rungs) -> Ladder:
    """Make several students of a generator, from large to small, and the curve of their quality against their cost.

    Each is made as by `compress`, with `steps` of its own. What a pruner does once for all of them is shared: shared
    weights are trained once, and subnets that were scored for one budget count for the others. The smallest student
    comes first, so that a budget out of reach is refused before anything is spent.

    In `out_dir` go `run`, a folder for every budget (`4x/student`), ladder.html and ladder.json. A pruner or distillers
    given as instances serve all students one after the other. If any student misses the quality floor, all are saved
    and the error is raised.

    {arguments}

    Raises:
        GansdkError: one of its kinds, before any compute is spent wherever that is possible.
    """
    # What the students share passes from one to the next through the run's folder.
    folder = nullcontext(call.out_dir) if call.out_dir is not None or call.dry_run else temporary_folder()
    processes = Processes(call.device)
    with (
        processes.together(),
        guarded("ladder"),
        folder as run_in,
        begin(call, read_budgets(call.budgets), run_in=run_in, is_ladder=True, processes=processes) as students,
    ):
        results: list[CompressionResult] = []
        for job in reversed(students.jobs):
            results.append(_make(students, job, results))
        made = Ladder(results=results[::-1], out_dir=students.session.target)
        students.report(made)
        students.finish(made.results, made)
    return made


def _make(students: Students, job: Job, smaller: Sequence[CompressionResult] = ()) -> CompressionResult:
    """One student: its plan, its training, its scores and its folder; `smaller` were made before it."""
    began = time.perf_counter()
    loop = students.loop(job)
    with students.session.collecting(loop) as warnings:
        with guarded("trace"):
            student, costs = make_student(job)
        student.module.to(loop.processes.device)
        run = start(job, loop, student, students.rung(job))
        before = sum_of(costs.values())
        limits = students.limits(student, before)
        if not smaller:
            students.tell_chosen(loop)
        with guarded("trace"):
            checks = {TRACED: check_traced(job, run, student)}
        own = job.budget.resolve(before)
        with guarded("search"):
            plan = loop.processes.agree(find_plan(job, run, student, limits, own))
        warn_of_plan(plan, student, job.budget, {result.budget: result.plan for result in smaller})
        with guarded("carve"):
            carved, checks[CARVED] = carve(job, run, student, plan, before)
        checking: dict[Route, SelfCheck] = {}
        if not students.dry_run:
            with guarded("check"):
                checking = start_checks(job, run)
            with guarded("recover"):
                recover(job, run, student, carved, plan)
            if job.method.distillers and job.steps:
                with guarded("check"):
                    for route, part in carved.parts().items():
                        checking[route].before(part)
                run.enter("distil", carved)
                run.distil(job.steps)
        carved.train(False)
        with guarded("check"):
            findings = finish_checks(checking, job, run, carved) if checking else {}
        with guarded("evaluate"):
            evaluations = {} if students.dry_run else score(run, job, carved, students.metrics)
        carved.module.cpu().eval()
        settings = students.settings_of(job, began=began)
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
                recipe=replace(students.recipe, budgets=(job.budget,)),
                discriminator=critics.get(route),
                out_dir=students.place(job),
            )
            for route, full in student.parts().items()
        }
        result = joined(parts, job.origin, job.generator, carved.module, student.space, plan)
        with guarded("save"):
            students.save(result, job)
    return result

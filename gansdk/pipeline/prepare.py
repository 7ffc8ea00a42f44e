"""From a call to jobs: everything that it names is opened, then everything is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gansdk.budget.budget import Budget
from gansdk.contracts import MAIN, Route
from gansdk.errors import InvalidOption
from gansdk.evaluation.quality import QualityFloor
from gansdk.evaluation.teacher_facts import facts_of, least_true
from gansdk.generators.joint import by_route, task_of
from gansdk.interfaces import Generator, Task, TeacherFacts, Teaching
from gansdk.modules.randomness import seeded
from gansdk.modules.weights import read_state
from gansdk.pipeline.checks import CHECKS, CHECKS_OF_JOB
from gansdk.pipeline.job import DEFAULT_STEPS, FRESH, Job, Method, Opened
from gansdk.pipeline.opening import open_generator, open_source, transformed
from gansdk.recipe import Call
from gansdk.registry.isolation import returned
from gansdk.registry.parts import asks_auto, from_json, open_distillers, open_metrics, open_pruner
from gansdk.registry.records import described, recorded, recorded_whole
from gansdk.training.offline_regime import OfflineRegime
from gansdk.training.processes import Processes


def open_all(call: Call, budgets: Sequence[Budget], *, share: int) -> Opened:
    """Open everything that a call names: parts first, whose names cost nothing, then the generator, then images.

    Distillers that distiller="auto" stands for are opened after the generator, whose family chooses them: by what it
    says without any facts, so that what does not go together is refused before anything is measured. Files of
    discriminators are read once the checks have found a use for them. `share`: images of a step in this process.

    Raises:
        GansdkError: of the kind that fits, for what cannot be opened.
    """
    floor, metrics = QualityFloor.parse(call.quality), open_metrics(call.metrics)
    teaching = None
    if asks_auto(call.distiller):
        open_pruner(call.pruner)  # a name that does not exist is refused before a checkpoint is read
        generator = open_generator(call.model, call.adapter)
        teaching = _chosen(generator, {}, call)
        methods = _methods(call, teaching, budgets)
    else:
        methods = _methods(call, None, budgets)
        generator = open_generator(call.model, call.adapter)
    return Opened(
        call=call,
        budgets=tuple(budgets),
        methods=methods,
        metrics=metrics,
        floor=floor,
        share=share,
        generator=generator,
        teaching=teaching,
        data=None if call.data is None else open_source(call.data, generator, patch=call.patch, seed=call.seed),
        eval_data=None if call.eval_data is None else open_source(call.eval_data, generator, split="all"),
    )


def prepare(opened: Opened, processes: Processes) -> tuple[Job, ...]:
    """Check what was opened, and make a job of it for every budget; then measure the teacher.

    Jobs share generator and images, and nothing that a training changes: each has parts of its own, unless they were
    given as instances. Of a regime that was, every job has a copy, for what its `source` keeps in it is one student's.
    Where the measured facts choose other distillers than the family did without, jobs are made and checked with these.

    Raises:
        GansdkError: of the kind that fits, for what does not go together.
    """
    jobs = _checked(opened)
    facts = _measured(jobs[0], processes)
    if opened.teaching is None:
        return tuple(replace(job, facts=facts) for job in jobs)
    teaching = _chosen(opened.generator, facts, opened.call)
    if replace(teaching, reason="") != replace(opened.teaching, reason=""):
        methods = _methods(opened.call, teaching, opened.budgets)
        jobs = _checked(replace(opened, teaching=teaching, methods=methods))
    return tuple(replace(job, facts=facts, teaching=teaching) for job in jobs)


def _methods(call: Call, teaching: Teaching | None, budgets: Sequence[Budget]) -> tuple[Method, ...]:
    """The parts that every budget has of its own."""
    distiller = call.distiller if teaching is None else teaching.distillers
    task_weight = call.task_weight if teaching is None else teaching.task_weight
    return tuple(_method(call.pruner, distiller, task_weight) for _ in budgets)


def _method(pruner: Any, distiller: Any, task_weight: float | None) -> Method:
    distillers = tuple(open_distillers(distiller))
    family = OfflineRegime(task_weight=1.0 if task_weight is None else task_weight)
    regimes = [distiller.regime for distiller in distillers if distiller.regime is not None]
    return Method(pruner=open_pruner(pruner), distillers=distillers, regime=regimes[0] if regimes else family)


def _open_discriminators(
    requested: str | Path | Mapping[Route, str | Path] | None, generator: Generator
) -> dict[Route, Mapping[str, Tensor]]:
    """Weights of the discriminators to go on with: those given, else the generators' own; none for fresh ones."""
    if requested == FRESH:
        return {}
    requested = from_json(requested, "discriminator")
    files = requested if isinstance(requested, Mapping) else {} if requested is None else {MAIN: requested}
    if strange := [route for route in files if route not in generator.parts]:
        raise InvalidOption(
            f"discriminator was given for the route {strange[0]!r}, but there is {' and '.join(generator.parts)}. Pass "
            "one file, {route: file, ...} for several routes, or 'fresh'."
        )
    found: dict[Route, Mapping[str, Tensor]] = {}
    for route, part in generator.parts.items():
        file = files.get(route)
        own = part.discriminator if file is None else None if file == FRESH else read_state(Path(file))
        if own is not None:
            found[route] = own
    return found


def _checked(opened: Opened) -> list[Job]:
    """The jobs of all budgets, once all checks have passed."""
    for check in CHECKS:
        check(opened)
    origin = transformed(opened.generator, opened.call.transform, opened.call.seed)
    critics = _open_discriminators(opened.call.discriminator, opened.generator)
    pairs = zip(opened.budgets, opened.methods, strict=True)
    jobs = [_job(opened, origin, critics, budget, method) for budget, method in pairs]
    for job in jobs:
        for check_job in CHECKS_OF_JOB:
            check_job(opened, job)
    # Parts record what they are once they have loaded what they need.
    return [replace(job, records=_records(opened, job)) for job in jobs]


def _job(
    opened: Opened, origin: Generator, critics: Mapping[Route, Mapping[str, Tensor]], budget: Budget, method: Method
) -> Job:
    """One student's job: what its regime and its family make of what was opened. `critics`: weights to start from."""
    call, generator, given = opened.call, opened.generator, opened.data
    if len(opened.budgets) > 1:
        method = replace(method, regime=copy(method.regime))
    regime = method.regime
    task = _task(generator, critics if regime.uses_task else {}, call.seed)
    source = regime.source(given, generator, patch=call.patch) if method.distillers else given
    return Job(
        recipe=call,
        generator=generator,
        origin=origin,
        budget=budget,
        method=method,
        task=task,
        discriminator=_origins(task, critics, generator) if regime.uses_task else None,
        source=source,
        scored_on=source if opened.eval_data is None else opened.eval_data,
        steps=DEFAULT_STEPS if call.steps is None else call.steps,
        seed=call.seed,
        learning_rate=task.optimisation.learning_rate if call.learning_rate is None else call.learning_rate,
        trains_on_given=bool(method.distillers) and source is not None and source is given,
    )


def _records(opened: Opened, job: Job) -> dict[str, Any]:
    given, method = opened.data, job.method
    regime = method.regime
    return {
        "given": {
            "adapter": recorded_whole(opened.generator.adapter),
            "pruner": recorded(method.pruner),
            "distiller": [recorded(item) for item in method.distillers],
            "data": None if given is None else recorded_whole(given),
        },
        "pruner": described(method.pruner),
        "distiller": [
            described(one) for item in method.distillers for one in (*item.terms, item.regime and regime) if one
        ],
        "task_weight": regime.task_weight if isinstance(regime, OfflineRegime) and method.distillers else None,
        "data": None if job.source is None else job.source.describe(),
        "task": job.task.describe() if regime.uses_task else None,
    }


def _task(generator: Generator, discriminators: Mapping[Route, Mapping[str, Tensor]], seed: int) -> Task:
    """The family's task, with the given discriminators or fresh ones that follow the seed."""
    with seeded(seed):
        return task_of(generator, discriminators)


def _origins(task: Task, known: Mapping[Route, Any], generator: Generator) -> Any:
    """Whether discriminators are "inherited" or "fresh"; None where there is none."""
    return by_route({route: "inherited" if route in known else "fresh" for route in task.discriminators()}, generator)


def _measured(job: Job, processes: Processes) -> dict[Route, TeacherFacts]:
    """What the teacher does on the images that are trained on: the main process's figures, in every process.

    Nothing without images of the user's, and of teachers that learn in the run, which are not known yet.
    """
    if not job.trains_on_given or job.method.regime.trains_teachers:
        return {}
    assert job.source is not None
    facts: dict[Route, TeacherFacts] = processes.agree(
        facts_of(job.generator, job.source, seed=job.seed, device=processes.device) if processes.is_main else {}
    )
    return facts


def _chosen(generator: Generator, facts: Mapping[Route, TeacherFacts], call: Call) -> Teaching:
    """What distiller="auto" is for this generator. What was given goes before that.

    That is the weight, or a discriminator, for which only the family's own loss has a use.
    """
    adapter, task_weight = generator.adapter, call.task_weight
    found = adapter.teaching(least_true(facts) if facts else TeacherFacts())
    teaching = returned(found, Teaching, adapter, "teaching")
    given = f"task_weight={task_weight}"
    if task_weight is None and call.discriminator not in (None, FRESH) and not teaching.task_weight:
        given, task_weight = "a discriminator", 1.0
    if task_weight is None or task_weight == teaching.task_weight:
        return teaching
    reason = (
        f"{teaching.reason} But {given} was given, which takes precedence over the task_weight of "
        f"{teaching.task_weight:g}."
    )
    return replace(teaching, task_weight=task_weight, reason=reason)

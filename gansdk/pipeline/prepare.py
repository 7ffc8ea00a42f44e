"""From what was asked for to a job: everything opened, then everything checked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from gansdk.budget.budget import Budget
from gansdk.contracts import MAIN, Route
from gansdk.errors import GansdkWarning, IncompatibleParts, InvalidOption
from gansdk.evaluation.teacher_facts import facts_of, least_true
from gansdk.generators.joint import source_of, task_of
from gansdk.interfaces import DataSource, Distiller, Generator, Pruner, Regime, Task, TeacherFacts, Teaching
from gansdk.modules.randomness import seeded
from gansdk.modules.weights import read_state
from gansdk.pipeline.checks import (
    check_pairing,
    check_parts,
    check_regime,
    check_terms,
    check_values,
    warn_without_targets,
)
from gansdk.pipeline.job import DEFAULT_STEPS, FRESH, Job
from gansdk.pipeline.opening import open_generator, open_source, transformed
from gansdk.recipe import Settings
from gansdk.registry.isolation import returned
from gansdk.registry.parts import asks_auto, from_json, listed, name_of, open_distillers, open_pruner
from gansdk.registry.records import described, recorded, recorded_whole
from gansdk.training.offline_regime import OfflineRegime
from gansdk.training.processes import Processes


def prepare(recipe: Settings, budgets: Sequence[Budget], processes: Processes) -> tuple[Job, ...]:
    """Open everything that a recipe names, for students of these budgets.

    Jobs share generator and images, and nothing that a training changes: each has parts of its own, unless they were
    given as instances. Of a regime that was, every job has a copy, for what its `source` keeps in it is one student's.

    Raises:
        GansdkError: of the kind that fits, for anything that cannot be opened or does not go together.
    """
    weight, discriminator = recipe.task_weight, recipe.discriminator
    if not asks_auto(recipe.distiller):
        jobs = _opened(recipe, budgets)
        scored_on = _scored_on(recipe.eval_data, jobs[0])
        facts = _measured(jobs[0], processes)
        return tuple(replace(job, facts=facts, scored_on=scored_on or job.scored_on) for job in jobs)
    open_pruner(recipe.pruner)  # a name that there is not is refused first
    generator = open_generator(recipe.model, recipe.adapter)
    # All is opened by what the family alone says, so that what does not go together is refused before it is measured.
    teaching = _chosen(generator, {}, weight, discriminator)
    recipe = replace(recipe, model=generator, distiller=teaching.distillers, task_weight=teaching.task_weight)
    jobs = _opened(recipe, budgets)
    scored_on = _scored_on(recipe.eval_data, jobs[0])
    facts = _measured(jobs[0], processes)
    found = _chosen(generator, facts, weight, discriminator)
    if (found.distillers, found.task_weight) != (teaching.distillers, teaching.task_weight):
        data = jobs[0].source
        jobs = _opened(replace(recipe, data=data, distiller=found.distillers, task_weight=found.task_weight), budgets)
    return tuple(replace(job, facts=facts, teaching=found, scored_on=scored_on or job.scored_on) for job in jobs)


def _opened(recipe: Settings, budgets: Sequence[Budget]) -> list[Job]:
    """The jobs of distillers that are known; scored on what they are trained on."""
    parts = [_open_parts(recipe.pruner, recipe.distiller, recipe.task_weight) for _ in budgets]
    generator = open_generator(recipe.model, recipe.adapter)
    check_values(generator)
    chosen, distillers, regime = parts[0]
    if chosen.trains and regime.trains_teachers:
        warnings.warn(
            f"The pruner {type(chosen).__name__} trains shared weights before the student, and teachers learn beside "
            "both: the run costs several times one against a frozen teacher. A pruner that does not train, such as "
            "'one-step', spares the first half.",
            GansdkWarning,
            stacklevel=2,
        )
    check_regime(generator, regime, _regimes(recipe.distiller, distillers), recipe.discriminator)
    given = None if recipe.data is None else open_source(recipe.data, generator, patch=recipe.patch, seed=recipe.seed)
    check_parts(generator, recipe.pruner, recipe.distiller, distillers, given)
    origin = transformed(generator, recipe.transform, recipe.seed)
    trained_against = _trained_against(recipe.discriminator, generator)
    check_terms(generator, distillers, regime)
    jobs = []
    for budget, (chosen, distillers, regime) in zip(budgets, parts, strict=True):
        task = _task(generator, trained_against if regime.uses_task else {}, recipe.seed)
        source = given
        if len(budgets) > 1:
            regime = copy(regime)
        if distillers:
            source = regime.source(given, generator, patch=recipe.patch)
            check_pairing(source, generator.adapter.name, needs_pairs=task.needs_pairs)
            if source is given:
                warn_without_targets(source, generator.adapter.name, needs_pairs=task.needs_pairs)
            source_of(source, generator)
            task.prepare()
            for term in (term for item in distillers for term in item.terms):
                term.prepare()
        jobs.append(
            Job(
                recipe=recipe,
                generator=generator,
                origin=origin,
                budget=budget,
                pruner=chosen,
                distillers=distillers,
                regime=regime,
                task=task,
                discriminator=_origins(task, trained_against, generator) if regime.uses_task else None,
                source=source,
                scored_on=source,
                steps=DEFAULT_STEPS if recipe.steps is None else recipe.steps,
                seed=recipe.seed,
                learning_rate=task.optimisation.learning_rate if recipe.learning_rate is None else recipe.learning_rate,
                trains_on_given=bool(distillers) and source is not None and source is given,
                asked={
                    "given": {
                        "adapter": recorded_whole(generator.adapter),
                        "pruner": recorded(chosen),
                        "distiller": [recorded(item) for item in distillers],
                        "data": None if given is None else recorded_whole(given),
                    },
                    "pruner": described(chosen),
                    "distiller": [
                        described(one) for item in distillers for one in (*item.terms, item.regime and regime) if one
                    ],
                    "task_weight": regime.task_weight if isinstance(regime, OfflineRegime) and distillers else None,
                    "data": source.describe() if source is not None else None,
                    "task": task.describe() if regime.uses_task else None,
                },
            )
        )
    return jobs


def _scored_on(eval_data: Any, job: Job) -> DataSource | None:
    """The images that were given to score on; None if there are none."""
    return None if eval_data is None else open_source(eval_data, job.generator, split="all")


def _measured(job: Job, processes: Processes) -> dict[Route, TeacherFacts]:
    """What the teacher does on the images that are trained on: the main process's figures, in every process.

    Nothing without images of the user's, and of teachers that learn in the run, which are not known yet.
    """
    if not job.trains_on_given or job.regime.trains_teachers:
        return {}
    assert job.source is not None
    facts: dict[Route, TeacherFacts] = processes.agree(
        facts_of(job.generator, job.source, seed=job.seed, device=processes.device) if processes.is_main else {}
    )
    return facts


def _chosen(
    generator: Generator, facts: Mapping[Route, TeacherFacts], task_weight: float | None, discriminator: Any
) -> Teaching:
    """What distiller="auto" is for this generator. What was given goes before that.

    That is the weight, or a discriminator, for which only the family's own loss has a use.
    """
    adapter = generator.adapter
    found = adapter.teaching(least_true(facts) if facts else TeacherFacts())
    teaching = returned(found, Teaching, adapter, "teaching")
    given = f"task_weight={task_weight}"
    if task_weight is None and discriminator not in (None, FRESH) and not teaching.task_weight:
        given, task_weight = "a discriminator", 1.0
    if task_weight is None or task_weight == teaching.task_weight:
        return teaching
    reason = f"{teaching.reason} But {given} was given, which goes before the task_weight of {teaching.task_weight:g}."
    return replace(teaching, task_weight=task_weight, reason=reason)


def _task(generator: Generator, trained_against: Mapping[Route, Mapping[str, Tensor]], seed: int) -> Task:
    """The family's task, with the given discriminators or fresh ones that follow the seed."""
    with seeded(seed):
        return task_of(generator, trained_against)


def _trained_against(
    asked: str | Path | Mapping[Route, str | Path] | None, generator: Generator
) -> dict[Route, Mapping[str, Tensor]]:
    """Weights of the discriminators to go on with: those given, else the generators' own; none for fresh ones."""
    if asked == FRESH:
        return {}
    asked = from_json(asked, "discriminator")
    files = asked if isinstance(asked, Mapping) else {} if asked is None else {MAIN: asked}
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


def _origins(task: Task, known: Mapping[Route, Any], generator: Generator) -> str | dict[Route, str] | None:
    found = {route: "inherited" if route in known else "fresh" for route in task.discriminators()}
    return found if generator.routes else found.get(MAIN)


def _open_parts(pruner: Any, distiller: Any, task_weight: float | None) -> tuple[Pruner, tuple[Distiller, ...], Regime]:
    chosen = open_pruner(pruner)
    distillers = tuple(open_distillers(distiller))
    if chosen.trains and not distillers:
        raise IncompatibleParts(
            f"The pruner {type(chosen).__name__} trains the student while it searches, but distiller=None says not "
            "what for. Pass a distiller, for example 'pixel'."
        )
    if len(names := _regimes(distiller, distillers)) > 1:
        raise IncompatibleParts(
            f"The distillers {' and '.join(names)} each bring a regime, and a run has one. Keep one of them, and add "
            "terms such as 'gka' beside it."
        )
    regimes = [item.regime for item in distillers if item.regime is not None]
    if task_weight is not None and (regimes or not distillers):
        why = (
            f"The distiller {names[0]} brings a regime of its own"
            if regimes
            else "With distiller=None nothing is trained"
        )
        raise IncompatibleParts(
            f"{why}, so task_weight={task_weight:g} has no loss to weigh. Leave it out, or choose distillers such as "
            "'pixel', which stand beside the family's own loss."
        )
    return (
        chosen,
        distillers,
        regimes[0] if regimes else OfflineRegime(task_weight=1.0 if task_weight is None else task_weight),
    )


def _regimes(asked: Any, distillers: Sequence[Distiller]) -> list[str]:
    """The distillers that bring a regime, by the names they were asked for by, quoted; instances by their classes."""
    return [
        repr(name_of(given)) if name_of(given) else type(made.regime).__name__
        for given, made in zip(listed(asked), distillers, strict=False)
        if made.regime is not None
    ]

"""What a compression was asked for, opened and checked before any compute is spent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gansdk.budget.budget import Budget
from gansdk.contracts import HISTORY_KEYS, MAIN, Batch, Route
from gansdk.errors import ContractError, GansdkWarning, IncompatibleParts, InvalidOption, MissingData
from gansdk.evaluation.evaluate import Protocol
from gansdk.evaluation.metrics import check_metrics
from gansdk.evaluation.quality import QualityFloor
from gansdk.evaluation.teacher_facts import facts_of, least_true
from gansdk.generators.joint import source_of, task_of
from gansdk.interfaces import (
    Adapter,
    DataSource,
    Distiller,
    Generator,
    Metric,
    Pruner,
    Regime,
    Task,
    TeacherFacts,
    Teaching,
)
from gansdk.modules.weights import fingerprint, read_state
from gansdk.opening import check_pairing, open_generator, open_source, transformed, warn_without_targets
from gansdk.registry.compatibility import IMAGES, PAIRINGS, WRAPPED, check
from gansdk.registry.discovery import registry
from gansdk.registry.isolation import returned
from gansdk.registry.parts import asks_auto, from_json, listed, open_distillers, open_pruner
from gansdk.registry.records import described, recorded, recorded_whole
from gansdk.toolkit.terms import check_routes
from gansdk.training.offline_regime import OfflineRegime
from gansdk.training.processes import Processes

DEFAULT_STEPS = 2000
FRESH = "fresh"
"""As `discriminator`: a new one, even where the generator brings its own."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One student that was asked for: everything opened and checked, before any compute is spent."""

    generator: Generator
    """The teacher, whose cost budgets are relative to."""
    origin: Generator
    """What the student is carved from: the teacher, or what a transform made of it."""
    budget: Budget
    pruner: Pruner
    distillers: tuple[Distiller, ...]
    regime: Regime
    task: Task
    discriminator: str | dict[Route, str] | None
    """Whether the student's is "inherited" or "fresh", by route for several; None where there is none."""
    source: DataSource | None
    scored_on: DataSource | None
    """Whose images the student is scored on."""
    steps: int
    seed: int
    learning_rate: float
    asked: dict[str, Any] = field(default_factory=dict)
    trains_on_given: bool = False
    """Whether the student learns from the user's images, rather than from those that a regime makes."""
    facts: Mapping[Route, TeacherFacts] = field(default_factory=dict)
    """What was measured of the teacher on the user's images; empty without images, and for teachers that learn."""
    teaching: Teaching | None = None
    """What distiller="auto" came to; None where distillers were named."""

    @property
    def learns_by_task(self) -> bool:
        """Whether the student is trained by the family's task, so that the discriminator goes with it."""
        trains = self.steps > 0 or self.pruner.trains
        return bool(self.distillers) and self.regime.uses_task and trains

    @property
    def keeps_discriminators(self) -> bool:
        """Whether the generator's own discriminator is still the student's: not once it was trained without one."""
        return self.learns_by_task or not self.distillers or not (self.steps or self.pruner.trains)

    def taught(self) -> dict[str, Any]:
        """JSON for the report: what the student learns from, who chose that, and what was measured of the teacher.

        No settings, which are compared when a run is continued: figures may differ in their last digits.
        """
        facts = {route: found.to_dict() for route, found in self.facts.items()}
        return {
            "chosen": "given" if self.teaching is None else "auto",
            "reason": "" if self.teaching is None else self.teaching.reason,
            "task_weight": self.asked.get("task_weight"),
            "teacher": facts if self.generator.routes else facts.get(MAIN),
        }

    def settings(self) -> dict[str, Any]:
        """JSON facts that decide the result."""
        return {
            "model": self.generator.source or type(self.generator.module).__name__,
            "weights": fingerprint(self.generator.module),
            "budget": str(self.budget),
            "counting": self.budget.counting,
            "steps": self.steps if self.distillers else 0,
            "discriminator": self.discriminator,
            "seed": self.seed,
            "adapter": {"name": self.generator.adapter.name, **self.generator.adapter.options()},
            **self.asked,
            "learning_rate": self.learning_rate,
        }


def prepare(
    model: Any,
    budgets: Sequence[Budget],
    *,
    adapter: str | Mapping[str, Any] | Adapter,
    pruner: Any,
    distiller: Any,
    data: Any,
    eval_data: Any,
    steps: int | None,
    seed: int,
    patch: int | None,
    learning_rate: float | None,
    task_weight: float | None,
    discriminator: str | Path | Mapping[Route, str | Path] | None,
    transform: str | None,
    processes: Processes,
) -> tuple[Job, ...]:
    """Open everything that `gansdk.compress` was given; its docstring says what that may be.

    Jobs share generator and images, and nothing that a training changes: each has parts of its own, unless they were
    given as instances. Of a regime that was, every job has a copy, for what its `source` keeps in it is one student's.

    Raises:
        GansdkError: of the kind that fits, for anything that cannot be opened or does not go together.
    """
    opened = partial(
        _opened,
        budgets=budgets,
        adapter=adapter,
        pruner=pruner,
        steps=steps,
        seed=seed,
        patch=patch,
        learning_rate=learning_rate,
        discriminator=discriminator,
        transform=transform,
    )
    if not asks_auto(distiller):
        jobs = opened(model, data, distiller=distiller, task_weight=task_weight)
        scored_on = _scored_on(eval_data, jobs[0])
        facts = _measured(jobs[0], processes)
        return tuple(replace(job, facts=facts, scored_on=scored_on or job.scored_on) for job in jobs)
    open_pruner(pruner)  # a name that there is not is refused first
    generator = open_generator(model, adapter)
    # All is opened by what the family alone says, so that what does not go together is refused before it is measured.
    teaching = _chosen(generator, {}, task_weight, discriminator)
    jobs = opened(generator, data, distiller=teaching.distillers, task_weight=teaching.task_weight)
    scored_on = _scored_on(eval_data, jobs[0])
    facts = _measured(jobs[0], processes)
    found = _chosen(generator, facts, task_weight, discriminator)
    if (found.distillers, found.task_weight) != (teaching.distillers, teaching.task_weight):
        jobs = opened(generator, jobs[0].source, distiller=found.distillers, task_weight=found.task_weight)
    return tuple(replace(job, facts=facts, teaching=found, scored_on=scored_on or job.scored_on) for job in jobs)


def _opened(
    model: Any,
    data: Any,
    *,
    budgets: Sequence[Budget],
    adapter: str | Mapping[str, Any] | Adapter,
    pruner: Any,
    distiller: Any,
    steps: int | None,
    seed: int,
    patch: int | None,
    learning_rate: float | None,
    task_weight: float | None,
    discriminator: str | Path | Mapping[Route, str | Path] | None,
    transform: str | None,
) -> list[Job]:
    """The jobs of distillers that are known; scored on what they are trained on."""
    parts = [_open_parts(pruner, distiller, task_weight) for _ in budgets]
    generator = open_generator(model, adapter)
    _check_values(generator)
    chosen, distillers, regime = parts[0]
    if chosen.trains and regime.trains_teachers:
        warnings.warn(
            f"The pruner {type(chosen).__name__} trains shared weights before the student, and teachers learn beside "
            "both: the run costs several times one against a frozen teacher. A pruner that does not train, such as "
            "'one-step', spares the first half.",
            GansdkWarning,
            stacklevel=2,
        )
    _check_regime(generator, regime, _regimes(distiller, distillers), discriminator)
    given = None if data is None else open_source(data, generator, patch=patch, seed=seed)
    _check_parts(generator, pruner, distiller, distillers, given)
    origin = transformed(generator, transform, seed)
    trained_against = _trained_against(discriminator, generator)
    _check_terms(generator, distillers, regime)
    jobs = []
    for budget, (chosen, distillers, regime) in zip(budgets, parts, strict=True):
        task = _task(generator, trained_against if regime.uses_task else {}, seed)
        source = given
        if len(budgets) > 1:
            regime = copy(regime)
        if distillers:
            source = regime.source(given, generator, patch=patch)
            check_pairing(source, generator.adapter.name, needs_pairs=task.needs_pairs)
            if source is given:
                warn_without_targets(source, generator.adapter.name, needs_pairs=task.needs_pairs)
            source_of(source, generator)
            task.prepare()
            for term in (term for item in distillers for term in item.terms):
                term.prepare()
        jobs.append(
            Job(
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
                steps=DEFAULT_STEPS if steps is None else steps,
                seed=seed,
                learning_rate=task.optimisation.learning_rate if learning_rate is None else learning_rate,
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
                    "patch": patch,
                    "transform": transform,
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


def check_images(job: Job, batch_size: int) -> None:
    """Show task and terms what the student will see and make in a step, for them to refuse before any compute."""
    if job.source is None or not job.distillers:
        return
    terms = [term for item in job.distillers for term in item.terms]
    source = source_of(job.source, job.generator)
    examples = [returned(batch, Batch, job.source, "examples") for batch in source.examples(seed=job.seed)]
    for batch in examples if job.learns_by_task else ():
        job.task.check(batch.of(batch_size))
    for batch, (route, part) in product(examples, job.generator.parts.items()):
        height, width = (part.contract.scale * side for side in batch.inputs[route].shape[2:])
        for term in terms:
            if term.holds_for(route):
                term.check((batch_size, part.contract.channels_out, height, width))


def check_measurable(floor: QualityFloor | None, metrics: Sequence[Metric], job: Job) -> None:
    """Say before the training if the metrics cannot be measured, or the floor not be checked, after it."""
    contract, source = job.generator.contract, job.scored_on
    check_metrics(metrics, contract, source)
    if floor is None:
        return
    floor.check(Protocol.of(contract).metrics, [metric.name for metric in metrics])
    if floor.needs_images and (source is None or next(iter(source.images("eval")), None) is None):
        raise MissingData(
            f"quality asks for {' and '.join(floor.needs_images)}, but there are no images to measure it on: data is "
            "None, or has too few to hold some out of training. Pass eval_data='folder/'."
        )


def _task(generator: Generator, trained_against: Mapping[Route, Mapping[str, Tensor]], seed: int) -> Task:
    """The family's task, with the given discriminators or fresh ones that follow the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
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
        repr(_name(given)) if _name(given) else type(made.regime).__name__
        for given, made in zip(listed(asked), distillers, strict=False)
        if made.regime is not None
    ]


def _check_regime(generator: Generator, regime: Regime, names: Sequence[str], discriminator: Any) -> None:
    """Whether it trains as many generators as there are, and has a use for a discriminator that was given."""
    own = f"distiller {' and '.join(names)}" if names else f"regime {type(regime).__name__}"
    if generator.routes and not regime.joint:
        raise IncompatibleParts(
            f"The {own} trains one generator, but there are {' and '.join(generator.routes)}. Compress one "
            "after the other, each by its own folder, or use a distiller without a regime of its own."
        )
    if not regime.uses_task and discriminator not in (None, FRESH):
        raise IncompatibleParts(
            f"A discriminator was given, but the {own} trains the student without one. Leave it out, choose another "
            "distiller, or a task_weight above zero."
        )


def _check_values(generator: Generator) -> None:
    """A module on the meta device can be inspected and planned, but there is nothing in it to compress."""
    if any(tensor.is_meta for tensor in (*generator.module.parameters(), *generator.module.buffers())):
        raise ContractError(
            f"{type(generator.module).__name__} is on the meta device, so its weights have no values. Load them first."
        )


def _check_parts(
    generator: Generator, pruner: Any, distiller: Any, opened: Sequence[Distiller], source: DataSource | None
) -> None:
    """Needs against what adapter and data provide, for every part that was asked for by name."""
    known = registry()
    adapters, name = known.specs("adapter"), generator.adapter.name
    namesakes = [spec for spec in adapters.values() if spec.name == name]
    spec = adapters.get(name) or next(iter(namesakes), WRAPPED)
    provides, given = spec.provides | generator.adapter.capabilities, {IMAGES}
    if source is not None:
        # What pairs there are is no longer the family's habit but the data's.
        provides -= PAIRINGS
        given |= PAIRINGS & {source.pairing.value}
    named = [(_name(item), made) for item, made in zip(listed(distiller), opened, strict=False)]
    asked = [(known.spec("distiller", name), made.needs) for name, made in named if name]
    check(
        replace(spec, provides=provides),
        known.spec("pruner", _name(pruner)) if _name(pruner) else None,
        [spec if needs is None else replace(spec, needs=needs) for spec, needs in asked],
        frozenset(given),
    )


def _check_terms(generator: Generator, distillers: Sequence[Distiller], regime: Regime) -> None:
    """Routes and taps that terms ask for, and what the regime wants of both."""
    if not distillers:
        return
    terms = [term for item in distillers for term in item.terms]
    for term in terms:
        if term.name in regime.tells | HISTORY_KEYS or "/" in term.name:
            raise InvalidOption(
                f"A term is called {term.name!r}, which is the name of a metric of the run itself. Give the class "
                f"{type(term).__name__} another name."
            )
        if not isinstance(term.weight, Real) or not math.isfinite(term.weight):
            raise InvalidOption(f"The term {term.name!r} has the weight {term.weight!r}; give it a finite number.")
    regime.check(terms, generator.parts)
    check_routes(terms, generator.parts)
    for route, part in generator.parts.items():
        for term in terms:
            if term.holds_for(route):
                term.taps(tuple(part.taps))


def _name(asked: Any) -> str:
    name = asked.get("name") if isinstance(asked, Mapping) else asked
    return name if isinstance(name, str) else ""

"""What a run is checked for before any compute is spent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from numbers import Real
from typing import Any

import numpy as np

from gansdk.budget.cost import ADVICE, Limits
from gansdk.channels.groups import Plan, Space
from gansdk.channels.select import FLOOR_SHARE, check_floor, check_scores, floor_of
from gansdk.contracts import HISTORY_KEYS, Batch, Pairing
from gansdk.errors import ContractError, GansdkWarning, IncompatibleParts, InvalidOption, MissingData
from gansdk.evaluation.evaluate import Protocol
from gansdk.evaluation.metrics import check_metrics
from gansdk.evaluation.quality import QualityFloor
from gansdk.generators.joint import source_of
from gansdk.interfaces import DataSource, Distiller, Generator, Metric, Regime, Student
from gansdk.pipeline.job import FRESH, Job
from gansdk.registry.compatibility import IMAGES, PAIRINGS, WRAPPED, check
from gansdk.registry.discovery import registry
from gansdk.registry.isolation import returned
from gansdk.registry.parts import listed, name_of
from gansdk.toolkit.terms import check_routes


def check_pairing(source: DataSource, family: str, *, needs_pairs: bool) -> None:
    """Refuse unpaired images where a target must show what its input should become.

    Raises:
        IncompatibleParts: they are.
    """
    if needs_pairs and source.pairing is Pairing.UNPAIRED:
        raise IncompatibleParts(
            f"The family {family!r} learns from pairs of inputs and targets, but these images are of two domains "
            "without pairs. Give paired images, or take it for a generator of an unpaired family (adapter='cyclegan')."
        )


def warn_without_targets(source: DataSource, family: str, *, needs_pairs: bool) -> None:
    """Say what a student can learn from inputs alone, which may be pairs that nobody took for pairs."""
    if needs_pairs and source.pairing is Pairing.INPUTS_ONLY:
        warnings.warn(
            f"The images have no targets, which the family {family!r} learns from, so the student only imitates the "
            "teacher. If every file holds input and target side by side, give {'name': 'aligned', 'path': ...}.",
            GansdkWarning,
            stacklevel=2,
        )


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


def check_regime(generator: Generator, regime: Regime, names: Sequence[str], discriminator: Any) -> None:
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


def check_values(generator: Generator) -> None:
    """A module on the meta device can be inspected and planned, but there is nothing in it to compress."""
    if any(tensor.is_meta for tensor in (*generator.module.parameters(), *generator.module.buffers())):
        raise ContractError(
            f"{type(generator.module).__name__} is on the meta device, so its weights have no values. Load them first."
        )


def check_parts(
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
    named = [(name_of(item), made) for item, made in zip(listed(distiller), opened, strict=False)]
    asked = [(known.spec("distiller", name), made.needs) for name, made in named if name]
    check(
        replace(spec, provides=provides),
        known.spec("pruner", name_of(pruner)) if name_of(pruner) else None,
        [spec if needs is None else replace(spec, needs=needs) for spec, needs in asked],
        frozenset(given),
    )


def check_terms(generator: Generator, distillers: Sequence[Distiller], regime: Regime) -> None:
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


def floor_plan(space: Space, floor_share: float = FLOOR_SHARE) -> Plan:
    """The smallest plan that default pruning may choose, or that may keep `floor_share` of every group."""
    full = dict(space.full_plan())
    full |= {group.name: tuple(range(floor_of(group, floor_share))) for group in space.prunable}
    return Plan(full)


def check_feasible(student: Student, limits: Limits, floor_share: float = FLOOR_SHARE) -> None:
    """Raise before any work if nothing can be pruned, or if not even the smallest plan fits."""
    space = student.space
    check_scores(space, {group.name: np.ones(group.size) for group in space.prunable})
    if not limits.fits(student.cost(space.full_plan())):
        advice = ADVICE if floor_share else "start from a smaller generator, since no plan of this one is smaller"
        check_floor(space, limits, student.cost(floor_plan(space, floor_share)), advice)

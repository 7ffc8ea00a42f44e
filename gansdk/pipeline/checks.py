"""What a run is checked for before any compute is spent, and before anything is written.

`CHECKS` and `CHECKS_OF_JOB`, at the end, are run in their order, from the cheapest on: what was opened must go together
before a regime and a family make something of it. A new check is one function, with one error, and one line there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from numbers import Real

import numpy as np

from gansdk.budget.cost import ADVICE, Limits
from gansdk.channels.groups import Plan, Space
from gansdk.channels.select import FLOOR_SHARE, check_floor, check_scores, floor_of
from gansdk.contracts import HISTORY_KEYS, Batch, Pairing
from gansdk.errors import ContractError, GansdkWarning, IncompatibleParts, InvalidOption, MissingData
from gansdk.evaluation.evaluate import Protocol
from gansdk.evaluation.metrics import check_metrics
from gansdk.generators.joint import source_of
from gansdk.interfaces import DataSource, Student
from gansdk.pipeline.job import FRESH, Job, Opened
from gansdk.registry.compatibility import IMAGES, PAIRINGS, WRAPPED, check
from gansdk.registry.discovery import registry
from gansdk.registry.isolation import returned
from gansdk.registry.parts import listed, name_of
from gansdk.registry.suggestions import distillers_such_as, is_term, pruners_such_as
from gansdk.toolkit.terms import check_routes as check_routes_of_terms


def check_pruner_can_train(opened: Opened) -> None:
    """A pruner that trains needs a distiller, which says on what."""
    if opened.method.pruner.trains and not opened.method.distillers:
        raise IncompatibleParts(
            f"The pruner {_pruner(opened)} trains the student while it searches, but distiller=None says not "
            f"what for. Pass a distiller{distillers_such_as(is_term)}."
        )


def check_dry_run(opened: Opened) -> None:
    """A dry run has no use for a pruner that trains."""
    if opened.call.dry_run and opened.method.pruner.trains:
        raise IncompatibleParts(
            f"The pruner {_pruner(opened)} trains the student while it searches, and dry_run=True trains nothing. "
            f"Omit one of them, or use a pruner that does not train{pruners_such_as(lambda one: not one.trains)}."
        )


def check_one_regime(opened: Opened) -> None:
    """The distillers bring one regime at most."""
    if len(names := _regimes(opened)) > 1:
        raise IncompatibleParts(
            f"The distillers {' and '.join(names)} each bring a regime, and a run has one. Keep one of them, and add "
            f"terms{distillers_such_as(is_term)} beside it."
        )


def check_task_weight(opened: Opened) -> None:
    """A task_weight has the family's loss to weigh."""
    names, weight = _regimes(opened), opened.task_weight
    if weight is not None and (names or not opened.method.distillers):
        why = (
            f"The distiller {names[0]} brings a regime of its own"
            if names
            else "With distiller=None nothing is trained"
        )
        raise IncompatibleParts(
            f"{why}, so task_weight={weight:g} has no loss to weigh. Leave it out, or choose distillers that stand "
            f"beside the family's own loss{distillers_such_as(is_term)}."
        )


def check_values(opened: Opened) -> None:
    """A module on the meta device can be inspected and planned, but there is nothing in it to compress."""
    module = opened.generator.module
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        raise ContractError(
            f"{type(module).__name__} is on the meta device, so its weights have no values. Load them first."
        )


def warn_of_learning_teachers(opened: Opened) -> None:
    """Say what it costs to train shared weights beside teachers that learn."""
    if opened.method.pruner.trains and opened.method.regime.trains_teachers:
        warnings.warn(
            f"The pruner {_pruner(opened)} trains shared weights before the student, and teachers learn beside both: "
            "the run costs several times one against a frozen teacher. A pruner that does not train"
            f"{pruners_such_as(lambda one: not one.trains)} spares the first half.",
            GansdkWarning,
            stacklevel=2,
        )


def check_routes(opened: Opened) -> None:
    """The regime trains as many generators as there are."""
    if opened.generator.routes and not opened.method.regime.joint:
        raise IncompatibleParts(
            f"The {_regime(opened)} trains one generator, but there are {' and '.join(opened.generator.routes)}. "
            "Compress one after the other, each by its own folder, or use a distiller without a regime of its own."
        )


def check_discriminator(opened: Opened) -> None:
    """The regime has a use for a discriminator that was given."""
    if not opened.method.regime.uses_task and opened.call.discriminator not in (None, FRESH):
        raise IncompatibleParts(
            f"A discriminator was given, but the {_regime(opened)} trains the student without one. Leave it out, "
            "choose another distiller, or a task_weight above zero."
        )


def check_needs(opened: Opened) -> None:
    """Adapter and data provide what every part needs that was requested by name."""
    known, adapter = registry(), opened.generator.adapter
    adapters, name = known.specs("adapter"), adapter.name
    namesakes = [spec for spec in adapters.values() if spec.name == name]
    spec = adapters.get(name) or next(iter(namesakes), WRAPPED)
    provides, given = spec.provides | adapter.capabilities, {IMAGES}
    if opened.data is not None:
        # What pairs there are is no longer the family's habit but the data's.
        provides -= PAIRINGS
        given |= PAIRINGS & {opened.data.pairing.value}
    pairs = zip(listed(opened.distiller), opened.method.distillers, strict=False)
    named = [(known.spec("distiller", name_of(item)), made.needs) for item, made in pairs if name_of(item)]
    pruner = name_of(opened.call.pruner)
    check(
        replace(spec, provides=provides),
        known.spec("pruner", pruner) if pruner else None,
        [spec if needs is None else replace(spec, needs=needs) for spec, needs in named],
        frozenset(given),
    )


def check_names_of_terms(opened: Opened) -> None:
    """No term is called like a metric of the run itself."""
    for term in opened.method.terms:
        if term.name in opened.method.regime.tells | HISTORY_KEYS or "/" in term.name:
            raise InvalidOption(
                f"A term is called {term.name!r}, which is the name of a metric of the run itself. Give the class "
                f"{type(term).__name__} another name."
            )


def check_weights_of_terms(opened: Opened) -> None:
    """The weights of terms are finite numbers."""
    for term in opened.method.terms:
        if not isinstance(term.weight, Real) or not math.isfinite(term.weight):
            raise InvalidOption(f"The term {term.name!r} has the weight {term.weight!r}; give it a finite number.")


def check_terms_of_regime(opened: Opened) -> None:
    """The regime takes these terms on these routes."""
    if opened.method.distillers:
        opened.method.regime.check(opened.method.terms, opened.generator.parts)


def check_terms_of_generator(opened: Opened) -> None:
    """The generator has the routes and the taps that terms ask for."""
    terms, parts = opened.method.terms, opened.generator.parts
    check_routes_of_terms(terms, parts)
    for (route, part), term in product(parts.items(), terms):
        if term.holds_for(route):
            term.taps(tuple(part.taps))


def check_pairs(opened: Opened, job: Job) -> None:
    """Images have the targets that the family learns from."""
    if job.learned_from is not None:
        check_pairing(job.learned_from, opened.generator.adapter.name, needs_pairs=job.task.needs_pairs)


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


def warn_without_targets(opened: Opened, job: Job) -> None:
    """Say what a student can learn from inputs alone, which may be pairs that nobody took for pairs."""
    if job.trains_on_given and job.task.needs_pairs and job.source and job.source.pairing is Pairing.INPUTS_ONLY:
        warnings.warn(
            f"The images have no targets, which the family {opened.generator.adapter.name!r} learns from, so the "
            "student only imitates the teacher. If every file holds input and target side by side, give "
            "{'name': 'aligned', 'path': ...}.",
            GansdkWarning,
            stacklevel=2,
        )


def check_sides(opened: Opened, job: Job) -> None:
    """There are images for every route."""
    if job.learned_from is not None:
        source_of(job.learned_from, opened.generator)


def check_measurable(opened: Opened, job: Job) -> None:
    """Metrics can be measured after the training."""
    if not opened.call.dry_run:
        check_metrics(opened.metrics, opened.generator.contract, job.scored_on)


def check_floor_is_measurable(opened: Opened, job: Job) -> None:
    """The quality floor can be checked after the training."""
    floor, source = opened.floor, job.scored_on
    if floor is None or opened.call.dry_run:
        return
    floor.check(Protocol.of(opened.generator.contract).metrics, [metric.name for metric in opened.metrics])
    if floor.needs_images and (source is None or next(iter(source.images("eval")), None) is None):
        raise MissingData(
            f"quality asks for {' and '.join(floor.needs_images)}, but there are no images to measure it on: data is "
            "None, or has too few to hold some out of training. Pass eval_data='folder/'."
        )


def check_networks_of_losses(opened: Opened, job: Job) -> None:
    """Networks and files that the losses need can be loaded."""
    if not job.method.distillers:
        return
    job.task.prepare()
    for term in job.method.terms:
        term.prepare()


def check_images(opened: Opened, job: Job) -> None:
    """Task and terms take the images that the student will see and make in a step."""
    if job.learned_from is None:
        return
    source = source_of(job.learned_from, job.generator)
    examples = [returned(batch, Batch, job.learned_from, "examples") for batch in source.examples(seed=job.seed)]
    for batch in examples if job.learns_by_task else ():
        job.task.check(batch.of(opened.share))
    for batch, (route, part) in product(examples, job.generator.parts.items()):
        height, width = (part.contract.scale * side for side in batch.inputs[route].shape[2:])
        for term in job.method.terms:
            if term.holds_for(route):
                term.check((opened.share, part.contract.channels_out, height, width))


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


def _pruner(opened: Opened) -> str:
    return type(opened.method.pruner).__name__


def _regime(opened: Opened) -> str:
    """What brings the regime, for messages."""
    if names := _regimes(opened):
        return f"distiller {' and '.join(names)}"
    return f"regime {type(opened.method.regime).__name__}"


def _regimes(opened: Opened) -> list[str]:
    """The distillers that bring a regime, by the names they were requested by, quoted; instances by their classes."""
    return [
        repr(name_of(item)) if name_of(item) else type(made.regime).__name__
        for item, made in zip(listed(opened.distiller), opened.method.distillers, strict=False)
        if made.regime is not None
    ]


CHECKS: tuple[Callable[[Opened], None], ...] = (
    check_pruner_can_train,
    check_dry_run,
    check_one_regime,
    check_task_weight,
    check_values,
    check_routes,
    check_discriminator,
    check_needs,
    check_names_of_terms,
    check_weights_of_terms,
    check_terms_of_regime,
    check_terms_of_generator,
    warn_of_learning_teachers,
)
"""Of what was opened."""

CHECKS_OF_JOB: tuple[Callable[[Opened, Job], None], ...] = (
    check_pairs,
    warn_without_targets,
    check_sides,
    check_measurable,
    check_floor_is_measurable,
    check_networks_of_losses,
    check_images,
)
"""Of every student's job, once its images and its losses are known."""

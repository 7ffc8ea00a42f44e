"""Generators of several routes that are compressed together, behind the interfaces of one: both ways of a CycleGAN.

A joint student is made of one student per route, and so is a joint teacher. The space is the union of theirs, so one
budget and one pruner serve all; terms and taps are each route's own (`parts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from gansdk.budget.cost import Cost
from gansdk.channels.cost import CostModel
from gansdk.channels.groups import Plan
from gansdk.channels.join import join, split
from gansdk.contracts import MAIN, Batch, Observation, Pairing, Route, Way
from gansdk.errors import ContractError, MissingData, Unsupported
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.interfaces import DataSource, Generator, Inherit, Student, Task, Teacher

Part = TypeVar("Part", Student, Teacher)
Value = TypeVar("Value")
Joint = TypeVar("Joint")


def together(generators: Mapping[Route, Generator]) -> Generator:
    """One generator of several, each the `parts` of one route; they share an adapter.

    Raises:
        Unsupported: the adapter's family is not trained on these routes together.
    """
    first = next(iter(generators.values()))
    routes = first.adapter.routes
    if set(generators) != set(routes):
        expected = " and ".join(map(repr, routes)) or "none"
        raise Unsupported(
            f"The model has the routes {', '.join(map(repr, generators))}, but the family {first.adapter.name!r} "
            f"trains these together: {expected}. Pass one generator, or set the family with adapter=."
        )
    ordered = {route: replace(generators[route], way=way) for route, way in routes.items()}
    return Generator(
        module=nn.ModuleDict({route: part.module for route, part in ordered.items()}),
        contract=first.contract,
        adapter=first.adapter,
        source=", ".join(dict.fromkeys(part.source for part in ordered.values() if part.source)),
        routes=ordered,
    )


def the_only(generator: Generator) -> Generator:
    """The generator itself, where it is one.

    Raises:
        Unsupported: it is several.
    """
    if generator.routes:
        raise Unsupported(
            f"The model has several generators, {' and '.join(generator.routes)}, but this takes one. Pass the folder "
            "of one of them."
        )
    return generator


def one_or_joint(
    generator: Generator, one: Callable[[Generator], Value], joint: Callable[[dict[Route, Value]], Joint]
) -> Value | Joint:
    """What `one` makes of the only generator, or what `joint` makes of that of every route."""
    made = {route: one(part) for route, part in generator.parts.items()}
    return joint(made) if generator.routes else made[MAIN]


def by_route(values: Mapping[Route, Value], generator: Generator) -> Mapping[Route, Value] | Value | None:
    """As reports and settings record it: the only generator's value, None if it has none; a mapping for several."""
    return values if generator.routes else values.get(MAIN)


def student_of(generator: Generator, *, fresh: bool = False) -> ElasticStudent | JointStudent:
    """The full-size student of a generator, or of several; `fresh` as for `ElasticStudent.of`."""
    return one_or_joint(
        generator,
        lambda part: ElasticStudent.of(part, fresh=fresh),
        lambda parts: JointStudent(parts, generator.source),
    )


def teacher_of(generator: Generator, device: torch.device | str = "cpu") -> Teacher:
    """The generator, or several, as a frozen teacher."""
    return one_or_joint(
        generator, lambda part: FrozenTeacher(part.module, part.contract, part.taps, device=device), JointTeacher
    )


def task_of(generator: Generator, discriminators: Mapping[Route, Mapping[str, Tensor]]) -> Task:
    """The family's losses; discriminators of routes that are not named start fresh."""
    adapter = generator.adapter
    if not generator.routes:
        return adapter.task(generator.module, discriminator=discriminators.get(MAIN))
    modules = {route: part.module for route, part in generator.routes.items()}
    return adapter.joint_task(modules, discriminators=discriminators)


def source_of(source: DataSource, generator: Generator) -> DataSource:
    """The source with the routes of a joint generator as keys; itself for a single one.

    Raises:
        MissingData: a route goes backward and there are no targets.
    """
    if not generator.routes:
        return source
    ways = {route: generator.adapter.routes[route] for route in generator.routes}
    if "backward" in ways.values() and source.pairing is Pairing.INPUTS_ONLY:
        raise MissingData(
            f"The routes {' and '.join(ways)} are trained together on images of both sides, but this data has only "
            "inputs. Pass a folder with both (trainA and trainB), or compress one route only."
        )
    return JointSource(source, ways)


def views_of(source: DataSource, generator: Generator) -> Mapping[Route, DataSource]:
    """The source as the generator of each route sees it, under "main"."""
    ways = generator.adapter.routes
    return {route: View(source, ways[route]) if generator.routes else source for route in generator.parts}


class JointStudent(Student):
    """Students of several routes as one; carving, activating and training act on all of them."""

    def __init__(self, parts: Mapping[Route, ElasticStudent], name: str) -> None:
        self._parts = dict(parts)
        self._spaces = {route: part.space for route, part in parts.items()}
        self.contracts = {route: part.contract for route, part in parts.items()}
        self.taps = ()
        self.space = join(self._spaces, name or "generators")
        self.plan = self.space.full_plan()
        self.module = nn.ModuleDict({route: part.module for route, part in parts.items()})
        self.fresh = any(part.fresh for part in parts.values())
        self._costs = CostModel(self.space)

    def parts(self) -> Mapping[Route, ElasticStudent]:
        return self._parts

    def split(self, plan: Plan) -> Mapping[Route, Plan]:
        return split(plan, self._spaces)

    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        return _part(self._parts, route).observe(x, taps, image=image)

    def activate(self, plan: Plan) -> None:
        self.plan = plan
        for route, part in self.split(plan).items():
            self._parts[route].activate(part)

    def channels(self, tap: str) -> Tensor:
        raise ContractError(f"The tap {tap!r} belongs to one route; ask the student of that route in parts().")

    def width(self, tap: str) -> int:
        raise ContractError(f"The tap {tap!r} belongs to one route; ask the student of that route in parts().")

    def cost(self, plan: Plan) -> Cost:
        """The sum over routes: of one image each way."""
        return self._costs.cost(plan)

    def carve(self, plan: Plan, *, inherit: Inherit = "all") -> JointStudent:
        carved = {route: self._parts[route].carve(part, inherit=inherit) for route, part in self.split(plan).items()}
        return JointStudent(carved, self.space.name)

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.module.parameters()

    def networks(self) -> Mapping[Route, nn.Module]:
        return {route: part.module for route, part in self._parts.items()}

    def train(self, mode: bool = True) -> None:
        for part in self._parts.values():
            part.train(mode)


class JointTeacher(Teacher):
    """Frozen teachers of several routes as one."""

    def __init__(self, parts: Mapping[Route, FrozenTeacher]) -> None:
        self._parts = dict(parts)
        self.contracts = {route: part.contracts[MAIN] for route, part in parts.items()}
        self.taps = ()

    def parts(self) -> Mapping[Route, Teacher]:
        return self._parts

    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        return _part(self._parts, route).observe(x, taps, image=image)

    def networks(self) -> Mapping[Route, nn.Module]:
        return {route: part.networks()[MAIN] for route, part in self._parts.items()}


def _part(parts: Mapping[Route, Part], route: Route) -> Part:
    if route not in parts:
        raise ContractError(f"The route {route!r} does not exist; there are {' and '.join(parts)}.")
    return parts[route]


class JointSource(DataSource):
    """A source's images under the names of several routes."""

    def __init__(self, source: DataSource, ways: Mapping[Route, Way]) -> None:
        self.pairing = source.pairing
        self._source = source
        self._ways = dict(ways)

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        return self._by_route(self._source.train_batch(size, seed=seed, step=step))

    def probe(self, index: int, *, seed: int) -> Batch:
        return self._by_route(self._source.probe(index, seed=seed))

    def images(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        """Images of all routes in turn, each batch of one of them."""
        views = {route: View(self._source, way).images(split) for route, way in self._ways.items()}
        rows = zip_longest(*(_keyed(images, route) for route, images in views.items()))
        return (batch for batch in chain.from_iterable(rows) if batch is not None)

    def describe(self) -> dict[str, Any]:
        return self._source.describe()

    def _by_route(self, batch: Batch) -> Batch:
        seen = {route: batch if way == "forward" else turned(batch) for route, way in self._ways.items()}
        return Batch(
            {route: own.inputs[MAIN] for route, own in seen.items()},
            {route: own.targets[MAIN] for route, own in seen.items()},
            batch.names,
            batch.paired,
        )


class View(DataSource):
    """A source as the generator of one route sees it; "backward" takes its targets for inputs."""

    def __init__(self, source: DataSource, way: Way) -> None:
        self.pairing = source.pairing
        self._source = source
        self._turned = way == "backward"

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        batch = self._source.train_batch(size, seed=seed, step=step)
        return turned(batch) if self._turned else batch

    def examples(self, *, seed: int) -> Iterator[Batch]:
        return (turned(batch) if self._turned else batch for batch in self._source.examples(seed=seed))

    def images(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        if not self._turned:
            return self._source.images(split)
        if self.pairing is Pairing.PAIRED:
            return (turned(batch) for batch in self._source.images(split) if batch.targets)
        others = self._source.references(split)
        return (Batch({MAIN: batch.targets[MAIN]}, {}, batch.names, paired=False) for batch in others)

    def references(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        if not self._turned:
            return self._source.references(split)
        if self.pairing is Pairing.PAIRED:
            return self.images(split)
        return (
            Batch({}, {MAIN: batch.inputs[MAIN]}, batch.names, paired=False) for batch in self._source.images(split)
        )

    def describe(self) -> dict[str, Any]:
        return {**self._source.describe(), **({"way": "backward"} if self._turned else {})}


def turned(batch: Batch) -> Batch:
    """The batch with targets for inputs and inputs for targets."""
    return Batch(batch.targets, batch.inputs, batch.names, batch.paired)


def _keyed(batches: Iterable[Batch], route: Route) -> Iterator[Batch]:
    for batch in batches:
        targets = {route: batch.targets[MAIN]} if batch.targets else {}
        yield Batch({route: batch.inputs[MAIN]}, targets, batch.names, batch.paired)

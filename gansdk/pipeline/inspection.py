"""Look before compressing: what a generator costs, what can shrink, how small it can get. No training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from gansdk.budget.budget import Budget
from gansdk.budget.cost import Cost, short
from gansdk.channels.groups import Plan
from gansdk.contracts import Batch, Contract
from gansdk.errors import MissingData
from gansdk.events import Event
from gansdk.generators.joint import student_of, task_of, teacher_of
from gansdk.interfaces import Adapter, Generator, Pruner, Student, Task, Teacher
from gansdk.interfaces.pruner import Item, Result
from gansdk.pipeline.checks import check_feasible, floor_plan
from gansdk.pipeline.opening import open_generator, transformed
from gansdk.pipeline.stages import check_plan
from gansdk.registry.isolation import guarded, returned
from gansdk.registry.parts import open_pruner


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What `gansdk.inspect` found. MACs are for one image at the contract's size."""

    name: str
    adapter: str
    contract: Contract
    taps: Mapping[str, str]
    cost: Cost
    floor: Cost
    """Of the smallest student: every prunable group at its floor."""
    groups: tuple[dict[str, Any], ...]
    """Per channel group: name, size, and "frozen" with the reason in words, or ""."""
    knobs: tuple[dict[str, Any], ...]
    """Per number of a search's configurations: name, choices, and "groups" with the factor that each is set by."""
    notes: tuple[str, ...]
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "name": self.name,
            "adapter": self.adapter,
            "contract": asdict(self.contract),
            "taps": dict(self.taps),
            "cost": self.cost.facts(),
            "floor": self.floor.facts(),
            "groups": list(self.groups),
            "knobs": list(self.knobs),
            "notes": list(self.notes),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """What `gansdk.plan` chose, and what it will cost."""

    plan: Plan
    widths: Mapping[str, tuple[int, int]]
    """Group -> (channels kept, channels there were), prunable groups only."""
    before: Cost
    after: Cost
    budget: str
    used: float
    """Share of the tightest limit that is used."""
    importance: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "plan": self.plan.to_dict(),
            "widths": {name: list(pair) for name, pair in self.widths.items()},
            "before": self.before.facts(),
            "after": self.after.facts(),
            "budget": self.budget,
            "used": self.used,
            "importance": self.importance,
        }


@guarded("inspect")
def inspect(
    model: Any,
    budget: Any = None,
    *,
    adapter: str | Mapping[str, Any] | Adapter = "auto",
    transform: str | None = None,
) -> Inspection:
    """Say what a generator costs, what can shrink, what is frozen and why, and how small it can get.

    `model`, `adapter` and `transform` as for `gansdk.compress`: with a transform, costs and groups are those of the
    transformed network, and shares of the budget those of the model. Nothing is trained and no data is needed.

    Raises:
        BudgetUnreachable: `budget` is given and below the floor.
        NothingPruned: every group is frozen.
        Unsupported: the family has no such transform.
    """
    generator, student, given = _students(model, adapter, transform)
    full = student.cost(student.space.full_plan())
    floor = student.cost(floor_plan(student.space))
    verdict = f"Can shrink to {floor.macs / full.macs:.1%} of its {short(full.macs)} MACs."
    if not student.space.prunable:
        verdict = "Nothing can be pruned: every channel group is frozen."
    if budget is not None:
        parsed = Budget.parse(budget)
        check_feasible(student, parsed.resolve(given))
        verdict += f" The budget {parsed} can be met."
    return Inspection(
        name=generator.source or type(generator.module).__name__,
        adapter=generator.adapter.name,
        contract=generator.contract,
        taps=generator.taps,
        cost=full,
        floor=floor,
        groups=tuple(
            {"name": group.name, "size": group.size, "frozen": group.frozen} for group in student.space.groups
        ),
        knobs=tuple(
            {"name": knob.name, "choices": list(knob.choices), "groups": dict(knob.widths)}
            for knob in student.space.knobs
        ),
        notes=student.space.notes,
        verdict=verdict,
    )


def _students(model: Any, adapter: Any, transform: str | None) -> tuple[Generator, Student, Cost]:
    """What is carved from, as a generator and as a student at full size, and the cost of the model itself."""
    generator = open_generator(model, adapter)
    origin = transformed(generator, transform, seed=0)
    student = student_of(origin, fresh=origin is not generator)
    given = student if origin is generator else student_of(generator)
    return origin, student, given.cost(given.space.full_plan())


class _WithoutData:
    """The run a pruner sees when only a plan is asked for: no images, no training."""

    def __init__(self, generator: Generator, seed: int) -> None:
        self.seed = seed
        self.rng = torch.Generator().manual_seed(seed)
        self.contract = generator.contract
        self._generator = generator

    # Made when asked for: a discriminator and a copy of the network take longer than the plan itself.
    @cached_property
    def task(self) -> Task:
        return task_of(self._generator, {})

    @cached_property
    def teacher(self) -> Teacher:
        return teacher_of(self._generator)

    def probe_batches(self, count: int) -> list[Batch] | None:
        return None

    def synthetic_batches(self, count: int) -> list[Batch]:
        return []  # a plan is asked for in an instant, so that nothing runs through the network

    def distil(self, steps: int, *, before_step: Any = None) -> None:
        raise MissingData("This pruner trains while it searches, which needs data: use gansdk.compress.")

    def score(self, plan: Plan) -> float:
        return float("nan")

    scored_images = 0

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        return map(function, items)

    def note(self, name: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
        return row

    def notes(self, name: str) -> list[Mapping[str, Any]]:
        return []

    def emit(self, event: Event) -> None:
        pass


@guarded("plan")
def plan(
    model: Any,
    budget: Any,
    pruner: str | Mapping[str, Any] | Pruner = "one-step",
    *,
    adapter: str | Mapping[str, Any] | Adapter = "auto",
    transform: str | None = None,
) -> PlanReport:
    """Choose what to keep for a budget, without data and without training.

    Channels are ranked by what the weights alone say; `gansdk.compress` with data ranks better. `adapter` and
    `transform` as for `gansdk.compress`: with a transform the plan is of the transformed network, "before" and the
    shares of the budget are of the model.

    Raises:
        BudgetUnreachable: the budget is below the floor.
        Unsupported: the family has no such transform.
    """
    chosen = open_pruner(pruner)
    parsed = Budget.parse(budget)
    generator, student, given = _students(model, adapter, transform)
    limits = parsed.resolve(given)
    check_feasible(student, limits, floor_share=0.0)  # pruners have floors of their own, and check them first
    run = _WithoutData(generator, seed=0)
    chosen.prepare(student, [limits], run)
    found = returned(chosen.search(student, limits, run), Plan, chosen, "search")
    check_plan(found, student.space, type(chosen).__name__)
    after = student.cost(found)
    return PlanReport(
        plan=found,
        widths={group.name: (found.width(group), group.size) for group in student.space.prunable},
        before=given,
        after=after,
        budget=str(parsed),
        used=limits.usage(after),
        importance=str(getattr(chosen, "importance", "")),
    )

"""From a call to a job: what is opened, and what is known of one student before any compute is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gansdk.budget.budget import Budget
from gansdk.contracts import Route
from gansdk.evaluation.quality import QualityFloor
from gansdk.generators.joint import by_route
from gansdk.interfaces import (
    DataSource,
    Distiller,
    Generator,
    Metric,
    Pruner,
    Regime,
    Task,
    TeacherFacts,
    Teaching,
    Term,
)
from gansdk.modules.weights import fingerprint
from gansdk.recipe import Call, Settings, deciding

DEFAULT_STEPS = 2000
FRESH = "fresh"
"""As `discriminator`: a new one, even where the generator brings its own."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What chooses the channels of a student, and what trains it."""

    pruner: Pruner
    distillers: tuple[Distiller, ...]
    regime: Regime
    """The distillers' own, or else the family's loss beside their terms."""

    @property
    def terms(self) -> list[Term]:
        """Those of all distillers."""
        return [term for distiller in self.distillers for term in distiller.terms]


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Everything that a call names, opened; nothing is checked yet, see `gansdk.pipeline.checks.CHECKS`."""

    call: Call
    budgets: tuple[Budget, ...]
    methods: tuple[Method, ...]
    """One per budget, since training changes their parts; parts that were given as instances are in all of them."""
    metrics: Sequence[Metric]
    floor: QualityFloor | None
    share: int
    """Images of a step in this process."""
    generator: Generator
    teaching: Teaching | None
    """What distiller="auto" stands for; None where distillers were named."""
    data: DataSource | None
    eval_data: DataSource | None

    @property
    def distiller(self) -> Any:
        """As requested, or what "auto" stands for."""
        return self.call.distiller if self.teaching is None else self.teaching.distillers

    @property
    def task_weight(self) -> float | None:
        """As requested, or what "auto" came to."""
        return self.call.task_weight if self.teaching is None else self.teaching.task_weight

    @property
    def method(self) -> Method:
        """That of the first budget, which says of all of them whether they go together with the rest."""
        return self.methods[0]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One student that was requested: everything opened and checked, before any compute is spent."""

    recipe: Settings
    """What was requested."""
    generator: Generator
    """The teacher, whose cost budgets are relative to."""
    origin: Generator
    """What the student is carved from: the teacher, or what a transform made of it."""
    budget: Budget
    method: Method
    task: Task
    discriminator: str | dict[Route, str] | None
    """Whether the student's is "inherited" or "fresh", by route for several; None where there is none."""
    source: DataSource | None
    """Of the images that channels are ranked on and the student learns from."""
    scored_on: DataSource | None
    """Whose images the student is scored on."""
    steps: int
    seed: int
    learning_rate: float
    records: Mapping[str, Any] = field(default_factory=dict)
    """JSON: parts and images as they were requested and as they describe themselves, before training changes them."""
    trains_on_given: bool = False
    """Whether the student learns from the user's images, rather than from those that a regime makes."""
    facts: Mapping[Route, TeacherFacts] = field(default_factory=dict)
    """What was measured of the teacher on the user's images; empty without images, and for teachers that learn."""
    teaching: Teaching | None = None
    """What distiller="auto" came to; None where distillers were named."""

    @property
    def learned_from(self) -> DataSource | None:
        """The images that the student learns from; None if it learns nothing."""
        return self.source if self.method.distillers else None

    @property
    def learns_by_task(self) -> bool:
        """Whether the student is trained by the family's task, so that the discriminator goes with it."""
        trains = self.steps > 0 or self.method.pruner.trains
        return bool(self.method.distillers) and self.method.regime.uses_task and trains

    @property
    def keeps_discriminators(self) -> bool:
        """Whether the generator's own discriminator is still the student's: not once it was trained without one."""
        return self.learns_by_task or not self.method.distillers or not (self.steps or self.method.pruner.trains)

    def taught(self) -> dict[str, Any]:
        """JSON for the report: what the student learns from, who chose that, and what was measured of the teacher.

        No settings, which are compared when a run is continued: figures may differ in their last digits.
        """
        facts = {route: found.to_dict() for route, found in self.facts.items()}
        return {
            "chosen": "given" if self.teaching is None else "auto",
            "reason": "" if self.teaching is None else self.teaching.reason,
            "task_weight": self.records.get("task_weight"),
            "teacher": by_route(facts, self.generator),
        }

    def settings(self) -> dict[str, Any]:
        """JSON facts that decide the result: the recipe, with what was opened in place of what names it."""
        return {
            **deciding(self.recipe),
            "model": self.generator.source or type(self.generator.module).__name__,
            "weights": fingerprint(self.generator.module),
            "budget": str(self.budget),
            "counting": self.budget.counting,
            "steps": self.steps if self.method.distillers else 0,
            "discriminator": self.discriminator,
            "adapter": {"name": self.generator.adapter.name, **self.generator.adapter.options()},
            **self.records,
            "learning_rate": self.learning_rate,
        }

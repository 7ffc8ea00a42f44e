"""What a compression was asked for, opened and checked before any compute is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gansdk.budget.budget import Budget
from gansdk.contracts import MAIN, Route
from gansdk.interfaces import DataSource, Distiller, Generator, Pruner, Regime, Task, TeacherFacts, Teaching
from gansdk.modules.weights import fingerprint
from gansdk.recipe import Settings, deciding

DEFAULT_STEPS = 2000
FRESH = "fresh"
"""As `discriminator`: a new one, even where the generator brings its own."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One student that was asked for: everything opened and checked, before any compute is spent."""

    recipe: Settings
    """What was requested."""
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
        """JSON facts that decide the result: the recipe, with what was opened in place of what names it."""
        return {
            **deciding(self.recipe),
            "model": self.generator.source or type(self.generator.module).__name__,
            "weights": fingerprint(self.generator.module),
            "budget": str(self.budget),
            "counting": self.budget.counting,
            "steps": self.steps if self.distillers else 0,
            "discriminator": self.discriminator,
            "adapter": {"name": self.generator.adapter.name, **self.generator.adapter.options()},
            **self.asked,
            "learning_rate": self.learning_rate,
        }

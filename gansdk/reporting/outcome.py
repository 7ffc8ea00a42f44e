"""What a run found, as reports and saved students read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from gansdk.budget.budget import Budget
from gansdk.budget.cost import Cost
from gansdk.channels.groups import Plan, Space
from gansdk.contracts import MAIN, Route
from gansdk.evaluation.evaluate import Evaluation
from gansdk.evaluation.findings import Finding
from gansdk.files import to_json
from gansdk.interfaces import Generator, Quality
from gansdk.recipe import Recipe

SCHEMA_VERSION = 1
"""Of the folder of a student and of its report; higher ones are refused."""


@dataclass(kw_only=True, repr=False)
class Outcome:
    """A student and everything that is known about it. Fields are filled by `gansdk.compress`."""

    student: nn.Module
    """A plain torch module in eval mode; of several routes the `nn.ModuleDict` of all."""
    teacher: nn.Module | None
    """The generator as it was given, in eval mode; None if it is not kept."""
    generator: Generator
    """What the student was carved from, with its adapter and contract: the teacher, or a transform's network."""
    space: Space
    """Its channel groups."""
    plan: Plan
    budget: str
    before: Cost
    """Of the teacher."""
    after: Cost
    used: float | None = None
    """Share of the budget's tightest limit that is used."""
    unused: str = ""
    """Why that is less than 95 %, in words."""
    transformed: Cost | None = None
    """Of what the student was carved from, where a transform made that of the teacher."""
    evaluation: Evaluation | None = None
    warnings: list[str] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    """One row per logging interval: "step", "stage", "loss" and every term by its name."""
    search: list[dict[str, Any]] = field(default_factory=list)
    """One row per generation of subnets that a pruner scored: "generation", "generations", "scored", "best" and "macs"
    of the best so far. The last "front" holds [MACs, score] of those that none is both cheaper and better than."""
    compared: dict[str, Any] = field(default_factory=dict)
    """The plans that the pruner carved, repaired and measured before any training: "measure" (in words) and "trials",
    each with "name", costs, "psnr" and "worst" (dB to the teacher, None where not finite) and "chosen"."""
    checks: dict[str, float] = field(default_factory=dict)
    """Hand-over ("plan -> carved", "saved -> loaded") -> largest absolute error on the same input."""
    findings: list[Finding] = field(default_factory=list)
    """What the student found when it checked itself: one for each of the checks
    (`gansdk.evaluation.self_checks.CHECKS`) and each route."""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """A few held-out images by name, (1, channels_in, H, W), which exports are compared on."""
    settings: dict[str, Any] = field(default_factory=dict)
    """JSON: pruner, distiller, steps, seed, versions, seconds."""
    recipe: Recipe | None = None
    """What was requested, with this student's budget; None of a student that no run made."""
    discriminator: Mapping[str, Tensor] | None = None
    """Weights of the discriminator the student was trained against, where there was one."""
    out_dir: Path | None = None
    routes: Mapping[Route, Self] = field(default_factory=dict)
    """The result of every route, where several were compressed together; the other fields are then of all of them."""

    @property
    def parts(self) -> Mapping[Route, Self]:
        """The results by their routes; itself as "main" where it is one."""
        return self.routes or {MAIN: self}

    def __repr__(self) -> str:
        """One line; networks, images and the history are in the fields."""
        scores = ", ".join(f"{item.metric} to {item.reference} {item.student:.4g}" for item in self.quality)
        return (
            f"<{type(self).__name__} {self.budget}: {self.before.macs:,} -> {self.after.macs:,} MACs, "
            f"{self.before.params:,} -> {self.after.params:,} parameters{'; ' if scores else ''}{scores}>"
        )

    @property
    def quality(self) -> list[Quality]:
        """Every metric of teacher and student; empty if nothing was evaluated."""
        return list(self.evaluation.qualities) if self.evaluation is not None else []

    def summary(self) -> dict[str, Any]:
        """JSON facts: cost before and after with ratios, quality, warnings, checks and settings."""
        from gansdk import __version__

        facts: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "gansdk": __version__,
            "adapter": self.generator.adapter.name,
            "source": self.generator.source,
            "contract": asdict(self.generator.contract),
            "budget": self.budget,
            "used": self.used,
            "unused": self.unused,
            "before": self.before.facts(),
            "after": self.after.facts(),
            "transformed": self.transformed.facts() if self.transformed is not None else None,
            "ratios": ratios(self.before, self.after),
            "quality": [asdict(quality) for quality in self.quality],
            "warnings": self.warnings,
            "checks": self.checks,
            "findings": [asdict(finding) for finding in self.findings],
            "settings": self.settings,
        }
        for route, part in self.routes.items():
            costs = {"before": part.before.facts(), "after": part.after.facts()}
            facts.setdefault("routes", {})[route] = {**costs, "ratios": ratios(part.before, part.after)}
        plain: dict[str, Any] = to_json(facts)
        return plain


@dataclass(kw_only=True, repr=False)
class LadderOutcome:
    """Several students of one generator, from the largest budget to the smallest."""

    results: Sequence[Outcome]
    """In the order of the budgets; a pruner that looks for the best score may leave more of a large one unused."""
    out_dir: Path | None = None

    def __repr__(self) -> str:
        """One line; the students are in `results`."""
        before, labels = self.results[0].before.macs, ", ".join(map(self.label, self.results))
        return f"<{type(self).__name__} of {before:,} MACs: {labels}>"

    @staticmethod
    def label(result: Outcome) -> str:
        """A student's short name, that of its folder: "4x"."""
        return Budget.parse(result.budget).label

    def curve(self) -> list[dict[str, Any]]:
        """JSON: the teacher and every student with their costs and the values of every metric.

        A point has "name" ("teacher", "2x", ...), "macs", "paper_macs", "params", "bytes", and in "quality" one
        {"metric", "reference", "value"} for each metric it has.
        """
        first = self.results[0]
        points = [_point("teacher", first.before, [(item, item.teacher) for item in first.quality])]
        points += [
            _point(self.label(result), result.after, [(item, item.student) for item in result.quality])
            for result in self.results
        ]
        return points

    def summary(self) -> dict[str, Any]:
        """JSON facts: the curve, and every student's summary by its name."""
        first = self.results[0].summary()
        return {
            **{key: first[key] for key in ("schema_version", "gansdk", "adapter", "source", "contract", "before")},
            "curve": to_json(self.curve()),
            "students": {self.label(result): result.summary() for result in self.results},
        }


def _point(name: str, cost: Cost, values: list[tuple[Quality, float | None]]) -> dict[str, Any]:
    measured = [
        {"metric": item.metric, "reference": item.reference, "value": value}
        for item, value in values
        if value is not None
    ]
    return {"name": name, **cost.facts(), "quality": measured}


def ratios(before: Cost, after: Cost) -> dict[str, float | None]:
    """Before / after of every cost; None where nothing is left to divide by."""
    spent = after.facts()
    return {metric: full / spent[metric] if spent[metric] else None for metric, full in before.facts().items()}

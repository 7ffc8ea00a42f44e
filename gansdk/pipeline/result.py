"""What a run gives back: the student, what it costs, how good it is, and how it leaves the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gansdk.budget.budget import Budget
from gansdk.budget.cost import Cost, sum_of
from gansdk.channels.groups import Plan, Space
from gansdk.contracts import MAIN, Route
from gansdk.errors import Unsupported
from gansdk.evaluation.evaluate import Evaluation, joined_evaluation
from gansdk.evaluation.self_checks import Finding
from gansdk.files import to_json
from gansdk.interfaces import Generator, Quality
from gansdk.validation.paths import check_folder

SCHEMA_VERSION = 1
"""Of the folder of a student and of its report; higher ones are refused."""


@dataclass(kw_only=True, repr=False)
class CompressionResult:
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
    discriminator: Mapping[str, Tensor] | None = None
    """Weights of the discriminator the student was trained against, where there was one."""
    out_dir: Path | None = None
    routes: Mapping[Route, CompressionResult] = field(default_factory=dict)
    """The result of every route, where several were compressed together; the other fields are then of all of them."""

    @property
    def parts(self) -> Mapping[Route, CompressionResult]:
        """The results by their routes; itself as "main" where it is one."""
        return self.routes or {MAIN: self}

    def __repr__(self) -> str:
        """One line; networks, images and the history are in the fields."""
        scores = ", ".join(f"{item.metric} to {item.reference} {item.student:.4g}" for item in self.quality)
        return (
            f"<CompressionResult {self.budget}: {self.before.macs:,} -> {self.after.macs:,} MACs, "
            f"{self.before.params:,} -> {self.after.params:,} parameters{'; ' if scores else ''}{scores}>"
        )

    @property
    def quality(self) -> list[Quality]:
        """Every metric of teacher and student; empty if nothing was evaluated."""
        return list(self.evaluation.qualities) if self.evaluation is not None else []

    def save(self, directory: str | Path) -> Path:
        """Write the student's folder, which `gansdk.load` reads; the new folder is whole or not there at all.

        Students of several routes have a folder each below it, beside one report. An earlier student of that name is
        kept beside it as NAME.old-1, NAME.old-2, ..., unless it is the very same.

        Raises:
            OutputError: the folder cannot be written, or holds something that is not a student.
            VerificationError: the saved student, read back, gives other images.
        """
        from gansdk.saving.writing import save

        return save(self, directory)

    def report(self, path: str | Path) -> Path:
        """Write the report: one HTML file that needs nothing else, or its figures as JSON if `path` ends in .json.

        Raises:
            InvalidOption: the path has another extension.
            OutputError: the file cannot be written.
        """
        from gansdk.reporting.report import write_report

        return write_report(self, path)

    def export(self, format: str, path: str | Path, *, check: bool = True) -> Path:
        """Write the student as "onnx" or "pt2" for any batch and size, compared with the original on three shapes.

        They are made of the run's held-out images, or of noise where there were none. The comparison is added to
        `checks`, and to check.json beside the file. With `check=False` a file that gives other images is written all
        the same, with a warning.

        Raises:
            InvalidOption: another format.
            Unsupported: there are students of several routes.
            VerificationError: the exported student gives other images, and `check` is on.
        """
        from gansdk.saving.export import export

        if self.routes:
            raise Unsupported(
                f"There are several students here, {' and '.join(self.routes)}. Export each of them: "
                "result.routes[route].export(...)."
            )
        record = export(self.student, self.generator.contract, format, path, inputs=self.inputs, check=check)
        self.checks[f"student -> {format}"] = record["max_error"]
        return Path(path)

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
class Ladder:
    """Several students of one generator, from the largest budget to the smallest. Made by `gansdk.ladder`."""

    results: list[CompressionResult]
    """In the order of the budgets; a pruner that looks for the best score may leave more of a large one unused."""
    out_dir: Path | None = None

    def __repr__(self) -> str:
        """One line; the students are in `results`."""
        return f"<Ladder of {self.results[0].before.macs:,} MACs: {', '.join(map(self.label, self.results))}>"

    @staticmethod
    def label(result: CompressionResult) -> str:
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

    def save(self, directory: str | Path) -> Path:
        """Write every student's folder (`4x/student`), ladder.html and ladder.json.

        Raises:
            OutputError: a folder cannot be written, or holds something that is not a student.
            VerificationError: a saved student, read back, gives other images.
        """
        from gansdk.reporting.ladder_report import write_ladder

        root = check_folder(directory, "directory")
        for result in self.results:
            result.save(root / self.label(result) / "student")
        for name in REPORTS:
            write_ladder(self, root / name, students=root)
        return root

    def report(self, path: str | Path) -> Path:
        """Write the curve, the table and all students' images as one HTML file, or as JSON if `path` ends in .json.

        The table links to the students' own reports where they were written with the ladder.

        Raises:
            InvalidOption: the path has another extension.
            OutputError: the file cannot be written.
        """
        from gansdk.reporting.ladder_report import write_ladder

        return write_ladder(self, path, students=self.out_dir)


REPORTS = ("ladder.html", "ladder.json")
"""What a ladder's folder holds beside its students."""


def _point(name: str, cost: Cost, values: list[tuple[Quality, float | None]]) -> dict[str, Any]:
    measured = [
        {"metric": item.metric, "reference": item.reference, "value": value}
        for item, value in values
        if value is not None
    ]
    return {"name": name, **cost.facts(), "quality": measured}


def joined(
    results: Mapping[Route, CompressionResult],
    origin: Generator,
    teacher: Generator,
    student: nn.Module,
    space: Space,
    plan: Plan,
) -> CompressionResult:
    """One result of those of all routes of `teacher`; the only one itself, where there is one."""
    first = next(iter(results.values()))
    if not teacher.routes:
        return first
    parts = results.values()
    transformed = [part.transformed for part in parts if part.transformed is not None]
    return replace(
        first,
        student=student,
        teacher=teacher.module,
        generator=origin,
        space=space,
        plan=plan,
        before=sum_of(part.before for part in parts),
        transformed=sum_of(transformed) if transformed else None,
        after=sum_of(part.after for part in parts),
        evaluation=joined_evaluation(
            {route: part.evaluation for route, part in results.items() if part.evaluation is not None}
        ),
        findings=[finding for part in parts for finding in part.findings],
        inputs={},
        discriminator=None,
        routes=results,
    )


def ratios(before: Cost, after: Cost) -> dict[str, float | None]:
    """Before / after of every cost; None where nothing is left to divide by."""
    spent = after.facts()
    return {metric: full / spent[metric] if spent[metric] else None for metric, full in before.facts().items()}

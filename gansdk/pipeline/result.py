"""What a run gives back: the student, what it costs, how good it is, and how it leaves the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from gansdk.budget.cost import sum_of
from gansdk.channels.groups import Plan, Space
from gansdk.contracts import Route
from gansdk.errors import Unsupported
from gansdk.evaluation.evaluate import joined_evaluation
from gansdk.interfaces import Generator
from gansdk.reporting.ladder_report import write_ladder
from gansdk.reporting.outcome import LadderOutcome, Outcome
from gansdk.reporting.report import write_report
from gansdk.saving.export import export
from gansdk.saving.writing import save
from gansdk.validation.paths import check_folder


@dataclass(kw_only=True, repr=False)
class CompressionResult(Outcome):
    """A student and everything that is known about it, to be saved, exported and reported."""

    def save(self, directory: str | Path) -> Path:
        """Write the student's folder, which `gansdk.load` reads; the new folder is whole or not there at all.

        Students of several routes have a folder each below it, beside one report. An earlier student of that name is
        kept beside it as NAME.old-1, NAME.old-2, ..., unless it is the very same.

        Raises:
            OutputError: the folder cannot be written, or holds something that is not a student.
            VerificationError: the saved student, read back, gives other images.
        """
        return save(self, directory)

    def report(self, path: str | Path) -> Path:
        """Write the report: one HTML file that needs nothing else, or its figures as JSON if `path` ends in .json.

        Raises:
            InvalidOption: the path has another extension.
            OutputError: the file cannot be written.
        """
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
        if self.routes:
            raise Unsupported(
                f"The result has several students, {' and '.join(self.routes)}. Export each of them: "
                "result.routes[route].export(...)."
            )
        record = export(self.student, self.generator.contract, format, path, inputs=self.inputs, check=check)
        self.checks[f"student -> {format}"] = record["max_error"]
        return Path(path)


@dataclass(kw_only=True, repr=False)
class Ladder(LadderOutcome):
    """Several students of one generator, from the largest budget to the smallest. Made by `gansdk.ladder`."""

    results: list[CompressionResult]
    """In the order of the budgets; a pruner that looks for the best score may leave more of a large one unused."""

    def save(self, directory: str | Path) -> Path:
        """Write every student's folder (`4x/student`), ladder.html and ladder.json.

        Raises:
            OutputError: a folder cannot be written, or holds something that is not a student.
            VerificationError: a saved student, read back, gives other images.
        """
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
        return write_ladder(self, path, students=self.out_dir)


REPORTS = ("ladder.html", "ladder.json")
"""What a ladder's folder holds beside its students."""


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

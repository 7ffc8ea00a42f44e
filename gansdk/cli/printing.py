"""What commands print: results to stdout as tables or JSON; progress and warnings to stderr."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gansdk.cli.wording import in_options
from gansdk.errors import GansdkWarning, QualityFloorMissed
from gansdk.text import readable, visible_json

if TYPE_CHECKING:
    from gansdk.budget.cost import Cost
    from gansdk.interfaces import Quality
    from gansdk.pipeline.result import CompressionResult, Ladder


@contextmanager
def working() -> Iterator[Console]:
    """The console for progress. What anybody prints meanwhile goes to stderr; our warnings are one line each."""
    console = Console(stderr=True)
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, GansdkWarning):
                say(console, f"warning: {in_options(str(message))}")
            else:
                usual(message, category, *rest, **more)

        warnings.showwarning = show
        yield console


def say(console: Console, text: str) -> None:
    """One line of plain text, however long."""
    console.print(readable(text), markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """NaN and infinities become null."""
    from gansdk.files import json_text

    print(visible_json(json_text(data)), end="")


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of rows that have the same columns."""
    table = new_table(*(rows[0] if rows else ()))
    for row in rows:
        add_row(table, *(", ".join(value) if isinstance(value, list) else str(value) for value in row.values()))
    Console().print(table)


@contextmanager
def shown_if_poor(*, as_json: bool) -> Iterator[None]:
    """Print what was made also where it misses the floor under its quality."""
    try:
        yield
    except QualityFloorMissed as missed:
        print_outcome(missed.result, as_json=as_json)
        raise


def print_outcome(outcome: CompressionResult | Ladder, *, as_json: bool) -> None:
    """One student or several: costs, scores, where they are."""
    from gansdk.pipeline.result import Ladder

    if isinstance(outcome, Ladder):
        _print_ladder(outcome, as_json=as_json)
    else:
        _print_result(outcome, as_json=as_json)


def _print_ladder(ladder: Ladder, *, as_json: bool) -> None:
    """One row for the teacher and every student, and where they are."""
    if as_json:
        summary = ladder.summary()
        students = {ladder.label(result): _facts(result) for result in ladder.results}
        return print_json({**summary, "students": students})
    console = Console()
    first, *_ = points = ladder.curve()
    metrics = [(item["metric"], item["reference"]) for item in points[-1]["quality"]]
    table = new_table(
        "student", "MACs (M)", "ratio", "parameters (K)", *(f"{name} to {which}" for name, which in metrics)
    )
    for point in points:
        values = {(item["metric"], item["reference"]): f"{item['value']:.4g}" for item in point["quality"]}
        add_row(
            table,
            point["name"],
            f"{point['macs'] / 1e6:,.1f}",
            f"{first['macs'] / point['macs']:.2f}x" if point["macs"] else "",
            f"{point['params'] / 1e3:,.1f}",
            *(values.get(metric, "") for metric in metrics),
        )
    console.print(table)
    _print_protocols(console, ladder.results[-1].quality)
    if ladder.out_dir is not None:
        say(console, f"Report: {ladder.out_dir / 'ladder.html'}")


def _facts(result: CompressionResult) -> dict[str, Any]:
    student = None if result.out_dir is None else str(result.out_dir / "student")
    return {**result.summary(), "widths": result.plan.widths(result.space), "student": student}


def _print_result(result: CompressionResult, *, as_json: bool) -> None:
    """Costs, scores and where the student is."""
    if as_json:
        return print_json(_facts(result))
    from gansdk.reporting.report import used_text

    console = Console()
    console.print(cost_table(result.before, result.after, "student"))
    if used := used_text(result):
        say(console, used)
    print_quality(console, result.quality)
    if result.out_dir is not None:
        student = result.out_dir / "student"
        say(console, f"Student: {student}")
        say(console, f"Report: {student / 'report.html'}")


def cost_table(before: Cost, after: Cost, second: str) -> Table:
    """Two costs and their ratio; `second` is the title of the latter."""
    table = new_table("cost", "before", second, "ratio")
    for title, full, remaining in (
        ("MACs (M)", before.macs / 1e6, after.macs / 1e6),
        ("parameters (K)", before.params / 1e3, after.params / 1e3),
        ("size (KB)", before.bytes / 1e3, after.bytes / 1e3),
    ):
        add_row(table, title, f"{full:,.1f}", f"{remaining:,.1f}", f"{full / remaining:.2f}x" if remaining else "")
    return table


def print_quality(console: Console, qualities: Sequence[Quality]) -> None:
    """All scores in a table, and how they were measured under it."""
    baselines = sorted({name for quality in qualities for name in quality.extra})
    worst = ["student's worst image"] if any(quality.worst is not None for quality in qualities) else []
    table = new_table("quality", "compared with", "teacher", "student", *baselines, *worst)
    for quality in qualities:
        values = (quality.teacher, quality.student, *(quality.extra.get(name) for name in baselines))
        cells = ["" if value is None else f"{value:.4g}" for value in values]
        least = "" if quality.worst is None else f"{quality.worst:.4g} ({quality.worst_image})"
        add_row(table, quality.metric, quality.reference, *cells, *([least] if worst else []))
    if qualities:
        console.print(table)
    _print_protocols(console, qualities)


def _print_protocols(console: Console, qualities: Sequence[Quality]) -> None:
    from gansdk.evaluation.quality import protocols

    if qualities:
        say(console, f"{qualities[0].images} images.")
    for protocol in protocols(qualities):
        say(console, f"{protocol}.")


def new_table(*titles: str) -> Table:
    """An empty table whose long cells fold; rows come by `add_row`."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(Text(readable(title)), overflow="fold")
    return table


def add_row(table: Table, *cells: str) -> None:
    """Cells are plain text: what a plugin or a file says there is shown, whatever it is."""
    table.add_row(*(Text(readable(cell)) for cell in cells))

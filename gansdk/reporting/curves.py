"""Curves of a report: losses over steps, subnets of a search, and quality against cost."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gansdk.contracts import HISTORY_KEYS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def losses(history: list[dict[str, float]]) -> Iterator[Figure]:
    """One figure per training stage: every logged term over its steps."""
    from matplotlib import rcParams
    from matplotlib.rcsetup import cycler

    for number, rows in enumerate(_stages(history).values(), 1):
        names = list(dict.fromkeys(name for row in rows for name in row if name not in HISTORY_KEYS))
        figure, axes = _axes()
        axes.set_prop_cycle(cycler(linestyle=("-", "--", ":")) * rcParams["axes.prop_cycle"])
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        if all(row[name] > 0 for row in rows for name in names if name in row):
            axes.set_yscale("log")
        else:
            axes.set_yscale("symlog", linthresh=1.0)  # linear from -1 to 1
        axes.set(title=f"Stage {number}", xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
        yield figure


def _stages(history: list[dict[str, float]]) -> dict[str, list[dict[str, float]]]:
    """Rows by stage; where rows do not name it, a new one begins when the step falls back."""
    stages: dict[str, list[dict[str, float]]] = {}
    number, last = 1, -1.0
    for row in history:
        if row["step"] <= last:
            number += 1
        last = row["step"]
        stages.setdefault(f"{row.get('stage', number):g}", []).append(row)
    return stages


def png(figure: Figure) -> str:
    """The figure as a PNG, in base64."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def front(points: Sequence[Sequence[float]], *, best: tuple[float, float]) -> Figure:
    """Score against MACs of the (MACs, score) subnets that nothing beats, and of the best."""
    figure, axes = _axes()
    axes.plot(*zip(*((macs / 1e6, score) for macs, score in points), strict=True), marker=".", label="Pareto front")
    axes.plot([best[0] / 1e6], [best[1]], "o", label="best")
    axes.set(title="Search", xlabel="MACs (M)", ylabel="score, lower is better")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def quality_curve(title: str, points: Sequence[Mapping[str, Any]], flat: Mapping[str, float]) -> Figure:
    """One metric against MACs: {"name", "macs", "value"} of every student, and lines for what does not shrink.

    Students are joined in the order of their MACs, which need not be that of their budgets.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure, axes = _axes()
    points = sorted(points, key=lambda point: point["macs"])
    macs, values = [point["macs"] / 1e6 for point in points], [point["value"] for point in points]
    axes.plot(macs, values, marker="o", label="students")
    for point, x, y in zip(points, macs, values, strict=True):
        axes.annotate(point["name"], (x, y), textcoords="offset points", xytext=(4, 5), fontsize="small")
    for (name, value), style in zip(flat.items(), _STYLES * len(flat), strict=False):
        axes.axhline(value, linestyle=style, color="0.4", label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(macs)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.3g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.1, y=0.15)
    axes.set(title=title, xlabel="MACs (M)")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", frameon=False)
    return figure


_STYLES = ("--", ":", "-.")


def _axes() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
    return figure, figure.add_subplot()

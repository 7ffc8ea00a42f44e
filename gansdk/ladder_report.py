"""The report of a ladder: one curve of quality against cost, one table, and all students' images side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gansdk.budget import short
from gansdk.figures import png, quality_curve
from gansdk.metrics import TEACHER
from gansdk.pictures import side_by_side
from gansdk.quality import protocols
from gansdk.report import rendered, score_text, times, write_text
from gansdk.result import Ladder, json_text


def write_ladder(ladder: Ladder, path: str | Path) -> Path:
    """Write the report as HTML or JSON, by the extension; see `Ladder.report`."""
    return write_text(path, lambda: rendered("ladder.html", _context(ladder)), lambda: json_text(ladder.summary()))


def _context(ladder: Ladder) -> dict[str, Any]:
    first = ladder.results[0]
    height, width = first.generator.contract.size
    return {
        "gansdk": ladder.summary()["gansdk"],
        "network": type(first.student).__name__,
        "source": first.generator.source,
        "adapter": first.generator.adapter.name,
        "size": f"{height}x{width}",
        "metrics": [f"{metric} to {reference}" for metric, reference in _metrics(ladder)],
        "rows": _rows(ladder),
        "curves": [{"title": title, "png": png(figure)} for title, figure in _curves(ladder)],
        "images": side_by_side(
            {
                ladder.label(result): result.evaluation.examples if result.evaluation is not None else ()
                for result in ladder.results
            }
        ),
        "protocols": protocols([item for result in ladder.results for item in result.quality]),
        "warnings": list(dict.fromkeys(text for result in ladder.results for text in result.warnings)),
    }


def _metrics(ladder: Ladder) -> list[tuple[str, str]]:
    """(metric, reference) of everything that was measured of a student."""
    return list(dict.fromkeys((item.metric, item.reference) for result in ladder.results for item in result.quality))


def _rows(ladder: Ladder) -> list[dict[str, Any]]:
    points = ladder.curve()
    full = points[0]["macs"]
    return [
        {
            "name": point["name"],
            "folder": "" if number == 0 or ladder.out_dir is None else f"{point['name']}/student/report.html",
            "macs": short(point["macs"]),
            "ratio": times(full / point["macs"] if point["macs"] else None),
            "params": f"{point['params']:,}",
            "bytes": f"{point['bytes']:,}",
            "values": [score_text(_value(point, *which)) for which in _metrics(ladder)],
        }
        for number, point in enumerate(points)
    ]


def _value(point: dict[str, Any], metric: str, reference: str) -> float | None:
    found = [item["value"] for item in point["quality"] if (item["metric"], item["reference"]) == (metric, reference)]
    return found[0] if found else None


def _curves(ladder: Ladder) -> Iterator[tuple[str, Any]]:
    """(title, figure) of every metric: the students' values, and those of teacher and baselines as lines."""
    points = ladder.curve()
    for metric, reference in _metrics(ladder):
        students = [{**point, "value": _value(point, metric, reference)} for point in points[1:]]
        flat = {TEACHER: _value(points[0], metric, reference)}
        for item in ladder.results[0].quality:
            if (item.metric, item.reference) == (metric, reference):
                flat |= item.extra
        yield (
            f"{metric} to {reference}",
            quality_curve(
                f"{metric} to {reference}",
                [point for point in students if point["value"] is not None],
                {name: value for name, value in flat.items() if value is not None},
            ),
        )

"""The report of a ladder: one curve of quality against cost, one table, and all students' images side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gansdk.budget.cost import short
from gansdk.evaluation.quality import protocols
from gansdk.files import json_text
from gansdk.interfaces import TEACHER
from gansdk.reporting.curves import png, quality_curve
from gansdk.reporting.outcome import LadderOutcome
from gansdk.reporting.pictures import side_by_side
from gansdk.reporting.report import network_name, rendered, score_text, times, write_text


def write_ladder(ladder: LadderOutcome, path: str | Path, *, students: Path | None) -> Path:
    """Write the report as HTML or JSON, by the extension; see `Ladder.report`.

    `students` is the folder that has one for every student, None if nothing was written.
    """
    links = {} if students is None else _links(ladder, students, Path(path).parent)
    return write_text(
        path, lambda: rendered("ladder.html", _context(ladder, links)), lambda: json_text(ladder.summary())
    )


def _links(ladder: LadderOutcome, students: Path, start: Path) -> dict[str, str]:
    """Name of a student -> where its report is, as seen from the folder `start`."""
    place = Path(os.path.relpath(students, start))
    return {
        name: quote((place / name / "student" / "report.html").as_posix()) for name in map(ladder.label, ladder.results)
    }


def _context(ladder: LadderOutcome, links: Mapping[str, str]) -> dict[str, Any]:
    first = ladder.results[0]
    height, width = first.generator.contract.size
    return {
        "gansdk": ladder.summary()["gansdk"],
        "network": network_name(first),
        "source": first.generator.source,
        "adapter": first.generator.adapter.name,
        "size": f"{height}x{width}",
        "metrics": [f"{metric} to {reference}" for metric, reference in _metrics(ladder)],
        "rows": _rows(ladder, links),
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


def _metrics(ladder: LadderOutcome) -> list[tuple[str, str]]:
    """(metric, reference) of everything that was measured of a student."""
    return list(dict.fromkeys((item.metric, item.reference) for result in ladder.results for item in result.quality))


def _rows(ladder: LadderOutcome, links: Mapping[str, str]) -> list[dict[str, Any]]:
    points = ladder.curve()
    full = points[0]["macs"]
    return [
        {
            "name": point["name"],
            "link": links.get(point["name"], ""),
            "macs": short(point["macs"]),
            "ratio": times(full / point["macs"] if point["macs"] else None),
            "params": f"{point['params']:,}",
            "bytes": f"{point['bytes']:,}",
            "values": [score_text(_value(point, *which)) for which in _metrics(ladder)],
        }
        for point in points
    ]


def _value(point: dict[str, Any], metric: str, reference: str) -> float | None:
    found = [item["value"] for item in point["quality"] if (item["metric"], item["reference"]) == (metric, reference)]
    return found[0] if found else None


def _curves(ladder: LadderOutcome) -> Iterator[tuple[str, Any]]:
    """(title, figure) of every metric: the students' values, and those of teacher and baselines as lines."""
    points = ladder.curve()
    for metric, reference in _metrics(ladder):
        students = [{**point, "value": _value(point, metric, reference)} for point in points[1:]]
        flat = {TEACHER: _value(points[0], metric, reference)}
        baselines = [
            set(item.extra.items())
            for result in ladder.results
            for item in result.quality
            if (item.metric, item.reference) == (metric, reference)
        ]
        if baselines:
            common = set.intersection(*baselines)  # what differs from student to student is no line
            flat.update(sorted(common))
        yield (
            f"{metric} to {reference}",
            quality_curve(
                f"{metric} to {reference}",
                [point for point in students if point["value"] is not None],
                {name: value for name, value in flat.items() if value is not None},
            ),
        )

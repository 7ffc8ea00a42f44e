"""The report of a run: every figure as JSON, or one HTML file that can be mailed, opened and printed."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gansdk.channels.carve import carve_space
from gansdk.channels.groups import Op, Space
from gansdk.errors import InvalidOption, OutputError
from gansdk.evaluate import Example
from gansdk.images import Pixels
from gansdk.quality import protocols
from gansdk.result import CompressionResult, json_text, to_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_PX = 320
"""Side of the centre crop that is shown of every output image."""
FULL_DIFFERENCE = 32
"""Levels of 255 at which a difference map is brightest, unless a difference is larger."""

_CARD = """\
---
library_name: gansdk
tags: [image-to-image, model-compression, pruning, distillation]
---
# {{ network }}, compressed ({{ budget }})

Made by gansdk {{ gansdk }} from {{ source or "a generator" }}.

| cost | teacher | student | ratio |
|---|---|---|---|
{% for row in costs -%}
| {{ row.title }} | {{ row.before }} | {{ row.after }} | {{ row.ratio }} |
{% endfor %}
{%- if quality %}
| metric | compared with | teacher | student | images |
|---|---|---|---|---|
{% for row in quality -%}
| {{ row.metric }} | {{ row.reference }} | {{ row.teacher }} | {{ row.student }} | {{ row.images }} |
{% endfor %}
{% for protocol in protocols -%}
{{ protocol }}.
{% endfor %}
{% endif %}
## Use

```python
import gansdk

{% if loads_alone -%}
student = gansdk.load("path/to/this/folder")
{%- else -%}
student = gansdk.load("path/to/this/folder", network=net)  # net: the full-size network, of its own class
{%- endif %}
```

It takes float32 images (N, {{ contract.channels_in }}, H, W) from {{ contract.input_range[0] }} to \
{{ contract.input_range[1] }}, sides multiples of {{ contract.multiple_of }}, and gives \
(N, {{ contract.channels_out }}, {{ contract.scale }}H, {{ contract.scale }}W) from \
{{ contract.output_range[0] }} to {{ contract.output_range[1] }}.

report.html holds all figures, images and settings. The licence of the teacher's weights holds for these too.
"""


def write_report(result: CompressionResult, path: str | Path) -> Path:
    """Write report.json or report.html, by the extension; see `CompressionResult.report`."""
    path = Path(path)
    if path.suffix not in (".html", ".json"):
        raise InvalidOption(f"report({str(path)!r}): the extension is {path.suffix!r}. Give a path in .html or .json.")
    text = render_html(result) if path.suffix == ".html" else json_text(report_data(result))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"The report cannot be written to '{path}': {error.strerror or error}. Choose a folder that exists and "
            "that you may write to."
        ) from error
    return path


def report_data(result: CompressionResult) -> dict[str, Any]:
    """JSON: the summary, and every module, group, image and logged loss."""
    data: dict[str, Any] = to_json(
        {
            **result.summary(),
            "groups": list(_groups(result)),
            "modules": list(_modules(result)),
            "notes": result.space.notes,
            "per_image": result.evaluation.per_image if result.evaluation is not None else [],
            "history": result.history,
        }
    )
    return data


def render_html(result: CompressionResult) -> str:
    """One HTML document with its style and its images inside."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gansdk", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(**_context(result))


def model_card(result: CompressionResult, *, loads_alone: bool) -> str:
    """README.md of the student's folder; `loads_alone` if it can be read without its network's class."""
    from jinja2 import Environment, StrictUndefined

    template = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True).from_string(_CARD)
    return template.render(**_figures(result), loads_alone=loads_alone)


# Figures.


def _figures(result: CompressionResult) -> dict[str, Any]:
    """What both the card and the report print, formatted."""
    height, width = result.generator.contract.size
    summary = result.summary()
    titles = {
        "macs": f"MACs at {height}x{width}, true counting",
        "paper_macs": f"MACs at {height}x{width}, paper counting",
        "params": "parameters",
        "bytes": "bytes of the weights",
    }
    return {
        "network": type(result.student).__name__,
        "gansdk": summary["gansdk"],
        "source": result.generator.source,
        "budget": result.budget,
        "contract": summary["contract"],
        "costs": [
            {
                "title": title,
                "short": _short(summary["after"][metric]),
                "before": f"{summary['before'][metric]:,}",
                "after": f"{summary['after'][metric]:,}",
                "ratio": _times(summary["ratios"][metric]),
            }
            for metric, title in titles.items()
        ],
        "quality": [
            {
                **row,
                "teacher": _score(row["teacher"]),
                "student": _score(row["student"]),
                "baselines": ", ".join(f"{name} {_score(value)}" for name, value in row["extra"].items()),
            }
            for row in summary["quality"]
        ],
        "protocols": protocols(result.quality),
    }


def _context(result: CompressionResult) -> dict[str, Any]:
    data = report_data(result)
    return {
        **_figures(result),
        "adapter": data["adapter"],
        "warnings": data["warnings"],
        "checks": [
            (name, f"{error:.3g}" if error is not None else "not finite") for name, error in data["checks"].items()
        ],
        "settings": [(name, _text(value)) for name, value in data["settings"].items()],
        "modules": [
            {**row, "macs_before": f"{row['macs_before']:,}", "macs_after": f"{row['macs_after']:,}"}
            for row in data["modules"]
        ],
        "groups": data["groups"],
        "notes": data["notes"],
        "images": _pictures(result),
        "curves": [_png(figure) for figure in _curves(result.history)],
    }


def _modules(result: CompressionResult) -> Iterator[dict[str, Any]]:
    """Every convolution and linear layer in order of execution: channels and MACs, before and after."""
    carved = carve_space(result.space, result.plan)
    calls: dict[tuple[str, str], list[Op]] = {}
    for op in result.space.ops:
        calls.setdefault((op.module, op.weight), []).append(op)
    for (module, weight), ops in calls.items():
        yield {
            "module": module or weight,
            "calls": len(ops),
            "channels_before": _channels(result.space, ops[0]),
            "channels_after": _channels(carved, ops[0]),
            "macs_before": sum(_macs(result.space, op) for op in ops),
            "macs_after": sum(_macs(carved, op) for op in ops),
        }


def _macs(space: Space, op: Op) -> int:
    """True counting: positions times elements of the weight; nothing for a layer whose branch was removed."""
    shape = space.shapes.get(op.weight)
    return 0 if shape is None else op.positions * int(np.prod(shape, dtype=np.int64))


def _channels(space: Space, op: Op) -> str:
    """Inputs and outputs; of grouped convolutions, which have no axis for all inputs, the outputs alone."""
    shape = space.shapes.get(op.weight)
    if shape is None:
        return "removed"
    return f"{shape[op.out_dim]}" if op.in_dim is None else f"{shape[op.in_dim]} to {shape[op.out_dim]}"


def _groups(result: CompressionResult) -> Iterator[dict[str, Any]]:
    for group in result.space.groups:
        yield {
            "group": group.name,
            "before": group.size,
            "after": result.plan.width(group),
            "frozen": group.frozen,
            "tensors": len(group.axes),
        }


# Pictures.


def _pictures(result: CompressionResult) -> dict[str, Any]:
    """Rows of images of every example, and the scale of their difference maps."""
    examples = result.evaluation.examples if result.evaluation is not None else ()
    differences = [_difference(example) for example in examples if example.teacher is not None]
    # One scale for all maps, so that they can be compared.
    scale = max([float(FULL_DIFFERENCE), *(float(difference.max()) for difference in differences)])
    return {
        "scale": f"{scale:.0f}",
        "crop": SHOWN_PX,
        "rows": [
            {
                "name": example.name,
                "tiles": [{"title": title, "png": _encode(pixels)} for title, pixels in _tiles(example, scale)],
            }
            for example in examples
        ],
    }


def _tiles(example: Example, scale: float) -> Iterator[tuple[str, Pixels]]:
    """(title, pixels), all cropped to the same part of the image."""
    shown = {
        "input": example.input,
        "bicubic": example.bicubic,
        "teacher": example.teacher,
        "student": example.student,
        "ground truth": example.target,
    }
    for title, pixels in shown.items():
        if pixels is not None:
            yield title, _crop(pixels, example.student)
    if example.teacher is not None:
        yield "difference", _coloured(_crop(_difference(example), example.student), scale)


def _difference(example: Example) -> NDArray[Any]:
    """(H, W, 1): mean absolute difference of student and teacher over the channels, in levels of 255."""
    assert example.teacher is not None
    gap = example.student.astype(np.float32) - example.teacher.astype(np.float32)
    difference: NDArray[Any] = np.abs(gap).mean(2, keepdims=True)
    return difference


def _coloured(difference: NDArray[Any], scale: float) -> Pixels:
    from matplotlib import colormaps

    coloured: Pixels = colormaps["magma"](difference[..., 0] / scale, bytes=True)[..., :3]
    return coloured


def _crop(pixels: NDArray[Any], student: Pixels) -> NDArray[Any]:
    """The centre of an image that is as large as the student's or smaller by a whole factor."""
    factor = max(1, student.shape[0] // pixels.shape[0])
    side = max(1, SHOWN_PX // factor)
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _encode(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]))
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


# Curves.


def _curves(history: list[dict[str, float]]) -> Iterator[Figure]:
    """One figure per training stage: every logged term over its steps."""
    from matplotlib.figure import Figure

    for stage, rows in _stages(history).items():
        names = list(dict.fromkeys(name for row in rows for name in row if name not in ("step", "stage")))
        figure = Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
        axes = figure.add_subplot()
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        if all(row[name] > 0 for row in rows for name in names if name in row):
            axes.set_yscale("log")
        axes.set(title=f"Stage {stage}", xlabel="step")
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


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


# Text.


def _short(amount: int) -> str:
    """2604412345 -> "2.60 G"."""
    value, units = float(amount), iter(("", " K", " M", " G", " T"))
    unit = next(units)
    while value >= 1000 and unit != " T":
        value, unit = value / 1000, next(units)
    return f"{value:.3g}{unit}" if unit else str(amount)


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

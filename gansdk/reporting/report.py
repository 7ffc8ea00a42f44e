"""The report of a run: every figure as JSON, or one HTML file that can be mailed, opened and printed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gansdk.budget.cost import short
from gansdk.channels.carve import carve_space
from gansdk.channels.groups import Op, Space
from gansdk.errors import InvalidOption, OutputError
from gansdk.evaluation.quality import protocols
from gansdk.files import json_text, put, to_json
from gansdk.recipe import Compression, says_of
from gansdk.reporting.curves import front, losses, png
from gansdk.reporting.outcome import Outcome
from gansdk.reporting.pictures import compared
from gansdk.text import readable
from gansdk.validation.paths import check_file

SECTIONS = (
    "cards",
    "warnings",
    "cost",
    "quality",
    "checks",
    "images",
    "plans",
    "search",
    "training",
    "layers",
    "groups",
    "hand_over",
    "settings",
)
"""Those of report.html in their order, each a template in `sections/`; as `data` they see all that report.json has."""
_CARD = """\
---
library_name: gansdk
tags: [image-to-image, model-compression, pruning, distillation]
---
# {{ network }}, {{ made }}

Made by gansdk {{ gansdk }} from {{ source or "a generator" }}.

| cost | teacher | student | ratio |
|---|---|---|---|
{% for row in costs -%}
| {{ row.title }} | {{ row.before }} | {{ row.after }} | {{ row.ratio }} |
{% endfor %}
{%- if used %}
{{ used }}
{% endif %}
{%- if transformed %}
{{ transformed }}
{% endif %}
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
(N, {{ contract.channels_out }}, {{ times }}H, {{ times }}W) from \
{{ contract.output_range[0] }} to {{ contract.output_range[1] }}.

{% if has_recipe -%}
recipe.toml makes the student again: `gansdk compress --recipe recipe.toml`.
{% endif -%}
report.html holds all figures, images and settings. The licence of the teacher's weights holds for these too.
"""


def write_report(result: Outcome, path: str | Path) -> Path:
    """Write report.json or report.html, by the extension; see `CompressionResult.report`."""
    return write_text(path, lambda: render_html(result), lambda: json_text(report_data(result)))


def write_text(path: str | Path, html: Callable[[], str], json: Callable[[], str]) -> Path:
    """Write what fits the path's extension.

    Raises:
        InvalidOption: it has another extension.
        OutputError: the file cannot be written.
    """
    path = check_file(path, "path")
    if path.suffix not in (".html", ".json"):
        raise InvalidOption(f"report({str(path)!r}): the extension is {path.suffix!r}. Give a path in .html or .json.")
    text = html() if path.suffix == ".html" else json()
    try:
        put(path, text)
    except OSError as error:
        raise OutputError(
            f"The report cannot be written to '{path}': {error.strerror or error}. Choose a folder that exists and "
            "that you may write to."
        ) from error
    return path


def report_data(result: Outcome) -> dict[str, Any]:
    """JSON: the summary, and every module, group, image and logged loss."""
    data: dict[str, Any] = to_json(
        {
            **result.summary(),
            "groups": list(_groups(result)),
            "modules": list(_modules(result)),
            "notes": result.space.notes,
            "per_image": result.evaluation.per_image if result.evaluation is not None else [],
            "search": result.search,
            "compared": result.compared,
            "history": result.history,
        }
    )
    return data


def render_html(result: Outcome) -> str:
    """One HTML document with its style and its images inside."""
    return rendered("report.html", _context(result))


def rendered(template: str, context: Mapping[str, Any]) -> str:
    """A template of this package, filled in."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gansdk.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**context)


def model_card(result: Outcome, *, loads_alone: bool) -> str:
    """README.md of the student's folder; `loads_alone` if it can be read without its network's class."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, finalize=_in_markdown
    )
    template = environment.from_string(_CARD)
    scale = result.generator.contract.scale
    return template.render(**_figures(result), loads_alone=loads_alone, times="" if scale == 1 else scale)


# Figures.


def _figures(result: Outcome) -> dict[str, Any]:
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
        "network": network_name(result),
        "made": made_text(result),
        "gansdk": summary["gansdk"],
        "source": result.generator.source,
        "budget": result.budget if _is_compressed(result) else "",
        "used": used_text(result),
        "contract": summary["contract"],
        "costs": [
            {
                "title": title,
                "short": short(summary["after"][metric]),
                "before": f"{summary['before'][metric]:,}",
                "after": f"{summary['after'][metric]:,}",
                "ratio": times(summary["ratios"][metric]),
            }
            for metric, title in titles.items()
        ],
        "transformed": _transformed(result),
        "quality": [
            {
                **row,
                "teacher": score_text(row["teacher"]),
                "student": score_text(row["student"]),
                "worst": worst_text(row["worst"], row["worst_image"]),
                "baselines": ", ".join(f"{name} {score_text(value)}" for name, value in row["extra"].items()),
            }
            for row in summary["quality"]
        ],
        "protocols": protocols(result.quality),
        "has_recipe": result.recipe is not None,
    }


def _transformed(result: Outcome) -> str:
    """What the student was carved from, if not from the teacher as it was given; else ""."""
    made = result.transformed
    if made is None:
        return ""
    return (
        f"The student was carved from the teacher's transform {result.settings['transform']!r}, which at full width "
        f"costs {made.macs:,} MACs (true counting) and has {made.params:,} parameters."
    )


def _context(result: Outcome) -> dict[str, Any]:
    data, says = report_data(result), says_of(Compression)
    return {
        **_figures(result),
        "sections": SECTIONS,
        "data": data,
        "adapter": data["adapter"],
        "warnings": data["warnings"],
        "findings": [
            {**row, "outcome": {True: "passed", False: "out of line", None: "not looked at"}[row["passed"]]}
            for row in data["findings"]
        ],
        "taught": taught_text(result),
        "checks": [
            (name, f"{error:.3g}" if error is not None else "not finite") for name, error in data["checks"].items()
        ],
        "settings": [
            (name, _text(value), says[name].text if name in says else "") for name, value in data["settings"].items()
        ],
        "modules": [
            {**row, "macs_before": f"{row['macs_before']:,}", "macs_after": f"{row['macs_after']:,}"}
            for row in data["modules"]
        ],
        "groups": data["groups"],
        "notes": data["notes"],
        "images": compared(result.evaluation.examples if result.evaluation is not None else ()),
        "search": _search(result),
        "compared": data["compared"],
        "curves": [png(figure) for figure in losses(result.history)],
    }


def _search(result: Outcome) -> dict[str, Any] | None:
    """The last row a search told of, with its Pareto front drawn; None where none was run."""
    last = result.search[-1] if result.search else None
    return last and {**last, "front": png(front(last["front"], best=(last["macs"], last["best"])))}


def _modules(result: Outcome) -> Iterator[dict[str, Any]]:
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


def _groups(result: Outcome) -> Iterator[dict[str, Any]]:
    for group in result.space.groups:
        yield {
            "group": group.name,
            "before": group.size,
            "after": result.plan.width(group),
            "frozen": group.frozen,
            "tensors": len(group.axes),
        }


# Text.


def network_name(result: Outcome) -> str:
    """The student's class; of several routes, their names too."""
    kinds = " and ".join(dict.fromkeys(type(part.student).__name__ for part in result.parts.values()))
    return f"{kinds} ({' and '.join(result.routes)})" if result.routes else kinds


def made_text(result: Outcome) -> str:
    """What was done to it; a teacher that was trained is saved as a student that nothing was taken from."""
    if result.after != result.before:
        return f"compressed ({result.budget})"
    return "nothing removed" if _is_compressed(result) else "trained teacher"


def _is_compressed(result: Outcome) -> bool:
    """Whether it was made within a budget, of a teacher."""
    return result.after != result.before or result.teacher is not None


def used_text(result: Outcome) -> str:
    """One line: how much of the budget is used, and why not more; empty if that is not known."""
    if result.used is None:
        return ""
    return f"{result.used:.1%} of the budget {result.budget} is used{f': {result.unused}' if result.unused else ''}."


def taught_text(result: Outcome) -> str:
    """One line: what distiller="auto" came to, and why; empty where distillers were named."""
    teaching = result.settings.get("teaching", {})
    return f"Distiller chosen automatically: {teaching['reason']}" if teaching.get("chosen") == "auto" else ""


def times(ratio: float | None) -> str:
    """4.0 -> "4.00x"."""
    return "-" if ratio is None else f"{ratio:.2f}x"


def score_text(value: float | None) -> str:
    """Four decimals; a dash for what was not measured."""
    return "-" if value is None else f"{value:.4f}"


def worst_text(value: float | None, image: str) -> str:
    """The student's score on its worst image, and which that is; a dash for what was not measured."""
    return "-" if value is None else f"{value:.4g} ({image})"


_MARKDOWN = re.compile(
    r"""
    <(?=[a-z/!?]|$)            # a tag; not what budgets have: macs<=60%
    | &(?=\#?[a-z0-9]+;)       # a character reference
    | \](?=[(\[:])             # a link or an image
    | ^\s*[\#>=]               # a heading or a quotation, where a line begins with it
    | [`*|\\]
    """,
    re.VERBOSE | re.IGNORECASE,
)


def _in_markdown(value: Any) -> str:
    """The value as text of one line, for a Markdown renderer: names of files and plugins may hold anything."""
    return _MARKDOWN.sub(lambda found: "".join(f"&#{ord(c)};" for c in found[0]), readable(str(value)))


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(item)}" for key, item in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

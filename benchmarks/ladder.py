"""A ladder from one supernet against students made one by one, at the same MACs and the same steps in all.

    python benchmarks/ladder.py MODEL DATA --budgets 2x 4x 8x 16x --supernet-steps 8000 --steps 1000 --out runs/ladder

Three rows for every budget:

- "once-for-all": `gansdk.ladder`; the supernet's steps once, and `--steps` for every student
- "one-step": pruned to the MACs of the once-for-all student and trained alone
- "separate": the once-for-all student's own widths with fresh weights, trained alone by the same distiller

The last two have an equal share of all steps the ladder took, so that each kind of ladder costs the same number of
steps. Prints a JSON line per row, and writes OUT/rows.json and a picture per metric, OUT/METRIC.png. Rows that are done
are not trained again.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import torch

import gansdk


class Widths(gansdk.Pruner):
    """The channels of a given plan, with fresh weights."""

    inherit = "none"

    def __init__(self, plan: gansdk.Plan) -> None:
        self._plan = plan

    def search(self, student: gansdk.Student, limits: Any, run: Any) -> gansdk.Plan:
        """The given plan."""
        return self._plan


def main() -> None:
    """Make the ladder, then its rivals budget by budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--eval-data")
    parser.add_argument("--adapter", type=json.loads, default='"auto"')
    parser.add_argument("--distiller", type=json.loads, default='"pixel"')
    parser.add_argument("--metrics", type=json.loads, default=[])
    parser.add_argument("--budgets", nargs="+", default=["2x", "4x", "8x", "16x"])
    parser.add_argument("--supernet", type=json.loads, default={}, help="options of once-for-all")
    parser.add_argument("--one-step", type=json.loads, default={}, help="options of one-step")
    parser.add_argument("--supernet-steps", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--patch", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    common: dict[str, Any] = {
        name: getattr(asked, name)
        for name in (
            "adapter",
            "data",
            "eval_data",
            "metrics",
            "batch_size",
            "patch",
            "learning_rate",
            "seed",
            "device",
        )
    }
    common["distiller"] = asked.distiller
    total = asked.supernet_steps + len(asked.budgets) * asked.steps
    share = total // len(asked.budgets)
    rows: list[dict[str, Any]] = []

    def tell(kind: str, budget: str, result: gansdk.CompressionResult, steps: int, minutes: float) -> None:
        scores = {f"{item.metric} to {item.reference}": item.student for item in result.quality}
        used = round(result.after.macs / result.before.macs, 4)
        row = {"row": kind, "budget": budget, "macs": result.after.macs, "share": used, "steps": steps}
        rows.append({**row, "total_steps": total, "cpu_minutes": round(minutes, 2), **scores})
        print(json.dumps(rows[-1]), flush=True)

    began = time.process_time()
    ladder = gansdk.ladder(
        asked.model,
        budgets=asked.budgets,
        pruner={"name": "once-for-all", "steps": asked.supernet_steps, **asked.supernet},
        steps=asked.steps,
        out_dir=asked.out / "once-for-all",
        **common,
    )
    minutes = (time.process_time() - began) / 60 / len(ladder.results)
    for budget, result in zip(asked.budgets, ladder.results, strict=True):
        tell("once-for-all", budget, result, asked.steps, minutes)
    for budget, made in zip(asked.budgets, ladder.results, strict=True):
        rivals = {"one-step": {"name": "one-step", **asked.one_step}, "separate": Widths(made.plan)}
        for kind, pruner in rivals.items():
            began = time.process_time()
            result = gansdk.compress(
                asked.model,
                budget=f"macs<={made.after.macs}",
                pruner=pruner,
                steps=share,
                out_dir=asked.out / kind / budget,
                **common,
            )
            tell(kind, budget, result, share, (time.process_time() - began) / 60)
    teacher = {f"{item.metric} to {item.reference}": item.teacher for item in ladder.results[0].quality}
    (asked.out / "rows.json").write_text(json.dumps({"teacher": teacher, "rows": rows}, indent=1))
    for metric, value in teacher.items():
        draw(asked.out / f"{re.sub('[^a-z0-9-]+', '-', metric)}.png", metric, rows, value)


def draw(path: Path, metric: str, rows: list[dict[str, Any]], teacher: float | None) -> None:
    """One line per kind of ladder: the metric against MACs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for kind in dict.fromkeys(row["row"] for row in rows):
        points = [(row["macs"] / 1e9, row[metric]) for row in rows if row["row"] == kind and metric in row]
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=kind)
    if teacher is not None:
        axes.axhline(teacher, linestyle="--", color="0.4", label="teacher")
    axes.set_xscale("log", base=2)
    axes.set(title=f"{metric}, {rows[0]['total_steps']} steps in all", xlabel="MACs (G)")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()

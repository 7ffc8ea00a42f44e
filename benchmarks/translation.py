"""A trained translation teacher compressed by CAT, beside honest baselines at the same MACs and steps.

    python benchmarks/translation.py TEACHER DATA --budgets 5x 10x --steps 600 --out runs/pix2pix \
        --kid-weights lite0.pth --segmenter camvid-unet.safetensors

TEACHER is a folder of `gansdk train-teacher`, for a CycleGAN one direction's (teacher/A2B). Every row is scored in its
own run beside its teacher; prints a JSON line per row, and all of them at the end.

"Plain GAN" rows start with fresh weights and a fresh discriminator, and learn from the family's losses alone. With
pairs the reconstruction is to the ground truth, so nothing of the teacher is in them. Unpaired data has no truth for an
input: the reconstruction is then to the teacher's image in these rows too, so that they are distilled by images and
tell only what kernel alignment adds. Without it one direction alone has nothing that ties the image to its input; what
an unpaired student learns without a teacher takes both directions and is a training of its own:

    gansdk train-teacher cyclegan --data DATA --size width=24 --steps 600 --out small
    gansdk eval small/teacher/A2B DATA --metric kid --metric-option kid.weights=lite0.pth
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

import gansdk
from gansdk.pipeline.opening import open_generator
from gansdk.training.offline_regime import OfflineRegime

CAT = {"name": "one-step", "importance": "norm-scale", "selection": "threshold", "inherit": "none"}
SCALES = {"name": "one-step", "importance": "norm-scale"}
PROBE = {"name": "one-step", "importance": "gauss-newton"}
ROWS: dict[str, dict[str, Any]] = {
    "CAT": {"pruner": CAT, "distiller": "gka"},
    "CAT's architecture, plain GAN": {"pruner": CAT, "distiller": None, "inherited": False},
    "uniform widths, plain GAN": {"pruner": "uniform-fresh", "distiller": None, "inherited": False},
    "|gamma| ranking, inherited weights, gka": {"pruner": SCALES, "distiller": "gka"},
    "gate probe, inherited weights, gka": {"pruner": PROBE, "distiller": "gka"},
    "|gamma| ranking, pruned and recovered": {"pruner": SCALES, "distiller": None, "steps": 0},
    "gate probe, pruned and recovered": {"pruner": PROBE, "distiller": None, "steps": 0},
}


class FreshUniform(gansdk.Pruner):
    """Every layer cut by the same share, all weights fresh: what one would train without a teacher."""

    inherit = "none"

    def search(self, student: gansdk.Student, limits: Any, run: Any) -> gansdk.Plan:
        """The plan of the pruner 'uniform'."""
        from gansdk.registry.parts import open_pruner

        return open_pruner("uniform").search(student, limits, run)


def settings(name: str, steps: int, floor_width: int) -> dict[str, Any]:
    """Arguments of `gansdk.compress` for a row."""
    row = ROWS[name]
    steps = row.get("steps", steps)
    distiller = row["distiller"] or (gansdk.Distiller(regime=OfflineRegime()) if steps else None)
    pruner = FreshUniform() if row["pruner"] == "uniform-fresh" else row["pruner"]
    if pruner is CAT:
        pruner = {**CAT, "floor_width": floor_width}
    return {"pruner": pruner, "distiller": distiller, "steps": steps or None}


def main() -> None:
    """Run the asked rows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data")
    parser.add_argument("--adapter", type=json.loads, default='"auto"', help="what differs from the teacher's options")
    parser.add_argument("--budgets", nargs="+", default=["5x", "10x"])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--kid-weights")
    parser.add_argument("--segmenter")
    parser.add_argument("--floor-width", type=int, default=16, help="CAT's, published for 64 channels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    teacher = open_generator(asked.teacher, asked.adapter)
    metrics: list[dict[str, Any]] = []
    if asked.kid_weights:
        metrics.append({"name": "kid", "weights": asked.kid_weights})
    if asked.segmenter:
        metrics.append({"name": "miou", "segmenter": asked.segmenter})
    rows = []
    for budget in asked.budgets:
        for name in asked.rows:
            began = time.process_time()
            inherited = ROWS[name].get("inherited", True)
            place = f"{budget}-{list(ROWS).index(name)}"
            result = gansdk.compress(
                teacher if inherited else dataclasses.replace(teacher, discriminator=None),
                budget=budget,
                data=asked.data,
                metrics=metrics,
                batch_size=asked.batch_size,
                seed=asked.seed,
                out_dir=asked.out / place,
                device="cpu",
                **settings(name, asked.steps, asked.floor_width),
            )
            row = {
                "row": name,
                "budget": budget,
                "macs": result.after.macs,
                "share": round(result.after.macs / result.before.macs, 4),
                "steps": ROWS[name].get("steps", asked.steps),
                "cpu_minutes": round((time.process_time() - began) / 60, 2),
                "quality": {
                    f"{q.metric} to {q.reference}": {"student": q.student, "teacher": q.teacher, **q.extra}
                    for q in result.quality
                },
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
    print(json.dumps({"torch": torch.__version__, "gansdk": gansdk.__version__, "rows": rows}))


if __name__ == "__main__":
    main()

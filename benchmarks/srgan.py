"""The real SRGAN x4 at a budget: distilled, from scratch, pruned only, teacher and bicubic, on Set5.

    python benchmarks/srgan.py CHECKPOINT TRAIN_FOLDER SET5_FOLDER --budget 4x --steps 2000 --out runs/srgan-4x

Every row is scored by one protocol (PSNR on luma, border of 4 pixels removed, 8 bit). Prints JSON and a table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import gansdk
from gansdk.training.offline_regime import OfflineRegime


def psnr(result: gansdk.CompressionResult) -> dict[str, float]:
    """PSNR-Y of teacher, student and bicubic against the ground truth."""
    row = next(q for q in result.quality if q.metric == "psnr-y" and q.reference == "ground-truth")
    return {"teacher": row.teacher or 0.0, "student": row.student, **row.extra}


def main() -> None:
    """Run the asked rows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--budget", default="4x")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rows", nargs="*", default=["pruned", "recovered", "scratch", "gka", "pixel"])
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--patch", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    task_only = gansdk.Distiller(regime=OfflineRegime())
    settings: dict[str, dict[str, Any]] = {
        "pruned": {"pruner": {"name": "one-step", "recovery": "none"}, "distiller": None},
        "recovered": {"distiller": None},
        "scratch": {"pruner": {"name": "one-step", "inherit": "none"}, "distiller": task_only},
        "no teacher": {"distiller": task_only},
        "gka": {"distiller": "gka"},
        "pixel": {"distiller": {"name": "pixel", "weight": 0.5}},
    }
    options = {"learning_rate": asked.learning_rate, "patch": asked.patch, "batch_size": asked.batch_size}
    rows = []
    for name in asked.rows:
        began = time.process_time()
        result = gansdk.compress(
            asked.checkpoint,
            budget=asked.budget,
            data=asked.train,
            eval_data=asked.evaluation,
            steps=None if settings[name]["distiller"] is None else asked.steps,
            out_dir=asked.out / name.replace(" ", "-"),
            device="cpu",
            **settings[name],
            **{option: value for option, value in options.items() if value is not None},
        )
        row = {
            "row": name,
            "budget": asked.budget,
            "macs": result.after.macs,
            "share": result.after.macs / result.before.macs,
            "steps": 0 if settings[name]["distiller"] is None else asked.steps,
            "cpu_minutes": round((time.process_time() - began) / 60, 2),
            **psnr(result),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    print(json.dumps({"torch": torch.__version__, "gansdk": gansdk.__version__, "rows": rows}))


if __name__ == "__main__":
    main()

"""A student from no image at all, beside noise and real data, on the real SRGAN or on a VDSR from fresh weights.

    python benchmarks/data_free.py CHECKPOINT TRAIN_FOLDER SET5_FOLDER --budget 4x --steps 500 --out runs/data-free

The rows are those of the paper's table: a student of noise, a data-free one, one of real data, and beside them bicubic
enlargement and the teacher. "imitation" is of real data too, but learns from the teacher alone, as the first two do.
Every row is planned, recovered and trained on its own inputs, for the same steps, and scored by one protocol (PSNR on
luma, border of `scale` pixels removed, 8 bit). With `--option student_steps=N` above the steps the image network stays
untrained: what the game itself adds is the difference to that. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

import gansdk
from gansdk.contracts import MAIN, Batch, Pairing
from gansdk.interfaces import DataSource
from gansdk.training.offline_regime import OfflineRegime


class Noise(DataSource):
    """Uniform noise in [0, 1]: what the paper compares itself with."""

    pairing = Pairing.INPUTS_ONLY

    def __init__(self, channels: int, side: int) -> None:
        self.shape = (channels, side, side)

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        rng = torch.Generator().manual_seed(hash((seed, step)))
        return Batch({MAIN: torch.rand(size, *self.shape, generator=rng)})

    def images(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        return iter(())

    def describe(self) -> dict[str, Any]:
        return {"source": "noise", "shape": list(self.shape)}


def psnr(result: gansdk.CompressionResult) -> dict[str, float]:
    """PSNR-Y of teacher, student and bicubic against the ground truth."""
    row = next(q for q in result.quality if q.metric == "psnr-y" and q.reference == "ground-truth")
    return {"teacher": row.teacher or 0.0, "student": row.student, **row.extra}


def main() -> None:
    """Run the asked rows one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="a checkpoint, or the folder of a teacher of train-teacher")
    parser.add_argument("train", type=Path)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--budget", default="4x")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rows", nargs="*", default=["noise", "data-free", "data"])
    parser.add_argument("--fresh", action="store_true", help="uniform widths from fresh weights, the paper's protocol")
    parser.add_argument("--pre-upsampled", type=int, help="factor by which a VDSR's inputs are enlarged")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=JSON", help="of data-free; repeatable")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--patch", type=int, default=24)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    options = {key: json.loads(value) for key, value in (text.split("=", 1) for text in asked.option)}
    enlarged = asked.pre_upsampled is not None
    images_only = gansdk.Distiller(regime=OfflineRegime(task_weight=0.0))
    settings: dict[str, dict[str, Any]] = {
        "noise": {"data": Noise(1 if enlarged else 3, asked.patch), "distiller": [images_only, "pixel"]},
        "data-free": {"distiller": {"name": "data-free", **options}},
        "data": {"data": asked.train, "distiller": "pixel"},
        "imitation": {"data": asked.train, "distiller": [images_only, "pixel"]},
    }
    for name in asked.rows:
        began = time.process_time()
        result = gansdk.compress(
            asked.teacher,
            adapter={"name": "sr", "pre_upsampled": asked.pre_upsampled} if enlarged else "auto",
            pruner={"name": "uniform", "inherit": "none"} if asked.fresh else "one-step",
            budget=asked.budget,
            eval_data=asked.evaluation,
            steps=asked.steps,
            batch_size=asked.batch_size,
            patch=asked.patch,
            learning_rate=asked.learning_rate,
            seed=asked.seed,
            out_dir=asked.out / name,
            device="cpu",
            **settings[name],
        )
        row = {
            "row": name,
            "share": round(result.after.macs / result.before.macs, 4),
            "steps": asked.steps,
            "batch_size": asked.batch_size,
            "patch": asked.patch,
            "options": options if name == "data-free" else {},
            "cpu_minutes": round((time.process_time() - began) / 60, 2),
            **{who: round(value, 3) for who, value in psnr(result).items()},
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

"""What trying out plans costs, in training steps: the default promises 100 of 8 images at most.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/trials.py ZOO TRAIN --networks upconv7_x2

ZOO and TRAIN as for `zoo.py`. Three runs in one process, in CPU seconds: pruned by the ranking alone, with trials, and
the ranking alone with 20 steps of training (`pixel`, batch 8) behind it; each scores one photograph.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from zoo import generators

import gansdk

STEPS = 20


def main() -> None:
    """Print a JSON line for every network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("--networks", nargs="*", default=["upconv7_x2", "rfdn_x4", "srgan_x4"])
    parser.add_argument("--budget", default="4x")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name, make in generators(asked.zoo, asked.networks):
        generator = make()
        ranked: dict[str, Any] = {"name": "one-step", "allocation": "cost", "recovery": "none"}
        found = {
            "ranking": seconds(generator, asked, pruner=ranked, distiller=None),
            "trials": seconds(generator, asked, distiller=None),
            "training": seconds(generator, asked, pruner=ranked, distiller="pixel", steps=STEPS),
        }
        step = (found["training"] - found["ranking"]) / STEPS
        row = {name: round(value, 1) for name, value in found.items()}
        steps = round((found["trials"] - found["ranking"]) / step, 1)
        print(json.dumps({"network": name, **row, "step_s": round(step, 3), "trials_in_steps": steps}), flush=True)


def seconds(generator: gansdk.Generator, asked: argparse.Namespace, **settings: Any) -> float:
    """CPU seconds of a run; what it is scored on is the least that there is."""
    began = time.process_time()
    data = {"name": "folder", "path": str(asked.train), "holdout": 0.015}
    gansdk.compress(generator, budget=asked.budget, data=data, device="cpu", **settings)
    return time.process_time() - began


if __name__ == "__main__":
    main()

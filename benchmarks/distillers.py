"""All distillers on the same pruned student, several seeds each: mean and spread.

    python benchmarks/distillers.py MODEL DATA --budget 4x --steps 300 --seeds 0 1 2 --out runs/distillers \
        --distillers '"gka"' '["gka", "wavelet"]' '{"name": "feature", "weight": 10}'

    python benchmarks/distillers.py TEACHER DATA --budget 10x --discriminator fresh --out runs/wavelet \
        --adapter '{"name": "cyclegan", "discriminator_width": 32}' --distillers null '"wavelet"' '"gka"' \
        '{"name": "wavelet", "bands": "low"}' '{"name": "wavelet", "bands": "all"}' '["gka", "wavelet"]'

The second is WKD's ablation, where TEACHER may be a folder of both directions of a CycleGAN. Each of --distillers is
JSON, as `gansdk.compress` takes it; null means the family's own losses without any term. The first run prunes and
recovers. Every other one starts from that student, and differs in its distiller and in its seed alone: batches,
connectors, fresh discriminators. Prints a JSON line per run, and a table at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

import gansdk
from gansdk.registry.parts import open_pruner
from gansdk.training.offline_regime import OfflineRegime


class SamePruned(gansdk.Pruner):
    """The student that `pruner` finds and repairs the first time it is asked, every time."""

    def __init__(self, pruner: gansdk.Pruner) -> None:
        self.inherit = pruner.inherit
        self._pruner = pruner
        self._plan: gansdk.Plan | None = None
        self._repaired: dict[str, Any] | None = None

    def prepare(self, student: gansdk.Student, limits: Any, run: Any) -> None:
        """What the first search needs."""
        if self._plan is None:
            self._pruner.prepare(student, limits, run)

    def search(self, student: gansdk.Student, limits: Any, run: Any) -> gansdk.Plan:
        """The plan of the first run."""
        if self._plan is None:
            self._plan = self._pruner.search(student, limits, run)
        return self._plan

    def recover(self, full: gansdk.Student, carved: gansdk.Student, plan: gansdk.Plan, run: Any) -> None:
        """The weights of the first run."""
        if self._repaired is None:
            self._pruner.recover(full, carved, plan, run)
            self._repaired = {name: value.clone() for name, value in carved.state_dict().items()}
        carved.load_state_dict(self._repaired)


def main() -> None:
    """Run every distiller with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--eval-data")
    parser.add_argument("--adapter", type=json.loads, default='"auto"')
    parser.add_argument("--pruner", type=json.loads, default='"one-step"')
    parser.add_argument("--distillers", type=json.loads, nargs="+", required=True)
    parser.add_argument("--metrics", type=json.loads, default=[])
    parser.add_argument("--discriminator", help="'fresh' for new ones")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget", default="4x")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pruner = SamePruned(open_pruner(asked.pruner))
    rows: dict[str, list[dict[str, float]]] = {}
    for distiller in asked.distillers:
        title = json.dumps(distiller)
        for seed in asked.seeds:
            began = time.process_time()
            result = gansdk.compress(
                asked.model,
                budget=asked.budget,
                adapter=asked.adapter,
                pruner=pruner,
                distiller=gansdk.Distiller(regime=OfflineRegime()) if distiller is None else distiller,
                data=asked.data,
                eval_data=asked.eval_data,
                metrics=asked.metrics,
                steps=asked.steps,
                batch_size=asked.batch_size,
                seed=seed,
                out_dir=asked.out / f"{asked.distillers.index(distiller)}-{seed}",
                discriminator=asked.discriminator,
                device=asked.device,
            )
            scores = {f"{q.metric} to {q.reference}": q.student for q in result.quality}
            minutes = round((time.process_time() - began) / 60, 2)
            print(json.dumps({"distiller": distiller, "seed": seed, "cpu_minutes": minutes, **scores}), flush=True)
            rows.setdefault(title, []).append({**scores, "cpu_minutes": minutes})
    for title, runs in rows.items():
        cells = [f"{name} {summary([run[name] for run in runs])}" for name in runs[0]]
        print(f"{title}: {'; '.join(cells)}")


def summary(values: list[float]) -> str:
    """Mean and sample standard deviation."""
    return f"{fmean(values):.4g} ± {stdev(values):.2g}" if len(values) > 1 else f"{values[0]:.4g}"


if __name__ == "__main__":
    main()

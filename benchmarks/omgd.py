"""OMGD beside the same student trained as a plain GAN and by GKA: same network, images, steps and MACs.

    python benchmarks/omgd.py DATA --out runs/omgd --students unet:16 unet:8 mobile-resnet:16 mobile-resnet:8 \
        --adapter '{"name": "pix2pix", "size": [96, 128], "labels": {"classes": 11, "unknown": true}}' \
        --kid-weights lite0.pth --segmenter camvid-unet.safetensors

A student of ngf 16 has teachers of ngf 64 (wider) and 16 (deeper), one of ngf 8 has 48 and 12, as published. GKA's
teacher is the wide network, trained before on the same images for `--teacher-steps`; OMGD's are trained in the run.
All students start from fresh weights, and those with a discriminator from a fresh one. Every row is scored in its own
run; prints a JSON line per row, and all of them at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import gansdk
from gansdk.pipeline.opening import open_generator

WIDE = {16: 64, 12: 48, 8: 48, 24: 96, 4: 16}
"""ngf of the wider teacher by that of the student; 4 is for trials."""
DEEP = {16: 16, 12: 12, 8: 12, 24: 24, 4: 4}
CITYSCAPES = {"unet": {"channel_weight": 50.0, "share": 5}, "mobile-resnet": {"channel_weight": 0.0, "share": 4}}
"""As published for ngf 16."""


class Narrow(gansdk.Pruner):
    """Every group cut to the same share, fresh weights: the family's own network of that width."""

    inherit = "none"

    def __init__(self, student: int, teacher: int) -> None:
        self.student = student
        self.teacher = teacher

    def search(self, student: gansdk.Student, limits: Any, run: Any) -> gansdk.Plan:
        """The plan, whatever the budget."""
        groups = [group for group in student.space.groups if not group.frozen]
        return gansdk.Plan({group.name: tuple(range(group.size * self.student // self.teacher)) for group in groups})


def distillers(architecture: str, ngf: int, asked: argparse.Namespace) -> dict[str, Any]:
    """Every row's distiller."""
    weights = {"style_weight": asked.style_weight, "feature_weight": asked.feature_weight}
    perceptual: dict[str, Any] = {"perceptual": asked.vgg, **weights} if asked.vgg else dict.fromkeys(weights, 0)
    return {
        "omgd": {
            "name": "omgd",
            **perceptual,
            "deep": DEEP[ngf] / WIDE[ngf],
            "student_steps": asked.student_steps,
            **CITYSCAPES[architecture],
        },
        "plain GAN": gansdk.Distiller(),
        "gka": "gka",
    }


def teacher(architecture: str, ngf: int, asked: argparse.Namespace) -> gansdk.Generator:
    """The wide network, trained once; only GKA's student learns from these weights."""
    place = asked.out / f"teacher-{architecture}-{ngf}"
    sizes = {"width": ngf, "channels_in": asked.channels_in, "norm": "batch" if architecture == "unet" else "instance"}
    if architecture == "unet":
        sizes |= {"downs": asked.downs, "dropout": None}
    gansdk.train_teacher(
        asked.adapter,
        asked.data,
        architecture=architecture,
        sizes=sizes,
        steps=asked.teacher_steps,
        batch_size=asked.batch_size,
        seed=asked.seed,
        out_dir=place,
    )
    return open_generator(place / "teacher")


def main() -> None:
    """Train and score every asked row, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--adapter", type=json.loads, required=True)
    parser.add_argument("--students", nargs="+", default=["unet:16", "unet:8", "mobile-resnet:16", "mobile-resnet:8"])
    parser.add_argument("--rows", nargs="+", default=["omgd", "plain GAN", "gka"])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--teacher-steps", type=int, default=600)
    parser.add_argument("--student-steps", type=int, default=3, help="of the student for one of OMGD's teachers")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--channels-in", type=int, default=12)
    parser.add_argument("--downs", type=int, default=5, help="halvings of the U-Net; 8 take 256x256")
    parser.add_argument("--vgg", help="VGG-16's weights; left out, OMGD does without style and features")
    parser.add_argument("--style-weight", type=float, default=1e4, help="published for torchvision's VGG-16")
    parser.add_argument("--feature-weight", type=float, default=10.0, help="likewise")
    parser.add_argument("--kid-weights")
    parser.add_argument("--segmenter")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    metrics: list[dict[str, Any]] = []
    if asked.kid_weights:
        metrics.append({"name": "kid", "weights": asked.kid_weights})
    if asked.segmenter:
        metrics.append({"name": "miou", "segmenter": asked.segmenter})
    rows = []
    for student in asked.students:
        architecture, _, number = student.partition(":")
        ngf = int(number)
        wide = teacher(architecture, WIDE[ngf], asked)
        for name in asked.rows:
            began = time.process_time()
            result = gansdk.compress(
                wide,
                budget="1x",
                pruner=Narrow(ngf, WIDE[ngf]),
                distiller=distillers(architecture, ngf, asked)[name],
                data=asked.data,
                discriminator="fresh",
                steps=asked.steps,
                batch_size=asked.batch_size,
                metrics=metrics,
                seed=asked.seed,
                device=asked.device,
                out_dir=asked.out / f"{architecture}-{ngf}-{name.replace(' ', '-')}-{asked.seed}",
            )
            row = {
                "student": student,
                "row": name,
                "macs": result.after.macs,
                "paper_macs": result.after.paper_macs,
                "params": result.after.params,
                "steps": asked.steps,
                "seed": asked.seed,
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

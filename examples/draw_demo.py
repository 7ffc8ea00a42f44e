"""Draw the picture of the README from the student that `gansdk demo` made.

python examples/draw_demo.py gansdk-demo/student docs/assets/demo.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from gansdk.evaluation.evaluate import Evaluation, evaluate
from gansdk.pipeline.opening import demo_checkpoint, open_generator, open_source
from gansdk.toolkit.images import Pixels

CROPS = {"chelsea": (60, 120), "flower": (130, 210)}
"""Photograph -> (top, left) of the part that is shown, in pixels."""
SIDE_PX = 160
GAIN = 8


def score(student: Path) -> Evaluation:
    """Both networks on the two held-out photographs."""
    small, teacher = open_generator(student), open_generator(demo_checkpoint())
    source = open_source("photos", small)
    return evaluate(small.module, teacher=teacher.module, source=source, contract=small.contract)


def draw(scores: Evaluation) -> Figure:
    """One row for each photograph: bicubic, teacher, student, and how far the last two differ."""
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    rows = figure.subplots(len(CROPS), 4)
    for row, example, numbers in zip(rows, scores.examples, scores.per_image, strict=True):
        assert example.bicubic is not None
        assert example.teacher is not None
        psnr = numbers["ground-truth"]["psnr-y"]
        difference = np.abs(example.teacher.astype(np.int16) - example.student).mean(axis=2)
        shown: dict[str, Pixels] = {
            f"bicubic, {psnr['bicubic']:.2f} dB": example.bicubic,
            f"teacher, {psnr['teacher']:.2f} dB": example.teacher,
            f"student, {psnr['student']:.2f} dB": example.student,
            f"difference of the two, {GAIN} times": np.clip(difference * GAIN, 0, 255).astype(np.uint8),
        }
        top, left = CROPS[example.name]
        for place, (title, pixels) in zip(row, shown.items(), strict=True):
            part = pixels[top : top + SIDE_PX, left : left + SIDE_PX]
            place.imshow(part, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            place.set_title(title, fontsize=10)
            place.set_axis_off()
    return figure


def main() -> None:
    """Read the arguments, score and draw."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("student", type=Path, help="the folder of the demo's student")
    options.add_argument("output", type=Path, help="the .png file to write")
    asked = options.parse_args()
    draw(score(asked.student)).savefig(asked.output, dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()

"""`gansdk demo`: one complete run on what comes with the package, about two minutes on two CPU cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gansdk.errors import QualityFloorMissed
from gansdk.events import Event
from gansdk.pipeline.opening import demo_checkpoint

if TYPE_CHECKING:
    from gansdk.pipeline.result import CompressionResult

BUDGET = "4x"
STEPS = 400
METRIC = "psnr-y"


def run_demo(
    out_dir: str | Path, *, steps: int = STEPS, seed: int = 0, observers: Sequence[Callable[[Event], None]] = ()
) -> CompressionResult:
    """Compress the demo's teacher four times on photographs, and score both on two photographs neither has seen.

    Raises:
        QualityFloorMissed: bicubic enlargement is as good as the student. It is saved all the same.
    """
    from gansdk.pipeline.compress import compress

    result = compress(
        demo_checkpoint(),
        budget=BUDGET,
        distiller="pixel",
        data="photos",
        steps=steps,
        seed=seed,
        patch=32,
        learning_rate=1e-3,
        out_dir=out_dir,
        observers=observers,
    )
    check_against_bicubic(result)
    return result


def check_against_bicubic(result: CompressionResult) -> None:
    """Raise QualityFloorMissed unless the student is nearer to the ground truth than bicubic enlargement is."""
    quality = next(item for item in result.quality if item.metric == METRIC and item.reference == "ground-truth")
    bicubic = quality.extra["bicubic"]
    if quality.student <= bicubic:
        raise QualityFloorMissed(
            f"The student has a {METRIC} of {quality.student:.2f} dB, bicubic enlargement {bicubic:.2f} dB. "
            f"Train it for more than {result.settings['steps']} steps.",
            result=result,
        )

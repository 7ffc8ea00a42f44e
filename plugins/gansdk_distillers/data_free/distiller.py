"""The distiller "data-free": nothing but the teacher is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from gansdk.errors import InvalidOption
from gansdk.interfaces import Distiller
from gansdk.toolkit.options import at_least_zero, count, one_of, positive
from gansdk_distillers.data_free.regime import DataFree, NewBlocks, Reduction
from gansdk_distillers.distances import Norm

SETTINGS: dict[str, dict[str, Any]] = {
    "general": {
        "norm": "l1",
        "reduction": "mean",
        "published": False,
        "generator_learning_rate": 1e-3,
        "usual_stages": 6,
    },
    "official": {
        "norm": "l2",
        "reduction": "sum",
        "published": True,
        "generator_learning_rate": 1e-5,
        "usual_stages": 18,
    },
}
"""What the option `setting` decides."""


def data_free(
    setting: str = "general",
    *,
    norm: str | None = None,
    reduction: str | None = None,
    reconstruction_weight: float = 1.0,
    student_steps: int = 50,
    latent: int = 256,
    generator_learning_rate: float | None = None,
    stages: int | None = None,
    new_blocks: str = "kept",
    scales: Sequence[int] | None = None,
    cycle: str | Path | None = None,
) -> Distiller:
    """Distil on images that a network makes of noise, in a game against the student (Zhang et al., CVPR 2021).

    Data, where given, is for scores only. Before training, while channels are ranked and layers refitted, inputs come
    from such a network with untrained weights. A run of few steps wants fewer `student_steps`.

    Args:
        setting: "general" is the paper's losses under Adam, for any network that enlarges; "official" is the released
            code for VDSR: squared errors summed, SGD at 0.1 (whatever the run's learning rate) with gradients clipped
            to 0.4, rates that fall tenfold after every eighth of the steps. It wants batch_size=128.
        norm: "l1" or "l2", of images in units of their range; the setting's if left out.
        reduction: "mean" or "sum" over pixels and images; the setting's if left out.
        reconstruction_weight: of the distance between a made image and what the teacher's image leads back to.
        student_steps: of the student for every step of the network that makes the images.
        latent: numbers of noise an image is made of.
        generator_learning_rate: of that network; 1e-3, or 1e-5 for "official", if left out.
        stages: in which the student gets its blocks, over the first 22.5 % of the steps; if left out 6, or 18 for
            "official", for students with fresh weights, and 1 for those that inherit the teacher's. The released
            command takes 1.
        new_blocks: "kept" as pruning left them, or "fresh", when they join.
        scales: by which a pre-upsampled network's inputs are enlarged, one drawn for each batch; (2, 3, 4) if left out.
        cycle: folder or checkpoint of the reverse generator, in place of shrinking, for translation.

    Raises:
        InvalidOption: an option has a value that is not known.
    """
    preset = SETTINGS[one_of(tuple(SETTINGS), setting, "setting")]
    rate = preset["generator_learning_rate"] if generator_learning_rate is None else generator_learning_rate
    weight = at_least_zero(reconstruction_weight, "reconstruction_weight")
    if cycle is not None and not weight:
        raise InvalidOption("cycle reconstructs inputs, which reconstruction_weight=0 disables. Pass only one of them.")
    regime = DataFree(
        norm=one_of(get_args(Norm), preset["norm"] if norm is None else norm, "norm"),
        reduction=one_of(get_args(Reduction), preset["reduction"] if reduction is None else reduction, "reduction"),
        published=preset["published"],
        reconstruction_weight=weight,
        student_steps=count(student_steps, "student_steps"),
        latent=count(latent, "latent"),
        generator_learning_rate=positive(rate, "generator_learning_rate", without=None),
        stages=None if stages is None else count(stages, "stages"),
        usual_stages=preset["usual_stages"],
        new_blocks=one_of(get_args(NewBlocks), new_blocks, "new_blocks"),
        scales=None if scales is None else _scales(scales),
        cycle=None if cycle is None else str(cycle),
    )
    return Distiller(regime=regime, needs=frozenset() if cycle is not None or not weight else None)


def _scales(scales: object) -> tuple[int, ...]:
    values = tuple(scales) if isinstance(scales, Sequence) and not isinstance(scales, str) else ()
    if values and all(type(scale) is int and scale >= 2 for scale in values) and len({*values}) == len(values):
        return values
    raise InvalidOption(f"scales={scales!r} must be a list of different integers >= 2, or omitted.")

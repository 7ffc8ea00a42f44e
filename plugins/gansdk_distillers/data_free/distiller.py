"""The distiller "data-free": nothing but the teacher is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from gansdk.errors import InvalidOption
from gansdk.interfaces import Distiller
from gansdk.toolkit.options import AtLeastZero, Count, Expected, Positive, checked
from gansdk_distillers.data_free.regime import DataFree, NewBlocks, Reduction
from gansdk_distillers.distances import Norm

Setting = Literal["general", "official"]
SETTINGS: dict[Setting, dict[str, Any]] = {
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


def _all_different(scales: Sequence[int]) -> tuple[int, ...]:
    if not scales or len(set(scales)) < len(scales):
        raise ValueError
    return tuple(scales)


Scales = Annotated[
    Sequence[Annotated[int, Field(ge=2)]],
    AfterValidator(_all_different),
    Expected("a list of different integers >= 2"),
]


@checked
def data_free(
    setting: Setting = "general",
    *,
    norm: Norm | None = None,
    reduction: Reduction | None = None,
    reconstruction_weight: AtLeastZero = 1.0,
    student_steps: Count = 50,
    latent: Count = 256,
    generator_learning_rate: Positive | None = None,
    stages: Count | None = None,
    new_blocks: NewBlocks = "kept",
    scales: Scales | None = None,
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
    preset = SETTINGS[setting]
    rate = preset["generator_learning_rate"] if generator_learning_rate is None else generator_learning_rate
    if cycle is not None and not reconstruction_weight:
        raise InvalidOption("cycle reconstructs inputs, which reconstruction_weight=0 disables. Pass only one of them.")
    regime = DataFree(
        norm=norm or preset["norm"],
        reduction=reduction or preset["reduction"],
        published=preset["published"],
        reconstruction_weight=reconstruction_weight,
        student_steps=student_steps,
        latent=latent,
        generator_learning_rate=rate,
        stages=stages,
        usual_stages=preset["usual_stages"],
        new_blocks=new_blocks,
        scales=scales,
        cycle=None if cycle is None else str(cycle),
    )
    return Distiller(regime=regime, needs=frozenset() if cycle is not None or not reconstruction_weight else None)

"""The distiller "perceptual": VGG-16 shall see the same style and features in both images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gansdk.contracts import Observation
from gansdk.errors import IncompatibleParts, InvalidOption
from gansdk.interfaces import Distiller, Stage, Term
from gansdk.modules.weights import fingerprint
from gansdk.toolkit.options import AtLeastZero, Positive, checked
from gansdk.toolkit.perceptual import Features, vgg
from gansdk_distillers.distances import full_precision, images, output_range, promoted, rescaled


def gram(features: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, C): products of channels, summed over pixels, over C * H * W."""
    with full_precision(features):
        rows = promoted(features).flatten(2)
        return rows @ (rows.mT / rows[0].numel())  # divided before the sum, which would be large


def mean_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of absolute differences, with gradient to the student only."""
    with full_precision(student):
        return (promoted(student) - promoted(teacher.detach())).abs().mean()


LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3")
CONTENT = 1
"""Of these, the one whose features are compared pixel by pixel."""
SMALLEST, SMALLEST_STYLED = 2, 8
"""Pixels of a side from which on relu2_2 has an output, behind one halving, and relu4_3, behind three."""

Weights = str | Path | Mapping[str, Tensor]
"""As for `gansdk.toolkit.perceptual.vgg`."""


class Perceptual(Term):
    """Style (L1 of Gram matrices, four layers) and features (L1 of relu2_2), each by its own weight.

    Images go into VGG-16 in [0, 1], without ImageNet's mean and deviation, as released; luma is repeated threefold.
    The network sees the student's image once a step, however many teachers it is compared with.
    """

    name = "perceptual"
    needs_image = True

    def __init__(
        self,
        weights: Weights,
        *,
        option: str,
        optional: bool,
        weight: float,
        style_weight: float,
        feature_weight: float,
    ) -> None:
        self.option = option
        self.optional = optional
        self.weight = weight
        self.style_weight = style_weight
        self.feature_weight = feature_weight
        self.anchors_low_frequencies = feature_weight > 0
        self.network: str | None = None
        """The fingerprint of the weights, once they are loaded: what is in a file may change."""
        self._weights = str(weights) if isinstance(weights, Path) else weights
        self._network: Features | None = None
        self._range = (-1.0, 1.0)

    def prepare(self) -> None:
        """Load the network.

        Raises:
            CheckpointError: its weights cannot be had; the message says how to get them, or to leave the term out.
        """
        if self._network is None:
            layers = LAYERS if self.style_weight else LAYERS[CONTENT : CONTENT + 1]
            self._network = vgg("vgg16", layers, self._weights, option=self.option, optional=self.optional)
            self.network = fingerprint(self._network)

    def check(self, images: Sequence[int]) -> None:
        if images[1] not in (1, 3):
            raise IncompatibleParts(
                f"VGG-16 sees images of three channels, or luma repeated threefold, but these have {images[1]}. Omit "
                "the perceptual term."
            )
        smallest = SMALLEST_STYLED if self.style_weight else SMALLEST
        if min(images[2:]) < smallest:
            raise IncompatibleParts(
                f"The layers of VGG-16 that are compared see no image below {smallest} pixels, but the student makes "
                f"{images[2]}x{images[3]}. Train on larger images, or omit the perceptual term."
            )

    def bind(self, stage: Stage) -> None:
        self.prepare()
        assert self._network is not None
        self._network.to(stage.device)
        self._range = output_range(stage)

    def encode(self, seen: Observation) -> Observation:
        image, _ = images(seen, seen)
        assert self._network is not None
        with full_precision(image):
            image = rescaled(image, self._range, (0.0, 1.0)).float()
            maps = self._network(image.expand(-1, 3, -1, -1))
            if not self.style_weight:
                return Observation(None, {"content": maps[0]})
            grams = {f"style{number}": gram(features) for number, features in enumerate(maps)}
            return Observation(None, {"content": maps[CONTENT], **grams})

    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        weights = {name: self.feature_weight if name == "content" else self.style_weight for name in student.features}
        distances = [
            weights[name] * mean_distance(features, teacher.features[name])
            for name, features in student.features.items()
            if weights[name]
        ]
        return torch.stack(distances).sum()


@checked
def perceptual(
    weights: Weights = "pretrained",
    weight: Positive = 1.0,
    style_weight: AtLeastZero = 1e4,
    feature_weight: AtLeastZero = 10.0,
) -> Distiller:
    """Distil by what VGG-16 sees in the images, as OMGD does (Ren et al., ICCV 2021).

    `weights`: the path of torchvision's or timm's checkpoint of VGG-16, or "pretrained" for timm's, which are
    downloaded once; there is no training with random ones. `style_weight` is of the Gram matrices behind relu1_2,
    relu2_2, relu3_3 and relu4_3, summed; `feature_weight` of relu2_2. One of them may be 0.

    Raises:
        InvalidOption: a weight is out of its range.
    """
    term = perceptual_term(
        weights,
        option="weights",
        optional=False,
        weight=weight,
        style_weight=style_weight,
        feature_weight=feature_weight,
    )
    return Distiller((term,))


def perceptual_term(
    weights: Weights, *, option: str, optional: bool, weight: float, style_weight: float, feature_weight: float
) -> Perceptual:
    """The term; for messages, `option` is what takes the weights, and `optional` whether None there leaves it out."""
    if not style_weight and not feature_weight:
        raise InvalidOption("style_weight=0 and feature_weight=0 leave nothing to compare; raise one, or omit it.")
    return Perceptual(
        weights,
        option=option,
        optional=optional,
        weight=weight,
        style_weight=style_weight,
        feature_weight=feature_weight,
    )

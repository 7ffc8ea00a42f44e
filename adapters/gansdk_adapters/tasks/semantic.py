"""GauGAN's losses: multi-scale hinge, feature matching and a perceptual term (Park et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.contracts import Batch, Metrics, Route
from gansdk.interfaces import Optimisation, Training
from gansdk.modules.weights import fingerprint
from gansdk.toolkit.perceptual import Features, vgg
from gansdk_adapters.tasks.adversarial import Critics, DiscriminatorTask, untrained
from gansdk_adapters.tasks.losses import discriminator_loss, generator_loss, over_scales

PERCEPTUAL_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
Scales = Sequence[Sequence[Tensor]]
"""For every scale of the discriminator its feature maps, the last of them the scores."""


class SemanticSynthesisTask(DiscriminatorTask):
    """Hinge + `feature_weight` feature matching + `perceptual_weight` VGG-19, all to the truth.

    Where there is no paired truth, the teacher's image takes its place. The generator's step comes first, and the
    discriminator then judges fresh images, with the whole sum of its losses. Two time scales: the generator learns at
    1e-4, the discriminator at 4e-4, both with betas (0, 0.9).

    `network`: (N, channels of label map + image, H, W) -> `Scales`. `perceptual` is where the VGG-19 of the perceptual
    term has its weights (`gansdk.toolkit.perceptual.vgg`), "pretrained" for timm's; None leaves the term out. Images
    go into it as they are, in [-1, 1].
    """

    optimisation = Optimisation(learning_rate=1e-4, betas=(0.0, 0.9), schedule="constant-linear")
    needs_pairs = True
    generator_first = True
    rate = 4.0

    def __init__(
        self,
        network: nn.Module,
        *,
        perceptual: str | Path | Mapping[str, Tensor] | None,
        feature_weight: float = 10.0,
        perceptual_weight: float = 10.0,
        constant: float = 0.5,
        critics: Critics | None = None,
    ) -> None:
        super().__init__(network, critics, constant=constant)
        self.perceptual: Features | None = None
        self._perceptual_weights = perceptual if perceptual_weight else None
        self.feature_weight = feature_weight
        self.perceptual_weight = perceptual_weight

    def prepare(self) -> None:
        """Load the network of the perceptual term.

        Raises:
            CheckpointError: its weights cannot be had; the message says how to get them, or which term to drop.
        """
        if self._perceptual_weights is not None and self.perceptual is None:
            self.perceptual = vgg("vgg19", PERCEPTUAL_LAYERS, self._perceptual_weights)

    def describe(self) -> dict[str, Any]:
        # What is in a file of weights may change.
        return {**super().describe(), "perceptual": None if self.perceptual is None else fingerprint(self.perceptual)}

    def bind(self, training: Training) -> None:
        super().bind(training)
        self.prepare()
        if self.perceptual is not None:
            self.perceptual.to(training.device)

    def discriminate(self, batch: Batch, fakes: Mapping[Route, Tensor]) -> Metrics:
        real, fake = [], []
        for route, image in fakes.items():
            x, truth = batch.inputs[route], batch.targets[route]
            both = self.network(torch.cat([_shown(x, image), _shown(x, truth)]))
            for maps in both:
                made, true = maps[-1].chunk(2)
                fake.append(discriminator_loss("hinge", made, real=False))
                real.append(discriminator_loss("hinge", true, real=True))
        losses = {"d/real": over_scales(real), "d/fake": over_scales(fake)}
        self.critics.descend(torch.stack(list(losses.values())).sum())
        return {name: loss.detach() for name, loss in losses.items()}

    def generator_loss(
        self, batch: Batch, fakes: Mapping[Route, Tensor], references: Mapping[Route, Tensor]
    ) -> tuple[Tensor, Metrics]:
        losses: dict[str, Tensor] = {}
        for route, fake in fakes.items():
            for name, loss in self._losses(batch.inputs[route], fake, references[route]).items():
                losses[name] = losses[name] + loss if name in losses else loss
        weights = {"gan": 1.0, "features": self.feature_weight, "perceptual": self.perceptual_weight}
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return total, {f"g/{name}": loss.detach() for name, loss in losses.items()}

    def _losses(self, x: Tensor, fake: Tensor, truth: Tensor) -> dict[str, Tensor]:
        with untrained(self.network):
            fake_maps: Scales = self.network(_shown(x, fake))
        losses = {"gan": over_scales([generator_loss("hinge", maps[-1]) for maps in fake_maps])}
        if self.feature_weight:
            losses["features"] = feature_matching(fake_maps, self._of_truth(_shown(x, truth)))
        if self.perceptual is not None:
            with torch.no_grad():
                features = self.perceptual(truth)
            losses["perceptual"] = perceptual_distance(self.perceptual(fake), features)
        return losses

    def _of_truth(self, shown: Tensor) -> Scales:
        # In eval mode the spectral norm keeps its vectors, so that a step moves them once, as one pass over both would.
        self.network.eval()
        try:
            with torch.no_grad():
                maps: Scales = self.network(shown)
        finally:
            self.network.train()
        return maps


def feature_matching(fake: Scales, true: Scales) -> Tensor:
    """Mean over the scales of the summed L1 between all feature maps but the scores (Wang et al., CVPR 2018)."""
    sums = [
        torch.stack([F.l1_loss(a, b.detach()) for a, b in zip(maps[:-1], other[:-1], strict=True)]).sum()
        for maps, other in zip(fake, true, strict=True)
    ]
    return over_scales(sums)


def perceptual_distance(fake: Sequence[Tensor], true: Sequence[Tensor]) -> Tensor:
    """L1 of feature maps; the last counts 1, the one before 1/4, then 1/8, 1/16, 1/32 (as in pix2pixHD and SPADE)."""
    count = len(fake)
    weights = [1.0 if i == count - 1 else 2.0 ** (i - count) for i in range(count)]
    losses = [w * F.l1_loss(a, b.detach()) for w, a, b in zip(weights, fake, true, strict=True)]
    return torch.stack(losses).sum()


def _shown(x: Tensor, image: Tensor) -> Tensor:
    return torch.cat([x, image], dim=1)

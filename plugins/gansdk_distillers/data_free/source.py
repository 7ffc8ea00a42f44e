"""Inputs without data: images that a network makes out of noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gansdk.contracts import MAIN, Batch, Pairing
from gansdk.interfaces import PROBE_STEP, DataSource
from gansdk.modules.randomness import seeded
from gansdk_distillers.data_free.inputs import Passage
from gansdk_distillers.data_free.network import ImageGenerator

SEARCHED = 8
"""Images a search compares subnets on, where the user has none."""
SEARCH_PROBE = 10**6
"""The first of them: a number that probes for other purposes do not reach."""


class GeneratedImages(DataSource):
    """Batches made by image generators, one for every scale in `sizes` (scale -> (H, W) of what it makes).

    The generators are those that the regime trains at the moment, so a batch depends on their weights besides its
    arguments. Probes do not: they come from generators that are never trained, drawn from the seed. `data`, the
    user's own images, is for scores only; without it searches are scored on probes and nothing is evaluated.
    """

    def __init__(
        self, passage: Passage, sizes: Mapping[int, tuple[int, int]], *, latent: int, data: DataSource | None
    ) -> None:
        self.pairing = Pairing.INPUTS_ONLY if data is None else data.pairing
        self.passage = passage
        self.scales = tuple(sizes)
        self._sizes = dict(sizes)
        self._latent = latent
        self._data = data
        self._untrained: dict[int, nn.ModuleDict] = {}
        self.generators = self._drawn(0)

    def renew(self, seed: int, device: torch.device) -> None:
        """Begin with fresh generators, drawn from the seed."""
        self.generators = self._drawn(seed).to(device)

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        rng = torch.Generator().manual_seed(hash((seed, step)))
        scale = self.scales[int(torch.randint(len(self.scales), (), generator=rng))]
        with torch.no_grad():
            return Batch({MAIN: self.passage.enter(self.make(size, scale, rng), scale)})

    def make(self, size: int, scale: int, rng: torch.Generator) -> Tensor:
        """(size, C, h, w) in [0, 1], with gradient to the generator of that scale, of noise drawn from `rng`."""
        return self._made(self.generators, size, scale, rng)

    def probe(self, index: int, *, seed: int) -> Batch:
        if seed not in self._untrained:
            self._untrained[seed] = self._drawn(seed)
        scale = self.scales[index % len(self.scales)]
        rng = torch.Generator().manual_seed(hash((seed, PROBE_STEP + index)))
        with torch.no_grad():
            return Batch({MAIN: self.passage.enter(self._made(self._untrained[seed], 1, scale, rng), scale)})

    def examples(self, *, seed: int) -> Iterator[Batch]:
        return (self.probe(index, seed=seed) for index in range(len(self.scales)))

    def images(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        if self._data is not None:
            return self._data.images(split)
        return (self.probe(SEARCH_PROBE + i, seed=0) for i in range(SEARCHED if split == "search" else 0))

    def references(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        return iter(()) if self._data is None else self._data.references(split)

    def describe(self) -> dict[str, Any]:
        return {
            "source": "data-free",
            "sizes": {str(scale): list(size) for scale, size in self._sizes.items()},
            "latent": self._latent,
            "data": None if self._data is None else self._data.describe(),
        }

    def _made(self, generators: nn.ModuleDict, size: int, scale: int, rng: torch.Generator) -> Tensor:
        generator = generators[str(scale)]
        z = torch.randn(size, self._latent, generator=rng)
        image: Tensor = generator(z.to(next(generator.parameters()).device, non_blocking=True))
        return image

    def _drawn(self, seed: int) -> nn.ModuleDict:
        channels = self.passage.contract.channels_in
        with seeded(seed):
            return nn.ModuleDict(
                {str(scale): ImageGenerator(channels, size, latent=self._latent) for scale, size in self._sizes.items()}
            )

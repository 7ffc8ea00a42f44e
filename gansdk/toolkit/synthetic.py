"""Images for networks that come without any: not photographs, but with their edges, textures and colours in regions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gansdk.contracts import Contract

DISCS = 400
"""Of one image: enough to cover it several times."""
SMALLEST = 2
"""Least radius in pixels."""
CHROMA = 0.12
"""Standard deviation of a disc's colour around its brightness, of the range."""
TEXTURE = 0.06
"""Standard deviation of what is added inside the discs, of the range."""


def synthetic_input(contract: Contract, side: int, *, seed: int) -> Tensor:
    """One input within the contract's range without any data: (1, channels_in, H, W), H and W at most `side`.

    Dead leaves (Lee, Mumford & Huang, IJCV 2001): discs of random colours and of radii with a density of r^-3 that
    cover each other, which have the power spectrum and the edges of photographs; networks that restore images learn
    nearly as well from them as from these (Achddou, Gousseau & Ladjal, SSVM 2021). Label maps get a class per disc.
    Networks whose input is no image at all (of a few pixels, or more channels than a colour image has) get noise.
    """
    rng = torch.Generator().manual_seed(seed)
    multiple = contract.multiple_of
    height, width = (max(multiple, min(side, whole) // multiple * multiple) for whole in contract.size)
    low, high = contract.input_range
    if contract.labels is not None:
        return _label_map(contract, height, width, rng)
    if min(height, width) < 4 * SMALLEST or contract.channels_in not in (1, 3):
        return contract.noise(rng, (1, contract.channels_in, height, width))
    owner = _leaves(2 * height, 2 * width, rng)
    # Photographs differ far more in brightness than in colour.
    colours = torch.rand(DISCS + 1, 1, generator=rng) + CHROMA * torch.randn(DISCS + 1, 3, generator=rng)
    image = colours[owner].movedim(-1, 0)
    roughness = TEXTURE * torch.rand(DISCS + 1, generator=rng)
    image = image + roughness[owner] * torch.randn(image.shape, generator=rng)
    image = F.avg_pool2d(image.clamp(0, 1)[None], 2)
    if contract.channels_in == 1:
        image = (image * image.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return low + (high - low) * image


def _label_map(contract: Contract, height: int, width: int, rng: torch.Generator) -> Tensor:
    """(1, channels_in, H, W) of zeros and ones: a class for every disc, and edges where the contract has them."""
    labels = contract.labels
    assert labels is not None
    owner = _leaves(height, width, rng)
    classes = torch.randint(labels.classes, (DISCS + 1,), generator=rng)[owner]
    planes = F.one_hot(classes, labels.classes + labels.unknown).movedim(-1, 0).float()
    if labels.edges:
        edge = torch.zeros(height, width, dtype=torch.bool)
        for map_, marked in ((owner, edge), (owner.T, edge.T)):
            differs = map_[1:] != map_[:-1]
            marked[1:] |= differs
            marked[:-1] |= differs
        planes = torch.cat([planes, edge[None].float()])
    return planes[None]


def _leaves(height: int, width: int, rng: torch.Generator) -> Tensor:
    """int64 (H, W): the number of the uppermost disc at every pixel; the last number is the ground."""
    smallest, largest = float(SMALLEST), max(height, width) / 2
    share = torch.rand(DISCS, generator=rng)
    # The inverse of the distribution function of a density of r^-3 between the two radii.
    radii = 1 / torch.sqrt(1 / smallest**2 - share * (1 / smallest**2 - 1 / largest**2))
    rows = torch.rand(DISCS, generator=rng) * height
    columns = torch.rand(DISCS, generator=rng) * width
    owner = torch.full((height, width), DISCS)
    for number, (r, y, x) in enumerate(zip(radii.tolist(), rows.tolist(), columns.tolist(), strict=True)):
        top, bottom = max(0, math.floor(y - r)), min(height, math.ceil(y + r) + 1)
        left, right = max(0, math.floor(x - r)), min(width, math.ceil(x + r) + 1)
        down = torch.arange(top, bottom) + 0.5 - y
        across = torch.arange(left, right) + 0.5 - x
        owner[top:bottom, left:right][down[:, None] ** 2 + across[None] ** 2 <= r * r] = number
    return owner

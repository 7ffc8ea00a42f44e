"""How large training patches and probes must be for a network: what it sees of them is what it is judged by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from gansdk.contracts import Contract
from gansdk.interfaces import Generator
from gansdk.modules.fold import copy_module

ENLARGED, SAME_SIZE = 48, 96
"""Least sides in pixels: of what is enlarged, which is 192 pixels at x4, as in the papers (RCAN, IMDN, RFDN); else."""
LEAST_MAP = 8
"""Cells along a side of the smallest feature map: fewer are mostly border."""
MASS = 0.95
"""Of the gradient of a pixel by the input that a patch must hold (the effective receptive field)."""
LARGEST_LOOKED_AT = 256
"""Side in pixels: what a network needs shows at this size, and larger contracts would cost minutes."""


def fitting_patch(generator: Generator) -> int:
    """Side in pixels of the inputs to train on and to probe the network with; at most the contract's smaller side.

    The adapter's own (`Adapter.patch`), as its papers have it; else as large as the smallest feature map needs to
    have 8 cells along a side, and twice the effective receptive field (Luo et al., NeurIPS 2016): the side of the
    square that holds 95 % of the absolute gradient of the middle of the image. Of several routes the largest.
    """
    return max(_of_one(part) for part in generator.parts.values())


def _of_one(generator: Generator) -> int:
    contract = generator.contract
    if generator.adapter.patch is not None:
        return generator.adapter.patch
    smaller = min(contract.size)
    least = ENLARGED if contract.scale * contract.pre_upsampled > 1 else SAME_SIZE
    if smaller <= least or any(tensor.is_meta for tensor in generator.module.parameters()):
        return min(smaller, least)
    shrinks, reach = _looked_at(generator.module, contract)
    side = max(least, round(LEAST_MAP * shrinks), 2 * reach)
    multiple = contract.multiple_of
    return min(smaller, -(-side // multiple) * multiple)


def _looked_at(module: nn.Module, contract: Contract) -> tuple[float, int]:
    """How many times smaller than the input the smallest feature map is, and the effective receptive field's side."""
    module = copy_module(module).eval().requires_grad_(False)
    multiple = contract.multiple_of
    height, width = (min(side, max(multiple, LARGEST_LOOKED_AT // multiple * multiple)) for side in contract.size)
    x = contract.noise(0, (1, contract.channels_in, height, width)).requires_grad_(True)
    with _map_sides(module) as sides, torch.enable_grad():
        image = module(x)
    rows, columns = image.shape[2] // 2, image.shape[3] // 2
    image[..., rows : rows + contract.scale, columns : columns + contract.scale].sum().backward()
    smallest = min((side for side in sides if side > 1), default=min(height, width))
    return min(height, width) / smallest, 1 if x.grad is None else _side_holding(x.grad, MASS)


def _side_holding(gradient: Tensor, share: float) -> int:
    """The side of the square around the middle of (1, C, H, W) that holds this share of the absolute values."""
    mass = gradient.abs().sum(dim=(0, 1)).double()
    if not mass.isfinite().all() or not mass.sum() > 0:
        return 1
    rows = (torch.arange(mass.shape[0]) - mass.shape[0] // 2).abs()[:, None]
    columns = (torch.arange(mass.shape[1]) - mass.shape[1] // 2).abs()[None]
    distance = torch.maximum(rows, columns).flatten()
    within = torch.zeros(int(distance.max()) + 1, dtype=torch.double).index_add_(0, distance, mass.flatten()).cumsum(0)
    return 2 * int((within < share * within[-1]).sum()) + 1


@contextmanager
def _map_sides(module: nn.Module) -> Iterator[list[int]]:
    """Collect the smaller side of every feature map that a layer makes."""
    sides: list[int] = []

    def note(part: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            sides.append(min(output.shape[2:]))

    handles = [part.register_forward_hook(note) for part in module.modules()]
    try:
        yield sides
    finally:
        for handle in handles:
            handle.remove()

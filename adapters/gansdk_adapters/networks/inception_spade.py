"""The inception-SPADE generator of CAT (Jin et al., "Teachers Do More Than Teach", CVPR 2021), keys as released.

Label maps and images are as for `gansdk_adapters.networks.spade`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.errors import ContractError
from gansdk_adapters.networks.inception import KINDS
from gansdk_adapters.networks.spade import COARSE, SPADEFrame, SPADELayout, Upsampling, ups_of

FIRST_LAYER = {"res_ops": "0.conv", "dw_ops": "0.conv"}
"""Path, inside a branch, of the convolution that makes its middle channels."""
SPATIAL_LAYER = {"res_ops": "0.conv", "dw_ops": "1.conv"}
"""Path, inside a branch, of a convolution of its kernel size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InceptionSPADESizes(SPADELayout):
    """Sizes of `InceptionSPADEGenerator`; `of` makes the published ones."""

    kernels: tuple[int, ...] = (1, 3, 5)
    middle: tuple[tuple[int, ...], ...] = tuple((width,) * 6 for width in (170, 170, 170, 85, 42, 21, 10))
    """Per block, the middle channels of its dense branches by kernel, then of its depthwise ones; 0: no branch."""
    guide: tuple[tuple[int, ...], ...] = ((21,) * 6,) * 7
    """The same of the branches that make gamma and beta."""
    slope: float = 0.0
    """Of the activations inside the blocks: CAT trains its teacher with 0.01 and rebuilds it with 0 to distil."""

    def __post_init__(self) -> None:
        SPADELayout.__post_init__(self)
        object.__setattr__(self, "kernels", tuple(self.kernels))
        object.__setattr__(self, "middle", tuple(tuple(row) for row in self.middle))
        object.__setattr__(self, "guide", tuple(tuple(row) for row in self.guide))
        for rows in (self.middle, self.guide):
            if len(rows) != len(self.names) or any(len(row) != 2 * len(self.kernels) or min(row) < 0 for row in rows):
                raise ContractError(f"{self}: expected two branch widths >= 0 per kernel for each block.")

    @classmethod
    def of(
        cls,
        width: int = 64,
        *,
        upsampling: Upsampling = "more",
        kernels: tuple[int, ...] = (1, 3, 5),
        share: int = 6,
        hidden: int = 128,
        **options: Any,
    ) -> InceptionSPADESizes:
        """Return the network as published: ngf `width`; a branch is a `share`th of its block's width, rounded down."""
        ups = ups_of(width, upsampling)
        narrow = (*(16 * width,) * len(COARSE), *ups)
        count = 2 * len(kernels)
        return cls(
            trunk=16 * width,
            ups=ups,
            upsampling=upsampling,
            kernels=kernels,
            middle=tuple((channels // share,) * count for channels in narrow),
            guide=((hidden // share,) * count,) * len(narrow),
            **options,
        )


class InceptionSPADEGenerator(SPADEFrame):
    """SPADE's frame with a norm behind the first convolution, and one inception stage per block."""

    sizes: InceptionSPADESizes

    def __init__(self, sizes: InceptionSPADESizes) -> None:
        super().__init__(sizes, lambda index: InceptionSPADEBlock(sizes, index))
        self.fc_norm = nn.BatchNorm2d(sizes.trunk)

    def first(self, labels: Tensor) -> Tensor:
        """(N, labels, h, w) on the coarsest grid -> (N, trunk, h, w)."""
        return cast("Tensor", self.fc_norm(self.fc(labels)))


class InceptionSPADEBlock(nn.Module):
    """`shortcut(x) + sum of the branches of act(spade(x))`; without any branch `shortcut(x)` alone."""

    def __init__(self, sizes: InceptionSPADESizes, index: int) -> None:
        super().__init__()
        given, made, middle = sizes.given[index], sizes.made[index], sizes.middle[index]
        self.slope = sizes.slope
        self.res_ops, self.dw_ops = nn.ModuleList(), nn.ModuleList()
        for kernel, dense, depthwise in _by_kernel(sizes.kernels, middle):
            # None keeps the places of the others.
            self.res_ops.append(_dense(given, dense, made, kernel, sizes.slope))  # type: ignore[arg-type]
            self.dw_ops.append(_depthwise(given, depthwise, made, kernel, sizes.slope, affine=False))  # type: ignore[arg-type]
        self.shortcut = (
            None if given == made else nn.Sequential(nn.BatchNorm2d(given), Conv(given, made, 1, bias=False))
        )
        self.spade = InceptionSPADE(sizes, given, sizes.guide[index]) if any(middle) else None

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(N, given, h, w), (N, labels, H, W) -> (N, made, h, w)."""
        around = x if self.shortcut is None else self.shortcut(x)
        branches = [branch for branch in (*self.res_ops, *self.dw_ops) if branch is not None]
        if not branches or self.spade is None:
            return cast("Tensor", around)
        y = F.leaky_relu(self.spade(x, labels), self.slope)
        return cast("Tensor", around + sum(branch(y) for branch in branches))


class InceptionSPADE(nn.Module):
    """A batch norm without parameters, times 1 + gamma, plus beta: halves of the summed branches of the label map."""

    def __init__(self, sizes: InceptionSPADESizes, channels: int, middle: tuple[int, ...]) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.res_ops, self.dw_ops = nn.ModuleList(), nn.ModuleList()
        for kernel, dense, depthwise in _by_kernel(sizes.kernels, middle):
            self.res_ops.append(_dense(sizes.labels, dense, 2 * channels, kernel, 0.0, plain=True))  # type: ignore[arg-type]
            self.dw_ops.append(_depthwise(sizes.labels, depthwise, 2 * channels, kernel, 0.0, plain=True))  # type: ignore[arg-type]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(N, channels, h, w), (N, labels, H, W) -> (N, channels, h, w)."""
        normed = cast("Tensor", self.param_free_norm(x))
        branches = [branch for branch in (*self.res_ops, *self.dw_ops) if branch is not None]
        if not branches:
            return normed
        guide = F.interpolate(labels, size=x.shape[2:], mode="nearest")
        gamma, beta = cast("Tensor", sum(branch(guide) for branch in branches)).chunk(2, dim=1)
        return normed * (1 + gamma) + beta


class Conv(nn.Module):
    """A convolution that keeps the grid, one level down in the keys."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, given, h, w) -> (N, made, h, w)."""
        return cast("Tensor", self.conv(x))


class ConvNormAct(nn.Module):
    """A convolution that keeps the grid, a batch norm, and a leaky ReLU."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, slope: float, *, groups: int = 1, affine: bool = True
    ) -> None:
        super().__init__()
        self.slope = slope
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups)
        self.norm = nn.BatchNorm2d(channels_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(N, given, h, w) -> (N, made, h, w)."""
        return F.leaky_relu(self.norm(self.conv(x)), self.slope)


def _by_kernel(kernels: tuple[int, ...], middle: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(kernel, channels of its dense branch, channels of its depthwise one)."""
    return list(zip(kernels, middle[: len(kernels)], middle[len(kernels) :], strict=True))


def _last(channels_in: int, channels_out: int, kernel: int, *, plain: bool) -> nn.Module:
    return (
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
        if plain
        else Conv(channels_in, channels_out, kernel)
    )


def _dense(
    channels_in: int, middle: int, channels_out: int, kernel: int, slope: float, *, plain: bool = False
) -> nn.Sequential | None:
    if not middle:
        return None
    return nn.Sequential(
        ConvNormAct(channels_in, middle, kernel, slope), _last(middle, channels_out, kernel, plain=plain)
    )


def _depthwise(
    channels_in: int,
    middle: int,
    channels_out: int,
    kernel: int,
    slope: float,
    *,
    affine: bool = True,
    plain: bool = False,
) -> nn.Sequential | None:
    if not middle:
        return None
    return nn.Sequential(
        ConvNormAct(channels_in, middle, 1, slope),
        ConvNormAct(middle, middle, kernel, slope, groups=middle, affine=affine),
        _last(middle, channels_out, 1, plain=plain),
    )


def branch_paths(generator: InceptionSPADEGenerator) -> dict[str, list[str]]:
    """Return what can leave the network as a whole: path -> the layers whose channels must all be gone for that."""
    paths: dict[str, list[str]] = {}
    for name in generator.sizes.names:
        branches = _branches(generator, name)
        paths |= branches | _branches(generator, f"{name}.spade")
        if branches:
            paths[f"{name}.spade"] = [layer for layers in branches.values() for layer in layers]
    return paths


def _branches(generator: nn.Module, path: str) -> dict[str, list[str]]:
    parts = dict(generator.named_modules())
    return {
        branch: [f"{branch}.{FIRST_LAYER[kind]}"]
        for kind in KINDS
        for branch in (f"{path}.{kind}.{index}" for index in range(len(parts.get(f"{path}.{kind}", ()))))
        if branch in parts
    }

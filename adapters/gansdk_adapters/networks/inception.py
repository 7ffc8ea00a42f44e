"""The inception generator of CAT (Jin et al., "Teachers Do More Than Teach", CVPR 2021).

Keys are those of the official release. Images are (N, C, H, W) in [-1, 1], H and W multiples of 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from gansdk.errors import ContractError
from gansdk_adapters.networks.norms import Norm, has_bias, make_norm
from gansdk_adapters.networks.resnet import doubling, halving

KINDS = ("res_ops", "dw_ops")
"""Names of a block's two lists of branches: dense ones, then depthwise ones, one per kernel size."""
FIRST_LAYER = {"res_ops": "1.0", "dw_ops": "0.0"}
"""Path, inside a branch, of the convolution that makes its middle channels."""
SPATIAL_LAYER = {"res_ops": "1.0", "dw_ops": "2.0"}
"""Path, inside a branch, of a convolution of its kernel size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InceptionSizes:
    """Sizes of `InceptionGenerator`; `of` makes the published ones."""

    channels_in: int = 3
    channels_out: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 128, 64)
    """Channels behind the stem, the first and second halving (the trunk), and the first and second doubling."""
    kernels: tuple[int, ...] = (1, 3, 5)
    middle: tuple[tuple[int, ...], ...] = ((42,) * 6,) * 9
    """Per block, the middle channels of its dense branches by kernel, then of its depthwise ones; 0: no branch."""
    norm: Norm = "instance-affine"

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # JSON gives lists
        object.__setattr__(self, "kernels", tuple(self.kernels))
        object.__setattr__(self, "middle", tuple(tuple(row) for row in self.middle))
        wrong = any(len(row) != 2 * len(self.kernels) or min(row) < 0 for row in self.middle)
        if wrong or len(self.widths) != 5 or min(self.channels_in, self.channels_out, *self.widths) < 1:
            raise ContractError(f"{self}: expected five widths >= 1, and two branch widths >= 0 per kernel and block.")

    @property
    def blocks(self) -> int:
        """Inception blocks."""
        return len(self.middle)

    @classmethod
    def of(
        cls, width: int = 64, blocks: int = 9, *, kernels: tuple[int, ...] = (1, 3, 5), share: int = 6, **options: Any
    ) -> InceptionSizes:
        """Return the network as published: ngf `width`; every branch is a `share`th of the trunk wide, rounded down."""
        middle = ((4 * width // share,) * (2 * len(kernels)),) * blocks
        widths = (width, 2 * width, 4 * width, 2 * width, width)
        return cls(widths=widths, kernels=kernels, middle=middle, **options)


class InceptionBlock(nn.Module):
    """`x + norm(sum of the branches)`; branches may be None, and without any the block gives `x` back."""

    def __init__(self, sizes: InceptionSizes, middle: tuple[int, ...]) -> None:
        super().__init__()
        trunk, count = sizes.widths[2], len(sizes.kernels)
        self.res_ops, self.dw_ops = nn.ModuleList(), nn.ModuleList()
        for kernel, dense, depthwise in zip(sizes.kernels, middle[:count], middle[count:], strict=True):
            # None keeps the places of the others.
            self.res_ops.append(_dense(sizes, trunk, dense, kernel) if dense else None)  # type: ignore[arg-type]
            self.dw_ops.append(_depthwise(sizes, trunk, depthwise, kernel) if depthwise else None)  # type: ignore[arg-type]
        self.pw_bn = make_norm(sizes.norm, trunk) if any(middle) else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, trunk, H, W) -> the same shape."""
        branches = [branch(x) for branch in (*self.res_ops, *self.dw_ops) if branch is not None]
        if not branches or self.pw_bn is None:
            return x
        return x + cast("Tensor", self.pw_bn(sum(branches[1:], branches[0])))


def _stage(sizes: InceptionSizes, channels_in: int, channels_out: int, kernel: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, groups=groups, bias=has_bias(sizes.norm)),
        make_norm(sizes.norm, channels_out),
        nn.ReLU(inplace=True),
    )


def _dense(sizes: InceptionSizes, trunk: int, middle: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReflectionPad2d(kernel // 2),
        _stage(sizes, trunk, middle, kernel),
        nn.Dropout(0.0),
        nn.ReflectionPad2d(kernel // 2),
        nn.Conv2d(middle, trunk, kernel, bias=has_bias(sizes.norm)),
    )


def _depthwise(sizes: InceptionSizes, trunk: int, middle: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        _stage(sizes, trunk, middle, 1),
        nn.ReflectionPad2d(kernel // 2),
        _stage(sizes, middle, middle, kernel, groups=middle),
        nn.Dropout(0.0),
        nn.Conv2d(middle, trunk, 1, bias=has_bias(sizes.norm)),
    )


class InceptionGenerator(nn.Module):
    """The ResNet generator with inception blocks as its trunk."""

    def __init__(self, sizes: InceptionSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.down_sampling = nn.Sequential(*halving(sizes.channels_in, sizes.widths, sizes.norm))
        self.features = nn.Sequential(*(InceptionBlock(sizes, middle) for middle in sizes.middle))
        self.up_sampling = nn.Sequential(*doubling(sizes.channels_out, sizes.widths, sizes.norm))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels_out, H, W)."""
        return cast("Tensor", self.up_sampling(self.features(self.down_sampling(x))))

    def branches(self) -> dict[str, tuple[str, ...]]:
        """What can leave as a whole, as `Adapter.branches`: each branch, and a block's norm behind the last."""
        paths: dict[str, tuple[str, ...]] = {}
        for number, block in enumerate(self.features):
            layers: list[str] = []
            for kind in KINDS:
                for index, branch in enumerate(getattr(block, kind)):
                    if branch is not None:
                        path = f"features.{number}.{kind}.{index}"
                        layers.append(f"{path}.{FIRST_LAYER[kind]}")
                        paths[path] = (layers[-1],)
            if layers:
                paths[f"features.{number}.pw_bn"] = tuple(layers)
        return paths

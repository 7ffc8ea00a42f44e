"""A zoo of tiny generators, one for every structure that channel groups have to understand.

Widths are 1 to 8 channels at 16x16 pixels, so a whole property runs on all of them in seconds. A bug fix in
`gansdk.channels` brings the network that showed it to `NETWORKS`; every property then covers it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from gansdk.testing.blocks import (
    ConvBlock,
    DenseBlock,
    GroupedBlock,
    InceptionBlock,
    Separable,
    SeparableConv,
    ShuffleUp,
    SkipConcat,
    UnshuffleDown,
    conv,
)
from gansdk.testing.layers import (
    ChannelScale,
    ChannelShuffle,
    ChannelsLast,
    CustomFunction,
    GatedUnit,
    NeighbourPool,
    PixelNorm,
    ProductOfBranches,
    Resize,
    RunningSum,
    SelfAttention,
    SharedConv,
    SqueezeExcite,
)
from gansdk.testing.oddities import (
    ClampedByBranch,
    ComputedWeight,
    CrossedConcat,
    FixedCut,
    FlowWarp,
    NormalisedWeights,
    OverwrittenChannel,
    ShapeControl,
    ShapedLikeInput,
    TiedDepthwise,
    TwoOutputs,
)
from gansdk.testing.published import EDSR, ESPCN, VDSR, Bottleneck, Latent, ResNet, Spade, SRResNet, Trunk, UNet
from gansdk.testing.sequences import LearnedBasis, MultiHead, PositionAttention, Scanlines, Spelling
from gansdk.testing.spellings import ConvNeXtBlock, LinearGate, PairOfBranches, StoredMean
from gansdk.testing.weights import build


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One generator of the zoo and what must be found out about it."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (1, 3, 16, 16)
    """Of the example input, batch first."""
    multiple_of: int | None = 2
    """Legal sides of the input are multiples of this, from 8 up; None if only one size is legal."""
    prunable: tuple[str, ...] = ()
    """Paths of layers of whose output channels some must be removable."""
    frozen: tuple[str, ...] = ()
    """Paths of layers of whose output channels none may be removed, besides those that make the output."""

    def build(self, seed: int = 0) -> nn.Module:
        """The module in eval mode, with random weights from the seed."""
        return build(self.make, seed)

    def example(self, seed: int = 0, *, batch: int = 1, size: tuple[int, int] | None = None) -> Tensor:
        """A standard normal input of `batch` images, of `size` (H, W) if that is given."""
        rest = self.shape[1:] if size is None else (self.shape[1], *size)
        return torch.randn(batch, *rest, generator=torch.Generator().manual_seed(seed + 1))


def _network(name: str, make: Callable[[], nn.Module], **facts: Any) -> Network:
    return Network(name=name, make=make, **facts)


def _pair(spelling: Any) -> Network:
    return _network(
        f"pair-{spelling}",
        lambda: Trunk(PairOfBranches(4, 3, spelling), width=4, outputs=3),
        prunable=("stem", "parts.0.left", "parts.0.right"),
    )


def _attention(spelling: Spelling) -> Network:
    return _network(
        f"attention-{spelling}",
        lambda: Trunk(PositionAttention(4, spelling), ConvBlock(4, 4), width=4),
        prunable=("parts.1.0",),
        frozen=("parts.0.project",),
    )


_RESNET = ("stem.1", "down.0.0", "down.1.0", "trunk.0.body.0", "up.0", "up.3")


NETWORKS: tuple[Network, ...] = (
    _network("stored-mean", lambda: Trunk(StoredMean(), ConvBlock(4, 4), width=4), prunable=("stem", "parts.1.0")),
    _network("resnet-in", lambda: ResNet(), multiple_of=4, prunable=_RESNET, frozen=("head.1",)),
    _network("resnet-in-affine", lambda: ResNet(norm="instance-affine"), multiple_of=4, prunable=_RESNET),
    _network("resnet-in-tracked", lambda: ResNet(norm="instance-tracked"), multiple_of=4, prunable=_RESNET),
    _network("resnet-bn-zero", lambda: ResNet(norm="batch", padding="zeros"), multiple_of=4, prunable=_RESNET),
    _network("resnet-bn-replicate", lambda: ResNet(norm="batch", padding="replicate"), multiple_of=4, prunable=_RESNET),
    _network("resnet-one-channel", lambda: ResNet(1, 1, norm="instance-affine"), multiple_of=4),
    _network("unet-bn", lambda: UNet(), multiple_of=8, prunable=("model.model.0", "model.model.1.model.1")),
    _network("unet-in-dropout", lambda: UNet(norm="instance", dropout=0.5), multiple_of=16),
    _network(
        "mobile-resnet",
        lambda: ResNet(block=Separable),
        multiple_of=4,
        prunable=("stem.1", "trunk.0.first.0", "trunk.0.first.2", "trunk.0.second.2"),
    ),
    _network(
        "grouped",
        lambda: Trunk(GroupedBlock(4), GroupedBlock(4), width=4),
        prunable=("stem", "parts.0.grouped", "parts.1.mix"),
        frozen=("head",),
    ),
    _network(
        "grouped-widening",
        lambda: Trunk(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ReLU(), width=4, outputs=8),
        prunable=("stem", "parts.0"),
    ),
    _network(
        "grouped-transposed",
        lambda: Trunk(
            nn.ConvTranspose2d(4, 8, 4, 2, 1, groups=2), nn.ConvTranspose2d(8, 8, 2, 2, groups=8), width=4, outputs=8
        ),
        prunable=("stem",),
    ),
    _network(
        "depthwise-multiplier",
        lambda: Trunk(SeparableConv(3, 4, multiplier=2, norm="instance-affine"), width=3, outputs=4),
        prunable=("stem", "parts.0.0", "parts.0.2"),
    ),
    _network(
        "inception",
        lambda: ResNet(block=InceptionBlock, norm="instance-affine"),
        multiple_of=4,
        prunable=("stem.1", "trunk.0.dense.1.0", "trunk.0.depthwise.2.0", "trunk.0.depthwise.2.3"),
    ),
    _network(
        "spade-in",
        lambda: Spade(),
        shape=(1, 5, 16, 16),
        multiple_of=4,
        prunable=("first", "before.shared.0", "before.gamma", "before.beta", "conv_0", "conv_1"),
        frozen=("last",),
    ),
    _network(
        "spade-bn-chunk",
        lambda: Spade(norm="batch", form="chunk"),
        shape=(1, 5, 16, 16),
        multiple_of=4,
        prunable=("first", "before.both", "conv_0", "conv_1"),
    ),
    _network(
        "spade-slice",
        lambda: Spade(form="slice"),
        shape=(1, 5, 16, 16),
        multiple_of=4,
    ),
    _network("srresnet-one-slope", lambda: SRResNet(), prunable=("head.0", "blocks.0.0", "trunk.0", "up.conv")),
    _network(
        "srresnet-slopes",
        lambda: SRResNet(slopes="each"),
        prunable=("head.0", "blocks.0.0", "trunk.0", "up.conv"),
        frozen=("tail",),
    ),
    _network(
        "unshuffle",
        lambda: Trunk(UnshuffleDown(3, 4), ShuffleUp(4, 2), width=3, outputs=2),
        prunable=("stem", "parts.0.conv", "parts.1.conv"),
    ),
    _network(
        "unshuffled-input",
        lambda: nn.Sequential(UnshuffleDown(3, 4), nn.ReLU(), ShuffleUp(4, 2), conv(2, 3)),
        prunable=("0.conv", "2.conv"),
    ),
    _network("edsr", lambda: EDSR(), prunable=("head", "body.0.0", "tail.0.conv", "tail.1.conv"), frozen=("tail.2",)),
    _network("espcn", lambda: ESPCN(), prunable=("body.0",), frozen=("up.conv",)),
    _network("vdsr", lambda: VDSR(), shape=(1, 1, 16, 16), multiple_of=1, prunable=("input", "layers.0.0")),
    _network(
        "rrdb",
        lambda: Trunk(DenseBlock(4), DenseBlock(4, layers=3), width=4),
        multiple_of=1,
        prunable=("stem", "parts.0.layers.0", "parts.1.layers.2", "parts.1.fuse"),
    ),
    _network(
        "group-norm",
        lambda: Trunk(nn.GroupNorm(2, 6), nn.SiLU(), ConvBlock(6, 8, norm="group"), width=6, outputs=8),
        multiple_of=1,
        prunable=("stem", "parts.2.0"),
    ),
    _network("layer-norm", lambda: Trunk(nn.GroupNorm(1, 4), ConvBlock(4, 3), width=4, outputs=3), frozen=("stem",)),
    _network("latent", lambda: Latent(), shape=(1, 5), multiple_of=None, prunable=("linear", "up"), frozen=("head",)),
    _network("bottleneck", lambda: Bottleneck(), multiple_of=None, prunable=("encoder", "squeeze", "unfold")),
    _network("shared-conv", lambda: Trunk(SharedConv(4), width=4), multiple_of=1, prunable=("stem", "parts.0.conv")),
    _network("spectral-norm-hook", lambda: NormalisedWeights("spectral-hook"), prunable=("stem", "body")),
    _network("spectral-norm", lambda: NormalisedWeights("spectral"), prunable=("stem", "body"), frozen=("head",)),
    _network("weight-norm-hook", lambda: NormalisedWeights("weight-hook"), prunable=("stem", "body")),
    _network("weight-norm", lambda: NormalisedWeights("weight"), prunable=("stem", "body"), frozen=("head",)),
    _network(
        "attention",
        lambda: Trunk(SelfAttention(4), ConvBlock(4, 4), width=4),
        prunable=("parts.1.0",),
        frozen=("parts.0.query", "parts.0.key", "parts.0.value"),
    ),
    *(_attention(spelling) for spelling in get_args(Spelling)),
    _network("attention-multi-head", lambda: Trunk(MultiHead(4), ConvBlock(4, 4), width=4), prunable=("parts.1.0",)),
    _network("recurrent-lstm", lambda: Trunk(Scanlines(4), ConvBlock(4, 4), width=4), prunable=("parts.1.0",)),
    _network("recurrent-gru", lambda: Trunk(Scanlines(4, nn.GRU), ConvBlock(4, 4), width=4), prunable=("parts.1.0",)),
    _network("learned-basis", lambda: Trunk(LearnedBasis(4), ConvBlock(4, 4), width=4), prunable=("parts.1.0",)),
    _network("squeeze-excite", lambda: Trunk(SqueezeExcite(4), ConvBlock(4, 3), width=4, outputs=3)),
    _network("squeeze-excite-conv", lambda: Trunk(SqueezeExcite(4, spelling="conv"), width=4), prunable=("stem",)),
    _network("fixed-slice", lambda: FixedCut("slice"), frozen=("stem",)),
    _network("fixed-split", lambda: FixedCut("split"), frozen=("stem",)),
    _network("cumulative-sum", lambda: Trunk(RunningSum(), width=4), frozen=("stem",)),
    _network("custom-function", lambda: Trunk(CustomFunction(), width=4), frozen=("stem",)),
    _network("pixel-norm", lambda: Trunk(PixelNorm(), ConvBlock(4, 4), width=4), frozen=("stem",)),
    _network("channel-shuffle", lambda: Trunk(ChannelShuffle(), width=4), frozen=("stem",)),
    _network("neighbour-pool", lambda: Trunk(NeighbourPool(), width=6), frozen=("stem",)),
    _network("resize", lambda: Trunk(Resize(), Resize("nearest"), width=3), prunable=("stem",)),
    _network("product", lambda: Trunk(ProductOfBranches(4, 3), width=4, outputs=3), prunable=("stem", "parts.0.left")),
    _network("gated", lambda: Trunk(GatedUnit(4, 3), width=4, outputs=3), prunable=("stem", "parts.0.conv")),
    _network("channel-scale", lambda: Trunk(ChannelScale(4), width=4), multiple_of=1, prunable=("stem",)),
    _network("channels-last", lambda: Trunk(ChannelsLast(4, hidden=5), width=4), prunable=("stem", "parts.0.rise")),
    _network("two-outputs", lambda: TwoOutputs(), prunable=("body.0",), frozen=("image", "mask")),
    _network("dropout", lambda: Trunk(nn.Dropout(0.5), nn.Dropout2d(0.5), width=4), prunable=("stem",)),
    _network("shape-control", lambda: ShapeControl(), multiple_of=1, prunable=("down",), frozen=("up",)),
    _network("tied-depthwise", lambda: TiedDepthwise(), multiple_of=1, prunable=("stem", "first")),
    *(_pair(spelling) for spelling in ("max", "min", "stack", "stack-last", "view-as")),
    _network("glu", lambda: Trunk(LinearGate(4, 3), width=4, outputs=3), prunable=("stem", "parts.0.conv")),
    _network(
        "glu-of-pixels", lambda: Trunk(LinearGate(4, 3, along=-1), width=4, outputs=3), prunable=("parts.0.conv",)
    ),
    _network("convnext", lambda: Trunk(ConvNeXtBlock(4), width=4), prunable=("parts.0.rise",), frozen=("stem",)),
    _network("clamped", lambda: ClampedByBranch(), multiple_of=1),
    _network("overwritten-channel", lambda: OverwrittenChannel(), multiple_of=1, frozen=("body.0",)),
    _network("flow-warp", lambda: FlowWarp(), multiple_of=1, prunable=("body",), frozen=("flow",)),
    _network("shaped-like-input", lambda: ShapedLikeInput(), multiple_of=1),
    _network("computed-weight", lambda: ComputedWeight(), multiple_of=1, frozen=("stem",)),
    _network("crossed-concat", lambda: Trunk(CrossedConcat(4, extra=4), width=4, outputs=8), prunable=("stem",)),
    _network("offset-concat", lambda: Trunk(CrossedConcat(5), width=5, outputs=7), prunable=("stem",)),
    _network("skip-first", lambda: Trunk(SkipConcat(3, 4), width=3, outputs=6), prunable=("stem", "parts.0.down")),
    _network("skip-last", lambda: Trunk(SkipConcat(3, 4, first=False), width=3, outputs=6), prunable=("stem",)),
)


def network(name: str) -> Network:
    """The zoo's entry of that name."""
    return next(entry for entry in NETWORKS if entry.name == name)

"""Hypothesis strategies: random generators, plans, scores and budgets. Needs `gansdk[testing]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from gansdk.budget.budget import Budget
from gansdk.budget.cost import Counting
from gansdk.channels.groups import ChannelGroup, Plan, Space
from gansdk.channels.tracing.trace import trace
from gansdk.testing import blocks, layers
from gansdk.testing.published import Trunk
from gansdk.testing.weights import randomise

DETERMINISTIC = settings(
    derandomize=True,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""A decorator: forty examples that are the same in every run, however slow the machine."""

SHAPE = (1, 3, 16, 16)
"""Of the input of every drawn generator."""

Make = Callable[[], nn.Module]


def example(*, batch: int = 2, size: tuple[int, int] = SHAPE[2:], seed: int = 0) -> Tensor:
    """Standard normal images in float64, (batch, 3, H, W), for a drawn generator."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, SHAPE[1], *size, generator=rng, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class _Part:
    """One drawn structure: its module, its output channels, and how it multiplies the side of its input."""

    module: nn.Module
    channels: int
    zoom: float = 1.0


_NORMS: tuple[blocks.Norm, ...] = ("none", "batch", "instance", "instance-affine", "instance-tracked", "group")
_PADDINGS: tuple[blocks.Padding, ...] = ("zeros", "reflect", "replicate")
_FORMS: tuple[blocks.Form, ...] = ("separate", "chunk", "slice")
_JOINS: tuple[layers.Join, ...] = ("x-first", "x-last", "add", "multiply")
_norms = st.sampled_from(_NORMS)
_paddings = st.sampled_from(_PADDINGS)


def _widths(largest: int) -> st.SearchStrategy[int]:
    """Evenly from 1 to `largest`: `integers` would draw one, of which nothing can be pruned, far more often."""
    return st.sampled_from(range(1, largest + 1))


@st.composite
def _convolution(draw: st.DrawFn, channels: int, width: int) -> _Part:
    outputs = draw(_widths(width))
    block = blocks.ConvBlock(channels, outputs, norm=draw(_norms), padding=draw(_paddings))
    return _Part(block, outputs)


@st.composite
def _activation(draw: st.DrawFn, channels: int, width: int) -> _Part:
    makers: tuple[Make, ...] = (
        lambda: nn.PReLU(channels),
        nn.PReLU,
        nn.GELU,
        partial(nn.LeakyReLU, 0.2, inplace=True),
        partial(layers.ChannelScale, channels),
        partial(nn.Dropout2d, 0.3),
        layers.Resize,
        partial(nn.ReplicationPad2d, 0),
    )
    return _Part(draw(st.sampled_from(makers))(), channels)


@st.composite
def _norm(draw: st.DrawFn, channels: int, width: int) -> _Part:
    return _Part(blocks.norm_layer(draw(_norms), channels), channels)


@st.composite
def _residual(draw: st.DrawFn, channels: int, width: int) -> _Part:
    norm = draw(_norms)
    makers: tuple[Make, ...] = (
        partial(blocks.ResidualBlock, channels, norm=norm, padding=draw(_paddings)),
        partial(blocks.Separable, channels, norm=norm),
        partial(blocks.InceptionBlock, channels, middle=draw(st.integers(1, 3)), norm=norm),
        partial(blocks.DenseBlock, channels, growth=draw(st.integers(1, 3)), layers=draw(st.integers(1, 2))),
        partial(layers.SharedConv, channels),
        partial(layers.ChannelsLast, channels, hidden=draw(_widths(width))),
    )
    return _Part(draw(st.sampled_from(makers))(), channels)


@st.composite
def _gate(draw: st.DrawFn, channels: int, width: int) -> _Part:
    outputs = draw(_widths(width))
    makers: tuple[Callable[[], _Part], ...] = (
        lambda: _Part(layers.SqueezeExcite(channels, spelling=draw(st.sampled_from(("linear", "conv")))), channels),
        lambda: _Part(layers.GatedUnit(channels, outputs), outputs),
        lambda: _Part(layers.ProductOfBranches(channels, outputs), outputs),
    )
    return draw(st.sampled_from(makers))()


@st.composite
def _modulation(draw: st.DrawFn, channels: int, width: int) -> _Part:
    form = draw(st.sampled_from(_FORMS))
    hidden = draw(_widths(width))
    return _Part(blocks.Modulation(channels, SHAPE[1], hidden=hidden, norm=draw(_norms), form=form), channels)


@st.composite
def _grouped(draw: st.DrawFn, channels: int, width: int) -> _Part:
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    outputs = groups * draw(st.integers(1, max(1, width // groups)))
    return _Part(nn.Conv2d(channels, outputs, 3, padding=1, groups=groups), outputs)


@st.composite
def _shuffle(draw: st.DrawFn, channels: int, width: int) -> _Part:
    outputs = draw(_widths(width))
    slopes = draw(st.sampled_from((0, 1, outputs)))
    return _Part(blocks.ShuffleUp(channels, outputs, slopes=slopes), outputs, 2.0)


@st.composite
def _enlarging(draw: st.DrawFn, channels: int, width: int) -> _Part:
    outputs = draw(_widths(width))
    makers: list[Callable[[], _Part]] = [
        lambda: _Part(nn.ConvTranspose2d(channels, outputs, 4, 2, 1), outputs, 2.0),
        lambda: _Part(nn.Upsample(scale_factor=2, mode="bilinear"), channels, 2.0),
        lambda: _Part(nn.ConvTranspose2d(channels, channels, 2, 2, groups=channels), channels, 2.0),
    ]
    if channels % 4 == 0:
        makers.append(lambda: _Part(nn.PixelShuffle(2), channels // 4, 2.0))
    return draw(st.sampled_from(makers))()


@st.composite
def _skip(draw: st.DrawFn, channels: int, width: int) -> _Part:
    inner, norm = draw(_widths(width)), draw(_norms)
    return _Part(blocks.SkipConcat(channels, inner, norm=norm, first=draw(st.booleans())), 2 * channels)


@st.composite
def _shrinking(draw: st.DrawFn, channels: int, width: int) -> _Part:
    outputs = draw(_widths(width))
    makers: tuple[Callable[[], _Part], ...] = (
        lambda: _Part(blocks.UnshuffleDown(channels, outputs), outputs, 0.5),
        lambda: _Part(blocks.ConvBlock(channels, outputs, norm=draw(_norms), stride=2), outputs, 0.5),
        lambda: _Part(nn.AvgPool2d(2), channels, 0.5),
        lambda: _Part(nn.MaxPool2d(2), channels, 0.5),
    )
    return draw(st.sampled_from(makers))()


@st.composite
def _opaque(draw: st.DrawFn, channels: int, width: int) -> _Part:
    """Structures that freeze what they read."""
    makers: list[Make] = [
        layers.RunningSum,
        layers.CustomFunction,
        layers.PixelNorm,
        partial(layers.SelfAttention, channels),
        partial(nn.GroupNorm, 1, channels),
    ]
    if channels % 2 == 0:
        makers.append(layers.ChannelShuffle)
    return _Part(draw(st.sampled_from(makers))(), channels)


@st.composite
def _branch(draw: st.DrawFn, channels: int, width: int) -> _Part:
    """A few parts in a row with x carried around them."""
    inner = draw(_rows(channels, width, side=16, levels=0, zooming=False))
    join = draw(st.sampled_from(_JOINS))
    if join in ("add", "multiply"):
        return _Part(
            layers.Branch(nn.Sequential(*inner.parts, blocks.conv(inner.channels, channels, 1)), join), channels
        )
    return _Part(layers.Branch(nn.Sequential(*inner.parts), join), channels + inner.channels)


@dataclass(frozen=True, slots=True)
class _Row:
    parts: tuple[nn.Module, ...]
    channels: int


_KEEPING = (_convolution, _activation, _norm, _residual, _gate, _grouped)


@st.composite
def _rows(draw: st.DrawFn, channels: int, width: int, *, side: float, levels: int, zooming: bool) -> _Row:
    parts: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 4 if levels else 2))):
        kinds = list(_KEEPING)
        kinds += [_enlarging, _shuffle] * (zooming and side <= 16) + [_shrinking, _skip] * (zooming and side >= 8)
        kinds += [_branch, _branch, _modulation, _opaque] * levels
        part = draw(draw(st.sampled_from(kinds))(channels, width))
        parts.append(part.module)
        channels, side = part.channels, side * part.zoom
    return _Row(tuple(parts), channels)


@st.composite
def generators(draw: st.DrawFn, max_width: int = 6) -> nn.Module:
    """Random generators in eval mode and float64 that take images of `SHAPE`, of any batch size.

    A few structures of the zoo in a row, some with x carried around them; every norm, PReLU and free
    parameter has random values. Layers are at most `max_width` channels wide, concatenations are wider.
    """
    with torch.random.fork_rng(devices=()):  # layers initialise themselves from the global generator
        width = draw(_widths(max_width))
        row = draw(_rows(width, max_width, side=SHAPE[2], levels=1, zooming=True))
        module = Trunk(*row.parts, width=width, outputs=row.channels, channels=SHAPE[1])
    return randomise(module, draw(st.integers(0, 9))).eval().double()


@dataclass(frozen=True, slots=True, repr=False)
class Carving:
    """A generator, its space, and a plan for it."""

    module: nn.Module
    space: Space
    plan: Plan

    def __repr__(self) -> str:
        """The space follows from the module, and would fill the screen."""
        return f"Carving({self.module}, {self.plan})"


@st.composite
def carvings(draw: st.DrawFn, max_width: int = 6) -> Carving:
    """A random generator with a random plan of its space."""
    module = draw(generators(max_width))
    space = trace(module, example(batch=1))
    return Carving(module, space, draw(plans(space)))


@st.composite
def plans(draw: st.DrawFn, space: Space) -> Plan:
    """Plans that keep a random subset of every prunable group, at least its floor; some groups are left out."""
    keep = {
        group.name: draw(_subsets(group))
        for group in space.prunable
        if not draw(st.sampled_from((True, *(False,) * 9)))  # shrinks to a group left out
    }
    return Plan(keep)


def _subsets(group: ChannelGroup) -> st.SearchStrategy[tuple[int, ...]]:
    ids = st.integers(0, group.size - 1)
    return st.sets(ids, min_size=min(group.floor, group.size)).map(lambda kept: tuple(sorted(kept)))


Scores = dict[str, NDArray[np.float64]]


@st.composite
def scores(draw: st.DrawFn, space: Space) -> Scores:
    """One score >= 0 per channel of every prunable group: constant, all zero, full of ties, or heavy-tailed."""
    kind = draw(st.sampled_from(("ties", "zero", "constant", "half-zero", "heavy", "uniform")))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    makers: dict[str, Callable[[int], NDArray[np.float64]]] = {
        "ties": lambda size: rng.integers(0, 3, size).astype(np.float64),
        "zero": np.zeros,
        "constant": lambda size: np.full(size, 0.7),
        "half-zero": lambda size: np.where(rng.random(size) < 0.5, 0.0, rng.random(size)),
        "heavy": lambda size: np.exp(5 * rng.standard_normal(size)),
        "uniform": lambda size: rng.random(size),
    }
    return {group.name: makers[kind](group.size) for group in space.prunable}


@st.composite
def budgets(draw: st.DrawFn, metrics: Sequence[str] = ("macs", "params", "size")) -> Budget:
    """Budgets of one or two terms, each a share of the full cost from 1 % to 100 %, in any counting."""
    chosen = draw(st.lists(st.sampled_from(list(metrics)), min_size=1, max_size=2, unique=True))
    terms = [f"{metric}<={draw(st.integers(1, 100))}%" for metric in chosen]
    return Budget.parse(", ".join(terms), counting=draw(st.sampled_from(get_args(Counting))))

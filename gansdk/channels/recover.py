"""Layer-wise least squares: weights of a carved network that best reproduce the full one's feature maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gansdk.channels.carve import kept_entries
from gansdk.channels.groups import Op, Plan, Space, is_within

if TYPE_CHECKING:
    from collections.abc import Iterator

RIDGE = 1e-2
"""Pull towards the inherited weights, relative to the mean square of the inputs; biases are free."""
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""What cross-validation chooses from."""
FOLDS = 4
"""Parts of the images, each of which is left out once."""
FREE = 1e-6
"""What the pull on a bias is of that on a weight: enough to have one solution."""
SOLUTIONS = FOLDS * len(RIDGES) + 1
"""Of a layer with cross-validation."""
MAX_COLUMNS = 3000
"""Layers with more unknowns per output than this keep their inherited weights."""
SLOWER = 2
"""What a multiplication takes in setting up and solving equations, in those of a convolution."""
MAX_ROWS, ROWS_PER_COLUMN = 2**16, 64
"""Positions of all images that enter one fit, and for each of its unknowns."""
MOST_BYTES = 2**30
"""Of the full network's feature maps that are kept at once; what is more takes another pass."""

Forward = Callable[[Tensor], object]
"""How a network makes an image."""


@torch.no_grad()
def least_squares(
    full: nn.Module,
    carved: nn.Module,
    space: Space,
    plan: Plan,
    images: Sequence[Tensor],
    *,
    ridge: float | None = RIDGE,
    run_full: Forward | None = None,
    run_carved: Forward | None = None,
    error: Callable[[], float] | None = None,
) -> int:
    """Refit the dense layers of `carved` in place, in execution order; returns how many were refitted.

    Every layer is fitted on what the student feeds it, refitted so far, to what the full network's layer gives on
    the same images (before any norm, for the channels kept), as in Channel Pruning (He et al., ICCV 2017, section
    3.2). The full network sees every image once, as far as memory allows; the student once for every layer, as far as
    that layer. Solving neighbours together would save passes and ruin some students: each is then fitted to inputs
    that the other's solution changes.

    `images`: (N, C, H, W) each. `ridge` pulls towards the inherited weights, relative to the mean square of a layer's
    inputs; None chooses it for every layer by cross-validation over the images, in closed form. `run_full` and
    `run_carved` say how the networks make an image; left out, the modules' own calls. `error` is the distance of the
    student's images to what they should be: given, a solution is kept only where it falls.
    """
    run_full, run_carved = run_full or full, run_carved or carved
    ops = _refittable(carved, space, plan)
    waiting = [_Fit(full, carved, space, plan, op, len(images), 1 if ridge is not None else FOLDS) for op in ops]
    least = math.inf if error is None else error()
    kept = 0
    while waiting:
        watched = _watch_full(waiting, images, run_full)
        waiting = waiting[len(watched) :]
        for fit in watched:
            for number, x in enumerate(images):
                with fit.watching_carved(number), suppress(_Reached):
                    run_carved(x)
            fit.solve(RIDGES if ridge is None else (ridge,))
            if error is not None:
                found = error()
                if not found < least:
                    fit.undo()
                    continue
                least = found
            kept += 1
    return kept


def recovery_macs(
    full: nn.Module, space: Space, plan: Plan, images: int, share: float, *, solutions: int = 1
) -> tuple[int, float]:
    """How many layers `least_squares` would refit, and about how many MACs their equations take.

    `share`: pixels of an image over those at which the positions of `space` were counted. `solutions`: how often the
    equations of a layer are solved, `SOLUTIONS` with cross-validation.
    """
    total = 0.0
    ops = _refittable(full, space, plan)
    for op in ops:
        columns, outputs = _unknowns(space, plan, op)
        rows = min(MAX_ROWS, ROWS_PER_COLUMN * columns, op.positions * share * images)
        total += SLOWER * (rows * columns * (columns + outputs) + solutions * columns**3 / 3)
    return len(ops), total


def _watch_full(waiting: Sequence[_Fit], images: Sequence[Tensor], run_full: Forward) -> Sequence[_Fit]:
    """Let the full network see the images, and keep what as many of the layers as fit into memory make of them."""
    watched = list(waiting)
    for number, x in enumerate(images):
        with ExitStack() as hooks:
            for fit in watched:
                hooks.enter_context(fit.watching_full())
            run_full(x)
        if number == 0:  # all images are about as large
            total = 0
            for count, fit in enumerate(watched):
                total += len(images) * fit.bytes
                if count and total > MOST_BYTES:
                    for other in watched[count:]:
                        other.forget()
                    watched = watched[:count]
                    break
    return watched


class _Reached(Exception):
    """The layer that is asked for has been called."""


def _refittable(module: nn.Module, space: Space, plan: Plan) -> list[Op]:
    """One call of every dense layer that something in front of has changed and that is not too large, in order."""
    removed = space.removed(plan)
    found: dict[str, Op] = {}
    for op in space.ops:
        if is_within(op.weight, removed) or op.weight in found or op.in_dim is None:
            continue
        layer = module.get_submodule(op.module)
        dense = isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
        reached = bool(found) or kept_entries(space, plan, op.weight, op.in_dim) is not None
        if dense and reached and _unknowns(space, plan, op)[0] <= MAX_COLUMNS:
            found[op.weight] = op
    return list(found.values())


def _unknowns(space: Space, plan: Plan, op: Op) -> tuple[int, int]:
    """Of a layer under the plan: unknowns of each output, and outputs."""
    shape = list(space.shapes[op.weight])
    for dim in {op.in_dim, op.out_dim} - {None}:
        assert dim is not None
        entries = kept_entries(space, plan, op.weight, dim)
        shape[dim] = shape[dim] if entries is None else len(entries)
    return math.prod(shape) // shape[op.out_dim] + (op.bias is not None), shape[op.out_dim]


@dataclass
class _Equations:
    """The normal equations of a layer over some positions, and the mean square of what they should give."""

    gram: Tensor
    moment: Tensor
    energy: Tensor

    @classmethod
    def of(cls, rows: Tensor, wanted: Tensor) -> _Equations:
        # Products of one image keep their seven digits, and the sum over images is in double precision.
        return cls((rows.T @ rows).double(), (rows.T @ wanted).double(), wanted.double().square().sum())

    def __add__(self, other: _Equations) -> _Equations:
        return _Equations(self.gram + other.gram, self.moment + other.moment, self.energy + other.energy)

    def __sub__(self, other: _Equations) -> _Equations:
        return _Equations(self.gram - other.gram, self.moment - other.moment, self.energy - other.energy)

    def solved(self, ridge: float, old: Tensor, has_bias: bool) -> Tensor:
        """The weights that fit best, pulled towards `old`: (columns, outputs)."""
        pull = ridge * self.gram.diagonal().mean() * torch.ones_like(self.gram[0])
        if has_bias:
            pull[-1] *= FREE
        weights: Tensor = torch.linalg.solve(self.gram + pull.diag(), self.moment + pull[:, None] * old)
        return weights

    def error(self, weights: Tensor) -> float:
        """Squared error of the weights over the positions."""
        return float((weights * (self.gram @ weights - 2 * self.moment)).sum() + self.energy)


class _Fit:
    """The normal equations of one layer, summed over images, in as many parts as are left out in turn."""

    def __init__(
        self, full: nn.Module, carved: nn.Module, space: Space, plan: Plan, op: Op, images: int, folds: int
    ) -> None:
        self._theirs = full.get_submodule(op.module)
        self._layer = carved.get_submodule(op.module)
        self._kept = kept_entries(space, plan, op.weight, op.out_dim)
        self._bias = self._layer.bias if isinstance(self._layer.bias, Tensor) else None
        self._images = images
        self._columns = _unknowns(space, plan, op)[0]
        self._wanted: list[list[Tensor]] = []
        """By image and call: (positions, channels kept)."""
        self._seen = 0
        self._folds: list[_Equations | None] = [None] * folds
        self._old: tuple[Tensor, Tensor | None] | None = None

    @property
    def bytes(self) -> int:
        """Of what is kept of the full network."""
        return sum(values.numel() * values.element_size() for calls in self._wanted for values in calls)

    def forget(self) -> None:
        """Drop what is kept of the full network."""
        self._wanted = []

    @contextmanager
    def watching_full(self) -> Iterator[None]:
        """Keep what the full network's layer gives for one more image."""
        calls: list[Tensor] = []

        def hook(part: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            values = output if isinstance(part, nn.Linear) else output.movedim(1, -1)
            values = values.flatten(0, -2)
            values = values[self._positions(len(values)).to(values.device)]
            calls.append(values.clone() if self._kept is None else values[:, self._kept.to(values.device)])

        handle = self._theirs.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()
        self._wanted.append(calls)

    @contextmanager
    def watching_carved(self, number: int) -> Iterator[None]:
        """Add the equations of what the student feeds its layer for image `number`.

        Raises:
            _Reached: there is nothing more to see.
        """
        self._seen = 0

        def hook(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            wanted = self._wanted[number][self._seen]
            self._seen += 1
            rows = _rows(layer, args[0], self._bias is not None)
            rows = rows[self._positions(len(rows)).to(rows.device)]
            parts = zip(rows.tensor_split(len(self._folds)), wanted.tensor_split(len(self._folds)), strict=True)
            for place, (x, y) in enumerate(parts):
                found, before = _Equations.of(x, y), self._folds[place]
                self._folds[place] = found if before is None else before + found
            if self._seen == len(self._wanted[number]):
                raise _Reached

        handle = self._layer.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _positions(self, count: int) -> Tensor:
        """Which of the positions of one call enter the fit, in order.

        Drawn, since evenly spaced ones see only some phases of a layer that enlarges.
        """
        most = min(MAX_ROWS, ROWS_PER_COLUMN * self._columns) // self._images
        if count <= most:
            return torch.arange(count)
        drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        return drawn[: max(1, most)].sort().values

    def solve(self, ridges: Sequence[float]) -> None:
        """Write the weights that fit best, pulled towards the old ones; keep these where there is no solution.

        Of several ridges the one whose solutions err least on the parts that they were not solved on.
        """
        self._wanted = []
        folds = [fold for fold in self._folds if fold is not None]
        self._folds = [None] * len(self._folds)
        if not folds:
            return
        matrix, has_bias = _as_matrix(self._layer, self._bias), self._bias is not None
        total = reduce(_Equations.__add__, folds)

        def left_out(ridge: float) -> float:
            return sum(fold.error((total - fold).solved(ridge, matrix, has_bias)) for fold in folds)

        solved = total.solved(ridges[0] if len(ridges) == 1 else min(ridges, key=left_out), matrix, has_bias)
        if torch.isfinite(solved).all():
            weight = self._layer.weight
            assert isinstance(weight, Tensor)
            self._old = weight.clone(), None if self._bias is None else self._bias.clone()
            _write_matrix(self._layer, self._bias, solved)

    def undo(self) -> None:
        """Bring back the weights of before `solve`."""
        if self._old is None:
            return
        weight = self._layer.weight
        assert isinstance(weight, Tensor)
        weight.copy_(self._old[0])
        if self._bias is not None and self._old[1] is not None:
            self._bias.copy_(self._old[1])


def _rows(layer: nn.Module, given: Tensor, has_bias: bool) -> Tensor:
    """(positions, columns): what every output of the layer reads, and a one for the bias."""
    rows = given.flatten(0, -2) if isinstance(layer, nn.Linear) else _patches(layer, given)
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1) if has_bias else rows


def _patches(layer: nn.Module, x: Tensor) -> Tensor:
    """(positions, C_in * kh * kw): what each output of the convolution reads, in the order of its weight."""
    if isinstance(layer, nn.ConvTranspose2d):
        # A transposed convolution is a plain one over the input with zeros between its pixels, kernel flipped.
        n, c, h, w = x.shape
        (sh, sw), (kh, kw), (dh, dw) = layer.stride, layer.kernel_size, layer.dilation
        assert not isinstance(layer.padding, str)
        (ph, pw), (oh, ow) = layer.padding, layer.output_padding
        spread = x.new_zeros(n, c, (h - 1) * sh + 1, (w - 1) * sw + 1)
        spread[:, :, ::sh, ::sw] = x
        top, left = dh * (kh - 1) - ph, dw * (kw - 1) - pw
        spread = F.pad(spread, (left, left + ow, top, top + oh))
        columns = F.unfold(spread, (kh, kw), dilation=(dh, dw))
    else:
        assert isinstance(layer, nn.Conv2d)
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        columns = F.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
    return columns.transpose(1, 2).flatten(0, 1)


def _as_matrix(layer: nn.Module, bias: Tensor | None) -> Tensor:
    """The layer's weights as (columns, outputs), the bias as the last row."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.flip(2, 3).transpose(0, 1)
    matrix = weight.flatten(1).T
    return (matrix if bias is None else torch.cat([matrix, bias[None]])).double()


def _write_matrix(layer: nn.Module, bias: Tensor | None, matrix: Tensor) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if bias is not None:
        bias.copy_(matrix[-1])
        matrix = matrix[:-1]
    if isinstance(layer, nn.ConvTranspose2d):
        shape = (weight.shape[1], weight.shape[0], *weight.shape[2:])
        weight.copy_(matrix.T.reshape(shape).transpose(0, 1).flip(2, 3))
    else:
        weight.copy_(matrix.T.reshape(weight.shape))

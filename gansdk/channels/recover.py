"""Layer-wise least squares: weights of a carved network that best reproduce the full one's feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gansdk.channels.carve import kept_entries
from gansdk.channels.groups import Op, Plan, Space, is_within

if TYPE_CHECKING:
    from collections.abc import Iterator

RIDGE = 1e-3
"""Pull towards the inherited weights, relative to the mean square of the inputs."""
MAX_COLUMNS = 3000
"""Layers with more unknowns per output than this keep their inherited weights."""
SWEEPS = 24
"""Passes over the images; more layers than that share them."""
MAX_ROWS = 20_000
"""Positions per image set that enter one fit; more change nothing but the time."""


@torch.no_grad()
def least_squares(
    full: nn.Module, carved: nn.Module, space: Space, plan: Plan, images: Sequence[Tensor], *, ridge: float = RIDGE
) -> int:
    """Refit the dense layers of `carved` in place, in execution order; returns how many were refitted.

    Every layer is fitted on what the student feeds it, refitted so far, to what the full network's layer gives on
    the same images (before any norm, for the channels kept). Networks of more than `SWEEPS` layers are refitted in
    that many goes, several neighbours at once, so that both networks see every image `SWEEPS` times at most.
    `images`: (N, C, H, W) each.
    """
    ops = _refittable(carved, space, plan)
    neighbours = math.ceil(len(ops) / SWEEPS)
    for start in range(0, len(ops), max(1, neighbours)):
        fits = [_Fit(full, carved, space, plan, op, len(images)) for op in ops[start : start + neighbours]]
        for x in images:
            with ExitStack() as recordings:
                for fit in fits:
                    recordings.enter_context(fit.recording())
                full(x)
                carved(x)
            for fit in fits:
                fit.collect()
        for fit in fits:
            fit.solve(ridge)
    return len(ops)


def _refittable(carved: nn.Module, space: Space, plan: Plan) -> list[Op]:
    """One call of every dense layer that something in front of has changed and that is not too large, in order."""
    removed = space.removed(plan)
    found: dict[str, Op] = {}
    for op in space.ops:
        if is_within(op.weight, removed) or op.weight in found or op.in_dim is None:
            continue
        layer = carved.get_submodule(op.module)
        dense = isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
        reached = bool(found) or kept_entries(space, plan, op.weight, op.in_dim) is not None
        if dense and reached and _columns(layer) <= MAX_COLUMNS:
            found[op.weight] = op
    return list(found.values())


def _columns(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    outputs = weight.shape[1] if isinstance(layer, nn.ConvTranspose2d) else weight.shape[0]
    return weight.numel() // outputs + 1


class _Fit:
    """The normal equations of one layer, summed over images."""

    def __init__(self, full: nn.Module, carved: nn.Module, space: Space, plan: Plan, op: Op, images: int) -> None:
        self._theirs = full.get_submodule(op.module)
        self._layer = carved.get_submodule(op.module)
        self._kept = kept_entries(space, plan, op.weight, op.out_dim)
        self._bias = self._layer.bias if isinstance(self._layer.bias, Tensor) else None
        self._images = images
        self._gram: Tensor | None = None
        self._moment: Tensor | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        with _recording(self._theirs) as self._targets, _recording(self._layer) as self._given:
            yield

    def collect(self) -> None:
        """Add what was recorded, and forget it."""
        layer = self._layer
        for (_, target), (given, _) in zip(self._targets, self._given, strict=True):
            kept = self._kept
            wanted = (
                target if kept is None else target.index_select(_channel_dim(target, layer), kept.to(target.device))
            )
            rows, values = _equations(layer, given, wanted, self._bias is not None)
            step = max(1, len(rows) * self._images // MAX_ROWS)
            rows, values = rows[::step].double(), values[::step].double()
            self._gram = rows.T @ rows if self._gram is None else self._gram + rows.T @ rows
            self._moment = rows.T @ values if self._moment is None else self._moment + rows.T @ values
        self._targets, self._given = [], []

    def solve(self, ridge: float) -> None:
        """Write the weights that fit best, pulled towards the old ones; keep these where there is no solution."""
        if self._gram is None or self._moment is None:
            return
        old = _as_matrix(self._layer, self._bias)
        strength = ridge * self._gram.diagonal().mean()
        eye = torch.eye(len(self._gram), dtype=self._gram.dtype, device=self._gram.device)
        solved = torch.linalg.solve(self._gram + strength * eye, self._moment + strength * old)
        if torch.isfinite(solved).all():
            _write_matrix(self._layer, self._bias, solved)


@contextmanager
def _recording(layer: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    calls: list[tuple[Tensor, Tensor]] = []

    def hook(part: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((args[0].clone(), output.clone()))

    handle = layer.register_forward_hook(hook)
    try:
        yield calls
    finally:
        handle.remove()


def _channel_dim(tensor: Tensor, layer: nn.Module) -> int:
    return tensor.ndim - 1 if isinstance(layer, nn.Linear) else 1


def _equations(layer: nn.Module, given: Tensor, wanted: Tensor, has_bias: bool) -> tuple[Tensor, Tensor]:
    """Rows of inputs (positions, columns) and wanted outputs (positions, channels)."""
    if isinstance(layer, nn.Linear):
        rows, values = given.flatten(0, -2), wanted.flatten(0, -2)
    else:
        rows = _patches(layer, given)
        values = wanted.permute(0, 2, 3, 1).flatten(0, 2)
    if has_bias:
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
    return rows, values


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

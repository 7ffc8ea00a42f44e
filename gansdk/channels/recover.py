"""Layer-wise least squares: weights of a carved network that best reproduce the full one's feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
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
MAX_ROWS = 20_000
"""Positions per image set that enter one fit; more change nothing but the time."""


@torch.no_grad()
def least_squares(
    full: nn.Module, carved: nn.Module, space: Space, plan: Plan, images: Sequence[Tensor], *, ridge: float = RIDGE
) -> int:
    """Refit the dense layers of `carved` in place, in execution order; returns how many were refitted.

    Every layer is fitted on what the already refitted student feeds it, to what the full network's layer
    gives on the same images (before any norm, for the channels kept). `images`: (N, C, H, W) each.
    """
    refitted = 0
    done: set[str] = set()
    removed = space.removed(plan)
    for op in space.ops:
        if is_within(op.weight, removed):
            continue
        layer = carved.get_submodule(op.module)
        if op.weight in done or op.in_dim is None or not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            continue
        done.add(op.weight)
        if _columns(layer) <= MAX_COLUMNS and _is_reached(space, plan, op, refitted):
            _refit(full, carved, space, plan, op, images, ridge)
            refitted += 1
    return refitted


def _is_reached(space: Space, plan: Plan, op: Op, refitted: int) -> bool:
    """Whether anything in front of the layer has changed."""
    return refitted > 0 or kept_entries(space, plan, op.weight, op.in_dim or 0) is not None


def _columns(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    outputs = weight.shape[1] if isinstance(layer, nn.ConvTranspose2d) else weight.shape[0]
    return weight.numel() // outputs + 1


def _refit(
    full: nn.Module, carved: nn.Module, space: Space, plan: Plan, op: Op, images: Sequence[Tensor], ridge: float
) -> None:
    layer = carved.get_submodule(op.module)
    kept = kept_entries(space, plan, op.weight, op.out_dim)
    bias = layer.bias if isinstance(layer.bias, Tensor) else None
    gram: Tensor | None = None
    moment: Tensor | None = None
    for x in images:
        with _recording(full.get_submodule(op.module)) as theirs, _recording(layer) as ours:
            full(x)
            carved(x)
        for (_, target), (given, _) in zip(theirs, ours, strict=True):
            wanted = (
                target if kept is None else target.index_select(_channel_dim(target, layer), kept.to(target.device))
            )
            rows, values = _equations(layer, given, wanted, bias is not None)
            step = max(1, len(rows) * len(images) // MAX_ROWS)
            rows, values = rows[::step].double(), values[::step].double()
            gram = rows.T @ rows if gram is None else gram + rows.T @ rows
            moment = rows.T @ values if moment is None else moment + rows.T @ values
    if gram is None or moment is None:
        return
    old = _as_matrix(layer, bias)
    strength = ridge * gram.diagonal().mean()
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solved = torch.linalg.solve(gram + strength * eye, moment + strength * old)
    if torch.isfinite(solved).all():
        _write_matrix(layer, bias, solved)


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

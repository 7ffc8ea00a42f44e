"""Beneath a forward pass that is only looked at: light rules for the meta device, and a count of multiplications."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


class LightMeta(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's class has no annotations
    """Convolutions, norms, arithmetic and reflection padding on the meta device without PyTorch's rules for them.

    The first use of those imports its compiler or sympy, which takes longer than a forward pass. Other operators keep
    PyTorch's own rules.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch else wraps the method below in something that imports the compiler too."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        light = LIGHT.get(func)
        # Whole numbers and scalars on the left have rules of promotion that are better left to PyTorch.
        if light is None or kwargs or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return func(*args, **(kwargs or {}))
        return light(*args) if args[0].device.type == "meta" else func(*args)


class ProductCounter(LightMeta):  # type: ignore[no-untyped-call]  # as above
    """Adds up the MACs of convolutions and matrix products, by PyTorch's own formulas, in `macs`.

    It sees the kernels beneath attention, einsum, recurrent layers and scripted functions, so nothing has to be
    known about the function that called them. Element-wise work counts nothing, as everywhere in this package.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        formula = FORMULAS.get(packet) or flop_registry.get(packet)
        if formula is None and torch.is_inference_mode_enabled():
            # Inference mode leaves composite operators whole, but it is their parts that have formulas.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if formula is not None:
            self.macs += int(formula(*args, **kwargs, out_val=result)) // 2
        return result


def _recurrent(x: Tensor, from_input: Tensor, from_state: Tensor, *rest: Any, **options: Any) -> int:
    """One layer in one direction over x: (T, N, inputs), both matrices used once for every step."""
    return 2 * x.shape[0] * x.shape[1] * (from_input.numel() + from_state.numel())


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Instance norms arrive here as well, with their images laid along the channels."""
    channels = x.shape[1]
    for tensor in (weight, bias, mean, var):
        if tensor is not None and tensor.shape != (channels,):
            raise RuntimeError(f"a norm of {tuple(tensor.shape)} was given {channels} channels")
    return _alike(x), x.new_empty(channels), x.new_empty(channels)


def _pointwise(x: Tensor, *options: Any) -> Tensor:
    return _alike(x)


def _alike(x: Tensor) -> Tensor:
    """As `torch.empty_like`, whose own rule is another of those that import sympy."""
    return x.new_empty(x.shape) if x.is_contiguous() else torch.empty_like(x)


def _arithmetic(x: Tensor, other: Tensor | float) -> Tensor:
    if not isinstance(other, Tensor):
        return x.new_empty(x.shape, dtype=torch.result_type(x, other))
    try:
        shape = np.broadcast_shapes(x.shape, other.shape)
    except ValueError as error:
        raise RuntimeError(str(error)) from error
    return x.new_empty(shape, dtype=torch.result_type(x, other))


def _reflected(x: Tensor, padding: list[int]) -> Tensor:
    """Padding (left, right, top, bottom) of (..., H, W)."""
    left, right, top, bottom = padding
    height, width = x.shape[-2:]
    if max(left, right) >= width or max(top, bottom) >= height:
        raise RuntimeError(f"reflection padding {padding} must be below the sides {height}x{width}")
    return x.new_empty((*x.shape[:-2], height + top + bottom, width + left + right))


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """(N, C, *sides), whatever the number of sides; one number may stand for all sides."""
    channels_in, channels_out = weight.shape[1] * groups, weight.shape[0]
    if transposed:
        channels_in, channels_out = channels_out, channels_in
    biased = bias is None or (bias.shape == (channels_out,) and bias.dtype == x.dtype)
    if (
        x.ndim != weight.ndim
        or x.shape[1] != channels_in
        or channels_out % groups
        or weight.dtype != x.dtype
        or not biased
    ):
        shapes = [tuple(tensor.shape) for tensor in (x, weight, bias) if tensor is not None]
        raise RuntimeError(f"a convolution in {groups} groups was given {shapes}")
    sides = []
    for index, (side, kernel) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True)):
        step, pad, spread, more = (o[min(index, len(o) - 1)] for o in (stride, padding, dilation, output_padding))
        reach = spread * (kernel - 1)
        if transposed:
            sides.append((side - 1) * step - 2 * pad + reach + more + 1)
        else:
            sides.append((side + 2 * pad - reach - 1) // step + 1)
    if min(sides) < 1:
        raise RuntimeError(f"a convolution of {tuple(x.shape)} by {tuple(weight.shape)} leaves nothing")
    return x.new_empty((x.shape[0], channels_out, *sides))


def _repeated(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """Instance norms repeat their scales for every image."""
    if len(repeats) < x.ndim:
        raise RuntimeError(f"{tuple(x.shape)} cannot be repeated {tuple(repeats)} times: one number per dimension")
    shape = (*(1,) * (len(repeats) - x.ndim), *x.shape)
    return x.new_empty([side * times for side, times in zip(shape, repeats, strict=True)])


# On a CPU a recurrent layer is one kernel, which PyTorch has no formula for.
FORMULAS: dict[Any, Callable[..., int]] = {aten.mkldnn_rnn_layer: _recurrent}

POINTWISE = "tanh sigmoid relu leaky_relu elu silu gelu hardtanh exp sqrt rsqrt neg abs".split()

LIGHT: dict[Any, Callable[..., Any]] = {
    **{getattr(aten, name).default: _pointwise for name in POINTWISE},
    aten.native_batch_norm.default: _batch_norm,
    aten.reflection_pad2d.default: _reflected,
    aten.convolution.default: _convolution,
    aten.repeat.default: _repeated,
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor), _arithmetic),
}

"""Beneath a forward pass that is only looked at: light rules for the meta device, and a count of multiplications."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


class LightMeta(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's class has no annotations
    """Norms and arithmetic on the meta device without PyTorch's rules for them, whose first use imports its compiler.

    That import takes a second, more than a forward pass. Other operators keep PyTorch's own rules.
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
    return torch.empty_like(x), x.new_empty(channels), x.new_empty(channels)


def _pointwise(x: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(x)


def _arithmetic(x: Tensor, other: Tensor | float) -> Tensor:
    if not isinstance(other, Tensor):
        return x.new_empty(x.shape, dtype=torch.result_type(x, other))
    shape = torch.broadcast_shapes(x.shape, other.shape)  # type: ignore[no-untyped-call]  # PyTorch's own
    return x.new_empty(shape, dtype=torch.result_type(x, other))


# On a CPU a recurrent layer is one kernel, which PyTorch has no formula for.
FORMULAS: dict[Any, Callable[..., int]] = {aten.mkldnn_rnn_layer: _recurrent}

POINTWISE = "tanh sigmoid relu leaky_relu elu silu gelu hardtanh exp sqrt rsqrt neg abs".split()

LIGHT: dict[Any, Callable[..., Any]] = {
    **{getattr(aten, name).default: _pointwise for name in POINTWISE},
    aten.native_batch_norm.default: _batch_norm,
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor), _arithmetic),
}

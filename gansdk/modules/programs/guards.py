"""What a traced program's operators are asked before they run: torch itself trusts these arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]


def guarded(function: Function) -> Function:
    """The function that runs in the place of an operator; its errors are ValueErrors."""
    if not isinstance(function, torch._ops.OpOverload):
        return function
    name = function._schema.name.removeprefix("aten::")
    if name in ("div", "div_") and not function._overloadname.endswith("_mode"):
        return function  # gives fractions
    guard = _GUARDS.get(name) or _GUARDS.get(name.removesuffix("_"))
    return guard(function) if guard else function


def _zeros(function: Function) -> Function:
    """Memory that nobody has written holds whatever was there before."""
    dense = _dense(function)

    def made(*args: Any, **named: Any) -> Any:
        return dense(*args, **named).zero_()

    return made


def _dense(function: Function) -> Function:
    """Complex numbers would take twice the memory that sizes are bounded for."""

    def made(*args: Any, **named: Any) -> Any:
        dtype = named.get("dtype")
        if dtype is not None and dtype.is_complex:
            raise ValueError("it makes a tensor of complex numbers")
        return function(*args, **named)

    return made


def _normalised(function: Function) -> Function:
    """Statistics and weights of a norm are one number for each channel."""

    def normalise(
        input: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        *rest: Any,
        **named: Any,
    ) -> Any:
        parts = (weight, bias, running_mean, running_var)
        if input.ndim < 2 or any(part is not None and part.shape != input.shape[1:2] for part in parts):
            raise ValueError("a norm has other statistics or weights than one for each channel")
        if (running_mean is None) != (running_var is None):
            raise ValueError("a norm has a running mean or variance without the other")
        return function(input, *parts, *rest, **named)

    return normalise


def _divided(function: Function) -> Function:
    """The processor stops at whole numbers divided by 0, and at the least one divided by -1."""

    def divide(*args: Any, **named: Any) -> Any:
        values = [*args, *named.values()]
        if not any(_is_fractional(value) for value in values[:2]) and _is_dangerous(values[1]):
            raise ValueError("it divides whole numbers by 0 or -1")
        return function(*args, **named)

    return divide


def _is_fractional(value: Any) -> bool:
    return value.dtype.is_floating_point if isinstance(value, Tensor) else isinstance(value, float)


def _is_dangerous(divisor: Any) -> bool:
    if isinstance(divisor, Tensor):
        return bool(((divisor == 0) | (divisor == -1)).any())
    return divisor in (0, -1)


def _weight_normalised(function: Function) -> Function:
    """The lengths are one number for each slice along a dimension."""

    def normalise(v: Tensor, g: Tensor, dim: int = 0) -> Any:
        if not 0 <= dim < v.ndim or g.dtype != v.dtype:
            raise ValueError("a normalised weight has lengths of another kind")
        if g.shape != tuple(size if place == dim else 1 for place, size in enumerate(v.shape)):
            raise ValueError("a normalised weight has another number of lengths than of slices")
        return function(v, g, dim)

    return normalise


def _sampled(function: Function) -> Function:
    """With a mode that there is not, nothing would be written."""

    def sample(input: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Any:
        if interpolation_mode not in (0, 1, 2) or padding_mode not in (0, 1, 2):
            raise ValueError("it samples a grid in an unknown mode")
        return function(input, grid, interpolation_mode, padding_mode, align_corners)

    return sample


def _recurrent(gates: int) -> Callable[[Function], Function]:
    """A recurrent layer whose weights and states are of its own sizes."""

    def guard(function: Function) -> Function:
        def run(
            input: Tensor,
            hx: Any,
            params: Sequence[Tensor],
            has_biases: bool,
            num_layers: int,
            dropout: float,
            train: bool,
            bidirectional: bool,
            batch_first: bool,
        ) -> Any:
            states = [hx] if isinstance(hx, Tensor) else list(hx)
            ways = 2 if bidirectional else 1
            expected = _sizes_of_weights(gates, input, states[0], num_layers, ways, has_biases)
            batch = input.shape[0 if batch_first else 1]
            state = (num_layers * ways, batch, states[0].shape[-1])
            if [tuple(part.shape) for part in params] != expected or any(part.shape != state for part in states):
                raise ValueError("a recurrent layer has weights or states of other sizes than its own")
            return function(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)

        return run

    return guard


def _sizes_of_weights(
    gates: int, input: Tensor, state: Tensor, layers: int, ways: int, biases: bool
) -> list[tuple[int, ...]]:
    if input.ndim != 3 or state.ndim != 3 or not 1 <= layers <= 64:
        raise ValueError("a recurrent layer runs on something other than sequences")
    hidden = state.shape[-1]
    rows = gates * hidden
    sizes: list[tuple[int, ...]] = []
    for layer in range(layers):
        width = hidden * ways if layer else input.shape[-1]
        sizes += [(rows, width), (rows, hidden), *([(rows,), (rows,)] if biases else [])] * ways
    return sizes


_GUARDS: dict[str, Callable[[Function], Function]] = {
    **dict.fromkeys(("empty", "empty_like", "new_empty"), _zeros),
    **dict.fromkeys(
        (
            *("zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones", "full", "full_like", "new_full"),
            *("arange", "linspace", "eye", "scalar_tensor", "rand", "rand_like", "randn", "randn_like"),
        ),
        _dense,
    ),
    **dict.fromkeys(("batch_norm", "instance_norm"), _normalised),
    **dict.fromkeys(("div", "floor_divide", "remainder", "fmod"), _divided),
    **dict.fromkeys(("_weight_norm", "_weight_norm_interface"), _weight_normalised),
    "grid_sampler": _sampled,
    "lstm": _recurrent(4),
    "gru": _recurrent(3),
    **dict.fromkeys(("rnn_tanh", "rnn_relu"), _recurrent(1)),
}

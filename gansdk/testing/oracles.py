"""Independent ways to get what the channel code claims: other counters, and removal without removing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from gansdk.channels.groups import Plan, Space
from gansdk.modules.fold import copy_module


def zero_consumers(module: nn.Module, space: Space, plan: Plan) -> nn.Module:
    """A copy of `module` at full width in which no layer reads a channel that the plan drops.

    The input columns of dense convolutions and linear layers are zeroed; producers stay as they are. Behind
    an affine norm a zeroed producer still sends a constant, so zeroing filters is no oracle of carving.
    """
    zeroed = copy_module(module)
    weights = dict(zeroed.named_parameters())
    with torch.no_grad():
        for op in space.ops:
            if op.in_dim is not None:
                columns = dropped_entries(space, plan, op.weight, op.in_dim)
                weights[op.weight].index_fill_(op.in_dim, torch.tensor(columns, dtype=torch.int64), 0.0)
    return zeroed


def dropped_entries(space: Space, plan: Plan, tensor: str, dim: int) -> list[int]:
    """Indices of `tensor` along `dim` that belong to channels the plan drops."""
    return [
        axis.start + channel * axis.unit + offset
        for group, axis in space.axes_of.get(tensor, {}).get(dim, ())
        for channel in sorted(set(range(group.size)) - set(plan.get(group.name, range(group.size))))
        for offset in range(axis.unit)
    ]


def measured_macs(module: nn.Module, x: Tensor) -> int:
    """MACs of one forward pass on the batch `x`, counted by PyTorch's own FlopCounterMode."""
    counter = FlopCounterMode(display=False)
    if any(isinstance(part, (nn.RNNBase, nn.MultiheadAttention)) for part in module.modules()):
        # On a CPU each of these is one kernel that the counter does not know; elsewhere it is matrix products.
        module, x = copy_module(module).to("meta"), x.to("meta")
    with torch.no_grad(), counter:
        module(x)
    return int(counter.get_total_flops()) // 2


def convolution_macs(module: nn.Module, x: Tensor) -> int:
    """MACs of the convolutions and linear layers of one forward pass, counted by fvcore.

    fvcore counts element-wise operations as well and misses others; only these two kinds are comparable.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses deprecated parts of PyTorch, which warn of every Python number
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(module, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        counts: Mapping[str, float] = analysis.by_operator()
    return int(sum(counts.get(name, 0) for name in ("conv", "linear")))


def measured_params(module: nn.Module) -> int:
    """Elements of all parameters; shared ones count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def measured_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers; shared ones count once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def outputs_of(result: Any) -> tuple[Tensor, ...]:
    """All tensors of a generator's output, in order; it may be a tuple or a dictionary."""
    return tuple(leaf for leaf in tree_iter(result) if isinstance(leaf, Tensor))


def relative_error(found: Any, expected: Any) -> float:
    """Largest deviation of two outputs of the same shape, relative to the largest expected value."""
    pairs = zip(outputs_of(found), outputs_of(expected), strict=True)
    return max(float(((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).detach()) for a, b in pairs)


def spread(result: Any) -> float:
    """The smallest standard deviation among the outputs: near zero, equality of outputs proves nothing."""
    return min(float(tensor.detach().std()) for tensor in outputs_of(result))


def saturation(result: Any) -> float:
    """The largest share of values within 0.1 % of the largest one in size: near one, a tanh hides differences."""
    return max(float((tensor.abs() > 0.999 * tensor.abs().max()).float().mean()) for tensor in outputs_of(result))

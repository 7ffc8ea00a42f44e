"""Count the multiply-accumulates of all that runs, operators without a rule included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def _recurrent(x: Tensor, from_input: Tensor, from_state: Tensor, *rest: Any, **options: Any) -> int:
    """One layer in one direction over x: (T, N, inputs), both matrices used once for every step."""
    return 2 * x.shape[0] * x.shape[1] * (from_input.numel() + from_state.numel())


# On a CPU a recurrent layer is one kernel, which PyTorch has no formula for.
FORMULAS: dict[Any, Callable[..., int]] = {torch.ops.aten.mkldnn_rnn_layer: _recurrent}


class ProductCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's class has no annotations
    """Adds up the MACs of convolutions and matrix products, by PyTorch's own formulas, in `macs`.

    It sees the kernels beneath attention, einsum, recurrent layers and scripted functions, so nothing has to be
    known about the function that called them. Element-wise work counts nothing, as everywhere in this package.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
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
        result = func(*args, **kwargs)
        if formula is not None:
            self.macs += int(formula(*args, **kwargs, out_val=result)) // 2
        return result

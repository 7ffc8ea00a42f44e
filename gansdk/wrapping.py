"""Checks of a module that was wrapped by hand, and the choice of taps for one that names none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from gansdk.channels.fold import fold
from gansdk.contracts import Contract
from gansdk.errors import ContractError
from gansdk.toolkit import taps as tapping

TAPS = 4
"""How many feature maps are chosen where none are named: the papers compare three or four."""


def check_wrapped(net: nn.Module, contract: Contract, taps: Mapping[str, str] | None) -> dict[str, str]:
    """The taps of a wrapped module, after one forward pass that proves its contract.

    Raises:
        ContractError: the module does not map (1, channels_in, H, W) to (1, channels_out, scale H, scale W).
    """
    if not isinstance(net, nn.Module):
        raise ContractError(f"gansdk.wrap takes a torch.nn.Module, but got {type(net).__name__}.")
    for tap, path in (taps or {}).items():
        tapping.submodule(net, path, tap)
    module, _ = fold(net)
    module.eval()
    shapes = _feature_shapes(module, contract)
    return dict(taps) if taps is not None else _spread(module, shapes)


def _feature_shapes(module: nn.Module, contract: Contract) -> dict[str, int]:
    """Path -> number of calls of every submodule that gives one feature map, in order of execution."""
    calls: dict[str, int] = {}

    def watch(path: str) -> Callable[[nn.Module, object, object], None]:
        def hook(part: nn.Module, args: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                calls[path] = calls.get(path, 0) + 1

        return hook

    handles = [part.register_forward_hook(watch(path)) for path, part in module.named_modules() if path]
    try:
        with torch.no_grad():
            output = module(torch.zeros(contract.example_shape))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ContractError(
            f"{type(module).__name__} does not run on {contract.example_shape}, the contract's input: {error}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    height, width = contract.size
    expected = (1, contract.channels_out, height * contract.scale, width * contract.scale)
    if not isinstance(output, Tensor) or tuple(output.shape) != expected:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ContractError(
            f"{type(module).__name__} gives {found} for an input of {contract.example_shape}, but its contract "
            f"promises {expected}. Correct channels_out, scale or size."
        )
    return calls


def _spread(module: nn.Module, calls: Mapping[str, int]) -> dict[str, str]:
    """Up to four submodules along the depth: blocks where there are any, else convolutions."""
    once = [path for path, count in calls.items() if count == 1]
    leaves = sum(not list(part.children()) for part in module.modules())
    blocks = [
        path
        for path in once
        if 1 < sum(not list(part.children()) for part in module.get_submodule(path).modules()) <= leaves // 2
    ]
    layers = [path for path in once if isinstance(module.get_submodule(path), (nn.Conv2d, nn.ConvTranspose2d))][:-1]
    candidates = blocks if len(blocks) >= 2 else layers
    count = min(TAPS, len(candidates))
    chosen = [candidates[round((i + 1) * len(candidates) / count) - 1] for i in range(count)]
    return {f"tap{i + 1}": path for i, path in enumerate(chosen)}

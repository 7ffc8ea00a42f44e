"""Checks of a module that was wrapped by hand, and the choice of taps for one that names none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gansdk.contracts import Contract
from gansdk.errors import ContractError
from gansdk.modules import taps as tapping
from gansdk.modules.fold import fold

TAPS = 4
"""How many feature maps are chosen where none are named: the papers compare three or four."""


def plain_module(net: nn.Module) -> nn.Module:
    """`net` without what DataParallel, DistributedDataParallel or torch.compile put around it.

    Raises:
        ContractError: it is no module, holds TorchScript, or has lazy layers that never ran.
    """
    if not isinstance(net, nn.Module):
        raise ContractError(f"gansdk.wrap takes a torch.nn.Module, but got {type(net).__name__}.")
    while (inner := _inside(net)) is not None:
        net = inner
    kind = type(net).__name__
    if any(isinstance(part, torch.jit.ScriptModule) for part in net.modules()):
        raise ContractError(f"{kind} holds TorchScript, whose channels are fixed. Give the module it was made from.")
    lazy = [name for name, parameter in net.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ContractError(f"{kind} has lazy layers, and {lazy[0]} has no size yet. Run it on an image once.")
    return net


def other_types(net: nn.Module) -> str:
    """The floating-point types of its weights besides float32, in words; "" if there are none."""
    types = {parameter.dtype for parameter in net.parameters() if parameter.is_floating_point()}
    return ", ".join(sorted(map(str, types - {torch.float32})))


def _inside(net: nn.Module) -> nn.Module | None:
    """What a wrapper for speed holds; None for any other module."""
    if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = net.module
    else:
        inner = getattr(net, "_orig_mod", None)  # torch.compile's
    return inner if isinstance(inner, nn.Module) else None


def check_wrapped(net: nn.Module, contract: Contract, taps: Mapping[str, str] | None) -> dict[str, str]:
    """The taps of a wrapped module, after one forward pass that proves its contract.

    Raises:
        ContractError: the module does not map (1, channels_in, H, W) to (1, channels_out, scale H, scale W).
    """
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
        other = other_types(module)
        advice = f". Its weights are {other}, but images are float32: pass net.float()" if other else ""
        raise ContractError(
            f"{type(module).__name__} does not run on {contract.example_shape}, the contract's input: {error}{advice}"
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

"""Generators of no known family: `wrap`, its checks, and the choice of taps where none are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gansdk.contracts import Batch, Contract, Metrics, Route
from gansdk.errors import ContractError
from gansdk.interfaces import Adapter, Generator, Task
from gansdk.modules import taps as tapping
from gansdk.modules.fold import fold
from gansdk.registry.isolation import guarded
from gansdk.text import quoted
from gansdk.toolkit.degradation import shrunk
from gansdk.validation.signatures import fitting

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
        raise ContractError(f"{kind} contains TorchScript, whose channels are fixed. Pass the original module.")
    lazy = [name for name, parameter in net.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ContractError(
            f"{kind} has lazy layers, and {lazy[0]} is not initialized yet. Run the module on an image once."
        )
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
        result = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ContractError(
            f"{type(module).__name__} returns {result} for an input of {contract.example_shape}, but its contract "
            f"states {expected}. Correct channels_out, scale or size."
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


class ReconstructionTask(Task):
    """L1 to the reference in units of the images' range: the task of a generator of no known family."""

    def __init__(self, output_range: tuple[float, float] = (0.0, 1.0)) -> None:
        low, high = output_range
        self._unit = high - low

    def generator_loss(
        self, batch: Batch, fakes: Mapping[Route, Tensor], references: Mapping[Route, Tensor]
    ) -> tuple[Tensor, Metrics]:
        losses = [(fake - references[route]).abs().mean() for route, fake in fakes.items() if route in references]
        return sum(losses, next(iter(fakes.values())).new_zeros(())) / self._unit, {}


class WrappedAdapter(Adapter):
    """The adapter of any module at all: the user's own contract and taps, no family knowledge."""

    name = "wrapped"

    def __init__(self, contract: Contract, taps: Mapping[str, str]) -> None:
        self._contract = contract
        self._taps = dict(taps)

    def accepts(self, module: nn.Module) -> bool:
        return True

    def contract(self, module: nn.Module) -> Contract:
        return self._contract

    def taps(self, module: nn.Module) -> Mapping[str, str]:
        return self._taps

    def task(self, module: nn.Module, *, discriminator: Mapping[str, Tensor] | None = None) -> Task:
        return ReconstructionTask(self._contract.output_range)


class EnlargingAdapter(WrappedAdapter):
    """The adapter of any module that enlarges images, whose inputs can be made from its outputs."""

    capabilities = frozenset({"degrade"})

    def degrade(self, image: Tensor) -> Tensor:
        return shrunk(image, self._contract)


def wrapped_adapter(contract: Contract, taps: Mapping[str, str]) -> WrappedAdapter:
    """The adapter that suits the contract of a module of no known family."""
    kind = EnlargingAdapter if contract.scale * contract.pre_upsampled > 1 else WrappedAdapter
    return kind(contract, taps)


@guarded("wrap")
def wrap(net: nn.Module, *, contract: Contract, taps: Mapping[str, str] | None = None) -> Generator:
    """Make any module a generator that can be compressed: no class to write.

    `taps` maps names of your choice to submodule paths whose outputs feature distillers compare, in
    execution order. Left out, they are chosen along the network's depth.

    Raises:
        ContractError: a tap path does not exist, or the module holds TorchScript or lazy layers that never ran, or does
            not map the contract's input to its output.
    """
    net = plain_module(net)
    if not isinstance(contract, Contract):
        raise ContractError(f"contract={quoted(contract)} must be a gansdk.Contract.")
    taps = fitting(wrap, {"taps": taps})["taps"]
    chosen = check_wrapped(net, contract, taps)
    return Generator(
        module=net,
        contract=contract,
        adapter=wrapped_adapter(contract, chosen),
        taps=chosen,
        source=f"{type(net).__module__}.{type(net).__qualname__}",
    )

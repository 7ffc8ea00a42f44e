"""Read weights without executing them, and recognise whose they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gansdk.contracts import Contract
from gansdk.errors import CheckpointMismatch, InvalidSpec
from gansdk.interfaces import Adapter, Generator, Task, Variant
from gansdk.modules.randomness import seeded
from gansdk.modules.skeletons import hollow
from gansdk.modules.weights import COUNTER
from gansdk.registry.isolation import left_out, mark
from gansdk.registry.origins import is_own, origin_of

MOST_VARIANTS = 64
"""Networks that an adapter may take one state dict for."""


def recognise(state: Mapping[str, Tensor], adapters: Mapping[str, Adapter], source: str = "") -> Generator:
    """Return the generator that fits `state` exactly, in eval mode, float32, on the CPU.

    Every variant of every adapter is built on the meta device and its keys and shapes are compared; sizes come
    from the weights, so any width and depth of a known family is found. `source` is where the weights are from.

    Raises:
        CheckpointMismatch: none fits; the message names the nearest and the first differing keys.
    """
    misfits: list[_Misfit] = []
    for adapter in adapters.values():
        with _asking(adapter, adapters):
            for variant in _variants(adapter, state):
                weights = _as_named_by(variant, state)
                _, differences = _compare(variant, weights)
                if not differences:
                    return _generator(_loaded(variant, weights), adapter, source)
                misfits.append(_Misfit(f"{variant.name} of the adapter '{adapter.name}'", differences))
    raise CheckpointMismatch(_mismatch(state, adapters, misfits, source))


def detect(module: nn.Module, adapters: Mapping[str, Adapter]) -> Generator | None:
    """Return `module` as a generator of a known family, or None.

    A class of an adapter's own is known by type. Anyone else's class is known by its state dict: if that fits a
    variant exactly, the variant's contract and taps serve, and `module` itself is kept and run.
    """
    source = f"{type(module).__module__}.{type(module).__qualname__}"
    for adapter in adapters.values():
        with _asking(adapter, adapters):
            if adapter.accepts(module):
                return _generator(module, adapter, source)
    state = module.state_dict()
    for adapter in adapters.values():
        with _asking(adapter, adapters):
            for variant in _variants(adapter, state):
                reference, differences = _compare(variant, _as_named_by(variant, state))
                if not differences:
                    paths = _paths_as_named_by(variant, module)
                    bound = bound_adapter(adapter, reference)
                    return _generator(module, _like(adapter, _FittedAdapter(bound, reference, module, paths)), source)
    return None


class _FittedAdapter(Adapter):
    """A family's knowledge for somebody else's class, through the family's own network of the same sizes.

    Nothing describes such a class, so `describe` and `build` stay unsupported and students are saved as exports.
    """

    def __init__(self, family: Adapter, reference: nn.Module, module: nn.Module, paths: Mapping[str, str]) -> None:
        self.name = family.name
        self._family = family
        self._reference = reference
        self._kind = type(module)
        self._taps = {tap: paths[path] for tap, path in family.taps(reference).items() if path in paths}
        self._blocks = [paths[path] for path in family.blocks(reference) if path in paths]

    def options(self) -> dict[str, Any]:
        return self._family.options()

    def accepts(self, module: nn.Module) -> bool:
        return isinstance(module, self._kind)

    def contract(self, module: nn.Module) -> Contract:
        return self._family.contract(self._reference)

    def taps(self, module: nn.Module) -> Mapping[str, str]:
        return self._taps

    def blocks(self, module: nn.Module) -> Sequence[str]:
        return self._blocks

    def task(self, module: nn.Module, *, discriminator: Mapping[str, Tensor] | None = None) -> Task:
        return self._family.task(self._reference, discriminator=discriminator)

    def rebuild(self, module: nn.Module, *, width: float = 1.0, deeper: bool = False) -> nn.Module:
        return self._family.rebuild(self._reference, width=width, deeper=deeper)

    def degrade(self, image: Tensor) -> Tensor:
        return self._family.degrade(image)


@dataclass(frozen=True, slots=True)
class _Misfit:
    candidate: str
    differences: list[str]


def _generator(module: nn.Module, adapter: Adapter, source: str) -> Generator:
    bound = bound_adapter(adapter, module)
    return Generator(
        module=module, contract=bound.contract(module), adapter=bound, taps=bound.taps(module), source=source
    )


def bound_adapter(adapter: Adapter, module: nn.Module) -> Adapter:
    """The adapter of that network, which comes from where the family's does."""
    return _like(adapter, adapter.bind(module))


def _like(adapter: Adapter, bound: Adapter) -> Adapter:
    mark(bound, origin_of(adapter))
    return bound


@contextmanager
def _asking(adapter: Adapter, adapters: Mapping[str, Adapter]) -> Iterator[None]:
    """Go on with the next adapter, and a warning, where a plugin's fails; the only one must not."""
    origin, kind = origin_of(adapter), type(adapter)
    of = f"{origin.plugin} {origin.version}" if origin else kind.__module__
    who = f"adapter {(origin.name if origin else kind.__qualname__)!r}"
    with left_out(who, of, is_ours=len(adapters) == 1 or is_own(kind.__module__)):
        yield


def _variants(adapter: Adapter, state: Mapping[str, Tensor]) -> Iterator[Variant]:
    variants = iter(adapter.variants(state))
    yield from islice(variants, MOST_VARIANTS)
    if next(variants, None) is not None:
        raise InvalidSpec(f"it offers more than {MOST_VARIANTS} variants of one state dict")


def _as_named_by(variant: Variant, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {variant.rename(key): tensor for key, tensor in state.items() if key not in variant.ignore}


def _paths_as_named_by(variant: Variant, module: nn.Module) -> dict[str, str]:
    """Submodule path in the variant's network -> path of the same submodule in `module`."""
    return {variant.rename(f"{path}.").removesuffix("."): path for path, _ in module.named_modules()}


def _compare(variant: Variant, weights: Mapping[str, Tensor]) -> tuple[nn.Module, list[str]]:
    """The variant on the meta device, and every difference between its state dict and `weights` in words."""
    # Variants whose keys are not there are guessed whole, so that the nearest can be named.
    network = hollow(variant.build, 2 * len(weights) + 2000, f"the {len(weights):,} tensors of the checkpoint")
    tensors = network.state_dict()
    expected = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    return network, [
        *(
            f"{key} is {shapes[key]} instead of {shape}"
            for key, shape in expected.items()
            if key in shapes and shapes[key] != shape
        ),
        *(
            f"{key} holds {tensor.dtype} values, not floating-point ones"
            for key, tensor in weights.items()
            if key in tensors and tensors[key].is_floating_point() and not tensor.is_floating_point()
        ),
        *(
            f"{key} {shape} is missing"
            for key, shape in expected.items()
            if key not in shapes and not key.endswith(COUNTER)
        ),
        *(f"{key} {shape} is unexpected" for key, shape in shapes.items() if key not in expected),
    ]


def _loaded(variant: Variant, weights: Mapping[str, Tensor]) -> nn.Module:
    # Fresh weights are drawn only to be overwritten; the caller's random numbers must not depend on it.
    with seeded(), torch.device("cpu"):
        network = variant.build().float()
    counters = {key: tensor for key, tensor in network.state_dict().items() if key.endswith(COUNTER)}
    network.load_state_dict({**counters, **weights}, strict=True)
    return network.eval()


def _mismatch(state: Mapping[str, Tensor], adapters: Mapping[str, Adapter], misfits: list[_Misfit], source: str) -> str:
    checkpoint = f"The checkpoint{f' {source!r}' if source else ''} with {len(state)} tensors"
    advice = "Load it into its own network and call gansdk.wrap(net, contract=...)."
    if not misfits:
        keys = ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in list(state.items())[:5])
        families = ", ".join(adapters) or "none"
        return (
            f"{checkpoint} matches no known family (known: {families}). Its first keys are {keys or 'none'}. {advice}"
        )
    nearest = min(misfits, key=lambda misfit: len(misfit.differences))
    differences = nearest.differences
    return (
        f"{checkpoint} matches no known family. The closest is {nearest.candidate}, but {len(differences)} "
        f"key{'s differ' if len(differences) > 1 else ' differs'}: "
        f"{'; '.join(differences[:5])}{'; ...' if len(differences) > 5 else '.'} {advice}"
    )

"""Read feature maps of a module by name, without editing it: for teachers and students alike."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from gansdk.contracts import Observation
from gansdk.errors import ContractError


class _EveryTapSeen(Exception):
    """Ends a forward pass whose remaining layers nobody asked for."""


def select(paths: Mapping[str, str], taps: Sequence[str]) -> dict[str, str]:
    """The paths of the named taps, in the order of `taps`.

    Raises:
        ContractError: a name is none of the taps.
    """
    for tap in taps:
        if tap not in paths:
            offered = ", ".join(paths) or "none"
            raise ContractError(f"The tap {tap!r} does not exist; this generator offers {offered}.")
    return {tap: paths[tap] for tap in taps}


def submodule(module: nn.Module, path: str, tap: str) -> nn.Module:
    """The part of `module` at `path`.

    Raises:
        ContractError: there is none; the message names the nearest paths.
    """
    parts: dict[str, nn.Module] = dict(module.named_modules(remove_duplicate=False))
    if path not in parts:
        near = ", ".join(difflib.get_close_matches(path, parts, n=3, cutoff=0.0))
        raise ContractError(
            f"The tap {tap!r} is at {path!r}, but {type(module).__name__} has no such submodule. Closest: {near}."
        )
    return parts[path]


@contextmanager
def reading(
    module: nn.Module, paths: Mapping[str, str], *, calls: Mapping[str, int] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Collect what the submodules at `paths` (tap -> path) return while the context lasts.

    Each feature map is a copy in the same autograd graph: an in-place layer behind a tap would otherwise
    overwrite what was read. Of a submodule that runs several times, the last output counts. The hooks are
    removed however the context ends.

    With `calls` (tap -> how often it runs in one forward pass, see `count_calls`; more taps do no harm) the
    pass is ended by an exception as soon as every tap is complete; `observe` catches it.

    Raises:
        ContractError: a path does not exist, or a submodule returns something else than one tensor.
    """
    features: dict[str, Tensor] = {}
    outstanding = {tap: calls[tap] for tap in paths} if calls is not None else None

    def hook(tap: str) -> Callable[[nn.Module, Any, Any], None]:
        def read(part: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise ContractError(
                    f"The tap {tap!r} at {paths[tap]!r} returns a {type(output).__name__}, but a tap is the output of "
                    "a submodule that returns one tensor (N, C, H, W). Choose a part inside or behind it."
                )
            features[tap] = output.clone()
            if outstanding is not None:
                outstanding[tap] -= 1
                if not any(left > 0 for left in outstanding.values()):
                    raise _EveryTapSeen

        return read

    with ExitStack() as hooks:
        for tap, path in paths.items():
            hooks.enter_context(submodule(module, path, tap).register_forward_hook(hook(tap)))
        yield features


def count_calls(
    call: Callable[[Tensor], Any], module: nn.Module, x: Tensor, paths: Mapping[str, str]
) -> dict[str, int]:
    """How often each tap's submodule runs in `call(x)`, which is run once and completely."""
    counts = dict.fromkeys(paths, 0)

    def hook(tap: str) -> Callable[..., None]:
        def count(*_: Any) -> None:
            counts[tap] += 1

        return count

    with ExitStack() as hooks:
        for tap, path in paths.items():
            hooks.enter_context(submodule(module, path, tap).register_forward_hook(hook(tap)))
        call(x)
    return counts


def observe(
    call: Callable[[Tensor], Any],
    module: nn.Module,
    x: Tensor,
    paths: Mapping[str, str],
    *,
    image: bool = True,
    calls: Mapping[str, int] | None = None,
) -> Observation:
    """Run `call(x)`, which runs `module` in some form, and return its image and the features at `paths`.

    Without `image`, and with `calls` known, layers behind the last tap do not run; without taps nothing does.

    Raises:
        ContractError: a tap cannot be read or did not run, or the generator returns something else than one tensor.
    """
    if not image and not paths:
        return Observation(None, {})
    with reading(module, paths, calls=None if image else calls) as features:
        try:
            output = call(x)
        except _EveryTapSeen:
            return Observation(None, {tap: features[tap] for tap in paths})
    if silent := [tap for tap in paths if tap not in features]:
        raise ContractError(
            f"The tap {silent[0]!r} at {paths[silent[0]]!r} has no output: that submodule does not run in the forward "
            f"pass of {type(module).__name__}. Choose one that does."
        )
    if not isinstance(output, Tensor):
        raise ContractError(
            f"{type(module).__name__} returns a {type(output).__name__}, but a generator returns one tensor of images "
            f"(N, C, H, W). Wrap it in a module that returns the image alone."
        )
    return Observation(output if image else None, {tap: features[tap] for tap in paths})

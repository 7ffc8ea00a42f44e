"""Find the channel groups of any module by running its own forward once with a label on every channel.

The forward runs on the meta device (no arithmetic, no memory) under a TorchFunctionMode, so Python control
flow, recursion and in-place operations need no special care. Operations with a rule (`operators.py`) carry
labels on; an operation without one freezes what it touches, and says so. Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from gansdk.channels.branches import with_branches, without_branches
from gansdk.channels.elastic import Elastic
from gansdk.channels.groups import Knob, Plan, Space
from gansdk.channels.knobs import with_knobs
from gansdk.channels.tracing.assemble import INPUT_REASON, OUTPUT_REASON, assemble
from gansdk.channels.tracing.labels import Labels, Width, labels_of, set_labels, set_state_name
from gansdk.channels.tracing.operators import apply_rule
from gansdk.channels.tracing.recorder import Recorder, Shapes, tensors_in
from gansdk.errors import ContractError
from gansdk.modules.slots import Slots, keeping_attributes

FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What a forward pass raises on inputs or widths it was not made for."""


class Tracer(Recorder, TorchFunctionMode):
    """The recorder as the mode under which a forward runs."""

    def __init__(self, module: nn.Module, example: Tensor, taps: Mapping[str, str], device: str) -> None:
        Recorder.__init__(self, module, example)
        TorchFunctionMode.__init__(self)
        self.device = device
        self._taps = {path: tap for tap, path in taps.items()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        args, kwargs = tree_map_only(Tensor, self._on_device, (args, kwargs))
        macs_before, ops_before = self.products.macs, len(self.ops)
        result = func(*args, **kwargs)
        macs = self.products.macs - macs_before
        name = getattr(func, "__name__", str(func))
        if isinstance(result, torch.Size):
            return torch.Size([_size_of(args[0], dim, side) for dim, side in enumerate(result)])
        if name == "size":
            dim = int(args[1] if len(args) > 1 else kwargs["dim"])
            return _size_of(args[0], dim % args[0].ndim, result)
        if name == "__setitem__":
            self.freeze(args, f"{self.where()} overwrites a part of it")
        outputs = tensors_in([result])
        if not outputs:
            return result
        fresh = [tensor for tensor in outputs if labels_of(tensor) is None]
        apply_rule(self, name, args, kwargs, result)
        if len(self.ops) > ops_before:
            self.modelled_macs += macs
        for tensor in fresh:
            if labels_of(tensor) is None and getattr(tensor, "_gansdk_origin", None) is None:
                tensor._gansdk_seen = True  # type: ignore[attr-defined]
        return result

    def _on_device(self, tensor: Tensor) -> Tensor:
        """Constants a module keeps outside its state dict follow the trace to its device."""
        return tensor if tensor.device.type == self.device else tensor.to(self.device)

    # Where the forward is.

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the stack of running modules, and look at what each one returns."""

        def enter(part: nn.Module, args: Any) -> None:
            self._stack.append(part)

        def leave(part: nn.Module, args: Any, output: Any) -> None:
            self._left(part, args, output)
            self._stack.pop()

        handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _left(self, part: nn.Module, args: Any, output: Any) -> None:
        outputs = tensors_in([output])
        for tensor in outputs:
            if labels_of(tensor) is None and not hasattr(tensor, "_gansdk_seen"):
                reason = f"'{self._paths.get(part, '')}' ({type(part).__name__}) cannot be traced"
                self.freeze([args], reason)
                tensor._gansdk_origin = f"it comes out of {reason}"  # type: ignore[attr-defined]
        tap = self._taps.get(self._paths.get(part, "-"))
        if tap is not None and outputs:
            tensor = outputs[0]
            labels = labels_of(tensor) or Labels(self.read(tensor, 1), 1)
            self.tap_shapes[tap] = tuple(tensor.shape)
            self.axes[(f"tap:{tap}", labels.dim)] = labels.ids


def trace(
    module: nn.Module,
    example: Tensor,
    taps: Mapping[str, str] | None = None,
    branches: Mapping[str, Sequence[str]] | None = None,
    knobs: Sequence[Knob] = (),
) -> Space:
    """Channel groups, operations and costs of `module` at the size of `example`: (N, C, H, W).

    The module must have plain weights (`fold` it first) and is not changed. Taps (name -> submodule path)
    appear in the space as tensors called "tap:name", so that connectors know their channels. `branches` are
    submodules that may be emptied, as in `Adapter.branches`, and `knobs` widths set together, as in `Adapter.knobs`.

    Raises:
        ContractError: the module cannot run on the example, or a branch or layer of one does not exist.
    """
    slots = Slots(module)
    tracer = _run(module, slots, example, taps or {})
    space = assemble(tracer, module, slots.tensors())
    space = _verified(module, space, example, tracer.output_shapes)
    space = with_branches(space, module, branches or {}, taps or {})
    space = _checked_branches(module, space, example, tracer.output_shapes) if space.branches else space
    return with_knobs(space, module, knobs)


def _run(module: nn.Module, slots: Slots, example: Tensor, taps: Mapping[str, str]) -> Tracer:
    """Trace on the meta device, or for real where the forward looks at values."""
    try:
        return _run_on("meta", module, slots, example, taps)
    except (NotImplementedError, RuntimeError):
        # .item(), boolean indexing and a few kernels have no meta form; one real forward pass has them all.
        pass
    try:
        return _run_on("cpu", module, slots, example, taps)
    except FORWARD_ERRORS as error:
        raise ContractError(
            f"{type(module).__name__} does not run on an input of {tuple(example.shape)}: {error}. Set the contract's "
            "channels and size to those of the generator."
        ) from error


def _run_on(device: str, module: nn.Module, slots: Slots, example: Tensor, taps: Mapping[str, str]) -> Tracer:
    named = {}
    for name, tensor in slots.tensors().items():
        # A view is a new object, so that the mark is never left on the user's tensor.
        named[name] = torch.empty_like(tensor, device="meta") if device == "meta" else tensor.detach().view_as(tensor)
        set_state_name(named[name], name)
    x = torch.empty(example.shape, dtype=example.dtype, device="meta") if device == "meta" else example.detach().clone()
    tracer = Tracer(module, example, taps, device)
    set_labels(x, Labels(tracer.unions.fresh(x.shape[1], INPUT_REASON), 1))
    attributes, marked = keeping_attributes(module), slots.holding(named)
    with torch.no_grad(), attributes, marked, tracer.watching(), tracer, tracer.products:
        output = module(x)
    for tensor in tensors_in([output]):
        tracer.output_shapes.append(tuple(tensor.shape))
        labels = labels_of(tensor)
        if labels is not None:
            tracer.unions.freeze(labels.ids, OUTPUT_REASON, over=INPUT_REASON)
    return tracer


def _verified(module: nn.Module, space: Space, example: Tensor, expected: Shapes) -> Space:
    """Freeze every group at whose smaller widths the forward does not run or changes its output's shape."""

    def shapes(narrow: Iterable[str]) -> Shapes | str:
        keep = {name: tuple(range((space.by_name[name].size + 1) // 2)) for name in narrow}
        return _shapes(module, space, Plan(keep), example)

    names = [group.name for group in space.prunable if group.size > 1]
    # Alternate groups too: two of one size that wrongly count as independent pass when both are narrowed.
    together = (names, names[::2], names[1::2])
    if all(shapes(part) == expected for part in together) or isinstance(shapes([]), str):
        return space
    wrong = {name: shapes([name]) for name in names}
    reasons = {
        name: f"the forward does not run at other widths ({differing})"
        if isinstance(differing, str)
        else "a smaller width changes the shape of the output"
        for name, differing in wrong.items()
        if differing != expected
    } or dict.fromkeys(names, "the forward does not run with several groups narrowed together")
    return replace(
        space,
        groups=tuple(replace(group, frozen=group.frozen or reasons.get(group.name, "")) for group in space.groups),
    )


def _checked_branches(module: nn.Module, space: Space, example: Tensor, expected: Shapes) -> Space:
    """Keep the branches only if the forward runs with all of them empty, and with every second one."""
    names = [group.name for group in space.prunable if group.floor == 0]
    for empty in (names, names[::2], names[1::2]):
        shapes = _shapes(module, space, Plan(dict.fromkeys(empty, ())), example)
        if shapes != expected:
            problem = shapes if isinstance(shapes, str) else "its output changes shape"
            return without_branches(space, f"Branches are never emptied: without them {problem}.")
    return space


def _shapes(module: nn.Module, space: Space, plan: Plan, example: Tensor) -> Shapes | str:
    """Shapes of the outputs under the plan, or in words why the forward does not run."""
    try:
        output = Elastic(module, space).dry_run(plan, example)
    except FORWARD_ERRORS as error:
        return str(error).strip().splitlines()[0]
    return [tuple(tensor.shape) for tensor in tensors_in([output])]


def _size_of(tensor: Tensor, dim: int, side: int) -> Width:
    """A size that remembers whose channels it counts, if it counts channels."""
    width = Width(side)
    labels = labels_of(tensor)
    if labels is not None and labels.dim == dim:
        width.ids = labels.ids
    return width

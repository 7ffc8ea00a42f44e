"""One call of a torch function as rules see it, and what several rules need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_iter

from gansdk.channels.tracing.labels import Labels, set_labels, state_name
from gansdk.channels.tracing.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Call:
    """One intercepted call of a torch function."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    def get(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or by name, as the torch function itself takes it."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    @property
    def x(self) -> Tensor:
        first = self.get(0, "input", self.kwargs.get("x"))
        assert isinstance(first, Tensor)
        return first

    def tensors(self) -> list[Tensor]:
        return [leaf for leaf in tree_iter([self.args, self.kwargs]) if isinstance(leaf, Tensor)]


Rule = Callable[[Recorder, Call], None]


def unknown(recorder: Recorder, call: Call, why: str = "is an operator without a rule") -> None:
    """Freeze what the call reads, and what is read of its result, with a reason in words."""
    reason = f"'{call.name}' in {recorder.where()} {why}"
    recorder.freeze([call.args, call.kwargs], f"{reason} and reads it")
    for tensor in tree_iter(call.result):
        if isinstance(tensor, Tensor):
            set_labels(tensor, None)
            tensor._gansdk_origin = f"{reason} and makes it"  # type: ignore[attr-defined]


def state_labels(recorder: Recorder, tensor: Tensor) -> Labels | None:
    """Of a parameter used outside a layer, if only one of its dimensions is wider than one."""
    wide = [dim for dim, side in enumerate(tensor.shape) if side > 1]
    if state_name(tensor) is None or len(wide) != 1:
        return None
    ids = recorder.axes.get((str(state_name(tensor)), wide[0]))
    ids = recorder.unions.fresh(tensor.shape[wide[0]]) if ids is None else ids
    recorder.record_axis(tensor, wide[0], ids)
    return Labels(ids, wide[0])

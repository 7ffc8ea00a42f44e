"""What a trace records: which tensor axes, attributes and operations carry which channel labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from gansdk.channels.groups import Op
from gansdk.channels.tracing.labels import Ids, Labels, Unions, labels_of, set_labels, state_name
from gansdk.modules.meta_device import ProductCounter

Shapes = list[tuple[int, ...]]


class Recorder:
    """Collects, while a forward runs, which tensor axes carry which labels. Rules call its methods."""

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        self.module = module
        self.batch = example.shape[0]
        self.unions = Unions()
        self.axes: dict[tuple[str, int], Ids] = {}
        self.attributes: dict[tuple[str, str], Ids] = {}
        self.ops: list[Op] = []
        self.norms: list[tuple[int, Ids, str]] = []
        self.products = ProductCounter()
        self.modelled_macs = 0
        self.notes: list[str] = []
        self.tap_shapes: dict[str, tuple[int, ...]] = {}
        self.output_shapes: Shapes = []
        self._paths = {part: path for path, part in module.named_modules()}
        self._stack: list[nn.Module] = []

    @property
    def fixed_macs(self) -> int:
        """MACs of one image that `ops` do not hold: they read frozen channels only, so no plan changes them."""
        return (self.products.macs - self.modelled_macs) // self.batch

    @property
    def here(self) -> str:
        """Path of the module that is running."""
        return self._paths.get(self._stack[-1], "") if self._stack else ""

    def read(self, tensor: Tensor, dim: int) -> Ids:
        """The labels of `tensor` along `dim`; fresh frozen ones if it has none there."""
        labels = labels_of(tensor)
        if labels is not None and labels.dim == dim:
            return labels.ids
        origin = getattr(tensor, "_gansdk_origin", None)
        if labels is not None:
            self.unions.freeze(labels.ids, f"its channels are not where {self.where()} expects them")
        elif origin is None and not hasattr(tensor, "_gansdk_seen") and state_name(tensor) is None:
            self._freeze_all(
                f"{self.where()} received a tensor that no traced operation created; register constants as buffers"
            )
        ids = self.unions.fresh(
            tensor.shape[dim], origin or f"it reads an argument that {self.where()} received from outside"
        )
        set_labels(tensor, Labels(ids, dim))
        return ids

    def where(self) -> str:
        """The module that is running, in words."""
        return f"'{self.here}'" if self.here else "the generator's own forward"

    def record_axis(self, tensor: Tensor | None, dim: int, ids: Ids) -> None:
        """`tensor`, if it is a parameter or buffer, carries `ids` along `dim`; a second use is united."""
        name = state_name(tensor)
        if name is None:
            return
        recorded = self.axes.setdefault((name, dim), ids)
        if recorded is not ids:
            self.unions.unite(recorded, ids)

    def record_attribute(self, path: str, name: str, ids: Ids) -> None:
        """The number `name` that a module keeps counts `ids`; ignored if it does not, or has no such number.

        Properties are ignored too: they follow by themselves.
        """
        owner = self.module.get_submodule(path)
        is_plain = not isinstance(getattr(type(owner), name, None), property)
        if is_plain and getattr(owner, name, None) == len(ids):
            recorded = self.attributes.setdefault((path, name), ids)
            if recorded is not ids:
                self.unions.unite(recorded, ids)

    def freeze(self, args: Iterable[Any], reason: str) -> None:
        """Freeze the labels of every tensor among `args`."""
        for tensor in tensors_in(args):
            labels = labels_of(tensor)
            if labels is not None:
                self.unions.freeze(labels.ids, reason)

    def _freeze_all(self, reason: str) -> None:
        self.unions.freeze(np.arange(len(self.unions), dtype=np.int64), reason)


def tensors_in(tree: Iterable[Any]) -> list[Tensor]:
    """The tensors of nested containers."""
    return [leaf for leaf in tree_iter(list(tree)) if isinstance(leaf, Tensor)]

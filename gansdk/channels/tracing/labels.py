"""Channel labels while they are being found: a union-find over integer ids, and what is known of each tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Labels:
    """One label per channel of a tensor: `ids[i]` belongs to index i of dimension `dim`."""

    ids: Ids
    dim: int

    def moved(self, dim: int) -> Labels:
        return Labels(self.ids, dim)


class Width(int):
    """A size read from a tensor during the trace, so that code which follows it is known to fit any width."""

    parts: int = 1
    """It is this part of the size that was read."""
    ids: Ids | None = None
    """The channels that were counted; None for sizes that count none."""

    def __floordiv__(self, other: Any) -> Any:
        result = int(self) // other
        if isinstance(other, int) and not isinstance(other, Width) and int(self) % other == 0:
            width = Width(result)
            width.parts = self.parts * other
            width.ids = self.ids
            return width
        return result


class Unions:
    """Union-find over label ids; each class may carry the reason in words why it is frozen."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reason: dict[int, str] = {}

    def fresh(self, count: int, frozen: str = "") -> Ids:
        """`count` new ids; with a reason they are frozen from the start."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        ids = np.arange(start, start + count, dtype=np.int64)
        if frozen:
            self.freeze(ids, frozen)
        return ids

    def __len__(self) -> int:
        return len(self._parent)

    def find(self, index: int) -> int:
        parent = self._parent
        root = index
        while parent[root] != root:
            root = parent[root]
        while parent[index] != root:
            parent[index], index = root, parent[index]
        return root

    def unite(self, left: Ids, right: Ids) -> None:
        """Make `left[i]` and `right[i]` live or die together, for every i."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            low, high = sorted((self.find(a), self.find(b)))
            if low != high:
                self._parent[high] = low
                reason = self._reason.pop(high, "")
                if reason:
                    self._reason.setdefault(low, reason)

    def unite_rows(self, ids: Ids, row: int) -> Ids:
        """Unite every `row` consecutive ids; returns one id for each row."""
        table = ids.reshape(-1, row)
        for column in range(1, row):
            self.unite(table[:, 0], table[:, column])
        return np.ascontiguousarray(table[:, 0])

    def freeze(self, ids: Ids, reason: str, *, over: str = "") -> None:
        """Forbid the removal of these channels; the first reason given is kept, unless it is `over`."""
        for index in ids.tolist():
            root = self.find(index)
            if self.reason(root) in ("", over):
                self._reason[root] = reason

    def roots(self, ids: Ids) -> list[int]:
        return [self.find(index) for index in ids.tolist()]

    def reason(self, root: int) -> str:
        return self._reason.get(root, "")


def labels_of(tensor: Tensor) -> Labels | None:
    """The labels a traced operation left on the tensor."""
    labels = getattr(tensor, "_gansdk_labels", None)
    return labels if isinstance(labels, Labels) else None


def set_labels(tensor: Tensor, labels: Labels | None) -> None:
    """Leave labels on a tensor for the operations that read it next."""
    tensor._gansdk_labels = labels  # type: ignore[attr-defined]


def state_name(tensor: object) -> str | None:
    """The state-dict name of a parameter or buffer under trace, None for any other tensor."""
    name = getattr(tensor, "_gansdk_name", None)
    return name if isinstance(name, str) else None


def set_state_name(tensor: Tensor, name: str) -> None:
    """Mark a tensor as the parameter or buffer `name` of the module under trace."""
    tensor._gansdk_name = name  # type: ignore[attr-defined]

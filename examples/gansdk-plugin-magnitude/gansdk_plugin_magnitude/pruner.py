"""The pruner `magnitude`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gansdk.budget.cost import Limits
from gansdk.channels.groups import Plan, Space
from gansdk.channels.select import select
from gansdk.contracts import MAIN
from gansdk.interfaces import Pruner, Run, Student


class Magnitude(Pruner):
    """Keeps the channels whose readers have the largest weights. Looks at no image and trains nothing."""

    def __init__(self, *, multiple_of: int = 16) -> None:
        self.multiple_of = multiple_of

    def search(self, student: Student, limits: Limits, run: Run) -> Plan:
        scores = reader_norms(student.space, student.networks()[MAIN].state_dict())
        return select(student.space, scores, limits, cost=student.cost, multiple_of=self.multiple_of)


def reader_norms(space: Space, state: Mapping[str, Tensor]) -> dict[str, NDArray[np.float64]]:
    """Group -> (size,): L2 norm over all weights that read each channel."""
    squares = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in space.prunable}
    readers = {(op.weight, op.in_dim) for op in space.ops if op.in_dim is not None}  # once, however often called
    for name, dim in sorted(readers):
        weight = state[name].detach().cpu().double()
        columns = weight.square().movedim(dim, 0).flatten(1).sum(1)
        for group, axis in space.axes_of.get(name, {}).get(dim, ()):
            if group.name in squares:
                own = columns[axis.start : axis.start + group.size * axis.unit]
                squares[group.name] += own.reshape(group.size, axis.unit).sum(1)
    return {name: square.sqrt().numpy() for name, square in squares.items()}

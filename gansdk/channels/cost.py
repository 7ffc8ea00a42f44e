"""Exact MACs, parameters and bytes of any plan in closed form: no forward pass, microseconds a query."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gansdk.budget.cost import Cost
from gansdk.channels.groups import Plan, Space, is_within

Counts = NDArray[np.int64]


class CostModel:
    """Costs of every plan of one space, for one image at the size of the trace.

    MACs of a convolution are its positions times the elements of its weight, and the elements of any
    tensor are a product of one linear function of the widths per dimension; all tensors are evaluated
    in two matrix-vector products.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._index = {group.name: i for i, group in enumerate(space.groups)}
        self._full = np.array([group.size for group in space.groups], dtype=np.int64)
        self._names = [name for name in space.shapes if not name.startswith("tap:")]
        rows = {name: i for i, name in enumerate(self._names)}
        self._fixed, self._constant, self._units = self._linear_forms()
        trainable = np.array([name in space.trainable for name in self._names], dtype=np.int64)
        item = np.array([space.item_bytes[name] for name in self._names], dtype=np.int64)
        true, paper = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
        for op in space.ops:
            true[rows[op.weight]] += op.positions
            paper[rows[op.weight]] += op.paper_positions
        self._weights = np.stack([true, paper, trainable, item])
        self._norm_constant = np.array([norm.positions * norm.constant for norm in space.norms], dtype=np.int64)
        self._norm_units = np.zeros((len(space.norms), len(space.groups)), dtype=np.int64)
        for row, norm in enumerate(space.norms):
            for group, unit in norm.widths:
                self._norm_units[row, self._index[group]] += norm.positions * unit
        self._branch_groups = np.zeros((len(space.branches), len(space.groups)), dtype=np.int64)
        for row, branch in enumerate(space.branches):
            self._branch_groups[row, [self._index[group] for group in branch.groups]] = 1
        self._branch_tensors = self._inside(self._names)
        self._branch_norms = self._inside([norm.module for norm in space.norms])

    def _inside(self, names: list[str]) -> NDArray[np.bool_]:
        """(branches, names): whether a name lies inside the branch."""
        rows = [[is_within(name, (branch.module,)) for name in names] for branch in self.space.branches]
        return np.array(rows, dtype=np.bool_).reshape(len(self.space.branches), len(names))

    def _linear_forms(self) -> tuple[Counts, Counts, Counts]:
        """elements = fixed * prod over two channel dims of (constant + units @ widths)."""
        count, groups = len(self._names), len(self.space.groups)
        fixed = np.ones(count, dtype=np.int64)
        constant = np.ones((2, count), dtype=np.int64)
        units = np.zeros((2, count, groups), dtype=np.int64)
        for row, name in enumerate(self._names):
            tables = self.space.axes_of.get(name, {})
            if len(tables) > 2:
                raise AssertionError(f"{name} has channels on {len(tables)} dimensions")
            slot = 0
            for dim, side in enumerate(self.space.shapes[name]):
                if dim not in tables:
                    fixed[row] *= side
                    continue
                constant[slot, row] = side
                for group, axis in tables[dim]:
                    units[slot, row, self._index[group.name]] += axis.unit
                    constant[slot, row] -= axis.unit * group.size
                slot += 1
        return fixed, constant, units

    def cost(self, plan: Plan | Mapping[str, int]) -> Cost:
        """Cost of a plan, or of widths (group name -> channels kept; groups not named are whole)."""
        widths = self._full.copy()
        if isinstance(plan, Plan):
            for name, channels in plan.items():
                widths[self._index[name]] = len(channels)
        else:
            for name, width in plan.items():
                widths[self._index[name]] = width
        return self.cost_of_widths(widths)

    def cost_of_widths(self, widths: Counts) -> Cost:
        """Cost of the widths of `space.groups`, in that order: (groups,)."""
        sides = self._constant + self._units @ widths
        elements = self._fixed * sides[0] * sides[1]
        normalised = self._norm_units @ widths + self._norm_constant
        gone = self._branch_groups @ widths == 0
        if gone.any():
            elements[self._branch_tensors[gone].any(axis=0)] = 0
            normalised[self._branch_norms[gone].any(axis=0)] = 0
        macs, paper, params, size = (int(total) for total in self._weights @ elements)
        norms = int(normalised.sum())
        fixed = self.space.fixed_macs
        paper = paper + norms + fixed
        return Cost(macs=macs + fixed, paper_macs=paper, params=params, bytes=size, norm_macs=norms)

"""What the keys and shapes of a state dict tell about a network: sides of weights, and inception branches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from gansdk_adapters.networks.inception import KINDS

State = Mapping[str, Tensor]
BRANCH = re.compile(rf"(.+\.({'|'.join(KINDS)})\.)(\d+\.)")
"""At the start of a key: the list of branches, its kind, and the branch in it."""


def side(state: State, key: str, dim: int, default: int) -> int:
    """Side of a weight; the default where it is missing or strange, for the comparison to find."""
    tensor = state.get(key)
    return tensor.shape[dim] if tensor is not None and tensor.ndim == 4 and tensor.shape[dim] > 0 else default


def keys_below(state: State, paths: Iterable[str]) -> frozenset[str]:
    """Return the keys of these submodules."""
    prefixes = tuple(f"{path}." for path in paths)
    return frozenset(key for key in state if key.startswith(prefixes))


@dataclass(frozen=True, slots=True)
class Branches:
    """The inception branches of a state dict, each at the place of its kernel size.

    The networks here keep the places of emptied branches, so that the others keep their keys; in the official code's
    pruned students the others close up.
    """

    kernels: tuple[int, ...]
    """All sizes, ascending; CAT's where there are no branches."""
    places: Mapping[str, str]
    """Path in the file -> path by place, both with a dot behind."""
    middle: Mapping[str, int]
    """Path by place -> middle channels."""

    def row(self, block: str) -> tuple[int, ...]:
        """Return the middle channels of a block's dense branches by kernel, then of its depthwise ones; 0: none."""
        indices = range(len(self.kernels))
        return tuple(self.middle.get(f"{block}.{kind}.{index}.", 0) for kind in KINDS for index in indices)

    def rename(self, key: str) -> str:
        """Return the key with its branch at its place."""
        match = BRANCH.match(key)
        path = match.group() if match else ""
        return self.places.get(path, path) + key[len(path) :]


def read_branches(state: State, first: Mapping[str, str], spatial: Mapping[str, str]) -> Branches:
    """Read the branches; per kind, `first` and `spatial` are the layers with their middle channels and kernel size.

    Branches stay where they are in lists whose kernel sizes are not all there and different: moved, one could hide
    another, and weights that fit no network would pass.
    """
    lists: dict[str, dict[str, int]] = {}
    for match in filter(None, map(BRANCH.match, state)):
        above, kind, branch = match.groups()
        lists.setdefault(above, {})[branch] = side(state, f"{match.group()}{spatial[kind]}.weight", -1, 0)
    kernels = tuple(sorted({size for sizes in lists.values() for size in sizes.values()} - {0})) or (1, 3, 5)
    places: dict[str, str] = {}
    middle: dict[str, int] = {}
    for above, sizes in lists.items():
        told = 0 not in sizes.values() and len(set(sizes.values())) == len(sizes)
        kind = above.split(".")[-2]
        for branch, size in sizes.items():
            place = f"{above}{kernels.index(size)}." if told else above + branch
            places[above + branch] = place
            middle[place] = side(state, f"{above}{branch}{first[kind]}.weight", 0, 1)
    return Branches(kernels, places, middle)

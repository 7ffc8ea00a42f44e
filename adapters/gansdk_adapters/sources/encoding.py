"""Label maps as the channels a generator takes: one-hot, with instance edges, or painted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gansdk.contracts import Contract, Labels
from gansdk.errors import DataError, InvalidOption
from gansdk.text import quoted
from gansdk.toolkit.images import paint_labels, read_ids, to_tensor

Ids = NDArray[np.int32]
"""(H, W) ids of labels or instances."""

UNKNOWN = 255
"""Pixels of no class in COCO-Stuff's files."""

SCANNED = 5000
"""Label maps that are looked through before training; of more, every n-th."""


class Encoding:
    """Label ids to the input of a generator.

    With `contract.labels` the map is one-hot in that order of channels. Ids of pixels without a class,
    `unknown_ids`, share the unknown channel: 255 and the first id beyond the classes (as SPADE has it), if left out.
    Without `contract.labels`, three channels mean that the map is painted in PASCAL VOC's colours
    (`gansdk.toolkit.images.paint_labels`), and any other number C that it is one-hot with C classes.

    Raises:
        InvalidOption: `unknown_ids` for a generator without that channel.
    """

    def __init__(self, contract: Contract, *, unknown_ids: Sequence[int] | None = None) -> None:
        self.labels = contract.labels
        if contract.labels is None and contract.channels_in != 3:
            self.labels = Labels(classes=contract.channels_in)
        self.edges = self.labels is not None and self.labels.edges
        self._range = contract.input_range
        self._unknown = self._unknown_ids(unknown_ids)

    def read(self, path: Path) -> Ids:
        """Return the ids in a file, (H, W).

        Raises:
            DataError: an id that no channel stands for; the message names file, id and classes.
        """
        ids = read_ids(path)
        if self.labels is not None and int(ids.max()) >= self.labels.classes:
            found = np.unique(ids[ids >= self.labels.classes])
            if strange := [i for i in found.tolist() if i not in self._unknown]:
                raise DataError(
                    f"The label map {str(path)!r} has the id {strange[0]}{_more(strange)}, but the generator has "
                    f"{self.labels.classes} classes: ids 0 to {self.labels.classes - 1}{self._beside()}. Correct the "
                    "label maps, or, if the generator has a channel for unknown pixels, list the ids without a class "
                    "in unknown_ids=[...]."
                )
        return ids

    def scan(self, paths: Sequence[Path]) -> None:
        """Look through the label maps before training, at most `SCANNED` of them, evenly spread.

        Raises:
            DataError: as `read`, or a file cannot be read.
        """
        if self.labels is not None:
            for path in paths[:: -(-len(paths) // SCANNED) or 1]:
                self.read(path)

    def tensor(self, ids: Ids, instances: Ids | None, *, zeros: Tensor | None = None) -> Tensor:
        """(H, W) ids -> (channels_in, H, W); one-hot maps are written into `zeros` of that shape, if given."""
        if self.labels is None:
            return to_tensor(paint_labels(ids), self._range)
        one_hot = torch.zeros(self.labels.channels, *ids.shape) if zeros is None else zeros
        # Checked ids beyond the classes are unknown ones; instances cannot be None where edges are wanted.
        known = np.where((ids >= self.labels.classes) | np.isin(ids, self._unknown), self.labels.classes, ids)
        one_hot.scatter_(0, torch.from_numpy(known.astype(np.int64))[None], 1.0)
        if instances is not None and self.edges:
            one_hot[-1] = torch.from_numpy(edges(instances))
        return one_hot

    def describe(self) -> dict[str, Any]:
        """JSON facts."""
        if self.labels is None:
            return {"labels": "painted"}
        return {"labels": "one-hot", "classes": self.labels.classes, "unknown_ids": list(self._unknown)}

    def _unknown_ids(self, ids: Sequence[int] | None) -> tuple[int, ...]:
        if self.labels is None or not self.labels.unknown:
            if ids:
                raise InvalidOption(
                    f"unknown_ids={quoted(list(ids))}, but the generator has no channel for pixels without a class."
                )
            return ()
        if ids is None:
            return tuple(sorted({UNKNOWN, self.labels.classes}))
        return tuple(ids)

    def _beside(self) -> str:
        return f", and {', '.join(map(str, self._unknown))} for pixels without a class" if self._unknown else ""


def edges(instances: Ids) -> NDArray[np.bool_]:
    """(H, W): where an instance id differs from the left, right, upper or lower neighbour (SPADE, section 3).

    Both pixels of a differing pair are marked.
    """
    marked = np.zeros(instances.shape, bool)
    across, down = instances[:, 1:] != instances[:, :-1], instances[1:] != instances[:-1]
    marked[:, 1:] |= across
    marked[:, :-1] |= across
    marked[1:] |= down
    marked[:-1] |= down
    return marked


def _more(ids: list[int]) -> str:
    return f" (and {len(ids) - 1} other)" if len(ids) > 1 else ""

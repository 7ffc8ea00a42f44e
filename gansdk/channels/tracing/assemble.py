"""From labels to data: turn what one traced forward recorded into channel groups with contiguous axes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import groupby, pairwise

from torch import Tensor, nn

from gansdk.channels.groups import Attribute, Axis, ChannelGroup, NormOp, Space
from gansdk.channels.tracing.recorder import Recorder

INPUT_REASON = "it is the image input"
OUTPUT_REASON = "it is the image output"
JOINED_REASON = "the image input is joined with it"

Entry = tuple[str, int]
"""(tensor, dim)."""
Run = tuple[int, int, int]
"""(unit root, first index, number of entries)."""


def assemble(recorder: Recorder, module: nn.Module, state: Mapping[str, Tensor]) -> Space:
    """The space of a finished trace."""
    roots = {entry: recorder.unions.roots(ids) for entry, ids in recorder.axes.items()}
    members = _groups_of_units(recorder, roots)
    group_of = {root: (index, place) for index, units in enumerate(members) for place, root in enumerate(units)}
    axes = _axes(roots, members, group_of)
    outputs = {op.weight: op.out_dim for op in recorder.ops}
    makers = [
        [axis.tensor.rpartition(".")[0] for axis in rows if outputs.get(axis.tensor) == axis.dim] for rows in axes
    ]
    reasons = [recorder.unions.reason(units[0]) for units in members]
    names = _names(axes, makers, reasons)
    frozen = [
        JOINED_REASON if maker and reason == INPUT_REASON else reason
        for maker, reason in zip(makers, reasons, strict=True)
    ]

    def widths(root_list: Iterable[int]) -> tuple[int, tuple[tuple[str, int], ...]]:
        """Constant part and (group, entries per channel) of a list of labels."""
        counts = Counter(group_of[root][0] for root in root_list if root in group_of)
        constant = sum(root not in group_of for root in root_list)
        return constant, tuple((names[index], n // len(members[index])) for index, n in sorted(counts.items()))

    attributes = []
    for (path, name), ids in recorder.attributes.items():
        constant, parts = widths(recorder.unions.roots(ids))
        attributes.append(Attribute(module=path, name=name, constant=constant, widths=parts))
    norms = []
    for positions, ids, path in recorder.norms:
        constant, parts = widths(recorder.unions.roots(ids))
        norms.append(NormOp(positions=positions, constant=constant, widths=parts, module=path))
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    shapes |= {f"tap:{tap}": shape for tap, shape in recorder.tap_shapes.items()}
    return Space(
        groups=tuple(
            ChannelGroup(
                name=names[index],
                size=len(units),
                axes=tuple(axes[index]),
                frozen=frozen[index],
            )
            for index, units in enumerate(members)
        ),
        ops=tuple(recorder.ops),
        norms=tuple(norms),
        attributes=tuple(attributes),
        shapes=shapes,
        trainable=frozenset(name for name, _ in module.named_parameters()),
        item_bytes={name: tensor.element_size() for name, tensor in state.items()},
        fixed_macs=recorder.fixed_macs,
        notes=tuple(recorder.notes),
    )


def _groups_of_units(recorder: Recorder, roots: Mapping[Entry, list[int]]) -> list[list[int]]:
    """Units that occur in the same places, for the same reason, cut so that every axis is contiguous."""
    places: dict[int, list[tuple[Entry, int]]] = defaultdict(list)
    for entry, row in roots.items():
        for root, count in Counter(row).items():
            places[root].append((entry, count))
    attribute_places: dict[int, list[tuple[Entry, int]]] = defaultdict(list)
    for number, ids in enumerate([*recorder.attributes.values(), *(ids for _, ids, _ in recorder.norms)]):
        for root, count in Counter(recorder.unions.roots(ids)).items():
            attribute_places[root].append((("", number), count))
    by_signature: dict[object, list[int]] = defaultdict(list)
    for root, where in places.items():  # in order of first appearance
        signature = (tuple(where), tuple(attribute_places[root]), recorder.unions.reason(root))
        by_signature[signature].append(root)
    groups = list(by_signature.values())
    while True:
        cuts = _cuts(roots, groups)
        if not cuts:
            return groups
        groups = [piece for index, units in enumerate(groups) for piece in _cut(units, cuts.get(index, set()))]


def _cut(units: list[int], at: set[int]) -> list[list[int]]:
    bounds = [0, *sorted(at), len(units)]
    return [units[a:b] for a, b in pairwise(bounds)]


def _runs(row: list[int]) -> list[Run]:
    """Run-length encoding of a row of unit roots."""
    runs, start = [], 0
    for root, same in groupby(row):
        count = len(list(same))
        runs.append((root, start, count))
        start += count
    return runs


def _cuts(roots: Mapping[Entry, list[int]], groups: list[list[int]]) -> dict[int, set[int]]:
    """Where groups must be cut because some tensor does not hold their units in one stretch, in order."""
    place = {root: (index, at) for index, units in enumerate(groups) for at, root in enumerate(units)}
    cuts: dict[int, set[int]] = defaultdict(set)
    for row in roots.values():
        previous: tuple[int, int, int] | None = None
        for root, _, count in _runs(row):
            index, at = place[root]
            follows = previous is not None and previous == (index, at - 1, count)
            if not follows:
                if previous is not None:
                    cuts[previous[0]].add(previous[1] + 1)
                cuts[index].add(at)
            previous = (index, at, count)
        if previous is not None:
            cuts[previous[0]].add(previous[1] + 1)
    inner = {index: {at for at in points if 0 < at < len(groups[index])} for index, points in cuts.items()}
    return {index: points for index, points in inner.items() if points}


def _axes(
    roots: Mapping[Entry, list[int]], members: list[list[int]], group_of: Mapping[int, tuple[int, int]]
) -> list[list[Axis]]:
    axes: list[list[Axis]] = [[] for _ in members]
    for (tensor, dim), row in roots.items():
        for root, start, count in _runs(row):
            index, at = group_of[root]
            if at == 0:
                axes[index].append(Axis(tensor, dim, start, count))
    return axes


def _names(axes: list[list[Axis]], makers: list[list[str]], reasons: list[str]) -> list[str]:
    """A group is called after the first layer that makes its channels, else after its first tensor."""
    names: list[str] = []
    for rows, maker, reason in zip(axes, makers, reasons, strict=True):
        base = maker[0] if maker else "input" if reason == INPUT_REASON else rows[0].tensor
        taken, name = 1, base
        while name in names:
            taken += 1
            name = f"{base}#{taken}"
        names.append(name)
    return names

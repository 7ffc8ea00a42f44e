"""Channel groups as pure data: which tensor axes shrink together, and which widths a plan keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from gansdk.errors import ContractError
from gansdk.text import quoted
from gansdk.validation.json_fields import LARGEST, Field


@dataclass(frozen=True, slots=True)
class Axis:
    """`size * unit` consecutive entries of one tensor dimension, starting at `start`.

    `size` is the group's. `unit` is the number of entries one channel owns: r*r before a PixelShuffle(r),
    H*W behind a flatten. `start` is positive behind a concatenation.
    """

    tensor: str
    dim: int
    start: int = 0
    unit: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGroup:
    """Channels that live or die together: every axis here shrinks by the same indices."""

    name: str
    size: int
    axes: tuple[Axis, ...]
    floor: int = 1
    """Fewest channels a plan may keep; 0 where a `Branch` says what becomes of the network without them."""
    frozen: str = ""
    """The reason in words why it cannot be pruned; empty if it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One call of a convolution or linear layer, for costs and importance.

    MACs are `positions` (true: what a device computes) or `paper_positions` (a transposed convolution
    counted on its output grid) times the number of elements of `weight`.
    """

    weight: str
    bias: str | None
    positions: int
    paper_positions: int
    in_dim: int | None
    """Dimension of `weight` that reads input channels; None for grouped and depthwise convolutions."""
    out_dim: int
    module: str
    """Path of the owning module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormOp:
    """One call of a normalisation without tracked statistics; `paper` counts one MAC per element.

    The width is `constant` plus, for every (group, unit), unit times the group's width.
    """

    positions: int
    constant: int
    widths: tuple[tuple[str, int], ...]
    module: str = ""
    """Path of the module that normalises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A submodule that is replaced by None once every one of `groups` is empty (CAT's inception branches).

    Its parent's forward must go on without it; the adapter that names it vouches for that.
    """

    module: str
    """Path of the submodule."""
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One number that sets the widths of several groups: GAN Compression's configurations are eight of them."""

    name: str
    choices: tuple[int, ...]
    """Values it may take, ascending; the last one is the full network."""
    widths: tuple[tuple[str, int], ...]
    """(group, multiplier) pairs: a group has multiplier times the value channels. The first one leads: where channels
    are ranked, its own ranking decides the value. An adapter names layers instead of groups."""
    tied: bool = False
    """Whether the groups are one decision for pruners that rank channels, too (CAT's trunk rule), and not only for
    searches that choose knob by knob."""

    def value(self, width: int) -> int:
        """The largest choice at which the leading group has at most `width` channels, or else the smallest."""
        fitting = [choice for choice in self.choices if choice * self.widths[0][1] <= width]
        return fitting[-1] if fitting else self.choices[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """A number a module keeps beside its tensors (groups, num_features): width of `group` times `unit`.

    Several records for one (module, name) add up, with `constant` added once by the first.
    """

    module: str
    name: str
    constant: int
    widths: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Space:
    """Everything that is known about the channels of one generator at one input size."""

    groups: tuple[ChannelGroup, ...]
    ops: tuple[Op, ...]
    norms: tuple[NormOp, ...]
    attributes: tuple[Attribute, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Full shape of every tensor of the state dict."""
    trainable: frozenset[str]
    """Names of the tensors that are parameters; the others are buffers."""
    item_bytes: Mapping[str, int]
    """Bytes per element of every tensor."""
    fixed_macs: int = 0
    """MACs that no plan changes (matrix products of frozen tensors)."""
    notes: tuple[str, ...] = ()
    """What was folded or could not be followed, in sentences."""
    name: str = "generator"
    """What messages call the network."""
    branches: tuple[Branch, ...] = ()
    """What leaves the network as a whole when groups are emptied."""
    knobs: tuple[Knob, ...] = ()
    """Groups whose widths one number sets together, as the family's papers search them."""

    @cached_property
    def ties(self) -> tuple[Knob, ...]:
        """The knobs that rankings of channels obey."""
        return tuple(knob for knob in self.knobs if knob.tied)

    @cached_property
    def by_name(self) -> dict[str, ChannelGroup]:
        return {group.name: group for group in self.groups}

    @cached_property
    def prunable(self) -> tuple[ChannelGroup, ...]:
        return tuple(group for group in self.groups if not group.frozen)

    @cached_property
    def axes_of(self) -> dict[str, dict[int, tuple[tuple[ChannelGroup, Axis], ...]]]:
        """Tensor -> dim -> (group, axis) pairs in ascending order of start."""
        table: dict[str, dict[int, list[tuple[ChannelGroup, Axis]]]] = {}
        for group in self.groups:
            for axis in group.axes:
                table.setdefault(axis.tensor, {}).setdefault(axis.dim, []).append((group, axis))
        return {
            tensor: {dim: tuple(sorted(rows, key=lambda row: row[1].start)) for dim, rows in dims.items()}
            for tensor, dims in table.items()
        }

    def removed(self, plan: Plan) -> tuple[str, ...]:
        """Paths of the submodules that `plan` replaces by None."""
        empty = {name for name, channels in plan.items() if not channels}
        if not empty:
            return ()
        return tuple(branch.module for branch in self.branches if empty.issuperset(branch.groups))

    def full_plan(self) -> Plan:
        """The plan that keeps everything."""
        return Plan({group.name: tuple(range(group.size)) for group in self.groups})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; `from_dict` gives an equal space back."""
        return {
            "groups": [asdict(group) for group in self.groups],
            "ops": [asdict(op) for op in self.ops],
            "norms": [asdict(norm) for norm in self.norms],
            "attributes": [asdict(attribute) for attribute in self.attributes],
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "trainable": sorted(self.trainable),
            "item_bytes": dict(self.item_bytes),
            "fixed_macs": self.fixed_macs,
            "name": self.name,
            "notes": list(self.notes),
            "branches": [asdict(branch) for branch in self.branches],
            "knobs": [asdict(knob) for knob in self.knobs],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | Field) -> Space:
        """The inverse of `to_dict`, for data of anybody's.

        Raises:
            ValueError: a field is missing or not what `to_dict` writes, or axes lie outside of their tensors; it is
                named.
        """
        space = data if isinstance(data, Field) else Field(data, "space")
        result = cls(
            groups=tuple(map(_group, space["groups"].list())),
            ops=tuple(map(_op, space["ops"].list())),
            norms=tuple(map(_norm, space["norms"].list())),
            attributes=tuple(map(_attribute, space["attributes"].list())),
            shapes={
                name: tuple(side.whole(high=LONGEST_SIDE) for side in shape.list(16))
                for name, shape in space["shapes"].items()
            },
            trainable=frozenset(name.text() for name in space["trainable"].list()),
            item_bytes={name: size.whole(1, 64) for name, size in space["item_bytes"].items()},
            fixed_macs=space["fixed_macs"].whole(),
            name=space.get("name", "generator").words(),
            notes=tuple(note.words() for note in space["notes"].list()),
            knobs=tuple(map(_knob, space.get("knobs", []).list())),
            branches=tuple(
                Branch(module=branch["module"].text(), groups=_names(branch["groups"]))
                for branch in space.get("branches", []).list()
            ),
        )
        _check_axes(result, space.name)
        return result


LONGEST_SIDE = 2**31
"""Of a tensor."""
MOST_ENTRIES = 2**24
"""Of all axes of a space together: carving lists them."""


def _group(group: Field) -> ChannelGroup:
    return ChannelGroup(
        name=group["name"].text(),
        size=group["size"].whole(high=LONGEST_SIDE),
        axes=tuple(map(_axis, group["axes"].list())),
        floor=group.get("floor", 1).whole(),
        frozen=group.get("frozen", "").words(),
    )


def _axis(axis: Field) -> Axis:
    return Axis(
        axis["tensor"].text(),
        axis["dim"].whole(high=15),
        axis.get("start", 0).whole(high=LONGEST_SIDE),
        axis.get("unit", 1).whole(1, LONGEST_SIDE),
    )


def _op(op: Field) -> Op:
    return Op(
        weight=op["weight"].text(),
        bias=None if op["bias"].value is None else op["bias"].text(),
        positions=op["positions"].whole(),
        paper_positions=op["paper_positions"].whole(),
        in_dim=None if op["in_dim"].value is None else op["in_dim"].whole(high=15),
        out_dim=op["out_dim"].whole(high=15),
        module=op["module"].text(),
    )


def _norm(norm: Field) -> NormOp:
    return NormOp(
        positions=norm["positions"].whole(),
        constant=norm["constant"].whole(-LARGEST),
        widths=_pairs(norm["widths"]),
        module=norm.get("module", "").text(),
    )


def _attribute(attribute: Field) -> Attribute:
    return Attribute(
        module=attribute["module"].text(),
        name=attribute["name"].text(),
        constant=attribute["constant"].whole(-LONGEST_SIDE, LONGEST_SIDE),
        widths=_pairs(attribute["widths"]),
    )


def _knob(knob: Field) -> Knob:
    choices = tuple(choice.whole(high=LONGEST_SIDE) for choice in knob["choices"].list())
    if not choices or not knob["widths"].list():
        raise knob.refused("choices and widths")
    # Spaces that do not say whether a knob is tied are of when every one was.
    tied = knob.get("tied", True).flag()
    return Knob(name=knob["name"].text(), choices=choices, widths=_pairs(knob["widths"]), tied=tied)


def _pairs(rows: Field) -> tuple[tuple[str, int], ...]:
    pairs = (row.list(2) for row in rows.list())
    return tuple((group.text(), unit.whole(-LONGEST_SIDE, LONGEST_SIDE)) for group, unit in pairs)


def _names(names: Field) -> tuple[str, ...]:
    return tuple(name.text() for name in names.list())


def _check_axes(space: Space, name: str) -> None:
    """Raise ValueError unless every axis lies within its tensor, and all can be listed."""
    entries = 0
    for group in space.groups:
        for axis in group.axes:
            shape = space.shapes.get(axis.tensor, ())
            reach = axis.start + group.size * axis.unit
            if axis.dim >= len(shape) or reach > shape[axis.dim]:
                raise ValueError(
                    f"{name}: the group {quoted(group.name)} reaches to {reach:,} in dimension {axis.dim} of "
                    f"{quoted(axis.tensor)}, which is {shape or 'missing'}"
                )
            entries += group.size * axis.unit
    if entries > MOST_ENTRIES:
        raise ValueError(f"{name}: its groups reach over {entries:,} entries of tensors, more than {MOST_ENTRIES:,}")


def is_within(name: str, modules: Iterable[str]) -> bool:
    """Whether a tensor or submodule is one of `modules` or lies inside one."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


@dataclass(frozen=True)
class Plan(Mapping[str, tuple[int, ...]]):
    """Which channels survive: group name -> kept channel ids, ascending. Groups not named keep everything."""

    keep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __getitem__(self, group: str) -> tuple[int, ...]:
        return self.keep[group]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keep)

    def __len__(self) -> int:
        return len(self.keep)

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.keep.items())))

    def width(self, group: ChannelGroup) -> int:
        """Channels of `group` that stay."""
        channels = self.keep.get(group.name)
        return group.size if channels is None else len(channels)

    def widths(self, space: Space) -> dict[str, int]:
        """Width of every group of `space`."""
        return {group.name: self.width(group) for group in space.groups}

    def check(self, space: Space) -> None:
        """Raise ContractError unless this is a plan of `space`: known groups, ascending ids, nothing frozen cut."""
        for name, channels in self.items():
            group = space.by_name.get(name)
            if group is None:
                raise ContractError(f"A plan names the group {name!r}, which this generator does not have.")
            if list(channels) != sorted(set(channels)) or (
                channels and (channels[0] < 0 or channels[-1] >= group.size)
            ):
                raise ContractError(
                    f"A plan keeps {_shown_ids(channels)} of group {name!r}; ids must ascend and lie within 0 and "
                    f"{group.size - 1}."
                )
            if not channels and group.floor > 0:
                raise ContractError(
                    f"A plan keeps no channel of group {name!r}, but the network does not run without its channels: "
                    "only branches that an adapter names can be emptied. Keep at least one."
                )
            if group.frozen and len(channels) < group.size:
                raise ContractError(f"A plan prunes the group {name!r}, but {group.frozen}.")

    def to_dict(self) -> dict[str, list[int]]:
        """Plain JSON data."""
        return {name: list(channels) for name, channels in self.keep.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, list[int]] | Field) -> Plan:
        """The inverse of `to_dict`, for data of anybody's.

        Raises:
            ValueError: a field is not what `to_dict` writes; it is named.
        """
        plan = data if isinstance(data, Field) else Field(data, "plan")
        return cls({name: tuple(index.whole() for index in channels.list()) for name, channels in plan.items()})

    def then(self, later: Plan) -> Plan:
        """The plan that equals carving by this one and then by `later` (whose ids count kept channels)."""
        keep = dict(self.keep)
        for name, channels in later.items():
            base = keep.get(name)
            keep[name] = channels if base is None else tuple(base[i] for i in channels)
        return Plan(keep)


def _shown_ids(ids: tuple[int, ...]) -> str:
    return str(ids) if len(ids) <= 12 else f"{str(ids[:10])[:-1]}, ... {ids[-1]})"

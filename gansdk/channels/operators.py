"""One rule per operator: how channel labels pass from its inputs to its outputs.

A rule is `rule(tracer, call)`; it reads `call.args`, labels `call.result`, and records the tensor axes it
meets. To support an operator, add one row to `RULES` and one tiny net to `gansdk.testing.networks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_iter

from gansdk.channels.groups import Op
from gansdk.channels.labels import Ids, Labels, Width, labels_of, set_labels, state_name

if TYPE_CHECKING:
    from gansdk.channels.trace import Tracer


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


Rule = Callable[["Tracer", Call], None]


def apply_rule(tracer: Tracer, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Label the result of one call; an operator without a rule freezes the channels it reads."""
    call = Call(name, args, kwargs, result)
    plain = name.strip("_")
    rule = RULES.get(plain) or RULES.get(plain.lstrip("ir"))
    if rule is not None:
        rule(tracer, call)
    elif any(labels_of(tensor) is not None for tensor in call.tensors()):
        _unknown(tracer, call)


def _unknown(tracer: Tracer, call: Call, why: str = "is an operator without a rule") -> None:
    reason = f"'{call.name}' in {tracer.where()} {why}"
    tracer.freeze([call.args, call.kwargs], f"{reason} and reads it")
    for tensor in tree_iter(call.result):
        if isinstance(tensor, Tensor):
            set_labels(tensor, None)
            tensor._gansdk_origin = f"{reason} and makes it"  # type: ignore[attr-defined]


# Layers with weights.


def _convolution(spatial: int, *, transposed: bool = False) -> Rule:
    def rule(tracer: Tracer, call: Call) -> None:
        weight, bias = call.get(1, "weight"), call.get(2, "bias")
        groups = call.get(6, "groups", 1)
        _weighted(tracer, call, weight, bias, call.x.ndim - spatial - 1, int(groups), transposed)

    return rule


def _linear(tracer: Tracer, call: Call) -> None:
    _weighted(tracer, call, call.get(1, "weight"), call.get(2, "bias"), call.x.ndim - 1, 1, False)


def _weighted(
    tracer: Tracer, call: Call, weight: Tensor, bias: Tensor | None, dim: int, groups: int, transposed: bool
) -> None:
    x, y = call.x, call.result
    name = state_name(weight)
    ids = tracer.read(x, dim)
    if name is None:
        tracer.freeze([x], f"the weight of '{call.name}' in {tracer.where()} is computed in the forward pass")
        y._gansdk_origin = f"the weight of '{call.name}' in {tracer.where()} is computed in the forward pass"
        return
    owner = name.rpartition(".")[0]
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    channels = y.shape[dim]
    if groups == 1:
        out = tracer.axes.get((name, out_dim))
        out = tracer.unions.fresh(channels) if out is None else out
        tracer.record_axis(weight, in_dim, ids)
        tracer.record_axis(weight, out_dim, out)
    else:
        # A group of a grouped convolution reads only its own inputs, so both leave together and exactly.
        whole = tracer.unions.unite_rows(ids, len(ids) // groups)
        out = np.repeat(whole, channels // groups)
        tracer.record_axis(weight, 0, ids if transposed else out)
        if getattr(tracer.module.get_submodule(owner), "groups", None) != groups:
            tracer.freeze([x], f"the number of groups of '{call.name}' in {tracer.where()} is fixed in the code")
        tracer.record_attribute(owner, "groups", whole)
    tracer.record_axis(bias, 0, out)
    for attribute, labels in (("in_channels", ids), ("out_channels", out), ("in_features", ids), ("out_features", out)):
        tracer.record_attribute(owner, attribute, labels)
    positions = y.numel() // channels // tracer.batch
    tracer.ops.append(
        Op(
            weight=name,
            bias=state_name(bias),
            positions=x.numel() // x.shape[dim] // tracer.batch if transposed else positions,
            paper_positions=positions,
            in_dim=in_dim if groups == 1 else None,
            out_dim=0 if groups > 1 else out_dim,
            module=owner,
        )
    )
    set_labels(y, Labels(out, dim))


def _batch_norm(tracer: Tracer, call: Call) -> None:
    _norm(tracer, call, [call.get(i, n) for i, n in enumerate(("", "running_mean", "running_var", "weight", "bias"))])


def _instance_norm(tracer: Tracer, call: Call) -> None:
    _norm(tracer, call, [call.get(i, n) for i, n in enumerate(("", "running_mean", "running_var", "weight", "bias"))])
    if call.get(1, "running_mean") is None:
        positions = call.result.numel() // call.result.shape[1] // tracer.batch
        tracer.norms.append((positions, tracer.read(call.x, 1), tracer.here))


def _norm(tracer: Tracer, call: Call, tensors: Sequence[Tensor | None]) -> None:
    ids = tracer.read(call.x, 1)
    for tensor in tensors[1:]:
        tracer.record_axis(tensor, 0, ids)
    tracer.record_attribute(tracer.here, "num_features", ids)
    set_labels(call.result, Labels(ids, 1))


def _group_norm(tracer: Tracer, call: Call) -> None:
    ids, groups = tracer.read(call.x, 1), int(call.get(1, "num_groups"))
    owner = tracer.module.get_submodule(tracer.here)
    if groups == 1 or getattr(owner, "num_groups", None) != groups:
        why = "normalises over all channels" if groups == 1 else "has its number of groups fixed in the code"
        tracer.freeze([call.x], f"'{call.name}' in {tracer.where()} {why}")
    # The statistics of one group mix its channels: only whole groups can leave without changing the others.
    whole = tracer.unions.unite_rows(ids, len(ids) // groups)
    for position, name in ((2, "weight"), (3, "bias")):
        tracer.record_axis(call.get(position, name), 0, ids)
    tracer.record_attribute(tracer.here, "num_groups", whole)
    tracer.record_attribute(tracer.here, "num_channels", ids)
    set_labels(call.result, Labels(ids, 1))


def _prelu(tracer: Tracer, call: Call) -> None:
    weight = call.get(1, "weight")
    if weight.numel() > 1:
        ids = tracer.read(call.x, 1)
        tracer.record_axis(weight, 0, ids)
        tracer.record_attribute(tracer.here, "num_parameters", ids)
        if state_name(weight) is None:
            tracer.freeze([call.x], f"the slopes of '{call.name}' in {tracer.where()} are computed in the forward pass")
    _pass(tracer, call)


# Element-wise operations.


def _pass(tracer: Tracer, call: Call) -> None:
    """The result has the channels of the first argument."""
    x, y = call.x, call.result
    labels = labels_of(x)
    if labels is None and state_name(x) is not None and isinstance(y, Tensor):
        _mark_state(tracer, x, y)
    elif isinstance(y, Tensor) and labels is not None and y.ndim == x.ndim and y.shape[labels.dim] == len(labels.ids):
        set_labels(y, labels)
    elif labels is not None:
        _unknown(tracer, call, "changes the number of channels")


def _mark_state(tracer: Tracer, tensor: Tensor, result: Tensor) -> None:
    """A parameter used outside a layer: its largest dimension carries channels, if there is only one such."""
    labels = _state_labels(tracer, tensor)
    if labels is not None and result.shape == tensor.shape:
        set_labels(result, labels)


def _state_labels(tracer: Tracer, tensor: Tensor) -> Labels | None:
    wide = [dim for dim, side in enumerate(tensor.shape) if side > 1]
    if state_name(tensor) is None or len(wide) != 1:
        return None
    ids = tracer.axes.get((str(state_name(tensor)), wide[0]))
    ids = tracer.unions.fresh(tensor.shape[wide[0]]) if ids is None else ids
    tracer.record_axis(tensor, wide[0], ids)
    return Labels(ids, wide[0])


def _elementwise(tracer: Tracer, call: Call) -> None:
    """Channels at the same position live or die together; size 1 broadcasts and binds nothing."""
    y = call.result
    if not isinstance(y, Tensor):
        return _unknown(tracer, call)
    dims = set()
    for tensor in call.tensors():
        labels = labels_of(tensor)
        if labels is not None and (len(labels.ids) > 1 or y.shape[labels.dim + y.ndim - tensor.ndim] == 1):
            dims.add(labels.dim + y.ndim - tensor.ndim)
    if not dims:
        return None
    if len(dims) > 1:
        return _unknown(tracer, call, "mixes tensors whose channels lie on different dimensions")
    (dim,) = dims
    ids: Ids | None = None
    for tensor in call.tensors():
        found = _aligned(tracer, tensor, dim - (y.ndim - tensor.ndim), y.shape[dim])
        if found is not None and ids is not None:
            tracer.unions.unite(ids, found)
        ids = found if ids is None else ids
    set_labels(y, None if ids is None else Labels(ids, dim))


def _aligned(tracer: Tracer, tensor: Tensor, dim: int, count: int) -> Ids | None:
    """The labels of one operand along the result's channels; None if it is broadcast there."""
    if dim < 0 or tensor.shape[dim] != count:
        return None
    if labels_of(tensor) is None and state_name(tensor) is not None:
        labels = _state_labels(tracer, tensor)
        if labels is not None and labels.dim == dim:
            return labels.ids
        return tracer.unions.fresh(count, f"a whole parameter of {tracer.where()} is combined with it")
    return tracer.read(tensor, dim)


def _like(tracer: Tracer, call: Call) -> None:
    """zeros_like and its kin take their width from a tensor, so they fit any."""
    _pass(tracer, call)


# Joining and cutting.


def _cat(tracer: Tracer, call: Call) -> None:
    parts = [tensor for tensor in call.get(0, "tensors") if tensor.numel() or tensor.ndim > 1]
    y = call.result
    cut = int(call.get(1, "dim", call.kwargs.get("axis", 0))) % y.ndim
    found = {labels.dim for part in parts if (labels := labels_of(part)) is not None}
    if not found:
        return None
    if len(found) > 1:
        return _unknown(tracer, call, "joins tensors whose channels lie on different dimensions")
    (dim,) = found
    ids = [tracer.read(part, dim) for part in parts]
    if cut == dim:
        return set_labels(y, Labels(np.concatenate(ids), dim))
    for other in ids[1:]:
        tracer.unions.unite(ids[0], other)
    return set_labels(y, Labels(ids[0], dim))


def _chunk(tracer: Tracer, call: Call) -> None:
    _pieces(tracer, call, int(call.get(2, "dim", 0)), follows=True)


def _split(tracer: Tracer, call: Call) -> None:
    size = call.get(1, "split_size_or_sections", call.kwargs.get("split_size"))
    labels = labels_of(call.x)
    follows = labels is not None and isinstance(size, Width) and size.parts > 1 and _counts(tracer, size, labels.ids)
    _pieces(tracer, call, int(call.get(2, "dim", 0)), follows=follows)


def _pieces(tracer: Tracer, call: Call, dim: int, *, follows: bool) -> None:
    labels = labels_of(call.x)
    if labels is None:
        return None
    pieces: Sequence[Tensor] = call.result
    if dim % call.x.ndim != labels.dim:
        for piece in pieces:
            set_labels(piece, labels)
        return None
    if not follows or len({piece.shape[labels.dim] for piece in pieces}) > 1:
        return _unknown(tracer, call, "cuts channels at fixed numbers (use chunk for equal parts)")
    parts = np.split(labels.ids, len(pieces))
    for piece, ids in zip(pieces, parts, strict=True):
        tracer.unions.unite(parts[0], ids)
        set_labels(piece, Labels(ids, labels.dim))
    return None


def _getitem(tracer: Tracer, call: Call) -> None:
    x, y = call.x, call.result
    labels = labels_of(x)
    if labels is None:
        return None
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if any(isinstance(part, (Tensor, list, bool)) for part in index):
        return _unknown(tracer, call, "picks entries by a list")
    used = sum(part is not None and part is not Ellipsis for part in index)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *(slice(None),) * (x.ndim - used), *index[at + 1 :])
    index = (*index, *(slice(None),) * (x.ndim - used))
    source, target = 0, 0
    for part in index:
        if part is None:
            target += 1
            continue
        if source == labels.dim:
            ids = _sliced(tracer, labels.ids, part)
            if ids is None:
                return _unknown(tracer, call, "cuts channels at fixed numbers (use chunk for equal parts)")
            return set_labels(y, Labels(ids, target))
        source += 1
        target += isinstance(part, slice)
    return None


def _sliced(tracer: Tracer, ids: Ids, part: Any) -> Ids | None:
    """The labels of `x[:, part]` if that cut follows the width, else None."""
    if not isinstance(part, slice) or part.step not in (None, 1):
        return None
    start, stop = part.start or 0, len(ids) if part.stop is None else part.stop
    if start == 0 and stop >= len(ids):
        return ids
    bounds = [bound for bound in (start, stop) if bound not in (0, len(ids))]
    parts = {getattr(bound, "parts", 1) for bound in bounds}
    if len(bounds) != 1 or parts != {2} or 2 * bounds[0] != len(ids) or not _counts(tracer, bounds[0], ids):
        return None
    halves = np.split(ids, 2)
    tracer.unions.unite(halves[0], halves[1])
    return halves[0] if start == 0 else halves[1]


def _counts(tracer: Tracer, size: object, ids: Ids) -> bool:
    """Whether a size was read from channels that have, or from now on have, the widths of `ids`."""
    if not isinstance(size, Width) or size.ids is None or len(size.ids) != len(ids):
        return False
    tracer.unions.unite(size.ids, ids)
    return True


def _pixel_shuffle(tracer: Tracer, call: Call) -> None:
    factor = int(call.get(1, "upscale_factor"))
    dim = call.x.ndim - 3
    ids = tracer.unions.unite_rows(tracer.read(call.x, dim), factor * factor)
    set_labels(call.result, Labels(ids, dim))


def _pixel_unshuffle(tracer: Tracer, call: Call) -> None:
    factor = int(call.get(1, "downscale_factor"))
    dim = call.x.ndim - 3
    set_labels(call.result, Labels(np.repeat(tracer.read(call.x, dim), factor * factor), dim))


# Shapes.


def _reshape(tracer: Tracer, call: Call) -> None:
    shape = call.args[1] if len(call.args) == 2 and not isinstance(call.args[1], int) else call.args[1:]
    if isinstance(shape, Tensor) or not shape:  # view_as, or a shape given by keyword
        shape = call.kwargs.get("shape", call.kwargs.get("size", ()))
    asked = list(shape)

    def follows(dim: int, ids: Ids) -> bool:
        if dim >= len(asked):
            return False
        whole = isinstance(asked[dim], Width) and asked[dim].parts == 1
        return bool(asked[dim] == -1 or (whole and _counts(tracer, asked[dim], ids)))

    _relabel(tracer, call, follows)


def _flatten(tracer: Tracer, call: Call) -> None:
    _relabel(tracer, call, lambda dim, ids: True)


def _relabel(tracer: Tracer, call: Call, follows: Callable[[int, Ids], bool]) -> None:
    """Follow channels through a change of shape; `follows(dim, ids)`: the asked size of `dim` fits any width."""
    x, y = call.x, call.result
    labels = labels_of(x) or _state_labels(tracer, x)
    if labels is None:
        return None
    before, count = math.prod(x.shape[: labels.dim]), len(labels.ids)
    for dim, side in enumerate(y.shape):
        if math.prod(y.shape[:dim]) != before or side == 1 != count:
            continue
        is_state = state_name(x) is not None
        if not (follows(dim, labels.ids) or (is_state and count == side)):
            continue
        if side % count == 0 and (side // count == 1 or _merges(x, labels.dim, side // count)):
            return set_labels(y, Labels(np.repeat(labels.ids, side // count), dim))
        if count % side == 0 and _merges(y, dim, count // side):
            return set_labels(y, Labels(tracer.unions.unite_rows(labels.ids, count // side), dim))
    return _unknown(tracer, call, "is given a fixed number of channels (write -1 or x.shape[1] there)")


def _merges(tensor: Tensor, dim: int, factor: int) -> bool:
    """Whether the dimensions behind `dim`, taken in order, multiply to `factor` at some point."""
    product = 1
    for side in tensor.shape[dim + 1 :]:
        product *= side
        if product == factor:
            return True
    return False


def _squeeze(tracer: Tracer, call: Call) -> None:
    _relabel(tracer, call, lambda dim, ids: True)


def _permute(tracer: Tracer, call: Call) -> None:
    labels = labels_of(call.x)
    if labels is None:
        return None
    order = call.args[1] if isinstance(call.get(1, "dims"), (tuple, list)) else call.args[1:]
    order = [int(dim) % call.x.ndim for dim in (order or call.kwargs["dims"])]
    return set_labels(call.result, labels.moved(order.index(labels.dim)))


def _transpose(tracer: Tracer, call: Call) -> None:
    labels = labels_of(call.x)
    if labels is None:
        return None
    a, b = (int(call.get(i, f"dim{i - 1}")) % call.x.ndim for i in (1, 2))
    return set_labels(call.result, labels.moved({a: b, b: a}.get(labels.dim, labels.dim)))


def _expand(tracer: Tracer, call: Call) -> None:
    labels = labels_of(call.x) or _state_labels(tracer, call.x)
    if labels is None:
        return None
    dim = labels.dim + call.result.ndim - call.x.ndim
    if call.result.shape[dim] == len(labels.ids) and len(labels.ids) > 1:
        return set_labels(call.result, labels.moved(dim))
    return _unknown(tracer, call, "repeats channels")


def _spatial(dims: int) -> Rule:
    """Pooling and resizing over the last `dims` dimensions: channels must lie in front of them."""

    def rule(tracer: Tracer, call: Call) -> None:
        labels = labels_of(call.x)
        if labels is not None and labels.dim >= call.x.ndim - dims:
            return _unknown(tracer, call, "works along the channels")
        return _pass(tracer, call)

    return rule


def _resize(tracer: Tracer, call: Call) -> None:
    _spatial(call.x.ndim - 2)(tracer, call)


def _grid_sample(tracer: Tracer, call: Call) -> None:
    tracer.freeze([call.get(1, "grid")], f"'{call.name}' in {tracer.where()} reads coordinates from it")
    _resize(tracer, call)


def _pad(tracer: Tracer, call: Call) -> None:
    labels = labels_of(call.x)
    if labels is not None and len(call.get(1, "pad")) > 2 * (call.x.ndim - labels.dim - 1):
        return _unknown(tracer, call, "pads the channel dimension")
    return _pass(tracer, call)


def _reduce(tracer: Tracer, call: Call) -> None:
    """Mean, sum and their kin over dimensions other than the channels."""
    x, y = call.x, call.result
    labels = labels_of(x)
    if labels is None:
        return None
    asked = call.get(1, "dim", call.kwargs.get("axis"))
    if asked is None or not isinstance(y, Tensor):
        return _unknown(tracer, call, "reduces over channels")
    dims = {int(dim) % x.ndim for dim in (asked if isinstance(asked, (tuple, list)) else (asked,))}
    if labels.dim in dims:
        return _unknown(tracer, call, "reduces over channels")
    kept = y.ndim == x.ndim
    return set_labels(y, labels if kept else labels.moved(labels.dim - sum(dim < labels.dim for dim in dims)))


def _softmax(tracer: Tracer, call: Call) -> None:
    labels = labels_of(call.x)
    dim = call.get(1, "dim")
    if labels is not None and (dim is None or int(dim) % call.x.ndim == labels.dim):
        return _unknown(tracer, call, "couples all channels")
    return _pass(tracer, call)


def _matmul(tracer: Tracer, call: Call) -> None:
    _unknown(tracer, call, "multiplies matrices")


PASSING = """
    relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid softplus softsign logsigmoid
    rrelu threshold tanh sigmoid tanhshrink softshrink hardshrink
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
    clone contiguous detach to float double half bfloat16 type requires_grad_ cpu cuda alias data
    neg abs exp log log1p expm1 sqrt rsqrt square reciprocal sign floor ceil round trunc sin cos erf
    nan_to_num
    zeros_like ones_like empty_like full_like rand_like randn_like
""".split()

ELEMENTWISE = """
    add sub rsub mul div truediv true_divide floor_divide pow maximum minimum where lerp addcmul addcdiv
    multiply subtract divide fmax fmin atan2 hypot clamp clip clamp_min clamp_max
    eq ne lt le gt ge logical_and logical_or logical_not
""".split()

POOLS = ("avg", "max", "lp", "adaptive_avg", "adaptive_max")

RULES: dict[str, Rule] = {
    **dict.fromkeys(PASSING, _pass),
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **{f"conv{n}d": _convolution(n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _convolution(n, transposed=True) for n in (1, 2, 3)},
    "linear": _linear,
    **{f"{kind}_pool{n}d": _spatial(n) for n in (1, 2, 3) for kind in POOLS},
    **dict.fromkeys(("interpolate", "upsample", "upsample_nearest", "upsample_bilinear"), _resize),
    "grid_sample": _grid_sample,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "group_norm": _group_norm,
    "prelu": _prelu,
    **dict.fromkeys(("cat", "concat", "concatenate"), _cat),
    "chunk": _chunk,
    "split": _split,
    "getitem": _getitem,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    **dict.fromkeys(("view", "reshape", "unflatten"), _reshape),
    "flatten": _flatten,
    **dict.fromkeys(("squeeze", "unsqueeze"), _squeeze),
    "permute": _permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transpose),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    "pad": _pad,
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std"), _reduce),
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
    **dict.fromkeys(("matmul", "bmm", "rmatmul"), _matmul),
}

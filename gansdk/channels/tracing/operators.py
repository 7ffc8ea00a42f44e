"""One rule per operator: how channel labels pass from its inputs to its outputs.

A rule is `rule(recorder, call)`; it reads `call.args`, labels `call.result`, and records the tensor axes it
meets. To support an operator, add one row to `RULES` and one tiny net to `gansdk.testing.networks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gansdk.channels.groups import Op
from gansdk.channels.tracing import shapes
from gansdk.channels.tracing.calls import Call, Rule, state_labels, unknown
from gansdk.channels.tracing.labels import Ids, Labels, labels_of, set_labels, state_name
from gansdk.channels.tracing.recorder import Recorder


def apply_rule(recorder: Recorder, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
    """Label the result of one call; an operator without a rule freezes the channels it reads."""
    call = Call(name, args, kwargs, result)
    plain = name.strip("_")
    rule = RULES.get(plain) or RULES.get(plain.lstrip("ir"))
    if rule is not None:
        rule(recorder, call)
    elif any(labels_of(tensor) is not None for tensor in call.tensors()):
        unknown(recorder, call)


# Layers with weights.


def _convolution(spatial: int, *, transposed: bool = False) -> Rule:
    def rule(recorder: Recorder, call: Call) -> None:
        weight, bias = call.get(1, "weight"), call.get(2, "bias")
        groups = call.get(6, "groups", 1)
        _weighted(recorder, call, weight, bias, call.x.ndim - spatial - 1, int(groups), transposed)

    return rule


def _linear(recorder: Recorder, call: Call) -> None:
    _weighted(recorder, call, call.get(1, "weight"), call.get(2, "bias"), call.x.ndim - 1, 1, False)


def _weighted(
    recorder: Recorder, call: Call, weight: Tensor, bias: Tensor | None, dim: int, groups: int, transposed: bool
) -> None:
    x, y = call.x, call.result
    name = state_name(weight)
    ids = recorder.read(x, dim)
    if name is None:
        recorder.freeze([x], f"the weight of '{call.name}' in {recorder.where()} is computed in the forward pass")
        y._gansdk_origin = f"the weight of '{call.name}' in {recorder.where()} is computed in the forward pass"
        return
    owner, _, leaf = name.rpartition(".")
    # A weight that several layers share has one name, but each of them keeps its own numbers.
    shares = state_name(getattr(recorder.module.get_submodule(recorder.here), leaf, None)) == name
    users = {owner, recorder.here} if shares else {owner}
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    channels = y.shape[dim]
    if groups == 1:
        out = recorder.axes.get((name, out_dim))
        if out is None:
            # One channel to one channel is depthwise as well: neither is there without the other.
            out = ids if channels == len(ids) == 1 else recorder.unions.fresh(channels)
        recorder.record_axis(weight, in_dim, ids)
        recorder.record_axis(weight, out_dim, out)
    else:
        # A group of a grouped convolution reads only its own inputs, so both leave together and exactly.
        whole = recorder.unions.unite_rows(ids, len(ids) // groups)
        out = np.repeat(whole, channels // groups)
        recorder.record_axis(weight, 0, ids if transposed else out)
        if any(getattr(recorder.module.get_submodule(path), "groups", None) != groups for path in users):
            recorder.freeze([x], f"the number of groups of '{call.name}' in {recorder.where()} is fixed in the code")
        for path in users:
            recorder.record_attribute(path, "groups", whole)
    recorder.record_axis(bias, 0, out)
    for attribute, labels in (("in_channels", ids), ("out_channels", out), ("in_features", ids), ("out_features", out)):
        for path in users:
            recorder.record_attribute(path, attribute, labels)
    positions = y.numel() // channels // recorder.batch
    recorder.ops.append(
        Op(
            weight=name,
            bias=state_name(bias),
            positions=x.numel() // x.shape[dim] // recorder.batch if transposed else positions,
            paper_positions=positions,
            in_dim=in_dim if groups == 1 else None,
            out_dim=0 if groups > 1 else out_dim,
            module=owner,
        )
    )
    set_labels(y, Labels(out, dim))


def _batch_norm(recorder: Recorder, call: Call) -> None:
    _norm(recorder, call, [call.get(i, n) for i, n in enumerate(("", "running_mean", "running_var", "weight", "bias"))])


def _instance_norm(recorder: Recorder, call: Call) -> None:
    _norm(recorder, call, [call.get(i, n) for i, n in enumerate(("", "running_mean", "running_var", "weight", "bias"))])
    if call.get(1, "running_mean") is None:
        positions = call.result.numel() // call.result.shape[1] // recorder.batch
        recorder.norms.append((positions, recorder.read(call.x, 1), recorder.here))


def _norm(recorder: Recorder, call: Call, tensors: Sequence[Tensor | None]) -> None:
    ids = recorder.read(call.x, 1)
    for tensor in tensors[1:]:
        recorder.record_axis(tensor, 0, ids)
    recorder.record_attribute(recorder.here, "num_features", ids)
    set_labels(call.result, Labels(ids, 1))


def _group_norm(recorder: Recorder, call: Call) -> None:
    ids, groups = recorder.read(call.x, 1), int(call.get(1, "num_groups"))
    owner = recorder.module.get_submodule(recorder.here)
    if groups == 1 or getattr(owner, "num_groups", None) != groups:
        why = "normalises over all channels" if groups == 1 else "has its number of groups fixed in the code"
        recorder.freeze([call.x], f"'{call.name}' in {recorder.where()} {why}")
    # The statistics of one group mix its channels: only whole groups can leave without changing the others.
    whole = recorder.unions.unite_rows(ids, len(ids) // groups)
    for position, name in ((2, "weight"), (3, "bias")):
        recorder.record_axis(call.get(position, name), 0, ids)
    recorder.record_attribute(recorder.here, "num_groups", whole)
    recorder.record_attribute(recorder.here, "num_channels", ids)
    set_labels(call.result, Labels(ids, 1))


def _prelu(recorder: Recorder, call: Call) -> None:
    weight = call.get(1, "weight")
    if weight.numel() > 1:
        ids = recorder.read(call.x, 1)
        recorder.record_axis(weight, 0, ids)
        recorder.record_attribute(recorder.here, "num_parameters", ids)
        if state_name(weight) is None:
            recorder.freeze(
                [call.x], f"the slopes of '{call.name}' in {recorder.where()} are computed in the forward pass"
            )
    _pass(recorder, call)


# Element-wise operations.


def _pass(recorder: Recorder, call: Call) -> None:
    """The result has the channels of the first argument."""
    x, y = call.x, call.result
    labels = labels_of(x)
    if labels is None and state_name(x) is not None and isinstance(y, Tensor):
        _mark_state(recorder, x, y)
    elif isinstance(y, Tensor) and labels is not None and y.ndim == x.ndim and y.shape[labels.dim] == len(labels.ids):
        set_labels(y, labels)
    elif labels is not None:
        unknown(recorder, call, "changes the number of channels")


def _mark_state(recorder: Recorder, tensor: Tensor, result: Tensor) -> None:
    """A parameter used outside a layer: its largest dimension carries channels, if there is only one such."""
    labels = state_labels(recorder, tensor)
    if labels is not None and result.shape == tensor.shape:
        set_labels(result, labels)


def _elementwise(recorder: Recorder, call: Call) -> None:
    """Channels at the same position live or die together; size 1 broadcasts and binds nothing."""
    y = call.result
    if not isinstance(y, Tensor):
        return unknown(recorder, call)
    dims = set()
    for tensor in call.tensors():
        labels = labels_of(tensor)
        if labels is not None and (len(labels.ids) > 1 or y.shape[labels.dim + y.ndim - tensor.ndim] == 1):
            dims.add(labels.dim + y.ndim - tensor.ndim)
    if not dims:
        return None
    if len(dims) > 1:
        return unknown(recorder, call, "mixes tensors whose channels lie on different dimensions")
    (dim,) = dims
    ids: Ids | None = None
    for tensor in call.tensors():
        aligned = _aligned(recorder, tensor, dim - (y.ndim - tensor.ndim), y.shape[dim])
        if aligned is not None and ids is not None:
            recorder.unions.unite(ids, aligned)
        ids = aligned if ids is None else ids
    set_labels(y, None if ids is None else Labels(ids, dim))


def _extremum(recorder: Recorder, call: Call) -> None:
    """The larger or smaller of two tensors; of one tensor alone, no channel can be told from the others."""
    two = isinstance(call.get(1, "other"), Tensor)
    (_elementwise if two else unknown)(recorder, call)


def _aligned(recorder: Recorder, tensor: Tensor, dim: int, count: int) -> Ids | None:
    """The labels of one operand along the result's channels; None if it is broadcast there."""
    if dim < 0 or tensor.shape[dim] != count:
        return None
    if labels_of(tensor) is None and state_name(tensor) is not None:
        labels = state_labels(recorder, tensor)
        if labels is not None and labels.dim == dim:
            return labels.ids
        return recorder.unions.fresh(count, f"a whole parameter of {recorder.where()} is combined with it")
    return recorder.read(tensor, dim)


def _like(recorder: Recorder, call: Call) -> None:
    """zeros_like and its kin take their width from a tensor, so they fit any."""
    _pass(recorder, call)


def _spatial(dims: int) -> Rule:
    """Pooling and resizing over the last `dims` dimensions: channels must lie in front of them."""

    def rule(recorder: Recorder, call: Call) -> None:
        labels = labels_of(call.x)
        if labels is not None and labels.dim >= call.x.ndim - dims:
            return unknown(recorder, call, "works along the channels")
        return _pass(recorder, call)

    return rule


def _resize(recorder: Recorder, call: Call) -> None:
    _spatial(call.x.ndim - 2)(recorder, call)


def _grid_sample(recorder: Recorder, call: Call) -> None:
    recorder.freeze([call.get(1, "grid")], f"'{call.name}' in {recorder.where()} reads coordinates from it")
    _resize(recorder, call)


def _pad(recorder: Recorder, call: Call) -> None:
    labels = labels_of(call.x)
    if labels is not None and len(call.get(1, "pad")) > 2 * (call.x.ndim - labels.dim - 1):
        return unknown(recorder, call, "pads the channel dimension")
    return _pass(recorder, call)


def _reduce(recorder: Recorder, call: Call) -> None:
    """Mean, sum and their kin over dimensions other than the channels."""
    x, y = call.x, call.result
    labels = labels_of(x)
    if labels is None:
        return None
    target = call.get(1, "dim", call.kwargs.get("axis"))
    if target is None or not isinstance(y, Tensor):
        return unknown(recorder, call, "reduces over channels")
    dims = {int(dim) % x.ndim for dim in (target if isinstance(target, (tuple, list)) else (target,))}
    if labels.dim in dims:
        return unknown(recorder, call, "reduces over channels")
    keeps_dim = y.ndim == x.ndim
    return set_labels(y, labels if keeps_dim else labels.moved(labels.dim - sum(dim < labels.dim for dim in dims)))


def _softmax(recorder: Recorder, call: Call) -> None:
    labels = labels_of(call.x)
    dim = call.get(1, "dim")
    if labels is not None and (dim is None or int(dim) % call.x.ndim == labels.dim):
        return unknown(recorder, call, "couples all channels")
    return _pass(recorder, call)


def _matmul(recorder: Recorder, call: Call) -> None:
    unknown(recorder, call, "multiplies matrices")


PASSING = """
    relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish hardsigmoid softplus softsign logsigmoid
    rrelu threshold tanh sigmoid tanhshrink softshrink hardshrink
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
    clone contiguous detach to float double half bfloat16 type type_as requires_grad_ cpu cuda alias data
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
    **dict.fromkeys(("cat", "concat", "concatenate"), shapes.cat),
    "stack": shapes.stack,
    "glu": shapes.glu,
    **dict.fromkeys(("max", "min"), _extremum),
    **dict.fromkeys(("view_as", "reshape_as"), shapes.reshape_as),
    "chunk": shapes.chunk,
    "split": shapes.split,
    "getitem": shapes.getitem,
    "pixel_shuffle": shapes.pixel_shuffle,
    "pixel_unshuffle": shapes.pixel_unshuffle,
    **dict.fromkeys(("view", "reshape", "unflatten"), shapes.reshape),
    "flatten": shapes.flatten,
    **dict.fromkeys(("squeeze", "unsqueeze"), shapes.squeeze),
    "permute": shapes.permute,
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), shapes.transpose),
    **dict.fromkeys(("expand", "expand_as"), shapes.expand),
    "pad": _pad,
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std"), _reduce),
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
    **dict.fromkeys(("matmul", "bmm", "rmatmul"), _matmul),
}

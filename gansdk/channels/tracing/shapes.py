"""Rules for operators that join, cut and reshape: where the channels are afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from gansdk.channels.tracing.calls import Call, state_labels, unknown
from gansdk.channels.tracing.labels import Ids, Labels, Width, labels_of, set_labels, state_name
from gansdk.channels.tracing.recorder import Recorder


def cat(recorder: Recorder, call: Call) -> None:
    """Channels one behind the other along the cut, united otherwise."""
    parts = [tensor for tensor in call.get(0, "tensors") if tensor.numel() or tensor.ndim > 1]
    y = call.result
    cut = int(call.get(1, "dim", call.kwargs.get("axis", 0))) % y.ndim
    dims = {labels.dim for part in parts if (labels := labels_of(part)) is not None}
    if not dims:
        return None
    if len(dims) > 1:
        return unknown(recorder, call, "joins tensors whose channels lie on different dimensions")
    (dim,) = dims
    ids = [recorder.read(part, dim) for part in parts]
    if cut == dim:
        return set_labels(y, Labels(np.concatenate(ids), dim))
    for other in ids[1:]:
        recorder.unions.unite(ids[0], other)
    return set_labels(y, Labels(ids[0], dim))


def stack(recorder: Recorder, call: Call) -> None:
    """Channels are united, and move behind a new dimension that is put in front of them."""
    parts, y = list(call.get(0, "tensors")), call.result
    new = int(call.get(1, "dim", 0)) % y.ndim
    dims = {labels.dim for part in parts if (labels := labels_of(part)) is not None}
    if not dims:
        return None
    if len(dims) > 1:
        return unknown(recorder, call, "stacks tensors whose channels lie on different dimensions")
    (dim,) = dims
    ids = [recorder.read(part, dim) for part in parts]
    for other in ids[1:]:
        recorder.unions.unite(ids[0], other)
    return set_labels(y, Labels(ids[0], dim + (new <= dim)))


def glu(recorder: Recorder, call: Call) -> None:
    """The first half of the channels times a gate from the second: halves live or die together."""
    labels = labels_of(call.x)
    if labels is None:
        return None
    ids = labels.ids
    if int(call.get(1, "dim", -1)) % call.x.ndim == labels.dim:
        ids, gates = np.split(ids, 2)
        recorder.unions.unite(ids, gates)
    return set_labels(call.result, Labels(ids, labels.dim))


def chunk(recorder: Recorder, call: Call) -> None:
    """Equal parts at any width."""
    _pieces(recorder, call, int(call.get(2, "dim", 0)), follows=True)


def split(recorder: Recorder, call: Call) -> None:
    """Equal parts where the size of one was computed from the width; sizes fixed in the code fit one width only."""
    size = call.get(1, "split_size_or_sections", call.kwargs.get("split_size"))
    labels = labels_of(call.x)
    follows = labels is not None and isinstance(size, Width) and size.parts > 1 and _counts(recorder, size, labels.ids)
    _pieces(recorder, call, int(call.get(2, "dim", 0)), follows=follows)


def _pieces(recorder: Recorder, call: Call, dim: int, *, follows: bool) -> None:
    labels = labels_of(call.x)
    if labels is None:
        return None
    pieces: Sequence[Tensor] = call.result
    if dim % call.x.ndim != labels.dim:
        for piece in pieces:
            set_labels(piece, labels)
        return None
    if not follows or len({piece.shape[labels.dim] for piece in pieces}) > 1:
        return unknown(recorder, call, "splits channels at fixed indices (use chunk for equal parts)")
    parts = np.split(labels.ids, len(pieces))
    for piece, ids in zip(pieces, parts, strict=True):
        recorder.unions.unite(parts[0], ids)
        set_labels(piece, Labels(ids, labels.dim))
    return None


def getitem(recorder: Recorder, call: Call) -> None:
    """Keep the channels where the index leaves them whole, or takes half of them."""
    x, y = call.x, call.result
    labels = labels_of(x)
    if labels is None:
        return None
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if any(isinstance(part, (Tensor, list, bool)) for part in index):
        return unknown(recorder, call, "indexes with a list")
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
            ids = _sliced(recorder, labels.ids, part)
            if ids is None:
                return unknown(recorder, call, "splits channels at fixed indices (use chunk for equal parts)")
            return set_labels(y, Labels(ids, target))
        source += 1
        target += isinstance(part, slice)
    return None


def _sliced(recorder: Recorder, ids: Ids, part: Any) -> Ids | None:
    """The labels of `x[:, part]` if that cut follows the width, else None."""
    if not isinstance(part, slice) or part.step not in (None, 1):
        return None
    start, stop = part.start or 0, len(ids) if part.stop is None else part.stop
    if start == 0 and stop >= len(ids):
        return ids
    bounds = [bound for bound in (start, stop) if bound not in (0, len(ids))]
    parts = {getattr(bound, "parts", 1) for bound in bounds}
    if len(bounds) != 1 or parts != {2} or 2 * bounds[0] != len(ids) or not _counts(recorder, bounds[0], ids):
        return None
    halves = np.split(ids, 2)
    recorder.unions.unite(halves[0], halves[1])
    return halves[0] if start == 0 else halves[1]


def _counts(recorder: Recorder, size: object, ids: Ids) -> bool:
    """Whether a size was read from channels that have, or from now on have, the widths of `ids`."""
    if not isinstance(size, Width) or size.ids is None or len(size.ids) != len(ids):
        return False
    recorder.unions.unite(size.ids, ids)
    return True


def pixel_shuffle(recorder: Recorder, call: Call) -> None:
    """Every factor^2 channels are one channel of the result."""
    factor = int(call.get(1, "upscale_factor"))
    dim = call.x.ndim - 3
    ids = recorder.unions.unite_rows(recorder.read(call.x, dim), factor * factor)
    set_labels(call.result, Labels(ids, dim))


def pixel_unshuffle(recorder: Recorder, call: Call) -> None:
    """Every channel becomes factor^2."""
    factor = int(call.get(1, "downscale_factor"))
    dim = call.x.ndim - 3
    set_labels(call.result, Labels(np.repeat(recorder.read(call.x, dim), factor * factor), dim))


# Shapes.


def reshape(recorder: Recorder, call: Call) -> None:
    """A shape follows the width with -1, or with a size that was read from these channels."""
    shape = call.args[1] if len(call.args) == 2 and not isinstance(call.args[1], int) else call.args[1:]
    if isinstance(shape, Tensor) or not shape:  # a shape given by keyword
        shape = call.kwargs.get("shape", call.kwargs.get("size", ()))
    target = list(shape)

    def follows(dim: int, ids: Ids) -> bool:
        if dim >= len(target):
            return False
        whole = isinstance(target[dim], Width) and target[dim].parts == 1
        return bool(target[dim] == -1 or (whole and _counts(recorder, target[dim], ids)))

    _relabel(recorder, call, follows)


def reshape_as(recorder: Recorder, call: Call) -> None:
    """The shape of another tensor follows the width if its channels are as many, in the same place."""
    model = labels_of(call.get(1, "other"))

    def follows(dim: int, ids: Ids) -> bool:
        if model is None or model.dim != dim or len(model.ids) != len(ids):
            return False
        recorder.unions.unite(model.ids, ids)
        return True

    _relabel(recorder, call, follows)


def flatten(recorder: Recorder, call: Call) -> None:
    """Whatever the width, it is merged whole."""
    _relabel(recorder, call, lambda dim, ids: True)


def _relabel(recorder: Recorder, call: Call, follows: Callable[[int, Ids], bool]) -> None:
    """Follow channels through a change of shape; `follows(dim, ids)`: the asked size of `dim` fits any width."""
    x, y = call.x, call.result
    labels = labels_of(x) or state_labels(recorder, x)
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
            return set_labels(y, Labels(recorder.unions.unite_rows(labels.ids, count // side), dim))
    return unknown(recorder, call, "uses a fixed number of channels (write -1 or x.shape[1] there)")


def _merges(tensor: Tensor, dim: int, factor: int) -> bool:
    """Whether the dimensions behind `dim`, taken in order, multiply to `factor` at some point."""
    product = 1
    for side in tensor.shape[dim + 1 :]:
        product *= side
        if product == factor:
            return True
    return False


def squeeze(recorder: Recorder, call: Call) -> None:
    """Dimensions of one come or go."""
    _relabel(recorder, call, lambda dim, ids: True)


def permute(recorder: Recorder, call: Call) -> None:
    """Channels move with their dimension."""
    labels = labels_of(call.x)
    if labels is None:
        return None
    order = call.args[1] if isinstance(call.get(1, "dims"), (tuple, list)) else call.args[1:]
    order = [int(dim) % call.x.ndim for dim in (order or call.kwargs["dims"])]
    return set_labels(call.result, labels.moved(order.index(labels.dim)))


def transpose(recorder: Recorder, call: Call) -> None:
    """Channels move with their dimension."""
    labels = labels_of(call.x)
    if labels is None:
        return None
    a, b = (int(call.get(i, f"dim{i - 1}")) % call.x.ndim for i in (1, 2))
    return set_labels(call.result, labels.moved({a: b, b: a}.get(labels.dim, labels.dim)))


def expand(recorder: Recorder, call: Call) -> None:
    """Broadcast along other dimensions than the channels."""
    labels = labels_of(call.x) or state_labels(recorder, call.x)
    if labels is None:
        return None
    dim = labels.dim + call.result.ndim - call.x.ndim
    if call.result.shape[dim] == len(labels.ids) and len(labels.ids) > 1:
        return set_labels(call.result, labels.moved(dim))
    return unknown(recorder, call, "repeats channels")

"""Importance: one score for every channel of every prunable group, larger is more important."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gansdk.channels.groups import ChannelGroup, Space
from gansdk.channels.select import Scores
from gansdk.contracts import Batch, Route
from gansdk.errors import GansdkWarning, IncompatibleParts, MissingData
from gansdk.interfaces import Run, Student
from gansdk_pruners.threshold import ranked_groups

PROBES = 16
"""Backward passes of a gradient score; different images say more than more probes on one."""

Measure = Callable[[Student, Run], Scores]


def _consumers(space: Space) -> list[tuple[str, int]]:
    """(weight, dim) of every layer that reads all its input channels, each weight once."""
    return list(dict.fromkeys((op.weight, op.in_dim) for op in space.ops if op.in_dim is not None))


def _per_channel(space: Space, columns: dict[str, Tensor]) -> dict[str, NDArray[np.float64]]:
    """Add up, for every channel, the values of the input columns that read it. `columns`: weight -> (C_in,)."""
    totals = {group.name: np.zeros(group.size) for group in space.prunable}
    for weight, dim in _consumers(space):
        values = columns[weight].detach().double().cpu().numpy()
        for group, axis in space.axes_of[weight].get(dim, ()):
            if group.name in totals:
                piece = values[axis.start : axis.start + group.size * axis.unit]
                totals[group.name] += piece.reshape(group.size, axis.unit).sum(axis=1)
    return totals


def _over_other_dims(tensor: Tensor, dim: int) -> Tensor:
    return tensor.sum(dim=[d for d in range(tensor.ndim) if d != dim])


def _gates(student: Student, scalar: Tensor) -> dict[str, NDArray[np.float64]]:
    """Derivative of `scalar` by a gate on every channel's consumers: sum of W * dW over its input columns."""
    weights = dict(student.module.named_parameters())
    consumers = [(name, dim) for name, dim in _consumers(student.space) if name in weights]
    gradients = torch.autograd.grad(scalar, [weights[name] for name, _ in consumers], allow_unused=True)
    columns = {
        name: _over_other_dims(weights[name] * (torch.zeros_like(weights[name]) if grad is None else grad), dim)
        for (name, dim), grad in zip(consumers, gradients, strict=True)
    }
    return _per_channel(student.space, columns)


def _squared_mean(rows: Sequence[dict[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    """Root mean square over probes; consumers were added up before, with their signs."""
    return {name: np.sqrt(np.mean([row[name] ** 2 for row in rows], axis=0)) for name in rows[0]}


def _probes(run: Run) -> list[Batch]:
    """Batches of one image for every route; made without data where there are no images."""
    batches = run.probe_batches(PROBES) or run.synthetic_batches(PROBES)
    if not batches:
        raise MissingData("This importance needs images, but none are available. Use importance='consumer-norm'.")
    single: list[Batch] = []
    for batch in batches:
        for i in range(min(len(x) for x in batch.inputs.values())):
            inputs, targets = (
                {route: image[i : i + 1] for route, image in images.items()} for images in (batch.inputs, batch.targets)
            )
            single.append(Batch(inputs, targets, paired=batch.paired))
    return single[:PROBES]


def _images(student: Student, batch: Batch) -> dict[Route, Tensor]:
    """The student's images by route."""
    images = {route: student.observe(x, route=route).image for route, x in batch.inputs.items()}
    return {route: image for route, image in images.items() if image is not None}


def gauss_newton(student: Student, run: Run) -> Scores:
    """How much the image moves, to first order, when a channel goes: E[<v, dy/dg>^2] over random v.

    g gates the consumers' input columns of the channel. No labels and no loss are needed. One backward
    pass of <y, v> gives every channel at once, of every route.
    """
    student.activate(student.space.full_plan())
    rng = torch.Generator().manual_seed(run.seed)
    rows = []
    for batch in _probes(run):
        products = [
            (image * torch.randn(image.shape, generator=rng).to(image)).sum()
            for image in _images(student, batch).values()
        ]
        rows.append(_gates(student, torch.stack(products).sum()))
    return _squared_mean(rows)


def taylor(student: Student, run: Run) -> Scores:
    """First-order change of the task's loss when a channel's consumers lose it (Molchanov et al., 2019, on gates)."""
    student.activate(student.space.full_plan())
    rows = []
    for batch in _probes(run):
        if not batch.targets or not batch.paired:
            raise MissingData(
                "The importance 'taylor' compares with the ground truth, but these images have none. Use "
                "importance='gauss-newton', which needs no targets."
            )
        loss, _ = run.task.generator_loss(batch, _images(student, batch), batch.targets)
        rows.append(_gates(student, loss))
    return _squared_mean(rows)


def consumer_norm(student: Student, run: Run) -> Scores:
    """L2 norm of the weights that read a channel: the score for when there is no data."""
    weights = dict(student.module.named_parameters())
    columns = {name: _over_other_dims(weights[name].detach() ** 2, dim) for name, dim in _consumers(student.space)}
    return {name: np.sqrt(values) for name, values in _per_channel(student.space, columns).items()}


def norm_scale(student: Student, run: Run) -> Scores:
    """|gamma| of the first affine norm of each group (CAT, Jin et al., CVPR 2021; network slimming).

    Says something only where the scales were trained to; groups without a scale are an error, because
    nothing would rank them, unless they follow another one in a knob.
    """
    network = student.module
    ranked = {group.name for group in ranked_groups(student.space)}
    scores: dict[str, NDArray[np.float64]] = {}
    for group in student.space.prunable:
        weight = scale_of(network, group)
        if weight is None and group.name not in ranked:
            scores[group.name] = np.zeros(group.size)
            continue
        if weight is None:
            raise IncompatibleParts(
                f"The importance 'norm-scale' ranks by the scales of norm layers, but group {group.name!r} has none. "
                "Use importance='gauss-newton'.",
                missing=("channel-scales",),
            )
        scores[group.name] = weight.detach().abs().double().cpu().numpy().reshape(group.size, -1).mean(axis=1)
    return scores


def scale_of(network: nn.Module, group: ChannelGroup) -> Tensor | None:
    """The affine weight of the first norm over the group's channels, in execution order."""
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
    for axis in group.axes:
        path, _, leaf = axis.tensor.rpartition(".")
        if leaf == "weight" and not axis.tensor.startswith("tap:"):
            owner = network.get_submodule(path)
            if isinstance(owner, norms):
                return owner.weight[axis.start : axis.start + group.size * axis.unit]
    return None


def torch_pruning_magnitude(student: Student, run: Run) -> Scores:
    """torch-pruning's group magnitude importance, on our channel groups instead of its own graph."""
    import torch_pruning as tp

    network = student.module
    ops = {op.weight: op for op in student.space.ops}
    functions = {
        (nn.Conv2d, "out"): tp.prune_conv_out_channels,
        (nn.Conv2d, "in"): tp.prune_conv_in_channels,
        (nn.ConvTranspose2d, "out"): tp.prune_conv_out_channels,
        (nn.ConvTranspose2d, "in"): tp.prune_conv_in_channels,
        (nn.Linear, "out"): tp.prune_linear_out_channels,
        (nn.Linear, "in"): tp.prune_linear_in_channels,
        (nn.BatchNorm2d, "out"): tp.prune_batchnorm_out_channels,
    }
    scores: dict[str, NDArray[np.float64]] = {}
    for group in student.space.prunable:
        members = tp.dependency.Group()
        for axis in group.axes:
            path, _, leaf = axis.tensor.rpartition(".")
            if leaf != "weight" or axis.tensor.startswith("tap:") or axis.unit != 1:
                continue
            op = ops.get(axis.tensor)
            side = "in" if op is not None and axis.dim == op.in_dim else "out"
            layer = network.get_submodule(path)
            function = functions.get((type(layer), side))
            if function is not None:
                node = tp.dependency.Node(layer, path)
                dependency = tp.dependency.Dependency(function, function, node, node)
                members.add_dep(dependency, list(range(axis.start, axis.start + group.size)))
        for i, (_, idxs) in enumerate(members):
            members[i].root_idxs = [index - idxs[0] for index in idxs]
        values = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)(members) if len(members) else None
        scores[group.name] = (
            np.ones(group.size) if values is None else values.detach().double().cpu().numpy().reshape(group.size)
        )
    return scores


Importance = Literal["auto", "gauss-newton", "taylor", "norm-scale", "consumer-norm", "torch-pruning"]
IMPORTANCES: dict[str, Measure] = {
    "gauss-newton": gauss_newton,
    "taylor": taylor,
    "norm-scale": norm_scale,
    "consumer-norm": consumer_norm,
    "torch-pruning": torch_pruning_magnitude,
}


def scores_by(name: str, student: Student, run: Run) -> Scores:
    """The scores by the importance `name`.

    "auto" is gauss-newton, on synthetic images where there are no others, or consumer-norm, with a warning,
    where nothing may run.
    """
    if name == "auto":
        name = "gauss-newton" if run.probe_batches(1) or run.synthetic_batches(1) else "consumer-norm"
        if name == "consumer-norm":
            warnings.warn(
                "There are no images to measure importance on, so channels are ranked by the norm of the weights that "
                "read them, which ranks less well than a compression does.",
                GansdkWarning,
                stacklevel=3,
            )
    return IMPORTANCES[name](student, run)

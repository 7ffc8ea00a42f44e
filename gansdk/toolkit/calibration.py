"""Statistics of norm layers for one subnet, measured on images, without touching those of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from gansdk.channels.carve import kept_entries
from gansdk.channels.groups import Plan
from gansdk.interfaces import Student
from gansdk.modules.norms import input_statistics

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Path of a norm -> mean and unbiased variance of its active channels: (C_active,) each."""


def tracks_statistics(student: Student) -> bool:
    """Whether the student normalises by statistics that were measured before, rather than by its input's."""
    return any(contract.inference == "eval" for contract in student.contracts.values()) and bool(_norms(student))


@contextmanager
def on_batch_statistics(student: Student) -> Iterator[None]:
    """Normalise by batch statistics while this lasts, as subnets of different widths need them to train together.

    Tracked statistics are no part of the student's state meanwhile, and afterwards are as they were: measure those of
    a subnet with `calibrate`. Students that track none are left alone.
    """
    with input_statistics(list(_norms(student).values()) if tracks_statistics(student) else []):
        yield


@torch.no_grad()
def measure_statistics(student: Student, plan: Plan, batches: Sequence[Tensor]) -> Statistics:
    """Statistics of every norm of the subnet `plan`, averaged over `batches` with equal weights.

    Every norm normalises by its input's statistics meanwhile, as in training, so a norm sees what the calibrated
    ones in front of it will give. `batches`: (N, C, H, W) each. The released code of GAN Compression keeps those of
    the last batch instead (momentum 1).
    """
    norms = _norms(student)
    sums: dict[str, list[Tensor]] = {}
    counts: dict[str, int] = {}

    def note(path: str, norm: nn.Module, x: Tensor) -> None:
        mean, variance = _moments(x, per_image=isinstance(norm, _InstanceNorm))
        old = sums.get(path)
        sums[path] = [mean, variance] if old is None else [old[0] + mean, old[1] + variance]
        counts[path] = counts.get(path, 0) + 1

    active = student.plan
    student.activate(plan)
    student.train(False)
    with ExitStack() as stack:
        stack.callback(student.activate, active)
        stack.enter_context(input_statistics(list(norms.values())))
        for path, norm in norms.items():
            hook = norm.register_forward_pre_hook(lambda part, args, path=path: note(path, part, args[0]))
            stack.callback(hook.remove)
        for x in batches:
            student.observe(x)
    return {path: (mean / counts[path], variance / counts[path]) for path, (mean, variance) in sums.items()}


@torch.no_grad()
def calibrate(student: Student, plan: Plan, batches: Sequence[Tensor]) -> None:
    """Give the norms of the subnet `plan` the statistics of `batches`: (N, C, H, W) each; for good."""
    if not tracks_statistics(student) or not batches:
        return
    norms = _norms(student)
    for path, moments in measure_statistics(student, plan, batches).items():
        for leaf, measured in zip(("running_mean", "running_var"), moments, strict=True):
            buffer = getattr(norms[path], leaf)
            entries = kept_entries(student.space, plan, f"{path}.{leaf}" if path else leaf, 0)
            where = torch.arange(len(buffer)) if entries is None else entries
            buffer.index_copy_(0, where.to(buffer.device), measured.to(buffer))


@contextmanager
def calibrated(student: Student, plan: Plan, batches: Sequence[Tensor]) -> Iterator[None]:
    """Calibrate the subnet `plan` while this lasts; afterwards every statistic is as it was, to the bit."""
    before = [
        (buffer, buffer.clone())
        for norm in _norms(student).values()
        for buffer in (norm.running_mean, norm.running_var)
        if buffer is not None
    ]
    try:
        calibrate(student, plan, batches)
        yield
    finally:
        for buffer, old in before:
            buffer.copy_(old)


def _norms(student: Student) -> dict[str, _NormBase]:
    return {
        path: part
        for path, part in student.module.named_modules()
        if isinstance(part, _NormBase) and part.running_mean is not None
    }


def _moments(x: Tensor, *, per_image: bool) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of every channel of (N, C, ...): over the batch, or per image and then averaged."""
    flat = x.flatten(2) if x.ndim > 2 else x[:, :, None]
    if per_image:
        return flat.mean(2).mean(0), flat.var(2).mean(0)
    variance, mean = torch.var_mean(flat, dim=(0, 2))
    return mean, variance

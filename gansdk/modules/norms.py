"""Normalisation layers that use the statistics of their input and keep their running ones as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def tracked_norms(module: nn.Module) -> tuple[_NormBase, ...]:
    """Batch and instance norms of `module` that hold running statistics."""
    return tuple(part for part in module.modules() if isinstance(part, _NormBase) and part.running_mean is not None)


@contextmanager
def input_statistics(norms: Sequence[_NormBase]) -> Iterator[None]:
    """Let `norms`, in eval mode, normalise by what they are given, as if they had never tracked anything."""
    before = [(norm.running_mean, norm.running_var, norm.track_running_stats) for norm in norms]
    try:
        for norm in norms:
            norm.running_mean, norm.running_var, norm.track_running_stats = None, None, False
        yield
    finally:
        for norm, (mean, var, tracked) in zip(norms, before, strict=True):
            norm.running_mean, norm.running_var, norm.track_running_stats = mean, var, tracked

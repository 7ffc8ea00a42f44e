"""Torch's global generator, for what draws from it without being asked: layers, libraries, other people's code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int | None = None) -> Iterator[None]:
    """Seed the global generator of the CPU inside, unless `seed` is None; outside it stays as it was before."""
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield

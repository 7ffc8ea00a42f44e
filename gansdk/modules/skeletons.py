"""Networks that strangers' files describe, built without values and without getting out of hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from gansdk.errors import CheckpointError

PARTS_PER_TENSOR = 4
"""Modules and parameters of a network for every tensor that it may have."""


@contextmanager
def at_most(tensors: int, of: str) -> Iterator[None]:
    """Stop whoever builds networks inside, once they have far more parts than so many tensors need.

    A description is small whatever it asks for, so the builder itself must be stopped. `of` says in a message what
    there is so much of.

    Raises:
        CheckpointError: it was stopped.
    """
    remaining = PARTS_PER_TENSOR * tensors

    def count(module: nn.Module, name: str, part: object) -> None:
        nonlocal remaining
        remaining -= 1
        if remaining < 0:
            raise CheckpointError(f"The network that is described has more parts than {of} can fill.")

    handles = [register_module_parameter_registration_hook(count), register_module_module_registration_hook(count)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hollow(build: Callable[[], nn.Module], tensors: int, of: str) -> nn.Module:
    """What `build` makes, without values: its sizes can be compared before any memory is spent.

    Raises:
        CheckpointError: it has far more parts than so many tensors fill (`of` names them), or impossible sizes.
    """
    try:
        with torch.device("meta"), at_most(tensors, of):
            return build()
    except (RuntimeError, OverflowError, MemoryError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise CheckpointError(f"The network that {of} describe cannot be built: {reason}.") from error

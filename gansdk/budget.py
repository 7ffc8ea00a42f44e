"""Budgets: what the student may cost. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one image at the contract's size costs, and what the weights take."""

    macs: int
    """Multiply-accumulates as a device executes them (transposed convolutions on their input grid)."""
    paper_macs: int
    """As torchprofile prints: transposed convolutions on the output grid, one per InstanceNorm element."""
    params: int
    bytes: int
    """Of the state dict, parameters and buffers."""


class Budget:
    """Placeholder until the parser lands."""


class Limits:
    """Placeholder until the parser lands."""

"""What training needs to know: steps, rates, randomness and processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

State = dict[str, Any]
"""Tensors, numbers, strings and containers of them: what `torch.load(weights_only=True)` reads back."""


class TrainingProcesses(Protocol):
    """What training needs to know of the processes it runs in."""

    @property
    def device(self) -> torch.device: ...

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    def backward(self, loss: Tensor) -> None:
        """Backpropagate, with mixed precision scaling where it is on."""

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make every process hold the mean of all gradients; nothing to do for one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How something is trained: for how long, how fast, in which processes. Grows by fields with defaults."""

    steps: int
    rng: torch.Generator
    """For whatever is random; the global generator is never touched."""
    processes: TrainingProcesses
    learning_rate: float = 3e-4
    """Of the generator, the largest of the schedule."""

    @property
    def device(self) -> torch.device:
        return self.processes.device


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """How a family trains its generators: Adam's settings and the schedule of its learning rate."""

    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["cosine", "constant-linear"] = "cosine"
    """ "cosine": 2 % warm-up, then a cosine to 1 %; "constant-linear": constant for a part of the steps, then
    linearly to zero (pix2pix, Isola et al., CVPR 2017)."""
    constant: float = 0.5
    """That part, from 0 to 1: 0.4 for the 100 + 150 epochs of Cityscapes (Li et al., CVPR 2020)."""

"""The optimisation of the released code: SGD or Adam, with rates that fall in stairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gansdk.interfaces import State, Training

STAIRS = 8
"""Stairs of a training: every 10 of 80 epochs, the learning rate falls to a tenth."""


class StairDescent:
    """Steps of an optimiser over `parameters`; its rate is that which it was made with, times 0.1 for every stair.

    A stair is an eighth of `steps`, however many of them this optimiser takes: those behind the student's growth begin
    at the top again and end above the last stair, as released.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        training: Training,
        *,
        steps: int,
        clip_norm: float | None = None,
    ) -> None:
        self._optimizer = optimizer
        self._parameters = parameters
        self._processes = training.processes
        self._steps = steps
        self._rate = float(optimizer.defaults["lr"])
        self._clip_norm = clip_norm
        self._step = 0

    def __call__(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`, a 0-d tensor."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * 0.1 ** (STAIRS * self._step // self._steps)
        self._optimizer.zero_grad()
        self._processes.backward(loss)
        self._processes.average_gradients(self._parameters)
        if self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._optimizer.step()
        self._step += 1

    def state_dict(self) -> State:
        """The number of steps taken, and the optimiser's state."""
        return {"step": self._step, "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Go on from a `state_dict`."""
        self._step = state["step"]
        self._optimizer.load_state_dict(state["optimizer"])


def published_sgd(parameters: Sequence[nn.Parameter], training: Training, *, steps: int) -> StairDescent:
    """The student's: SGD at 0.1, momentum 0.9, weight decay 1e-4, the norm of all gradients at most 0.4.

    `steps`: of the whole training, before and behind growth.

    That bound is what lets this rate survive a summed loss. The training's own rate plays no part.
    """
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4, foreach=True)
    return StairDescent(optimizer, parameters, training, steps=steps, clip_norm=0.4)


def published_adam(parameters: Sequence[nn.Parameter], training: Training) -> StairDescent:
    """The image generators': Adam at the training's rate, with torch's betas."""
    optimizer = torch.optim.Adam(parameters, lr=training.learning_rate, foreach=True)
    return StairDescent(optimizer, parameters, training, steps=training.steps)

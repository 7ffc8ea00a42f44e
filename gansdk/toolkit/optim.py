"""Adam under learning rates that are functions of the step alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import cos, pi

import torch
from torch import Tensor, nn

from gansdk.errors import ContractError
from gansdk.interfaces.training import Optimisation, State, Training


def warmup_cosine(step: int, steps: int, *, warmup: float = 0.02, final: float = 0.01) -> float:
    """The factor of the learning rate at `step`, counted from 0, of `steps`.

    Rises linearly over the first `warmup` of the steps (at least one), reaches 1, and falls along half a
    cosine to `final`, which the last step has and keeps.
    """
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    progress = min(1.0, (step + 1 - rising) / max(1, steps - rising))
    return final + (1.0 - final) * 0.5 * (1.0 + cos(pi * progress))


def constant_linear(step: int, steps: int, *, constant: float = 0.5) -> float:
    """1 over the first part of the steps, then linearly towards 0, which the step behind the last would have."""
    return 1.0 if constant == 1 else min(1.0, (steps - step) / (steps * (1 - constant)))


def schedule_of(optimisation: Optimisation, steps: int) -> Callable[[int], float]:
    """The factor of the learning rate by step, counted from 0, of `steps`.

    Raises:
        ContractError: there is no such schedule.
    """
    if optimisation.schedule == "cosine":
        return partial(warmup_cosine, steps=steps)
    if optimisation.schedule == "constant-linear":
        return partial(constant_linear, steps=steps, constant=optimisation.constant)
    raise ContractError(f'schedule={optimisation.schedule!r} is unknown; choose "cosine" or "constant-linear".')


class ScheduledSteps:
    """Steps of any optimiser over `parameters`, the same ones in every process.

    Its rate is the one that it was made with, times `factor` of the number of the step, counted from 0. `clip_norm`
    bounds the norm of all gradients together.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        training: Training,
        factor: Callable[[int], float],
        *,
        clip_norm: float | None = None,
    ) -> None:
        self._optimizer = optimizer
        self._parameters = parameters
        self._processes = training.processes
        self._rate = float(optimizer.defaults["lr"])
        self._factor = factor
        self._clip_norm = clip_norm
        self._step = 0

    def __call__(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`, a 0-d tensor."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * self._factor(self._step)
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


class Descent(ScheduledSteps):
    """Adam over `parameters` as a family's `optimisation` says; every process takes the same steps.

    The largest learning rate is the training's, times `rate` (a discriminator may learn faster than its generator).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        training: Training,
        optimisation: Optimisation,
        *,
        rate: float = 1.0,
        clip_norm: float | None = None,
    ) -> None:
        trained = list(parameters)
        largest = rate * training.learning_rate
        adam = torch.optim.Adam(trained, lr=largest, betas=optimisation.betas, fused=True)
        super().__init__(adam, trained, training, schedule_of(optimisation, training.steps), clip_norm=clip_norm)

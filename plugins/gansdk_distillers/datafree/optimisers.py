"""The optimisation of the released code: SGD or Adam, with rates that fall in stairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from gansdk.interfaces import Training
from gansdk.toolkit.optim import ScheduledSteps

STAIRS = 8
"""Stairs of a training: every 10 of 80 epochs, the learning rate falls to a tenth."""


def stairs(steps: int) -> Callable[[int], float]:
    """The factor of a learning rate by step: 0.1 for every eighth of `steps` that is behind.

    However many steps an optimiser takes: those behind the student's growth begin at the top again and end above the
    last stair, as released.
    """
    return lambda step: 0.1 ** (STAIRS * step // steps)


def published_sgd(parameters: Sequence[nn.Parameter], training: Training, *, steps: int) -> ScheduledSteps:
    """The student's: SGD at 0.1, momentum 0.9, weight decay 1e-4, the norm of all gradients at most 0.4.

    The bound is what lets this rate survive a summed loss. The training's own rate plays no part. `steps`: of the whole
    training, before and behind growth.
    """
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4, foreach=True)
    return ScheduledSteps(optimizer, parameters, training, stairs(steps), clip_norm=0.4)


def published_adam(parameters: Sequence[nn.Parameter], training: Training) -> ScheduledSteps:
    """The image generators': Adam at the training's rate, with torch's betas."""
    optimizer = torch.optim.Adam(parameters, lr=training.learning_rate, foreach=True)
    return ScheduledSteps(optimizer, parameters, training, stairs(training.steps))

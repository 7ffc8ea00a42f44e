"""Adversarial losses: what a discriminator is trained for, and what a generator is trained for against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from gansdk.errors import InvalidOption

Kind = Literal["hinge", "lsgan", "vanilla"]


def check_kind(kind: str) -> None:
    """Raise InvalidOption unless `kind` is one of the losses here."""
    if kind not in get_args(Kind):
        raise InvalidOption(f"gan={kind!r} must be one of: {', '.join(get_args(Kind))}.")


def discriminator_loss(kind: Kind, scores: Tensor, *, real: bool) -> Tensor:
    """The discriminator's loss on patches of real or of generated images, without a factor.

    `scores`: any shape, unbounded. "hinge" (Lim and Ye, 2017), "lsgan" (Mao et al., ICCV 2017), "vanilla" (binary
    cross entropy on logits, Goodfellow et al., 2014).
    """
    if kind == "hinge":
        return F.relu(1 - scores if real else 1 + scores).mean()
    return _to_label(kind, scores, 1.0 if real else 0.0)


def generator_loss(kind: Kind, scores: Tensor) -> Tensor:
    """The generator's loss for the scores of its images."""
    return -scores.mean() if kind == "hinge" else _to_label(kind, scores, 1.0)


def over_scales(losses: Sequence[Tensor]) -> Tensor:
    """Mean over the scales of a multi-scale discriminator (Park et al., CVPR 2019)."""
    return torch.stack(list(losses)).mean()


def _to_label(kind: Kind, scores: Tensor, label: float) -> Tensor:
    target = torch.full_like(scores, label)
    return F.mse_loss(scores, target) if kind == "lsgan" else F.binary_cross_entropy_with_logits(scores, target)

"""The distiller "omgd": Online Multi-Granularity Distillation (Ren et al., ICCV 2021)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import get_args

from torch import nn

from gansdk.errors import GansdkWarning, InvalidOption
from gansdk.interfaces import Distiller, Term
from gansdk.toolkit.options import at_least_zero, count, flag, one_of, positive
from gansdk_distillers.channel import channel
from gansdk_distillers.connected import Reduction
from gansdk_distillers.omgd.regime import Deep, OnlineTeachers, Schedule
from gansdk_distillers.perceptual import Weights, perceptual_term
from gansdk_distillers.ssim import ssim
from gansdk_distillers.variation import tv


def omgd(
    perceptual: Weights | None = "pretrained",
    wide: float | None = 1.0,
    deep: Deep = "auto",
    warm: bool = False,
    share: int | None = None,
    student_steps: int | None = None,
    schedule: str = "auto",
    blocks: int | None = None,
    select: Callable[[nn.Module], float] | None = None,
    ssim_weight: float = 10.0,
    style_weight: float = 1e4,
    feature_weight: float = 10.0,
    tv_weight: float = 1e-5,
    channel_weight: float = 50.0,
    channel_reduction: str = "sum",
    tv_reduction: str = "sum",
) -> Distiller:
    """Distil from a wider and a deeper teacher that learn in the run; the student sees neither critic nor truth.

    `perceptual`: VGG-16's weights, as for the distiller "perceptual", or None to do without style and features.
    `wide`, `deep`: the teachers' widths relative to the given generator, None to do without one. The defaults, 1 and
    "auto" (0.25, or none in blocks), are for students pruned to about a quarter of its width; for a student that is the
    given generator (budget "1x") published are wide=4, deep=1, and for the smallest ones wide=6, deep=1.5. `warm`:
    begin the wider teacher with the given weights instead of fresh ones. `share`: stages of the discriminator that both
    teachers share; the family's usual number if left out. `student_steps`, `schedule`, `blocks`, `select`: of
    `OnlineTeachers`.
    The other options are of the distillers "ssim", "perceptual", "tv" and "channel"; a weight of 0 leaves a term out.

    Raises:
        InvalidOption: an option has a value that is not known.
    """
    if wide is None and deep is None:
        raise InvalidOption("wide=None and deep=None leave no teacher; give one of them a width.")
    if flag(warm, "warm") and wide != 1.0:
        raise InvalidOption(f"warm=True starts from the generator's weights, so wide={wide!r} must be 1.")
    if student_steps == 0:
        raise InvalidOption(
            "student_steps=0 would never train the teachers. To imitate a frozen teacher, leave out 'omgd': "
            "distiller=['ssim', 'perceptual', 'tv', 'channel']."
        )
    if select is not None and not callable(select):
        raise InvalidOption(f"select={select!r} must be a function of a network, so it can only be passed from Python.")
    one_of(get_args(Reduction), channel_reduction, "channel_reduction")
    one_of(get_args(Reduction), tv_reduction, "tv_reduction")
    regime = OnlineTeachers(
        wide=None if wide is None else positive(wide, "wide", without="None"),
        deep=deep if deep in (None, "auto") else positive(deep, "deep", without="None"),
        warm=warm,
        share=None if share is None else count(share, "share", least=0),
        student_steps=None if student_steps is None else count(student_steps, "student_steps"),
        schedule=one_of(get_args(Schedule), schedule, "schedule"),
        blocks=None if blocks is None else count(blocks, "blocks"),
        select=select,
    )
    return Distiller(
        terms=(
            *_unless_zero(ssim_weight, "ssim_weight", ssim),
            *_perceptual(perceptual, style_weight, feature_weight),
            *_unless_zero(tv_weight, "tv_weight", lambda weight: tv(weight, tv_reduction)),
            *_unless_zero(
                channel_weight, "channel_weight", lambda weight: channel(weight, reduction=channel_reduction)
            ),
        ),
        regime=regime,
        needs=frozenset({"rebuild", "taps"} if channel_weight else {"rebuild"}),
    )


def _unless_zero(weight: float, option: str, factory: Callable[[float], Distiller]) -> tuple[Term, ...]:
    return factory(weight).terms if at_least_zero(weight, option) else ()


def _perceptual(weights: Weights | None, style_weight: float, feature_weight: float) -> tuple[Term, ...]:
    weighted = at_least_zero(style_weight, "style_weight") + at_least_zero(feature_weight, "feature_weight")
    if not weighted:
        return ()
    if weights is None:
        warnings.warn(
            "perceptual=None: the student learns without OMGD's style and feature terms.", GansdkWarning, stacklevel=2
        )
        return ()
    term = perceptual_term(
        weights,
        option="perceptual",
        optional=True,
        weight=1.0,
        style_weight=style_weight,
        feature_weight=feature_weight,
    )
    return (term,)

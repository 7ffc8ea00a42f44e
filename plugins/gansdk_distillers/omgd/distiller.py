"""The distiller "omgd": Online Multi-Granularity Distillation (Ren et al., ICCV 2021)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Annotated, Literal

from torch import nn

from gansdk.errors import GansdkWarning, InvalidOption
from gansdk.interfaces import Distiller, Term
from gansdk.toolkit.options import AtLeastZero, Count, CountOrZero, Expected, Positive, checked
from gansdk_distillers.channel import channel
from gansdk_distillers.connected import Reduction
from gansdk_distillers.omgd.regime import OnlineTeachers, Schedule
from gansdk_distillers.perceptual import Weights, perceptual_term
from gansdk_distillers.ssim import ssim
from gansdk_distillers.variation import tv

Judge = Annotated[Callable[[nn.Module], float], Expected("a function of a network, so it is for Python alone")]


@checked
def omgd(
    perceptual: Weights | None = "pretrained",
    wide: Positive | None = 1.0,
    deep: Positive | Literal["auto"] | None = "auto",
    warm: bool = False,
    share: CountOrZero | None = None,
    student_steps: CountOrZero | None = None,
    schedule: Schedule = "auto",
    blocks: Count | None = None,
    select: Judge | None = None,
    ssim_weight: AtLeastZero = 10.0,
    style_weight: AtLeastZero = 1e4,
    feature_weight: AtLeastZero = 10.0,
    tv_weight: AtLeastZero = 1e-5,
    channel_weight: AtLeastZero = 50.0,
    channel_reduction: Reduction = "sum",
    tv_reduction: Reduction = "sum",
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
    if warm and wide != 1.0:
        raise InvalidOption(f"warm=True starts from the generator's weights, so wide={wide!r} must be 1.")
    if student_steps == 0:
        raise InvalidOption(
            "student_steps=0 would never train the teachers. To imitate a frozen teacher, leave out 'omgd': "
            "distiller=['ssim', 'perceptual', 'tv', 'channel']."
        )
    regime = OnlineTeachers(
        wide=wide,
        deep=deep,
        warm=warm,
        share=share,
        student_steps=student_steps,
        schedule=schedule,
        blocks=blocks,
        select=select,
    )
    return Distiller(
        terms=(
            *(ssim(ssim_weight).terms if ssim_weight else ()),
            *_perceptual(perceptual, style_weight, feature_weight),
            *(tv(tv_weight, tv_reduction).terms if tv_weight else ()),
            *(channel(channel_weight, reduction=channel_reduction).terms if channel_weight else ()),
        ),
        regime=regime,
        needs=frozenset({"rebuild", "taps"} if channel_weight else {"rebuild"}),
    )


def _perceptual(weights: Weights | None, style_weight: float, feature_weight: float) -> tuple[Term, ...]:
    if not (style_weight or feature_weight):
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

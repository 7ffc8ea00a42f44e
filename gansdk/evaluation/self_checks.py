"""A student checks itself on a few held-out images: is it finite, in range, near its teacher, and nearer by training?

Each image is seen at two sizes, in crops of at most `LARGEST` pixels a side. Where there are no images, made ones
show what they can. What is out of line is a finding with what to try, and a warning; nothing here ends a run. A teacher
that fails on an image is said to, and its student is not measured by that image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from gansdk.contracts import Contract
from gansdk.evaluation.evaluate import BICUBIC, IDENTICAL_DB, Protocol
from gansdk.evaluation.findings import (
    ACTIVATIONS,
    BASELINE,
    CHECKS,
    FINITE,
    RANGE,
    TEACHER,
    TRAINING,
    Finding,
    left_out,
    out_of_line,
    passed,
)
from gansdk.evaluation.views import Sight, View, Views
from gansdk.interfaces import DataSource, Student, Teacher
from gansdk.registry.suggestions import anchors, distillers_such_as
from gansdk.toolkit.images import Pixels

OUTSIDE = 0.25
"""Share of the output range by which a student's image may leave it beyond what the teacher's does."""
TEACHER_OUTSIDE = 0.5
"""Share by which a teacher's image may: those without a last clamp or tanh do so by a tenth or two."""
FLAT = 0.02
"""Share of the output range that a teacher's images must fill."""
FAR_BELOW_DB = 6.0
"""A perceptual teacher may be a few dB below bicubic enlargement; one with a wrong contract is many."""
ONE_IMAGE_DB = 3.0
"""By so much a single image may be below the baseline where the mean is above it."""
NOISE_DB = 0.1
"""Differences below it are no difference."""
ALIKE_DB = 50.0
"""Images nearer than this look the same, so that more counts for nothing."""
GROWTH = 10.0
"""Times the teacher's largest activation that the student's may be."""


class SelfCheck:
    """The checks of one student of one route: `before` and `after` its training, beside its teacher throughout.

    The same images, cropped alike, serve for both, so a run that is continued finds what it would have found.
    """

    def __init__(
        self, teacher: Teacher, source: DataSource | None, contract: Contract, device: torch.device, seed: int
    ) -> None:
        self._contract = contract
        self._protocol = Protocol.of(contract)
        self._views = Views(teacher, source, contract, device, seed)
        self._untrained: list[Sight | None] = []

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """One crop of each image that was looked at, by the image's name: (1, channels_in, H, W) on the CPU."""
        return self._views.inputs

    def before(self, student: Student) -> None:
        """Look at the student as its training finds it."""
        self._untrained = self._views.of(student)

    def after(self, student: Student, *, imitates: bool = True) -> list[Finding]:
        """All findings of the finished student; `imitates`: whether it was trained to be like the given generator."""
        pairs = self._sound(self._views.of(student))
        if not pairs:
            reason = "there is no image on which the teacher is finite"
            return [self.of_teacher(), *(left_out(name, reason) for name in CHECKS if name != TEACHER)]
        return [
            self.of_teacher(),
            self._finite(pairs),
            self._range(pairs),
            self._baseline(pairs),
            self._training(pairs, imitates=imitates),
            self._activations(pairs, fresh=student.fresh),
        ]

    def _sound(self, seen: Sequence[Sight | None]) -> list[tuple[View, Sight]]:
        """Crops on which the teacher is finite, and what the student made of them."""
        pairs = zip(self._views, seen, strict=True)
        return [(view, sight) for view, sight in pairs if view.teacher.finite and sight is not None]

    def of_teacher(self) -> Finding:
        """Whether the teacher and its contract are sound, which can be said before any training."""
        if not self._views:
            return left_out(TEACHER, "the teacher runs on none of the available images")
        low, high = self._contract.output_range
        broken = [view for view in self._views if not view.teacher.finite]
        worst = max(self._views, key=lambda view: view.teacher.outside)
        if broken:
            return out_of_line(
                TEACHER,
                f"The teacher itself returns non-finite values on {_share(broken, self._views)}, such as "
                f"{self._name(broken[0])}; the student did not cause them. Check the generator's weights and the "
                "contract's input_range.",
                image=broken[0].image,
            )
        if worst.teacher.outside > TEACHER_OUTSIDE:
            return out_of_line(
                TEACHER,
                f"The contract's range looks wrong: the teacher's own images leave its output range [{low:g}, "
                f"{high:g}], with values of {worst.teacher.largest:.3g} on {self._name(worst)}. Correct "
                "output_range, or the input_range that the images are given in.",
                image=worst.image,
                measured={"outside": worst.teacher.outside},
            )
        varied = [view.teacher.spread for view in self._views if view.x.min() < view.x.max()]
        if varied and (spread := max(varied)) < FLAT:
            return out_of_line(
                TEACHER,
                f"The teacher's images fill only {spread:.2%} of the contract's output range [{low:g}, {high:g}], so "
                "all of them look flat. Correct output_range or input_range, or check the generator's weights.",
                measured={"spread": spread},
            )
        distances = [
            (self._psnr(view.teacher.pixels, view.target), self._psnr(view.baseline, view.target))
            for view in self._views
            if view.target is not None and view.baseline is not None
        ]
        teacher, plain = (
            (fmean(values) for values in zip(*distances, strict=True)) if distances else (math.nan, math.nan)
        )
        measured = {"teacher": teacher, self._plain: plain} if distances else {}
        if plain - teacher > FAR_BELOW_DB:
            return out_of_line(
                TEACHER,
                f"The contract's range looks wrong: the teacher itself is below {self._plainly} ({teacher:.1f} dB to "
                f"the ground truth against {plain:.1f} dB). Check input_range and output_range, and that these "
                "images are what the generator was trained for.",
                measured=measured,
            )
        where = " on synthetic images, since there is no data" if self._views.are_synthetic else ""
        return passed(TEACHER, f"The teacher is finite and in range{where}.", measured=measured)

    # The checks of the student; `pairs` as `_sound` gives them.

    def _finite(self, pairs: Sequence[tuple[View, Sight]]) -> Finding:
        broken = [view for view, sight in pairs if not sight.finite]
        if not broken:
            return passed(FINITE, f"All values are finite on {self._looked_at(pairs)}.")
        return out_of_line(
            FINITE,
            f"The student returns non-finite values on {_share(broken, [view for view, _ in pairs])}, such as "
            f"{self._name(broken[0])}, where the teacher's are. Try a smaller learning_rate or a larger budget.",
            image=broken[0].image,
        )

    def _range(self, pairs: Sequence[tuple[View, Sight]]) -> Finding:
        low, high = self._contract.output_range
        if not any(sight.finite for _, sight in pairs):
            return left_out(RANGE, "none of the images is finite")
        allowed = OUTSIDE + max(view.teacher.outside for view, _ in pairs)
        far = [(view, sight) for view, sight in pairs if sight.finite and sight.outside > allowed]
        most = max(sight.outside for _, sight in pairs if sight.finite)
        measured = {"outside": most, "teacher": allowed - OUTSIDE}
        if not far:
            return passed(
                RANGE,
                f"Images leave [{low:g}, {high:g}] by {most:.1%} of it at most, the teacher's by "
                f"{allowed - OUTSIDE:.1%}.",
                measured=measured,
            )
        view, sight = max(far, key=lambda pair: pair[1].outside)
        return out_of_line(
            RANGE,
            f"On {_share([view for view, _ in far], [view for view, _ in pairs])} the student leaves the output "
            f"range [{low:g}, {high:g}]: {self._name(view)} has values of {sight.largest:.3g}, the teacher's of "
            f"{view.teacher.largest:.3g}. Try a larger budget or another pruner.",
            image=view.image,
            measured=measured,
        )

    def _baseline(self, pairs: Sequence[tuple[View, Sight]]) -> Finding:
        rows = [(view, sight, view.baseline) for view, sight in pairs if view.baseline is not None]
        if not rows:
            reason = (
                "synthetic images have no baseline"
                if self._views.are_synthetic
                else "input and output cannot be compared"
            )
            return left_out(BASELINE, reason)
        near = [
            (self._psnr(sight.pixels, view.teacher.pixels), self._psnr(plain, view.teacher.pixels))
            for view, sight, plain in rows
        ]
        student, baseline = (fmean(values) for values in zip(*near, strict=True))
        measured = {"student": student, self._plain: baseline}
        try_this = "Train longer, allow a larger budget, or try another pruner or distiller."
        if student < min(baseline, ALIKE_DB):
            return out_of_line(
                BASELINE,
                f"The student is below {self._plainly}: {student:.1f} dB to the teacher against {baseline:.1f} dB. "
                f"{try_this}",
                measured=measured,
            )
        below_truth = self._below_truth(rows)
        if below_truth:
            own, plain = below_truth
            return out_of_line(
                BASELINE,
                f"The student is below {self._plainly}: {own:.1f} dB to the ground truth against {plain:.1f} dB, "
                f"where the teacher is above. {try_this}",
                measured={**measured, "student to truth": own, f"{self._plain} to truth": plain},
            )
        gaps = [min(plain, ALIKE_DB) - own for own, plain in near]
        if max(gaps) > ONE_IMAGE_DB:
            worst = gaps.index(max(gaps))
            view, (own, plain) = rows[worst][0], near[worst]
            return out_of_line(
                BASELINE,
                f"On {self._name(view)} the student is below {self._plainly}, {own:.1f} dB to the teacher against "
                f"{plain:.1f} dB, though not on the mean of all images. {try_this}",
                image=view.image,
                measured=measured,
            )
        return passed(
            BASELINE,
            f"{student:.1f} dB to the teacher, where {self._plainly} is at {baseline:.1f} dB.",
            measured=measured,
        )

    def _below_truth(self, rows: Sequence[tuple[View, Sight, Pixels]]) -> tuple[float, float] | None:
        """(student, baseline) in dB to the ground truth, if the student is below and the teacher is not."""
        distances = [
            [self._psnr(image, view.target) for image in (sight.pixels, plain, view.teacher.pixels)]
            for view, sight, plain in rows
            if view.target is not None
        ]
        if not distances:
            return None
        student, baseline, teacher = (fmean(values) for values in zip(*distances, strict=True))
        return (student, baseline) if student < baseline <= teacher else None

    def _training(self, pairs: Sequence[tuple[View, Sight]], *, imitates: bool) -> Finding:
        reason = (
            "nothing was trained"
            if not self._untrained
            else "the student was not trained on synthetic images"
            if self._views.are_synthetic
            else ""
            if imitates
            else "its teachers were trained during the run, so it does not imitate the original generator"
        )
        if reason:
            return left_out(TRAINING, reason)
        now = [self._psnr(sight.pixels, view.teacher.pixels) for view, sight in pairs]
        then = [self._psnr(sight.pixels, view.teacher.pixels) for view, sight in self._sound(self._untrained)]
        after, before = fmean(now), fmean(then)
        measured = {"before": before, "after": after}
        if after < min(before, ALIKE_DB) - NOISE_DB:
            return out_of_line(
                TRAINING,
                f"The student is further from the teacher after training than before: {after:.1f} dB instead of "
                f"{before:.1f} dB. Try a smaller learning_rate, larger patches (patch=), more steps, or a distiller "
                f"of the teacher's images{distillers_such_as(anchors)} beside less task_weight for the ground truth.",
                measured=measured,
            )
        return passed(
            TRAINING, f"{before:.1f} dB to the teacher before training, {after:.1f} dB after.", measured=measured
        )

    def _activations(self, pairs: Sequence[tuple[View, Sight]], *, fresh: bool) -> Finding:
        growth: dict[str, float] = {}
        for tap in pairs[0][1].activations:
            student = max(sight.activations[tap] for _, sight in pairs)
            teacher = max(view.teacher.activations[tap] for view, _ in pairs)
            if teacher > 0 and math.isfinite(teacher):
                growth[tap] = student / teacher
        reason = (
            "the generator has no taps"
            if not growth
            else "the student started from fresh weights, so the scale of its activations is not comparable"
            if fresh
            else ""
        )
        if reason:
            return left_out(ACTIVATIONS, reason)
        tap = max(growth, key=lambda name: growth[name])
        most = f"{growth[tap]:.3g} times the teacher's"
        if growth[tap] > GROWTH:
            view, _ = max(pairs, key=lambda pair: pair[1].activations[tap])
            return out_of_line(
                ACTIVATIONS,
                f"The student's activations grow to {most}, at {tap!r} on {self._name(view)}: it is close to unstable. "
                "Try a larger budget, or a pruner that keeps the groups there wider.",
                image=view.image,
                measured=growth,
            )
        return passed(ACTIVATIONS, f"The largest activations are {most} at most, at {tap!r}.", measured=growth)

    @property
    def _plain(self) -> str:
        return BICUBIC if self._contract.scale * self._contract.pre_upsampled > 1 else "input"

    @property
    def _plainly(self) -> str:
        return "bicubic enlargement" if self._plain == BICUBIC else "its own input, left as it is"

    def _psnr(self, image: Pixels | None, target: Pixels | None) -> float:
        """By the protocol of the scores."""
        assert image is not None
        assert target is not None
        border = self._protocol.border if min(image.shape[:2]) > 2 * self._protocol.border else 0
        protocol = replace(self._protocol, border=border)
        error = float((protocol.prepare(image) - protocol.prepare(target)).double().square().mean())
        return min(IDENTICAL_DB, -10 * math.log10(error)) if error > 0 else IDENTICAL_DB

    def _name(self, view: View) -> str:
        height, width = view.x.shape[2:]
        return f"{view.image!r} at {height}x{width}"

    def _looked_at(self, pairs: Sequence[tuple[View, Sight]]) -> str:
        images = len({view.image for view, _ in pairs})
        sizes = list(dict.fromkeys(tuple(view.x.shape[2:]) for view, _ in pairs))
        listed = ", ".join(f"{height}x{width}" for height, width in sizes)
        kind = "synthetic images, since there is no data," if self._views.are_synthetic else f"{images} image(s)"
        single = "" if len(sizes) > 1 else " only; there was no second size"
        return f"{kind} at {listed}{single}"


def _share(some: Sequence[View], all_: Sequence[View]) -> str:
    """How many of the images are in question: "1 of 5 images"."""
    few, many = len({view.image for view in some}), len({view.image for view in all_})
    return f"{few} of {many} image{'s' if many > 1 else ''}"

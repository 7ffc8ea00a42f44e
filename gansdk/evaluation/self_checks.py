"""A student checks itself on a few held-out images: is it finite, in range, near its teacher, and nearer by training?

Each image is seen at two sizes, in crops of at most `LARGEST` pixels a side. Where there are no images, made ones
show what they can. What is out of line is a finding with what to try, and a warning; nothing here ends a run. A teacher
that fails on an image is said to, and its student is not measured by that image.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import fmean

import torch
from torch import Tensor

from gansdk.contracts import MAIN, Batch, Contract, Route
from gansdk.errors import DataError, StudentWarning
from gansdk.evaluation.evaluate import BICUBIC, IDENTICAL_DB, Protocol
from gansdk.interfaces import DataSource, Student, Teacher
from gansdk.registry.isolation import returned
from gansdk.registry.suggestions import anchors, distillers_such_as
from gansdk.toolkit.images import Pixels, pad_to_multiple, picture, resize_bicubic, to_uint8
from gansdk.toolkit.synthetic import synthetic_input

TEACHER, FINITE, RANGE, BASELINE, TRAINING, ACTIVATIONS = (
    "teacher",
    "finite",
    "range",
    "baseline",
    "training",
    "activations",
)
CHECKS = {
    TEACHER: "the teacher's own images are finite, vary, lie in the contract's range and are no worse than bicubic",
    FINITE: "all values of the student's images are finite",
    RANGE: "the student's images exceed the contract's output range hardly more than the teacher's",
    BASELINE: "the student is nearer to the teacher than bicubic enlargement, or than its input left as it is",
    TRAINING: "training brought the student nearer to the teacher, or kept it there",
    ACTIVATIONS: "no feature map of the student is many times as large as the teacher's",
}
"""Every check by its name, and what holds where it is passed."""

MOST_IMAGES, SIZES = 5, 2
LARGEST = 256
"""Pixels of a side of a crop, unless a single multiple of the contract is larger."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    check: str
    """One of `CHECKS`."""
    passed: bool | None
    """None: it was not made, and `text` says why."""
    text: str
    """One sentence or two: what was found and, where it is out of line, what to try."""
    route: Route = MAIN
    image: str = ""
    """The worst image, where one is to blame."""
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """One crop of an image, and what the teacher made of it."""

    image: str
    x: Tensor
    """(1, channels_in, H, W)."""
    is_usual: bool
    """Whether it has the size that the network is looked at first."""
    teacher: _Sight
    target: Pixels | None = None
    baseline: Pixels | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
    """What one network made of one crop."""

    pixels: Pixels
    """Clamped to the output range, (sH, sW, channels_out); what is not finite is at its lower end."""
    finite: bool
    largest: float
    """Absolute value; infinite where the image is not finite."""
    outside: float
    """By how much it leaves the output range, as a share of it."""
    spread: float
    """Largest minus smallest value, as a share of the output range."""
    activations: Mapping[str, float]
    """tap -> largest absolute value."""


class SelfCheck:
    """The checks of one student of one route: `before` and `after` its training, beside its teacher throughout.

    The same images, cropped alike, serve for both, so a run that is continued finds what it would have found.
    """

    def __init__(
        self, teacher: Teacher, source: DataSource | None, contract: Contract, device: torch.device, seed: int
    ) -> None:
        self._teacher = teacher
        self._contract = contract
        self._protocol = Protocol.of(contract)
        self._untrained: list[_Sight | None] = []
        self._views = [] if source is None else self._seen(_images(source), device, source)
        self.on_made_images = not self._views
        """Whether there was no image that the generator takes."""
        if self.on_made_images:
            synthetic = [Batch({MAIN: x}, {}, (f"made image {n}",)) for n, x in enumerate(_made(contract, seed), 1)]
            self._views = self._seen(synthetic, device)

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """One crop of each image that was looked at, by the image's name: (1, channels_in, H, W) on the CPU."""
        crops: dict[str, Tensor] = {}
        for view in () if self.on_made_images else self._views:
            crops.setdefault(view.image, view.x.cpu())
        return crops

    def before(self, student: Student) -> None:
        """Look at the student as its training finds it."""
        self._untrained = self._looks(student)

    def after(self, student: Student, *, imitates: bool = True) -> list[Finding]:
        """All findings of the finished student; `imitates`: whether it was trained to be like the given generator."""
        pairs = self._sound(self._looks(student))
        if not pairs:
            reason = "there is no image on which the teacher is finite"
            return [self.of_teacher(), *(_left_out(name, reason) for name in CHECKS if name != TEACHER)]
        return [
            self.of_teacher(),
            self._finite(pairs),
            self._range(pairs),
            self._baseline(pairs),
            self._training(pairs, imitates=imitates),
            self._activations(pairs, fresh=student.fresh),
        ]

    def _sound(self, seen: Sequence[_Sight | None]) -> list[tuple[_View, _Sight]]:
        """Crops on which the teacher is finite, and what the student made of them."""
        pairs = zip(self._views, seen, strict=True)
        return [(view, sight) for view, sight in pairs if view.teacher.finite and sight is not None]

    def of_teacher(self) -> Finding:
        """Whether the teacher and its contract are sound, which can be said before any training."""
        if not self._views:
            return _left_out(TEACHER, "the teacher runs on none of the available images")
        low, high = self._contract.output_range
        broken = [view for view in self._views if not view.teacher.finite]
        worst = max(self._views, key=lambda view: view.teacher.outside)
        if broken:
            return _out_of_line(
                TEACHER,
                f"The teacher itself returns non-finite values on {_share(broken, self._views)}, such as "
                f"{self._name(broken[0])}; the student did not cause them. Check the generator's weights and the "
                "contract's input_range.",
                view=broken[0],
            )
        if worst.teacher.outside > TEACHER_OUTSIDE:
            return _out_of_line(
                TEACHER,
                f"The contract's range looks wrong: the teacher's own images leave its output range [{low:g}, "
                f"{high:g}], with values of {worst.teacher.largest:.3g} on {self._name(worst)}. Correct "
                "output_range, or the input_range that the images are given in.",
                view=worst,
                measured={"outside": worst.teacher.outside},
            )
        varied = [view.teacher.spread for view in self._views if view.x.min() < view.x.max()]
        if varied and (spread := max(varied)) < FLAT:
            return _out_of_line(
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
            return _out_of_line(
                TEACHER,
                f"The contract's range looks wrong: the teacher itself is below {self._plainly} ({teacher:.1f} dB to "
                f"the ground truth against {plain:.1f} dB). Check input_range and output_range, and that these "
                "images are what the generator was trained for.",
                measured=measured,
            )
        where = " on synthetic images, since there is no data" if self.on_made_images else ""
        return _passed(TEACHER, f"The teacher is finite and in range{where}.", measured=measured)

    # The checks of the student; `pairs` as `_sound` gives them.

    def _finite(self, pairs: Sequence[tuple[_View, _Sight]]) -> Finding:
        broken = [view for view, sight in pairs if not sight.finite]
        if not broken:
            return _passed(FINITE, f"All values are finite on {self._looked_at(pairs)}.")
        return _out_of_line(
            FINITE,
            f"The student returns non-finite values on {_share(broken, [view for view, _ in pairs])}, such as "
            f"{self._name(broken[0])}, where the teacher's are. Try a smaller learning_rate or a larger budget.",
            view=broken[0],
        )

    def _range(self, pairs: Sequence[tuple[_View, _Sight]]) -> Finding:
        low, high = self._contract.output_range
        if not any(sight.finite for _, sight in pairs):
            return _left_out(RANGE, "none of the images is finite")
        allowed = OUTSIDE + max(view.teacher.outside for view, _ in pairs)
        far = [(view, sight) for view, sight in pairs if sight.finite and sight.outside > allowed]
        most = max(sight.outside for _, sight in pairs if sight.finite)
        measured = {"outside": most, "teacher": allowed - OUTSIDE}
        if not far:
            return _passed(
                RANGE,
                f"Images leave [{low:g}, {high:g}] by {most:.1%} of it at most, the teacher's by "
                f"{allowed - OUTSIDE:.1%}.",
                measured=measured,
            )
        view, sight = max(far, key=lambda pair: pair[1].outside)
        return _out_of_line(
            RANGE,
            f"On {_share([view for view, _ in far], [view for view, _ in pairs])} the student leaves the output "
            f"range [{low:g}, {high:g}]: {self._name(view)} has values of {sight.largest:.3g}, the teacher's of "
            f"{view.teacher.largest:.3g}. Try a larger budget or another pruner.",
            view=view,
            measured=measured,
        )

    def _baseline(self, pairs: Sequence[tuple[_View, _Sight]]) -> Finding:
        rows = [(view, sight, view.baseline) for view, sight in pairs if view.baseline is not None]
        if not rows:
            reason = (
                "synthetic images have no baseline" if self.on_made_images else "input and output cannot be compared"
            )
            return _left_out(BASELINE, reason)
        near = [
            (self._psnr(sight.pixels, view.teacher.pixels), self._psnr(plain, view.teacher.pixels))
            for view, sight, plain in rows
        ]
        student, baseline = (fmean(values) for values in zip(*near, strict=True))
        measured = {"student": student, self._plain: baseline}
        try_this = "Train longer, allow a larger budget, or try another pruner or distiller."
        if student < min(baseline, ALIKE_DB):
            return _out_of_line(
                BASELINE,
                f"The student is below {self._plainly}: {student:.1f} dB to the teacher against {baseline:.1f} dB. "
                f"{try_this}",
                measured=measured,
            )
        below_truth = self._below_truth(rows)
        if below_truth:
            own, plain = below_truth
            return _out_of_line(
                BASELINE,
                f"The student is below {self._plainly}: {own:.1f} dB to the ground truth against {plain:.1f} dB, "
                f"where the teacher is above. {try_this}",
                measured={**measured, "student to truth": own, f"{self._plain} to truth": plain},
            )
        gaps = [min(plain, ALIKE_DB) - own for own, plain in near]
        if max(gaps) > ONE_IMAGE_DB:
            worst = gaps.index(max(gaps))
            view, (own, plain) = rows[worst][0], near[worst]
            return _out_of_line(
                BASELINE,
                f"On {self._name(view)} the student is below {self._plainly}, {own:.1f} dB to the teacher against "
                f"{plain:.1f} dB, though not on the mean of all images. {try_this}",
                view=view,
                measured=measured,
            )
        return _passed(
            BASELINE,
            f"{student:.1f} dB to the teacher, where {self._plainly} is at {baseline:.1f} dB.",
            measured=measured,
        )

    def _below_truth(self, rows: Sequence[tuple[_View, _Sight, Pixels]]) -> tuple[float, float] | None:
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

    def _training(self, pairs: Sequence[tuple[_View, _Sight]], *, imitates: bool) -> Finding:
        reason = (
            "nothing was trained"
            if not self._untrained
            else "the student was not trained on synthetic images"
            if self.on_made_images
            else ""
            if imitates
            else "its teachers were trained during the run, so it does not imitate the original generator"
        )
        if reason:
            return _left_out(TRAINING, reason)
        now = [self._psnr(sight.pixels, view.teacher.pixels) for view, sight in pairs]
        then = [self._psnr(sight.pixels, view.teacher.pixels) for view, sight in self._sound(self._untrained)]
        after, before = fmean(now), fmean(then)
        measured = {"before": before, "after": after}
        if after < min(before, ALIKE_DB) - NOISE_DB:
            return _out_of_line(
                TRAINING,
                f"The student is further from the teacher after training than before: {after:.1f} dB instead of "
                f"{before:.1f} dB. Try a smaller learning_rate, larger patches (patch=), more steps, or a distiller "
                f"of the teacher's images{distillers_such_as(anchors)} beside less task_weight for the ground truth.",
                measured=measured,
            )
        return _passed(
            TRAINING, f"{before:.1f} dB to the teacher before training, {after:.1f} dB after.", measured=measured
        )

    def _activations(self, pairs: Sequence[tuple[_View, _Sight]], *, fresh: bool) -> Finding:
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
            return _left_out(ACTIVATIONS, reason)
        tap = max(growth, key=lambda name: growth[name])
        most = f"{growth[tap]:.3g} times the teacher's"
        if growth[tap] > GROWTH:
            view, _ = max(pairs, key=lambda pair: pair[1].activations[tap])
            return _out_of_line(
                ACTIVATIONS,
                f"The student's activations grow to {most}, at {tap!r} on {self._name(view)}: it is close to unstable. "
                "Try a larger budget, or a pruner that keeps the groups there wider.",
                view=view,
                measured=growth,
            )
        return _passed(ACTIVATIONS, f"The largest activations are {most} at most, at {tap!r}.", measured=growth)

    # Looking.

    def _seen(self, batches: Sequence[Batch], device: torch.device, source: DataSource | None = None) -> list[_View]:
        """Crops of all images that the teacher takes, in two sizes where it takes two."""
        views = []
        for number, batch in enumerate(batches, 1):
            name = batch.names[0] if batch.names else f"image {number}"
            target = batch.targets[MAIN] if batch.paired and MAIN in batch.targets else None
            sizes = 0
            for crop, y in _crops(batch.inputs[MAIN], target, self._contract):
                x = crop.to(device)
                sight = self._teachers(x)
                if sight is None:
                    continue  # a network of one size, say
                wanted = None if y is None else to_uint8(y[0].nan_to_num(), self._contract.output_range)
                views.append(
                    _View(
                        image=name,
                        x=x,
                        is_usual=not sizes,
                        teacher=sight,
                        target=wanted if wanted is not None and wanted.shape == sight.pixels.shape else None,
                        baseline=None if source is None else self._made_plainly(x, sight.pixels),
                    )
                )
                sizes += 1
                if sizes == SIZES:
                    break
        return views

    def _teachers(self, x: Tensor) -> _Sight | None:
        """What the teacher makes of a crop; None if it does not take that size."""
        try:
            return self._look(self._teacher, x)
        except Exception:  # the network's own code, which runs on the contract's size
            return None

    def _looks(self, student: Student) -> list[_Sight | None]:
        student.train(False)
        return [self._sight_of(student, view) for view in self._views]

    def _sight_of(self, student: Student, view: _View) -> _Sight | None:
        """What the student makes of a crop; None if it does not take what is not the contract's size."""
        try:
            return self._look(student, view.x)
        except Exception:  # as for the teacher, from which a transform may differ in what it takes
            if view.is_usual:
                raise
            return None

    def _look(self, network: Teacher | Student, x: Tensor) -> _Sight | None:
        """None if the image is not of the size that the contract says."""
        taps = [tap for tap in network.taps if tap in self._teacher.taps]
        with torch.no_grad():
            seen = network.observe(x, taps)
        assert seen.image is not None
        image = seen.image[0].float()
        if image.shape != (self._contract.channels_out, *(side * self._contract.scale for side in x.shape[2:])):
            return None
        low, high = self._contract.output_range
        span = high - low
        finite = bool(image.isfinite().all())
        return _Sight(
            pixels=to_uint8(image.nan_to_num(low, high, low), self._contract.output_range),
            finite=finite,
            largest=float(image.abs().max()) if finite else math.inf,
            outside=max(float(image.max()) - high, low - float(image.min()), 0.0) / span if finite else math.inf,
            spread=(float(image.max()) - float(image.min())) / span if finite else math.inf,
            activations={tap: _peak(seen.features[tap]) for tap in taps},
        )

    def _made_plainly(self, x: Tensor, like: Pixels) -> Pixels | None:
        """The input enlarged to the output's size, or as it is; None if the two are not of one kind."""
        contract = self._contract
        if contract.labels is not None or contract.channels_in != contract.channels_out or len(x[0]) not in (1, 3):
            return None
        return resize_bicubic(picture(x[0].nan_to_num(), contract.input_range), *like.shape[:2])

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

    def _name(self, view: _View) -> str:
        height, width = view.x.shape[2:]
        return f"{view.image!r} at {height}x{width}"

    def _looked_at(self, pairs: Sequence[tuple[_View, _Sight]]) -> str:
        images = len({view.image for view, _ in pairs})
        sizes = list(dict.fromkeys(tuple(view.x.shape[2:]) for view, _ in pairs))
        listed = ", ".join(f"{height}x{width}" for height, width in sizes)
        kind = "synthetic images, since there is no data," if self.on_made_images else f"{images} image(s)"
        single = "" if len(sizes) > 1 else " only; there was no second size"
        return f"{kind} at {listed}{single}"


def _passed(check: str, text: str, measured: Mapping[str, float] | None = None) -> Finding:
    return Finding(check=check, passed=True, text=text, measured=measured or {})


def _out_of_line(
    check: str, text: str, view: _View | None = None, measured: Mapping[str, float] | None = None
) -> Finding:
    """`view`: the worst image, where one is to blame."""
    return Finding(
        check=check, passed=False, text=text, image="" if view is None else view.image, measured=measured or {}
    )


def _left_out(check: str, reason: str) -> Finding:
    return Finding(check=check, passed=None, text=f"Not checked: {reason}.")


def warn_of(findings: Sequence[Finding]) -> None:
    """Say what is out of line, once for each finding, with its route where there are several."""
    for finding in findings:
        if finding.passed is False:
            route = "" if finding.route == MAIN else f"{finding.route}: "
            warnings.warn(f"{route}{finding.text}", StudentWarning, stacklevel=3)


def _share(some: Sequence[_View], all_: Sequence[_View]) -> str:
    """How many of the images are in question: "1 of 5 images"."""
    few, many = len({view.image for view in some}), len({view.image for view in all_})
    return f"{few} of {many} image{'s' if many > 1 else ''}"


def _peak(feature: Tensor) -> float:
    largest = float(feature.detach().abs().max()) if feature.numel() else 0.0
    return math.inf if math.isnan(largest) else largest


def _images(source: DataSource) -> list[Batch]:
    """The first few held-out images; none where the source has none that can be read."""
    try:
        batches = list(islice(source.images("eval"), MOST_IMAGES))
    except DataError:
        return []
    return [returned(batch, Batch, source, "images") for batch in batches]


def _made(contract: Contract, seed: int) -> Iterator[Tensor]:
    """Two inputs that the contract allows, made without data: (1, channels_in, H, W)."""
    for number in range(2):
        yield synthetic_input(contract, max(contract.size), seed=seed + number)


def _crops(x: Tensor, target: Tensor | None, contract: Contract) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Crops of the middle of an image and its target, the sizes that are wanted most first.

    Of the contract's size or what there is of it, of three quarters of that, and for networks of a single size that
    is larger than `LARGEST` of this size.
    """
    step = contract.multiple_of
    if min(x.shape[2:]) < step:
        yield pad_to_multiple(x[:1], step), None
        return
    most = max(LARGEST // step, 1)
    have = tuple(side // step for side in x.shape[2:])
    whole = tuple(min(count, side // step) for count, side in zip(have, contract.size, strict=True))
    first = tuple(min(count, most) for count in whole)
    other = tuple(max(count * 3 // 4, 1) for count in first)
    if other == first:
        other = tuple(min(count + 1, limit) for count, limit in zip(first, have, strict=True))
    for counts in dict.fromkeys((first, other, whole)):
        height, width = (count * step for count in counts)
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        place = (top, left, height, width)
        yield _cut(x, *place), None if target is None else _cut(target, *(contract.scale * side for side in place))


def _cut(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return x[:1, :, top : top + height, left : left + width]

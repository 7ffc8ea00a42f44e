"""What a teacher does on a few of the user's images, before anything is trained: near the truth, sharp, or broken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

from gansdk.contracts import MAIN, Batch, Contract, Route
from gansdk.errors import ContractError, DataError
from gansdk.evaluation.evaluate import IDENTICAL_DB, Protocol
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.generators.joint import views_of
from gansdk.interfaces import DataSource, Generator, TeacherFacts
from gansdk.registry.isolation import guarded, returned
from gansdk.toolkit.images import luma, pad_to_multiple
from gansdk.toolkit.resampling import bicubic

IMAGES = 8
"""How many images are looked at, at most: eight passes of the teacher at the contract's size."""

FLAT = 1e-6
"""Differences up to this share of the values are rounding. A network that was never trained may give faint images."""

FLAT_CONTRAST = 1e-5
"""Mean squared gradient, of values from 0 to 1, from which on regions count less the more contrast they have."""

REGION, FINE = 9, 3
"""Sides in pixels of the squares that contrast and coarse detail are means over."""


@dataclass(frozen=True, slots=True)
class _Compared:
    """Sums over one image, for what is measured to be pooled over several."""

    psnr: float
    bicubic: float | None
    gradients: tuple[float, float]
    """Sums of squares: the teacher's, the truth's."""
    detail: tuple[float, float]
    """Weighted sums over the fine detail: teacher times truth, teacher squared."""


@guarded("measuring the teacher")
def facts_of(
    generator: Generator, source: DataSource, *, seed: int, device: torch.device | str = "cpu"
) -> dict[Route, TeacherFacts]:
    """What the generator, or each of several, does on up to `IMAGES` of the source's images.

    These are held-out images ("search") cut to the contract's size at their centres and, where there are too few, the
    probes of `seed`, so that the same call gives the same facts. Nothing of the generator is changed.

    Raises:
        ContractError: an image holds NaN or infinite values; or all are of one colour, or the same whatever goes in.
    """
    views = views_of(source, generator)
    return {route: _facts(part, views[route], seed, device) for route, part in generator.parts.items()}


def _facts(generator: Generator, source: DataSource, seed: int, device: torch.device | str) -> TeacherFacts:
    contract = generator.contract
    teacher = FrozenTeacher(generator.module, contract, {}, device=device)
    batches = _looked_at(source, contract, seed)
    inputs = [batch.inputs[MAIN] for batch in batches]
    images = [_image(teacher, x.to(device), contract) for x in inputs]
    _check_imitable(inputs, images, contract)
    pairs = zip(batches, images, strict=True)
    compared = [found for batch, image in pairs if (found := _compared(batch, image, contract)) is not None]
    return _pooled(compared, len(images))


def _looked_at(source: DataSource, contract: Contract, seed: int) -> list[Batch]:
    """Batches of one image, no larger than the contract's size."""
    batches: list[Batch] = []
    with suppress(DataError):  # those held out cannot be read, which their scoring will tell
        held_out = islice(source.images("search"), IMAGES)
        batches.extend(_cut(returned(batch, Batch, source, "images"), contract) for batch in held_out)
    probes = (source.probe(index, seed=seed) for index in range(IMAGES - len(batches)))
    return batches + [_cut(returned(batch, Batch, source, "probe"), contract) for batch in probes]


def _cut(batch: Batch, contract: Contract) -> Batch:
    """The centre of its first image, and of the target if that shows what the input should become."""
    x, target, scale = batch.inputs[MAIN][:1], batch.targets.get(MAIN), contract.scale
    (top, height), (left, width) = (
        ((side - kept) // 2, kept)
        for side, kept in ((side, min(side, most)) for side, most in zip(x.shape[2:], contract.size, strict=True))
    )
    fits = batch.paired and target is not None and target.shape[2:] == tuple(scale * side for side in x.shape[2:])
    y = target[:1] if fits and target is not None else None
    cut = x[..., top : top + height, left : left + width].clone()
    if y is None:
        return Batch({MAIN: cut})
    rows, columns = (slice(scale * start, scale * (start + side)) for start, side in ((top, height), (left, width)))
    return Batch({MAIN: cut}, {MAIN: y[..., rows, columns].clone()})


def _image(teacher: FrozenTeacher, x: Tensor, contract: Contract) -> Tensor:
    """(1, channels_in, H, W) -> (1, channels_out, sH, sW), on the CPU."""
    with torch.no_grad():
        image = teacher.observe(pad_to_multiple(x, contract.multiple_of)).image
    assert image is not None
    return image[..., : contract.scale * x.shape[2], : contract.scale * x.shape[3]].float().cpu()


def _check_imitable(inputs: Sequence[Tensor], images: Sequence[Tensor], contract: Contract) -> None:
    if broken := sum(not bool(image.isfinite().all()) for image in images):
        raise ContractError(
            f"The generator returns NaN or infinite values on {broken} of the {len(images)} images it was checked on, "
            "so there is nothing to imitate. Check its weights, and that it expects values from "
            f"{contract.input_range[0]:g} to {contract.input_range[1]:g}, the contract's input_range."
        )
    rounding = FLAT * max(float(image.abs().max()) for image in images)
    varied = [image for x, image in zip(inputs, images, strict=True) if _varies(x)]
    flat = bool(varied) and all(_spread(image) <= rounding for image in varied)
    if flat or _same(inputs, images):
        what = "images of one colour" if flat else "the same image"
        raise ContractError(
            f"The generator returns {what} for all {len(images)} images it was checked on, so there is nothing to "
            "imitate. Check that its trained weights were loaded, and the contract's input_range, "
            f"{contract.input_range}, and output_range, {contract.output_range}."
        )


def _varies(x: Tensor) -> bool:
    """Whether an input is more than one colour; a single pixel, as of noise, is all that there can be."""
    return x[0, 0].numel() == 1 or _spread(x) > 0


def _spread(image: Tensor) -> float:
    """The largest difference of two values of one channel."""
    flat = image.flatten(2)
    return float((flat.amax(2) - flat.amin(2)).max())


def _same(inputs: Sequence[Tensor], images: Sequence[Tensor]) -> bool:
    """Whether different inputs of one size all give one image, to the last digit: what is left of them may be faint."""
    different = [
        torch.equal(image, images[0])
        for x, image in zip(inputs, images, strict=True)
        if x.shape == inputs[0].shape and not torch.equal(x, inputs[0])
    ]
    return bool(different) and all(different)


# Against the truth.


def _compared(batch: Batch, image: Tensor, contract: Contract) -> _Compared | None:
    """The image beside its truth; None where there is none, or too little of it."""
    protocol = Protocol.of(contract)
    target = batch.targets.get(MAIN)
    if target is None or min(target.shape[2:]) - 2 * protocol.border < REGION:
        return None
    teacher, truth = (_prepared(_unit(each, contract.output_range), protocol) for each in (image, target.cpu()))
    enlarges = protocol.on_luma and contract.channels_in == contract.channels_out
    plain = None
    if enlarges:
        small = _unit(batch.inputs[MAIN].cpu(), contract.input_range)
        plain = _prepared(bicubic(small, *target.shape[2:]).clamp(0, 1), protocol)
    return _Compared(
        psnr=_psnr(teacher, truth),
        bicubic=None if plain is None else _psnr(plain, truth),
        gradients=(float(_contrast(teacher).sum()), float(_contrast(truth).sum())),
        detail=_detail(teacher, truth, plain),
    )


def _pooled(compared: Sequence[_Compared], images: int) -> TeacherFacts:
    if not compared:
        return TeacherFacts(images=images)
    enlarged = [each.bicubic for each in compared if each.bicubic is not None]
    own, true = (sum(each.gradients[side] for each in compared) for side in (0, 1))
    product, square = (sum(each.detail[side] for each in compared) for side in (0, 1))
    return TeacherFacts(
        images=images,
        psnr=fmean(each.psnr for each in compared),
        bicubic=fmean(enlarged) if enlarged else None,
        sharpness=math.sqrt(own / true) if true else 1.0,
        true_detail=product / square if square else 1.0,  # without detail nothing is made up
    )


def _detail(teacher: Tensor, truth: Tensor, plain: Tensor | None) -> tuple[float, float]:
    """Sums of teacher times truth and of the teacher squared, over the fine detail that is not in `plain` already.

    A mean over all that an input can have come from is right on average for whatever is asked of the input, so linear
    filters, and weights that follow from the input, leave its slope at 1. Regions of much contrast have much detail
    and would hide the others, where textures are made up; they are weighted down.
    """
    if plain is not None:
        teacher, truth = teacher - plain, truth - plain
    weight = 1 / (_mean(_contrast(teacher if plain is None else plain), REGION) + FLAT_CONTRAST)
    own, true = (image - _mean(image, FINE) for image in (teacher, truth))
    return float((weight * own * true).sum()), float((weight * own * own).sum())


def _contrast(image: Tensor) -> Tensor:
    """Squared gradient at every pixel: (1, C, H, W)."""
    down = F.pad(image.diff(dim=2), (0, 0, 0, 1))
    return down.square() + F.pad(image.diff(dim=3), (0, 1)).square()


def _mean(image: Tensor, side: int) -> Tensor:
    """Mean over squares of an odd side, with the image reflected at its edges."""
    return F.avg_pool2d(F.pad(image, [side // 2] * 4, mode="reflect"), side, 1)


def _psnr(image: Tensor, truth: Tensor) -> float:
    error = float((image - truth).square().mean())
    return min(-10 * math.log10(error), IDENTICAL_DB) if error else IDENTICAL_DB


def _unit(image: Tensor, value_range: tuple[float, float]) -> Tensor:
    low, high = value_range
    return ((image - low) / (high - low)).clamp(0, 1)


def _prepared(image: Tensor, protocol: Protocol) -> Tensor:
    """As `Protocol.prepare`, without rounding to 8 bits."""
    height, width = image.shape[2:]
    inner = image[..., protocol.border : height - protocol.border, protocol.border : width - protocol.border]
    return luma(inner) if protocol.on_luma and image.shape[1] == 3 else inner


def least_true(facts: Mapping[Route, TeacherFacts]) -> TeacherFacts:
    """Of several generators that are trained together the facts of the first that is perceptual, else the first's."""
    return next((each for each in facts.values() if each.is_perceptual), next(iter(facts.values())))

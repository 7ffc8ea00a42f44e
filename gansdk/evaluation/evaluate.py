"""How good are the images of student and teacher: one protocol for both, stated in words with every number."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from gansdk.contracts import MAIN, Batch, Contract, Route
from gansdk.errors import ContractError, DataError, GansdkWarning
from gansdk.evaluation.metrics import Measurement
from gansdk.interfaces import GROUND_TRUTH, STUDENT, TEACHER, DataSource, Metric, Quality
from gansdk.modules.inference import inferring
from gansdk.registry.isolation import guarded, returned
from gansdk.toolkit.images import Pixels, luma, pad_to_multiple, picture, resize_bicubic, to_tensor, to_uint8

BICUBIC = "bicubic"
SHOWN_ALONE = ("input", "target")
"""Images of an example that nobody made."""

IDENTICAL_DB = 100.0
"""PSNR of identical images, whose true value is infinite and would spoil every mean."""

SSIM_WINDOW = 11
"""Sides below this many pixels have no SSIM."""

Scores = dict[str, dict[str, dict[str, float]]]
"""reference -> metric -> who ("teacher", "student", "bicubic", and others by name) -> value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One image as everybody made it: uint8 (H, W, 1) or (H, W, 3), None where there is none."""

    name: str
    student: Pixels
    input: Pixels | None = None
    target: Pixels | None = None
    teacher: Pixels | None = None
    bicubic: Pixels | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Means over all images, each image's own numbers, and a few images to look at."""

    qualities: tuple[Quality, ...]
    per_image: tuple[dict[str, Any], ...]
    """JSON: {"name": ..., "ground-truth": {"psnr-y": {"teacher": ..., "student": ..., "bicubic": ...}}, ...}."""
    examples: tuple[Example, ...]


def joined_evaluation(evaluations: Mapping[Route, Evaluation]) -> Evaluation | None:
    """All routes' numbers and images in one, each with its route in its name; None of none."""
    if not evaluations:
        return None
    return Evaluation(
        qualities=tuple(
            replace(quality, metric=f"{quality.metric}, {route}")
            for route, evaluation in evaluations.items()
            for quality in evaluation.qualities
        ),
        per_image=tuple(
            {**row, "name": f"{row['name']}, {route}"}
            for route, evaluation in evaluations.items()
            for row in evaluation.per_image
        ),
        examples=tuple(
            replace(example, name=f"{example.name}, {route}")
            for route, evaluation in evaluations.items()
            for example in evaluation.examples
        ),
    )


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is done to an image before it is compared."""

    on_luma: bool
    border: int

    @classmethod
    def of(cls, contract: Contract) -> Protocol:
        """That of the super-resolution papers for generators that enlarge, plain RGB for all others."""
        enlarged = contract.scale * contract.pre_upsampled
        return cls(True, enlarged) if enlarged > 1 and contract.channels_out in (1, 3) else cls(False, 0)

    @property
    def suffix(self) -> str:
        """What metric names end in."""
        return "-y" if self.on_luma else ""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all that is measured."""
        return f"psnr{self.suffix}", f"ssim{self.suffix}"

    def __str__(self) -> str:
        channels = "Y channel of BT.601 (16 to 235)" if self.on_luma else "all channels"
        border = f"border of {self.border} pixels removed" if self.border else "no border removed"
        return (
            f"{channels}, {border}, images clamped and rounded to 8 bits, peak 255, SSIM with a Gaussian window of 11 "
            f"pixels and sigma 1.5, identical images count as {IDENTICAL_DB:.0f} dB, mean over whole images"
        )

    def prepare(self, pixels: Pixels) -> Tensor:
        """(H, W, C) -> (1, 1 or C, H - 2 border, W - 2 border) in [0, 1]."""
        height, width, channels = pixels.shape
        image = to_tensor(pixels, (0.0, 1.0))[None]
        image = image[..., self.border : height - self.border, self.border : width - self.border]
        return luma(image) if self.on_luma and channels == 3 else image

    def compare(self, image: Pixels, reference: Pixels) -> dict[str, float]:
        """Metric -> value, higher is better."""
        from torchmetrics.functional.image import peak_signal_noise_ratio

        pixels, target = self.prepare(image), self.prepare(reference)
        psnr = float(peak_signal_noise_ratio(pixels, target, data_range=1.0))
        return {f"psnr{self.suffix}": min(psnr, IDENTICAL_DB), f"ssim{self.suffix}": _ssim(pixels, target)}

    def measures(self, pixels: Pixels) -> bool:
        """Whether enough is left of the image when the border is gone."""
        return bool(min(pixels.shape[:2]) - 2 * self.border >= SSIM_WINDOW)


def _ssim(pixels: Tensor, target: Tensor) -> float:
    """Mean over the windows that lie inside the image, as Wang et al. (2004): no padding counts."""
    from skimage.metrics import structural_similarity

    # In double precision, for variances are differences of squares: single gives equal flat images less than 1.
    images = (image[0].double().numpy() for image in (pixels, target))
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(*images, channel_axis=0, data_range=1.0, **window))


@guarded("evaluate")
def evaluate(
    student: nn.Module,
    *,
    teacher: nn.Module | None,
    source: DataSource,
    contract: Contract,
    device: torch.device | str = "cpu",
    examples: int = 4,
    metrics: Sequence[Metric] = (),
    beside: Mapping[str, nn.Module] | None = None,
) -> Evaluation:
    """Score the student, and the teacher beside it, on the whole images of the "eval" split.

    Each image is compared with the ground truth where there is one, and the student's with the teacher's if a
    teacher is given. Every network runs once per image, as `contract.inference` says, on inputs reflected to the
    contract's multiple; it must lie on `device` already, and is left as it was. The first `examples` images are kept.
    `metrics` see the same images, and the source's references. `beside`: further networks by name, which are scored as
    baselines.

    Raises:
        DataError: the split is empty, its images are too small, or there is nothing to compare them with.
        ContractError: a network's images have the wrong shape, or NaN in them.
    """
    protocol = Protocol.of(contract)
    networks = {STUDENT: student, **({} if teacher is None else {TEACHER: teacher}), **(beside or {})}
    rows: list[tuple[str, Scores]] = []
    shown_examples: list[Example] = []
    measurement = Measurement(metrics, contract, device)
    for item in source.images("eval"):
        batch = returned(item, Batch, source, "images")
        name = batch.names[0] if batch.names else f"image {len(rows) + 1}"
        target = batch.targets.get(MAIN) if batch.paired else None
        images = _images(networks, batch.inputs[MAIN], target, contract, device)
        measurement.show({who: image for who, image in images.items() if who not in SHOWN_ALONE}, batch)
        if not protocol.measures(images[STUDENT]):
            warnings.warn(
                f"The image {name!r} is not scored: its size of {images[STUDENT].shape[:2]} pixels is too small; at "
                f"least {SSIM_WINDOW} per side must remain inside a border of {protocol.border}.",
                GansdkWarning,
                stacklevel=2,
            )
            continue
        scores = _scores(images, protocol)
        if not scores and not metrics:
            raise DataError(
                "The images have no ground truth and there is no teacher, so nothing can be scored. Give pairs of "
                "images, or a teacher."
            )
        rows.append((name, scores))
        if len(shown_examples) < examples:
            shown_examples.append(
                Example(name=name, **{who: image for who, image in images.items() if who not in (beside or {})})
            )
    measurement.show_real(source)
    qualities = (*_means(rows, protocol), *measurement.qualities())
    if not qualities:
        raise DataError(
            "There are no images to score: the data has none, or too few to hold some out of training. Pass "
            "eval_data='folder/', or more images."
        )
    return Evaluation(
        qualities=qualities,
        per_image=tuple({"name": name, **scores} for name, scores in rows),
        examples=tuple(shown_examples),
    )


def _images(
    networks: Mapping[str, nn.Module],
    x: Tensor,
    target: Tensor | None,
    contract: Contract,
    device: torch.device | str,
) -> dict[str, Pixels]:
    """Who -> pixels: what went in ("input"), what should come out ("target"), and what everybody made of it."""
    images = {
        who: to_uint8(_run(network, x.to(device), contract)[0], contract.output_range)
        for who, network in networks.items()
    }
    if target is not None:
        images["target"] = to_uint8(target[0], contract.output_range)
    images["input"] = picture(x[0], contract.input_range)
    if Protocol.of(contract).on_luma and contract.channels_in == contract.channels_out:
        height, width = images[STUDENT].shape[:2]
        # A pre-upsampled input has its final size, so that this changes nothing.
        images[BICUBIC] = resize_bicubic(images["input"], height, width)
    return images


def _run(network: nn.Module, x: Tensor, contract: Contract) -> Tensor:
    """(1, channels_in, H, W) -> (1, channels_out, sH, sW) for sides of any multiple."""
    height, width = (side * contract.scale for side in x.shape[2:])
    padded = pad_to_multiple(x, contract.multiple_of)
    expected = (1, contract.channels_out, *(side * contract.scale for side in padded.shape[2:]))
    with inferring(network, contract):
        image = network(padded)
    if image.shape != expected:
        raise ContractError(
            f"{type(network).__qualname__} returned {tuple(image.shape)} for an input of {tuple(padded.shape)}, but "
            f"its contract states {expected}. Correct the contract's channels or scale."
        )
    cropped: Tensor = image[..., :height, :width]
    return cropped


def _scores(images: Mapping[str, Pixels], protocol: Protocol) -> Scores:
    scores: Scores = {}
    if "target" in images:
        scores[GROUND_TRUTH] = _compared(images, "target", protocol)
    if TEACHER in images:
        scores[TEACHER] = _compared(images, TEACHER, protocol)
    return scores


def _compared(images: Mapping[str, Pixels], reference: str, protocol: Protocol) -> dict[str, dict[str, float]]:
    """Metric -> who -> value, of everybody but the reference."""
    target = images[reference]
    scores = {
        who: protocol.compare(_matching(image, target), target)
        for who, image in images.items()
        if who not in (*SHOWN_ALONE, reference)
    }
    return {metric: {who: scores[who][metric] for who in scores} for metric in scores[STUDENT]}


def _matching(image: Pixels, reference: Pixels) -> Pixels:
    if image.shape != reference.shape:
        raise ContractError(
            f"The generator made an image of shape {image.shape}, but the target has {reference.shape}. The data and "
            "the contract disagree about the scale or the channels."
        )
    return image


def _means(rows: Sequence[tuple[str, Scores]], protocol: Protocol) -> tuple[Quality, ...]:
    """Means over all images, and the student's worst one, of (name, scores)."""
    qualities = []
    for reference in (GROUND_TRUTH, TEACHER):
        compared = [(name, scores[reference]) for name, scores in rows if reference in scores]
        for metric in compared[0][1] if compared else ():
            means = {who: fmean(scores[metric][who] for _, scores in compared) for who in compared[0][1][metric]}
            worst, worst_image = min((scores[metric][STUDENT], name) for name, scores in compared)
            qualities.append(
                Quality(
                    metric=metric,
                    reference=reference,
                    teacher=means.pop(TEACHER, None),
                    student=means.pop(STUDENT),
                    images=len(compared),
                    protocol=str(protocol),
                    extra=means,
                    worst=worst,
                    worst_image=worst_image,
                )
            )
    return tuple(qualities)

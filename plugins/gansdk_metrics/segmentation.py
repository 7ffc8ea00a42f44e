"""mIoU: whether a segmenter finds in a generated image the label map that it was made from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.contracts import MAIN, Batch, Contract, Labels
from gansdk.errors import ContractError, DataError, InvalidOption
from gansdk.interfaces import REAL, Measured, Metric
from gansdk.text import quoted
from gansdk_metrics.segmenter import load_unet


class MeanIoU(Metric):
    """Intersection over union of all pixels of the set, averaged over the classes that occur; 0 to 1.

    Pixels of no class count nowhere. "real" is the segmenter's own mIoU on the real photographs, where these come
    with label maps: the highest value that means anything.

    Args:
        segmenter: the file of a `gansdk_metrics.segmenter.UNet`, or a module that takes float RGB images (N, 3, H, W)
            in [0, 1] and gives logits (N, classes, h, w), enlarged bilinearly where the sides differ.
        label: the name in brackets; left out, that of the file or the module's class.
    """

    lower_is_better = False

    def __init__(self, segmenter: str | Path | nn.Module, label: str | None = None) -> None:
        if isinstance(segmenter, nn.Module):
            self._network, default_label = copy.deepcopy(segmenter).eval(), type(segmenter).__name__.lower()
        elif isinstance(segmenter, (str, Path)):
            self._network, default_label = load_unet(segmenter), Path(segmenter).stem
        else:
            raise InvalidOption(f"segmenter={quoted(segmenter)} is neither a file nor a torch.nn.Module.")
        self._segmenter = (label or default_label).replace(" ", "-").replace("(", "").replace(")", "")
        self.name = f"miou({self._segmenter})"
        self._labels = Labels(classes=1)
        self._threshold = 0.5
        self._scores: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._device: torch.device | str = "cpu"

    def check(self, contract: Contract) -> None:
        super().check(contract)
        if contract.labels is None:
            raise InvalidOption(
                f"{self.name} needs a generator of images from label maps, but this one takes images. Omit the metric, "
                "or describe the channels in the contract: labels=gansdk.Labels(classes=...)."
            )
        classes = getattr(self._network, "classes", contract.labels.classes)
        if classes != contract.labels.classes:
            raise InvalidOption(
                f"{self.name} distinguishes {classes} classes, but the label maps have {contract.labels.classes}. "
                "Train a segmenter on the same classes."
            )
        self.start(contract, "cpu")
        # One that gives no such logits is refused now, and not when the training is over.
        self._found(torch.zeros(1, contract.channels_out, *contract.size, dtype=torch.uint8), contract.size)

    def start(self, contract: Contract, device: torch.device | str) -> None:
        assert contract.labels is not None
        self._labels, self._threshold = contract.labels, sum(contract.input_range) / 2
        self._scores, self._counts, self._device = {}, {}, device
        self._network.to(device)

    def update(self, who: str, images: Tensor, batch: Batch) -> None:
        from torchmetrics.classification import MulticlassJaccardIndex

        if MAIN not in batch.inputs or (who == REAL and not batch.paired):  # photographs without label maps
            return
        labels = self._ids(batch.inputs[MAIN]).to(self._device)
        if who not in self._scores:
            classes = self._labels.classes
            self._scores[who] = MulticlassJaccardIndex(classes, ignore_index=classes, validate_args=False)
            self._scores[who].to(self._device)
        self._scores[who].update(self._found(images, (labels.shape[1], labels.shape[2])), labels)
        self._counts[who] = self._counts.get(who, 0) + len(images)

    def result(self) -> Measured:
        names = [who for who in self._scores if who != REAL]
        if not names:
            raise DataError("No image came with a label map.")
        beside = f" and {self._counts[REAL]} real photographs" if REAL in self._counts else ""
        return Measured(
            {who: float(score.compute()) for who, score in self._scores.items()},
            f"intersection over union of all pixels of {self._counts[names[0]]} images{beside}, mean over the classes, "
            f"segmented by {self._segmenter}, pixels of no class left out; 0 to 1, higher is better",
        )

    def _ids(self, maps: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, H, W) class ids; `classes` where a pixel is of none."""
        one_hot = maps[:, : self._labels.classes]
        is_labelled = one_hot.amax(1) > self._threshold
        return one_hot.argmax(1).where(
            is_labelled, torch.full_like(is_labelled, self._labels.classes, dtype=torch.int64)
        )

    def _found(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, H, W) class ids that the segmenter sees."""
        x = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        with torch.no_grad():
            logits: Tensor = self._network(x.to(self._device).float() / 255)
        if logits.ndim != 4 or logits.shape[:2] != (len(images), self._labels.classes):
            raise ContractError(
                f"The segmenter {self._segmenter!r} gave {tuple(logits.shape)} for {len(images)} images of "
                f"{self._labels.classes} classes. It must give logits (N, classes, h, w)."
            )
        return F.interpolate(logits, size, mode="bilinear").argmax(1)

"""Measures of a whole set of images, paired or not: FID, KID, mIoU. What a metric plugin implements."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from gansdk.contracts import MAIN, Batch, Contract
from gansdk.errors import DataError, GansdkWarning, InvalidOption, MissingData
from gansdk.interfaces import GROUND_TRUTH, MIN_IMAGES, REAL, STUDENT, TEACHER, DataSource, Measured, Metric, Quality
from gansdk.registry.isolation import guarded, returned
from gansdk.toolkit.images import Pixels, to_uint8


@guarded("the check of the metrics")
def check_metrics(metrics: Sequence[Metric], contract: Contract, source: DataSource | None) -> None:
    """See before any work that every metric can be measured.

    Raises:
        InvalidOption: a metric is asked for twice, or does not suit the generator.
        MissingData: there are no real images to compare with.
    """
    names = [metric.name for metric in metrics]
    for metric in metrics:
        if names.count(metric.name) > 1:
            raise InvalidOption(f"The metric {metric.name} is listed more than once. Keep one of them.")
        metric.check(contract)
    if not metrics:
        return
    count = 0 if source is None else len(list(islice(source.references("eval"), MIN_IMAGES)))
    if count < MIN_IMAGES:
        raise MissingData(
            f"{' and '.join(names)} need at least {MIN_IMAGES} real images to compare with, but the evaluation data "
            f"has {count}. Pass eval_data='folder/' with targets, or with images of the other domain."
        )


class Measurement:
    """All metrics of one evaluation, shown the same images."""

    def __init__(self, metrics: Sequence[Metric], contract: Contract, device: torch.device | str) -> None:
        self._metrics = tuple(metrics)
        self._contract = contract
        self._shown = 0
        for metric in metrics:
            metric.start(contract, device)

    def show(self, images: Mapping[str, Pixels], batch: Batch) -> None:
        """One image as everybody made it from `batch`."""
        self._shown += 1
        for metric in self._metrics:
            for who, pixels in images.items():
                metric.update(who, _as_tensor(pixels), batch)

    def show_real(self, source: DataSource) -> None:
        """The images that the others are compared with."""
        if not self._metrics:
            return
        for batch in source.references("eval"):
            images = [to_uint8(image, self._contract.output_range) for image in batch.targets[MAIN]]
            for metric in self._metrics:
                metric.update(REAL, torch.cat([_as_tensor(pixels) for pixels in images]), batch)

    def qualities(self) -> Iterator[Quality]:
        """One for each metric; one that cannot be computed is warned about and left out."""
        for metric in self._metrics if self._shown else ():
            try:
                measured = returned(metric.result(), Measured, metric, "result")
            except DataError as error:
                warnings.warn(f"{metric.name} is not measured: {error}", GansdkWarning, stacklevel=3)
                continue
            values = dict(measured.values)
            yield Quality(
                metric=metric.name,
                reference=GROUND_TRUTH,
                teacher=values.pop(TEACHER, None),
                student=values.pop(STUDENT),
                images=self._shown,
                protocol=measured.protocol,
                extra=values,
            )


def _as_tensor(pixels: Pixels) -> Tensor:
    """(H, W, C) -> (1, C, H, W)."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]  # Pillow's arrays cannot be written to

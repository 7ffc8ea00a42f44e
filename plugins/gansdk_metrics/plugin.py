"""The metrics that come with the SDK."""

from __future__ import annotations

from collections.abc import Iterable

import gansdk
from gansdk.specs import MetricSpec


@gansdk.hookimpl
def gansdk_metrics() -> Iterable[MetricSpec]:
    """Name them; nothing is imported until one is used."""
    yield MetricSpec(
        name="fid",
        factory="gansdk_metrics.distances:FrechetDistance",
        summary="Frechet distance of features: fid(EXTRACTOR); for many images",
        source="Heusel et al., NeurIPS 2017",
        lower_is_better=True,
    )
    yield MetricSpec(
        name="kid",
        factory="gansdk_metrics.distances:KernelDistance",
        summary="Kernel distance of features: kid(EXTRACTOR); unbiased, for few images too",
        source="Binkowski et al., ICLR 2018",
        lower_is_better=True,
    )
    yield MetricSpec(
        name="miou",
        factory="gansdk_metrics.segmentation:MeanIoU",
        summary="Whether a segmenter finds the label map in the image: miou(SEGMENTER)",
        source="Isola et al., CVPR 2017; Park et al., CVPR 2019",
    )

"""The distiller "feature": the teacher's feature maps shall be linear in the student's, pixel by pixel."""

from __future__ import annotations

from gansdk.interfaces import Distiller
from gansdk.toolkit.options import Names, Positive, checked
from gansdk_distillers.connected import Connected, Connector, feature_distance


@checked
def feature(weight: Positive = 1.0, taps: Names | None = None) -> Distiller:
    """Distil intermediate features through learned 1x1 connectors, after GAN Compression (Li et al., CVPR 2020).

    `weight`: 1 by default, as published for edges->shoes and Cityscapes label->photo beside a reconstruction weight
    of 100; the papers' scripts take 0.01 for horse->zebra and map->aerial (reconstruction 10) and 10 for GauGAN.
    `taps`: names offered by the generator; up to four by default.

    Raises:
        InvalidOption: an option has a value that is not known.
    """
    term = Connected("feature", weight=weight, taps=taps, connector=Connector, distance=feature_distance)
    return Distiller((term,))

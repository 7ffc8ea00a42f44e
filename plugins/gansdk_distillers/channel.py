"""The distiller "channel": each of the teacher's channels shall be as active as the student's can say."""

from __future__ import annotations

from gansdk.interfaces import Distiller
from gansdk.toolkit.options import Names, Positive, checked
from gansdk_distillers.connected import Connected, NormedConnector, Reduction, channel_distance


@checked
def channel(weight: Positive = 50.0, taps: Names | None = None, reduction: Reduction = "sum") -> Distiller:
    """Distil the mean activity of channels through 1x1 connectors with batch norm, after OMGD (Ren et al., ICCV 2021).

    `weight`: published are 50 (Cityscapes, U-Net), 10 (edges->shoes, U-Net), 100 or 1000 (its ResNets), 500
    (horse->zebra) and 100 (summer->winter), all for the sum over taps. `taps`: names offered by the generator; up to
    four by default. `reduction`: "sum" over taps as in the released code, or "mean" as in the paper's formula.

    Raises:
        InvalidOption: an option has a value that is not known.
    """
    term = Connected(
        "channel",
        weight=weight,
        taps=taps,
        connector=NormedConnector,
        distance=channel_distance,
        reduction=reduction,
    )
    return Distiller((term,))

"""What this package offers; the pruner itself is imported when it is used."""

from __future__ import annotations

from collections.abc import Iterable

import gansdk
from gansdk.specs import PrunerSpec


@gansdk.hookimpl
def gansdk_pruners() -> Iterable[PrunerSpec]:
    yield PrunerSpec(
        name="magnitude",
        factory="gansdk_plugin_magnitude.pruner:Magnitude",
        summary="Keep the channels whose readers have the largest weights; needs no images",
        source="After Li et al., Pruning filters for efficient ConvNets, ICLR 2017, on the reading side",
        needs=frozenset({"channel-groups"}),
    )

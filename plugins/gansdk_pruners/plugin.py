"""The pruners that come with the SDK."""

from __future__ import annotations

from collections.abc import Iterable

import gansdk
from gansdk.specs import PrunerSpec


@gansdk.hookimpl
def gansdk_pruners() -> Iterable[PrunerSpec]:
    """Name them; nothing is imported until one is used."""
    yield PrunerSpec(
        name="one-step",
        factory="gansdk_pruners.one_step:OneStep",
        summary="Rank all channels once by importance and cut to the budget",
        source="After CAT (Jin et al., CVPR 2021)",
        needs=frozenset({"channel-groups"}),
    )
    yield PrunerSpec(
        name="uniform",
        factory="gansdk_pruners.uniform:Uniform",
        summary="Make every layer narrower by the same factor: the baseline",
        needs=frozenset({"channel-groups"}),
    )
    yield PrunerSpec(
        name="once-for-all",
        factory="gansdk_pruners.once_for_all:OnceForAll",
        summary="Train all subnets at once with shared weights, then search the best within the budget",
        source="After GAN Compression (Li et al., CVPR 2020)",
        needs=frozenset({"channel-groups"}),
    )

"""The families of generators and the sources of images that come with the SDK."""

from __future__ import annotations

from collections.abc import Iterable

import gansdk
from gansdk.specs import AdapterSpec, SourceSpec


@gansdk.hookimpl
def gansdk_adapters() -> Iterable[AdapterSpec]:
    """Name the families; nothing is imported until one is used."""
    yield AdapterSpec(
        name="sr",
        factory="gansdk_adapters.sr:SuperResolution",
        summary="Super-resolution: SRResNet and SRGAN, EDSR, VDSR",
        provides=frozenset({"taps", "channel-groups", "blocks", "rebuild", "degrade", "paired"}),
    )


@gansdk.hookimpl
def gansdk_sources() -> Iterable[SourceSpec]:
    """Name the sources; nothing is imported until one is used."""
    yield SourceSpec(
        name="folder",
        factory="gansdk_adapters.sources.folder:ImageFolder",
        summary="A folder of images, or of pairs",
        provides=frozenset({"images", "paired"}),
    )
    yield SourceSpec(
        name="photos",
        factory="gansdk_adapters.sources.photos:Photographs",
        summary="The photographs inside scikit-image and scikit-learn: nothing to download",
        provides=frozenset({"images", "paired"}),
    )

"""The families of generators and the sources of images that come with the SDK."""

from __future__ import annotations

from collections.abc import Iterable

import gansdk
from gansdk.specs import AdapterSpec, SourceSpec

BASICS = frozenset({"taps", "channel-groups"})
"""What every family here provides."""


@gansdk.hookimpl
def gansdk_adapters() -> Iterable[AdapterSpec]:
    """Name the families; nothing is imported until one is used."""
    yield AdapterSpec(
        name="sr",
        factory="gansdk_adapters.sr:SuperResolution",
        summary="Super-resolution: SRResNet and SRGAN, EDSR, VDSR",
        provides=BASICS | {"rebuild", "degrade", "paired"},
    )
    yield AdapterSpec(
        name="pix2pix",
        factory="gansdk_adapters.pix2pix:Pix2Pix",
        summary="Paired translation: ResNet, MobileResNet, U-Net and inception generators",
        source="Isola et al., CVPR 2017; CAT (Jin et al., CVPR 2021)",
        provides=BASICS | {"rebuild", "discriminator", "paired"},
        before=("cyclegan",),
    )
    yield AdapterSpec(
        name="cyclegan",
        factory="gansdk_adapters.cyclegan:CycleGAN",
        summary="Unpaired translation: the generators of pix2pix, one per direction",
        source="Zhu et al., ICCV 2017",
        provides=BASICS | {"rebuild", "discriminator"},
    )
    yield AdapterSpec(
        name="gaugan",
        factory="gansdk_adapters.gaugan:GauGAN",
        summary="Images from label maps: SPADE and CAT's inception-SPADE",
        source="Park et al., CVPR 2019; Jin et al., CVPR 2021",
        provides=BASICS | {"rebuild", "discriminator", "paired"},
    )


@gansdk.hookimpl
def gansdk_sources() -> Iterable[SourceSpec]:
    """Name the sources; nothing is imported until one is used."""
    yield SourceSpec(
        name="folder",
        factory="gansdk_adapters.sources.opening:open_folder",
        summary="A folder of images; its layout is detected",
        provides=frozenset({"images", "paired"}),
    )
    yield SourceSpec(
        name="photos",
        factory="gansdk_adapters.sources.photos:Photographs",
        summary="The photographs inside scikit-image and scikit-learn: nothing to download",
        provides=frozenset({"images", "paired"}),
    )
    for name, summary, provides in (
        ("aligned", "Pairs side by side in one file (pix2pix), direction AtoB or BtoA", {"images", "paired"}),
        ("pairs", "Pairs of the same names in folders A and B", {"images", "paired"}),
        ("unpaired", "trainA, trainB, testA, testB of two domains (CycleGAN)", {"images", "unpaired"}),
        ("labels", "Label maps, photographs and instance maps (SPADE, Cityscapes, COCO-Stuff)", {"images", "paired"}),
        ("imagefolder", "A folder with metadata.jsonl or metadata.csv (Hugging Face)", {"images", "paired"}),
        ("images", "A folder of images as inputs, without targets", {"images"}),
    ):
        yield SourceSpec(
            name=name,
            factory=f"gansdk_adapters.sources.translation:{name}",
            summary=summary,
            provides=frozenset(provides),
        )

"""The distillers that come with the SDK."""

from __future__ import annotations

from collections.abc import Iterable

import gansdk
from gansdk.specs import DistillerSpec


@gansdk.hookimpl
def gansdk_distillers() -> Iterable[DistillerSpec]:
    """Name them; nothing is imported until one is used."""
    yield DistillerSpec(
        name="pixel",
        factory="gansdk_distillers.pixel:pixel",
        summary="L1 or L2 distance between the images of student and teacher",
    )
    yield DistillerSpec(
        name="gka",
        factory="gansdk_distillers.kernel_alignment:gka",
        summary="Global kernel alignment of feature maps",
        source="CAT (Jin et al., CVPR 2021)",
        needs=frozenset({"taps"}),
    )
    yield DistillerSpec(
        name="feature",
        factory="gansdk_distillers.feature:feature",
        summary="Mean squared distance of feature maps behind learned 1x1 connectors",
        source="GAN Compression (Li et al., CVPR 2020)",
        needs=frozenset({"taps"}),
    )
    yield DistillerSpec(
        name="wavelet",
        factory="gansdk_distillers.wavelet:wavelet",
        summary="Distance between the detail bands of a wavelet transform",
        source="Wavelet knowledge distillation (Zhang et al., CVPR 2022)",
    )
    for name, module, summary, needs in (
        ("ssim", "ssim", "Structural similarity of the images", frozenset[str]()),
        ("perceptual", "perceptual", "Style and features of the images as VGG-16 sees them", frozenset[str]()),
        ("tv", "variation", "Total variation of the student's image", frozenset[str]()),
        ("channel", "channel", "Mean activity of channels behind learned connectors", frozenset({"taps"})),
    ):
        yield DistillerSpec(
            name=name,
            factory=f"gansdk_distillers.{module}:{name}",
            summary=summary,
            source="OMGD (Ren et al., ICCV 2021)",
            needs=needs,
        )
    yield DistillerSpec(
        name="omgd",
        factory="gansdk_distillers.omgd.distiller:omgd",
        summary="A wider and a deeper teacher, trained during the run; the student needs no discriminator",
        source="OMGD (Ren et al., ICCV 2021)",
        needs=frozenset({"rebuild", "taps"}),
        advice=(
            "OMGD builds wider and deeper teachers of the family. To imitate only the given generator, use its terms "
            "without 'omgd': ['ssim', 'perceptual', 'tv', 'channel']."
        ),
        kind="both",
    )
    yield DistillerSpec(
        name="data-free",
        factory="gansdk_distillers.data_free.distiller:data_free",
        summary="No data: images from a network that is trained against the student",
        source="Data-free super-resolution distillation (Zhang et al., CVPR 2021)",
        needs=frozenset({"degrade"}),
        advice=(
            "Data-free distillation needs a way from the teacher's image back to its input, which translation at one "
            "resolution does not have. If inputs are images, opt in to cycle=REVERSE_GENERATOR, or to "
            "reconstruction_weight=0 to do without; label maps cannot be generated. For a network that upscales, set "
            "the contract's scale."
        ),
        data=False,
        kind="regime",
    )

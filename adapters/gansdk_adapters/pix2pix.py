"""The adapter of pix2pix and its successors: paired image translation."""

from __future__ import annotations

from gansdk_adapters.translation import Translation


class Pix2Pix(Translation):
    """Paired translation (Isola et al., CVPR 2017), with any of the shared generators.

    CycleGAN's generators have the same keys. Automatic detection asks this adapter first, so what nobody names is
    taken for paired; choose `adapter="cyclegan"` for an unpaired one.
    """

    name = "pix2pix"
    conditional = True
    usual_discriminator_width = 128

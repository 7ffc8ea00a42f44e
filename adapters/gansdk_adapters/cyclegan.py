"""The adapter of CycleGAN: unpaired image translation."""

from __future__ import annotations

from gansdk_adapters.translation import Translation


class CycleGAN(Translation):
    """Unpaired translation (Zhu et al., ICCV 2017), with the same generators as pix2pix; each is one direction."""

    name = "cyclegan"

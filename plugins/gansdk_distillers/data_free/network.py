"""The network that makes inputs out of noise."""

from __future__ import annotations

from torch import Tensor, nn

from gansdk.errors import InvalidOption

GRID = 4
"""Sides of its images are multiples of this: two enlargements by two."""
WIDTH = 128


class ImageGenerator(nn.Module):
    """Noise (N, latent) -> images (N, channels, H, W) in [0, 1], as the released code of the method builds it.

    It has 128 (latent + 1) HW/16 + 222,016 + 577 channels parameters. The large eps of two of the norms is the
    published one: it strongly damps them. `size`: (H, W) in pixels, rounded down to multiples of 4.

    Raises:
        InvalidOption: a side is below 8, where an instance norm has too little to look at.
    """

    def __init__(self, channels: int, size: tuple[int, int], *, latent: int = 256) -> None:
        super().__init__()
        height, width = (side // GRID for side in size)
        if min(height, width) < 2:
            raise InvalidOption(
                f"Images of {size[0]}x{size[1]} pixels cannot be generated: sides must be at least {2 * GRID}. Pass a "
                "larger patch, or smaller scales if inputs are upscaled beforehand."
            )
        self.latent = latent
        self.size = (GRID * height, GRID * width)
        self.layers = nn.Sequential(
            nn.Linear(latent, WIDTH * height * width),
            nn.Unflatten(1, (WIDTH, height, width)),
            nn.InstanceNorm2d(WIDTH, affine=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.InstanceNorm2d(WIDTH, eps=0.8, affine=True),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(WIDTH, WIDTH // 2, 3, padding=1),
            nn.InstanceNorm2d(WIDTH // 2, eps=0.8, affine=True),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(WIDTH // 2, channels, 3, padding=1),
            nn.Tanh(),
        )
        for part in self.layers:
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                nn.init.kaiming_normal_(part.weight)

    def forward(self, z: Tensor) -> Tensor:
        """Make one image of every row of `z`, standard normal."""
        image: Tensor = (self.layers(z) + 1) / 2
        return image

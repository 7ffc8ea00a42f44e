"""The multi-scale discriminator of GauGAN (Park et al., CVPR 2019), keys as in the official releases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.errors import CheckpointError, ContractError
from gansdk.modules.randomness import seeded
from gansdk.modules.skeletons import hollow


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiScaleSizes:
    """Sizes of `MultiScaleDiscriminator`."""

    channels_in: int = 39
    """Of the label map and the image together."""
    width: int = 64
    layers: int = 4
    """Convolutions in front of the scores."""
    scales: int = 2

    def __post_init__(self) -> None:
        if min(self.channels_in, self.width, self.layers, self.scales) < 1:
            raise ContractError(f"{self}: all sizes must be >= 1.")


class MultiScaleDiscriminator(nn.Module):
    """The same kind of PatchGAN on the image and on ever smaller copies of it."""

    def __init__(self, sizes: MultiScaleSizes) -> None:
        super().__init__()
        self.sizes = sizes
        for index in range(sizes.scales):
            self.add_module(f"discriminator_{index}", ScaleDiscriminator(sizes))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """(N, channels_in, H, W) -> for every scale all feature maps, the last of them the scores (N, 1, h, w)."""
        outputs = []
        for index in range(self.sizes.scales):
            if index:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
            outputs.append(getattr(self, f"discriminator_{index}")(x))
        return outputs


class ScaleDiscriminator(nn.Module):
    """4x4 convolutions with padding 2; spectral norm and instance norm on all but the first and the last."""

    def __init__(self, sizes: MultiScaleSizes) -> None:
        super().__init__()
        self.count = sizes.layers + 1
        self.model0 = nn.Sequential(
            nn.Conv2d(sizes.channels_in, sizes.width, 4, stride=2, padding=2), nn.LeakyReLU(0.2)
        )
        width_in = sizes.width
        for index in range(1, sizes.layers):
            width_out = min(2 * width_in, 512)
            stride = 2 if index < sizes.layers - 1 else 1
            conv = nn.utils.spectral_norm(nn.Conv2d(width_in, width_out, 4, stride=stride, padding=2, bias=False))
            self.add_module(
                f"model{index}", nn.Sequential(nn.Sequential(conv, nn.InstanceNorm2d(width_out)), nn.LeakyReLU(0.2))
            )
            width_in = width_out
        self.add_module(f"model{sizes.layers}", nn.Sequential(nn.Conv2d(width_in, 1, 4, padding=2)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, channels_in, H, W) -> every stage's output."""
        maps = []
        for index in range(self.count):
            x = getattr(self, f"model{index}")(x)
            maps.append(x)
        return maps


def multi_scale_discriminator(state: Mapping[str, Tensor]) -> MultiScaleDiscriminator:
    """Return the discriminator of a state dict, in float32, its sizes read from the weights.

    Raises:
        CheckpointError: the weights are not those of such a discriminator; the message names the first keys.
    """
    head = state.get("discriminator_0.model0.0.weight")
    if head is None or head.ndim != 4 or 0 in head.shape:
        first = ", ".join(list(state)[:3]) or "none"
        raise CheckpointError(
            "These are not the weights of a multi-scale discriminator: discriminator_0.model0.0.weight is missing "
            f"(first keys: {first})."
        )
    stages = {key.split(".")[1] for key in state if key.startswith("discriminator_0.model")}
    scales = {key.split(".")[0] for key in state if key.startswith("discriminator_")}
    sizes = MultiScaleSizes(
        channels_in=head.shape[1], width=head.shape[0], layers=max(1, len(stages) - 1), scales=len(scales)
    )
    network = hollow(lambda: MultiScaleDiscriminator(sizes), 2 * len(state) + 100, f"the {len(state)} tensors")
    expected = network.state_dict()
    wrong = [key for key, tensor in expected.items() if key not in state or state[key].shape != tensor.shape]
    wrong += [key for key in state if key not in expected]
    if wrong:
        raise CheckpointError(
            f"The weights do not match a multi-scale discriminator. The closest has {sizes.channels_in} input "
            f"channels, width {sizes.width} and {sizes.scales} scales, but {', '.join(wrong[:4])} "
            f"{'differs' if len(wrong) == 1 else 'differ'}."
        )
    # Fresh weights are drawn only to be overwritten; the caller's random numbers must not depend on it.
    with seeded(), torch.device("cpu"):
        discriminator = MultiScaleDiscriminator(sizes).float()
    discriminator.load_state_dict(dict(state))
    return discriminator

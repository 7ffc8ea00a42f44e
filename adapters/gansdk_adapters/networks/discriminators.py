"""The PatchGAN discriminator of pix2pix and CycleGAN (Isola et al., CVPR 2017), keys as in the official releases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from gansdk.errors import CheckpointError, ContractError, InvalidOption
from gansdk.modules.randomness import seeded
from gansdk.modules.skeletons import hollow
from gansdk_adapters.networks.norms import Norm, has_bias, make_norm, norm_in, unused_statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSizes:
    """Sizes of `PatchDiscriminator`. GAN Compression and CAT: width 128 for pix2pix, 64 for CycleGAN."""

    channels_in: int = 3
    """Of the image; for paired tasks of the input and the image together."""
    width: int = 64
    layers: int = 3
    """Strided convolutions; three see patches of 70x70 pixels."""
    norm: Norm = "instance"

    def __post_init__(self) -> None:
        if min(self.channels_in, self.width, self.layers) < 1:
            raise ContractError(f"{self}: all sizes must be >= 1.")


class PatchDiscriminator(nn.Module):
    """One score per patch, without a sigmoid."""

    def __init__(self, sizes: PatchSizes) -> None:
        super().__init__()
        self.sizes = sizes
        bias = has_bias(sizes.norm)
        layers: list[nn.Module] = [
            nn.Conv2d(sizes.channels_in, sizes.width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        width_in = sizes.width
        for step in range(1, sizes.layers + 1):
            width_out = sizes.width * min(2**step, 8)
            stride = 2 if step < sizes.layers else 1
            layers += [
                nn.Conv2d(width_in, width_out, 4, stride=stride, padding=1, bias=bias),
                make_norm(sizes.norm, width_out),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            width_in = width_out
        self.model = nn.Sequential(*layers, nn.Conv2d(width_in, 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, 1, about H / 8, about W / 8) for three layers: 256x256 gives 30x30."""
        return cast("Tensor", self.model(x))


def share_stages(networks: Sequence[PatchDiscriminator], count: int) -> None:
    """Make the first `count` convolutions, with norm and activation, of the first network those of all (OMGD).

    0 leaves every network on its own, `layers + 2` makes them one. Only what is used is kept.

    Raises:
        InvalidOption: they do not have so many.
    """
    first, *others = networks
    starts = [index for index, part in enumerate(first.model) if isinstance(part, nn.Conv2d)]
    if not 0 <= count <= len(starts):
        raise InvalidOption(f"These discriminators can share 0 to {len(starts)} stages, but {count!r} were requested.")
    end = [*starts, len(first.model)][count]
    for network in others:
        for index in range(end):
            network.model[index] = first.model[index]


def patch_discriminator(state: Mapping[str, Tensor]) -> PatchDiscriminator:
    """Return the discriminator of a state dict, in float32, its sizes read from the weights.

    Raises:
        CheckpointError: the weights are not those of a PatchGAN; the message names the first keys that differ.
    """
    head = state.get("model.0.weight")
    if head is None or head.ndim != 4 or 0 in head.shape:
        first = ", ".join(list(state)[:3]) or "none"
        raise CheckpointError(
            f"These are not the weights of a PatchGAN discriminator: model.0.weight is missing (first keys: {first})."
        )
    convolutions = sum(tensor.ndim == 4 for tensor in state.values())
    norm = norm_in(state, "model.2", "model.3")
    sizes = PatchSizes(channels_in=head.shape[1], width=head.shape[0], layers=max(1, convolutions - 2), norm=norm)
    network = hollow(lambda: PatchDiscriminator(sizes), 2 * len(state) + 100, f"the {len(state)} tensors")
    unused = unused_statistics(state, norm)
    weights = {key: tensor for key, tensor in state.items() if key not in unused}
    expected = {key: tensor for key, tensor in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    wrong = [key for key, tensor in expected.items() if key not in weights or weights[key].shape != tensor.shape]
    wrong += [key for key in weights if key not in network.state_dict()]
    if wrong:
        raise CheckpointError(
            f"The weights do not match a PatchGAN discriminator. The closest has {sizes.channels_in} input channels, "
            f"width {sizes.width}, {sizes.layers} strided layers and norm {norm!r}, but {', '.join(wrong[:4])} "
            f"{'differs' if len(wrong) == 1 else 'differ'}."
        )
    # Fresh weights are drawn only to be overwritten; the caller's random numbers must not depend on it.
    with seeded(), torch.device("cpu"):
        discriminator = PatchDiscriminator(sizes).float()
    discriminator.load_state_dict({**discriminator.state_dict(), **weights})
    return discriminator

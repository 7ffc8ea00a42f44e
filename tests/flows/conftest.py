"""What whole runs need: a folder of small real photographs, tiny generators, and ways to look at bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import gansdk
from gansdk.contracts import Contract
from gansdk_adapters.networks.edsr import EDSR, EDSRSizes
from gansdk_adapters.networks.sizes import Sizes
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes
from gansdk_adapters.networks.vdsr import VDSR

SIDE = 36


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
def content() -> Callable[[nn.Module], bytes]:
    """All values of a module's state dict, as bytes."""

    def content(module: nn.Module) -> bytes:
        return b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in module.state_dict().values())

    return content

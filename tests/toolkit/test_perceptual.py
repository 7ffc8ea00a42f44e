"""VGG feature maps against the layers written out by hand; weights are always somebody's, never random in silence."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from gansdk.errors import CheckpointError, InvalidOption
from gansdk.toolkit.perceptual import vgg

PLAN = {"vgg16": (2, 2, 3), "vgg19": (2, 2, 4)}
"""Convolutions of the first three stages."""
WIDTHS = (64, 128, 256)


def weights(name: str) -> dict[str, torch.Tensor]:
    """A checkpoint in torchvision's layout, down to the third stage."""
    rng = torch.Generator().manual_seed(0)
    state, index, channels = {}, 0, 3
    for width, count in zip(WIDTHS, PLAN[name], strict=True):
        for _ in range(count):
            state[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3, generator=rng) * 0.05
            state[f"features.{index}.bias"] = torch.randn(width, generator=rng) * 0.05
            channels, index = width, index + 2
        index += 1
    return state


def by_hand(name: str, image: torch.Tensor) -> dict[str, torch.Tensor]:
    state, found, index = weights(name), {}, 0
    for stage, count in enumerate(PLAN[name], 1):
        for number in range(1, count + 1):
            image = F.relu(
                F.conv2d(image, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1)
            )
            found[f"relu{stage}_{number}"] = image
            index += 2
        image = F.max_pool2d(image, 2)
        index += 1
    return found


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_layers_are_those_of_the_papers_names(name):
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = by_hand(name, image)
    found = vgg(name, tuple(expected), weights(name))(image)
    for own, layer in zip(found, expected, strict=True):
        torch.testing.assert_close(own, expected[layer])


def test_gradients_reach_the_image_and_not_the_weights():
    network = vgg("vgg16", ("relu1_2",), weights("vgg16"))
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    network(image)[0].sum().backward()
    assert image.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.train().layers[0].weight.requires_grad


def test_a_checkpoint_file_is_read(tmp_path):
    save_file(weights("vgg19"), tmp_path / "vgg19.safetensors")
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = vgg("vgg19", ("relu3_1",), tmp_path / "vgg19.safetensors")(image)[0]
    torch.testing.assert_close(found, by_hand("vgg19", image)["relu3_1"])


def test_wrong_names_and_weights_are_refused(tmp_path):
    with pytest.raises(InvalidOption, match="vgg16"):
        vgg("vgg11", ("relu1_1",), weights("vgg16"))
    with pytest.raises(InvalidOption, match="relu4_4"):
        vgg("vgg16", ("relu4_4",), weights("vgg16"))
    with pytest.raises(CheckpointError, match=r"10\.weight is missing or has another shape"):
        vgg("vgg16", ("relu3_1",), {k: v for k, v in weights("vgg16").items() if ".10." not in k})
    for given in (None, 5, True):
        with pytest.raises(InvalidOption, match=rf"are {given}, which is not a path.*null"):
            vgg("vgg16", ("relu1_1",), given)
    with pytest.raises(CheckpointError, match="do not fit"):
        vgg("vgg19", ("relu3_1", "relu4_1"), weights("vgg19"))
    damaged = weights("vgg16")
    damaged["features.0.bias"][0] = float("nan")
    with pytest.raises(CheckpointError, match=r"damaged: 0\.bias is not finite"):
        vgg("vgg16", ("relu1_2",), damaged)


def test_a_file_that_is_gone_is_named_with_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"are not at '.*gone\.pth'.*perceptual='vgg19\.pth'"):
        vgg("vgg19", ("relu1_1",), str(tmp_path / "gone.pth"))


def test_without_a_network_it_says_how_to_get_the_weights(monkeypatch):
    import timm

    def refuse(name, pretrained=False, **options):
        if pretrained:
            raise OSError("offline")
        return original(name, pretrained=False, **options)

    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(CheckpointError, match=r"pass its path .* or omit the term"):
        vgg("vgg19", ("relu1_1",), "pretrained")

"""An adapter says its options so that it can be made again: what a saved teacher's folder remembers."""

import inspect
import json

import pytest
import torch

import gansdk
from gansdk.errors import CheckpointError, GansdkWarning
from gansdk.opening import open_adapter, open_generator
from gansdk_adapters.gaugan import GauGAN

OTHERWISE = {
    "sr": {"pre_upsampled": 3},
    "gaugan": {
        "upsampling": "most",
        "edges": True,
        "unknown": True,
        "size": [64, 128],
        "slope": 0.01,
        "perceptual": "vgg19.pth",
        "discriminator_width": 8,
        "feature_weight": 2.0,
        "perceptual_weight": 3.0,
    },
}
TRANSLATION = {
    "inference": "eval",
    "dropout": 0.25,
    "size": [64, 128],
    "gan": "vanilla",
    "gan_weight": 0.5,
    "reconstruction_weight": 7.0,
    "discriminator_width": 8,
    "labels": {"classes": 11, "unknown": True, "edges": False},
}
OTHERWISE["pix2pix"] = TRANSLATION
OTHERWISE["cyclegan"] = {**TRANSLATION, "cycle_weight": 3.0, "identity_weight": 0.25}


@pytest.mark.parametrize("name", OTHERWISE)
def test_an_adapter_is_made_again_from_its_options(name):
    for options in ({}, OTHERWISE[name]):
        adapter = open_adapter({"name": name, **options})
        told = json.loads(json.dumps(adapter.options()))
        assert told == {**told, **options}
        assert open_adapter({"name": name, **told}).options() == adapter.options()


@pytest.mark.parametrize("name", OTHERWISE)
def test_no_option_is_forgotten(name):
    adapter = open_adapter(name)
    made = [parameter for kind in type(adapter).__mro__ for parameter in parameters_of(kind)]
    assert set(adapter.options()) == set(OTHERWISE[name]) == set(made)


def parameters_of(kind: type) -> list[str]:
    """Options that the class itself takes."""
    if "__init__" not in vars(kind) or kind is object:
        return []
    parameters = list(inspect.signature(kind).parameters.values())
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A GauGAN of few channels, saved as `train_teacher` saves."""
    adapter = GauGAN(size=(128, 128), perceptual="gone.pth", discriminator_width=4, perceptual_weight=2.0)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        generator = open_generator(adapter.create("spade", width=4, labels=5, hidden=4).eval(), adapter)
    with pytest.warns(GansdkWarning, match="nothing was pruned"):
        result = gansdk.compress(generator, budget="1x", pruner="uniform", distiller=None, device="cpu", dry_run=True)
    return result.save(tmp_path_factory.mktemp("teacher"))


def test_a_saved_teacher_needs_no_options_again_and_explicit_ones_win(teacher):
    source = open_generator(teacher)
    assert source.adapter.options()["discriminator_width"] == 4
    assert source.contract.size == (128, 128)
    assert source.adapter.task(source.module).perceptual_weight == 2.0
    other = open_generator(teacher, {"name": "gaugan", "size": [256, 128]})
    assert other.contract.size == (256, 128)
    assert other.adapter.options() == {**source.adapter.options(), "size": [256, 128]}


def test_perceptual_weights_that_are_gone_are_named_before_any_compute(teacher):
    with pytest.raises(CheckpointError, match=r"vgg19 are not at 'gone\.pth'.*perceptual=None"):
        open_generator(teacher).adapter.task(open_generator(teacher).module).prepare()

"""An adapter says its options so that it can be made again: what a saved teacher's folder remembers."""

import inspect
import json

import pytest
import torch

import gansdk
from gansdk.errors import CheckpointError, ContractError, GansdkWarning, InvalidOption
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter
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
        "constant": 0.25,
    },
}
TRANSLATION = {
    "inference": "eval",
    "dropout": 0.25,
    "size": [64, 128],
    "gan": "vanilla",
    "gan_weight": 0.5,
    "reconstruction_weight": 7.0,
    "constant": 0.25,
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


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan", "gaugan"])
@pytest.mark.parametrize(
    ("option", "values"),
    {
        "size": ([64], [64, 64, 3], "64x64", 0),
        "discriminator_width": (0, "8", 1.5),
        "labels": ({"clases": 3}, {"classes": "3"}, {"classes": 0}, {"classes": 3, "edges": "yes"}, "12", 0),
        "dropout": (None, -0.5, 1, True, float("nan")),
        "gan_weight": (-1, "1"),
        "reconstruction_weight": (float("nan"), None),
        "cycle_weight": (-1,),
        "identity_weight": (float("nan"),),
        "edges": ("yes", 1),
        "unknown": ("no",),
        "slope": (-0.1, "0"),
        "feature_weight": (-1,),
        "perceptual_weight": (float("inf"),),
    }.items(),
)
def test_values_that_an_option_cannot_have_are_refused_by_its_name(name, option, values):
    for value in values if option in OTHERWISE[name] else ():
        with pytest.raises(InvalidOption, match=rf"^The adapter '{name}': {option}(\.\w+)?="):
            open_adapter({"name": name, option: value})


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan", "gaugan"])
def test_options_that_do_not_exist_are_refused_with_those_that_do(name):
    with pytest.raises(InvalidOption, match=r"no option 'discriminatr_width'. Its options: .*discriminator_width"):
        open_adapter({"name": name, "discriminatr_width": 8})


def test_a_number_is_a_square_and_a_number_of_classes():
    for name in ("pix2pix", "gaugan"):
        assert open_adapter({"name": name, "size": 64}).options()["size"] == [64, 64]
    made = open_adapter({"name": "cyclegan", "labels": 12}).options()
    assert made["labels"] == {"classes": 12, "unknown": False, "edges": False}


def test_channels_that_are_no_classes_leave_at_least_one():
    adapter = GauGAN(edges=True, unknown=True)
    with pytest.raises(ContractError, match="classes must be an integer from 1"):
        adapter.contract(adapter.create("spade", width=1, labels=1, hidden=2))


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

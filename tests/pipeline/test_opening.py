import inspect
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import gansdk
from gansdk.contracts import Batch, Contract, Pairing
from gansdk.errors import (
    CheckpointError,
    ContractError,
    DataError,
    GansdkError,
    InvalidOption,
    NeedsContract,
    PluginLoadError,
    PluginNotFound,
)
from gansdk.generators.wrapping import WrappedAdapter
from gansdk.interfaces import DataSource, Distiller, Pruner
from gansdk.pipeline.opening import open_generator, open_source
from gansdk.registry.discovery import registry
from gansdk.registry.parts import open_adapter, open_distillers, open_metrics, open_pruner
from gansdk.specs import DistillerSpec, PrunerSpec
from gansdk.testing import hostile
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes
from gansdk_adapters.sr import SuperResolution


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng([]):
        return SRResNet(SRResNetSizes(width=3, blocks=1, scale=2)).eval()


@pytest.fixture
def photo(tmp_path):
    Image.effect_noise((24, 24), 50).save(tmp_path / "a.png")
    return tmp_path


def test_data_that_is_no_folder_is_named_by_what_it_is(network, photo):
    generator = open_generator(network)
    with pytest.raises(DataError, match=r"a\.png': is a file"):
        open_source(photo / "a.png", generator)
    with pytest.raises(DataError, match=r"data is a Tensor, which gives no images by itself\. Pass a folder"):
        open_source(torch.zeros(1, 3, 4, 4), generator)


def test_texts_too_long_for_a_file_name_are_refused_like_any_other(network):
    with pytest.raises(DataError, match="no such folder"):
        open_source("x" * 5000, open_generator(network))
    with pytest.raises(CheckpointError, match="no such file"):
        open_generator("x" * 5000)
    with pytest.raises(CheckpointError, match="not the folder of a saved student"):
        gansdk.load("x" * 5000)


class Foreign(nn.Module):
    """Somebody else's class with the weights of a known family."""

    def __init__(self, inner: SRResNet) -> None:
        super().__init__()
        for name, part in inner.named_children():
            self.add_module(name, part)

    def forward(self, x):
        stem = self.conv1(x)
        return self.conv3(self.upsampling(stem + self.conv2(self.trunk(stem))))


def test_a_family_is_recognised_inside_data_parallel_and_in_float32_only(network):
    assert open_generator(nn.DataParallel(network)).module is network
    with pytest.raises(ContractError, match=r"torch\.float64.*net\.float\(\)"):
        open_generator(SRResNet(SRResNetSizes(width=3, blocks=1, scale=2)).double())


def plugin(kind: str, factory: str) -> object:
    """A plugin that offers one part, called "mine"."""

    class Module:
        @gansdk.hookimpl
        def gansdk_pruners(self):
            return [PrunerSpec(name="mine", factory=factory, summary="-")] if kind == "pruner" else []

        @gansdk.hookimpl
        def gansdk_distillers(self):
            return [DistillerSpec(name="mine", factory=factory, summary="-")] if kind == "distiller" else []

    return Module()


@pytest.fixture
def offer():
    def offer(kind: str, factory: str) -> None:
        registry().register(plugin(kind, factory), "test-opening")

    yield offer
    registry().unregister("test-opening")


def test_a_module_of_a_known_family_is_recognised_and_not_copied(network):
    generator = open_generator(network)
    assert generator.module is network
    assert isinstance(generator.adapter, SuperResolution)
    assert generator.contract.scale == 2


def test_somebody_elses_class_with_known_weights_is_recognised(network):
    generator = open_generator(Foreign(network))
    assert isinstance(generator.module, Foreign)
    assert generator.contract == open_generator(network).contract


def test_a_generator_passes_through(network):
    wrapped = gansdk.wrap(network, contract=Contract(channels_in=3, channels_out=3, size=(16, 16), scale=2))
    assert open_generator(wrapped) is wrapped
    assert isinstance(wrapped.adapter, WrappedAdapter)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_checkpoint_is_opened_by_its_path(kind, network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "net.pth")
    generator = open_generator(kind(tmp_path / "net.pth"))
    assert generator.source == "net.pth"
    x = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(generator.module(x), network(x))


def test_an_adapter_may_be_named_or_given(network):
    assert open_generator(network, "sr").adapter.name == "sr"
    assert open_generator(network, SuperResolution()).adapter.name == "sr"
    with pytest.raises(PluginNotFound):
        open_generator(network, "none")


def test_a_module_of_no_known_family_is_refused_with_the_way_out():
    with pytest.raises(NeedsContract, match=r"Linear does not belong to a known family .*gansdk\.wrap"):
        open_generator(nn.Linear(2, 2))


@pytest.mark.parametrize("model", [None, 3, b"net.pth", {"conv": torch.zeros(1)}])
def test_what_is_neither_module_nor_path_is_refused(model):
    with pytest.raises(GansdkError, match="Pass a torch"):
        open_generator(model)


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        open_generator(tmp_path / "none.pth")


def test_pruners_come_from_names_mappings_and_themselves():
    by_name, by_mapping = open_pruner("one-step"), open_pruner({"name": "one-step", "multiple_of": 4})
    assert type(by_name) is type(by_mapping)
    assert (by_name.multiple_of, by_mapping.multiple_of) == (16, 4)
    assert open_pruner(by_name) is by_name


def test_the_mapping_of_a_part_is_not_changed():
    asked = {"name": "one-step", "multiple_of": 4}
    open_pruner(asked)
    assert asked == {"name": "one-step", "multiple_of": 4}


def test_distillers_come_alone_in_lists_or_not_at_all():
    assert open_distillers(None) == []
    assert open_distillers([]) == []
    assert [item.terms[0].name for item in open_distillers(["gka", {"name": "pixel", "weight": 2}])] == ["gka", "pixel"]
    alone = open_distillers("wavelet")
    assert open_distillers(alone[0]) == alone


@pytest.mark.parametrize("asked", [None, 3, {"weight": 2}, {"name": None}, {"name": 3}])
def test_a_pruner_without_a_name_is_refused(asked):
    with pytest.raises(GansdkError, match="neither a name"):
        open_pruner(asked)


def test_a_distiller_in_place_of_a_pruner_is_refused():
    with pytest.raises(GansdkError, match="neither a name"):
        open_pruner(Distiller())
    with pytest.raises(PluginNotFound):
        open_pruner("pixel")


def test_an_unknown_option_is_refused_with_those_that_exist():
    with pytest.raises(GansdkError, match=r"no option 'depth'.*allocation"):
        open_pruner({"name": "one-step", "depth": 3})


def test_a_refused_value_says_whose_option_it_is():
    with pytest.raises(InvalidOption, match=r"^The distiller 'wavelet': weight=0 must be a finite number above zero"):
        open_distillers(["gka", {"name": "wavelet", "weight": 0}])


class Open(Pruner):
    def __init__(self, **options) -> None:
        self.options = options

    def search(self, student, limits, run):
        return student.space.full_plan()


def test_a_factory_that_takes_any_option_is_given_them(offer):
    offer("pruner", f"{__name__}:Open")
    assert open_pruner({"name": "mine", "depth": 3}).options == {"depth": 3}


class Demanding(Open):
    def __init__(self, depth, *, width=1) -> None:
        super().__init__(depth=depth, width=width)


def test_an_option_without_a_default_is_asked_for(offer):
    offer("pruner", f"{__name__}:Demanding")
    with pytest.raises(InvalidOption, match="no default for depth"):
        open_pruner("mine")
    assert open_pruner({"name": "mine", "depth": 3}).options == {"depth": 3, "width": 1}


def test_a_factory_that_makes_something_else_is_named(offer):
    offer("distiller", "collections:OrderedDict")
    with pytest.raises(PluginLoadError, match="made a OrderedDict, not a Distiller"):
        open_distillers("mine")


def test_folders_become_sources_with_inputs_made_by_the_family(network, photo):
    source = open_source(str(photo), open_generator(network), patch=8, seed=0)
    batch = source.train_batch(2, seed=0, step=0)
    assert source.pairing is Pairing.PAIRED
    assert batch.inputs["main"].shape == (2, 3, 8, 8)
    assert batch.targets["main"].shape == (2, 3, 16, 16)


def test_all_images_of_a_folder_to_score_on_are_scored_on(network, photo):
    generator = open_generator(network)
    assert len(list(open_source(photo, generator, split="all").images("eval"))) == 1
    assert len(list(open_source(photo, generator).images("eval"))) == 0


def test_the_embedded_photographs_are_a_source_by_name(network):
    assert open_source("photos", open_generator(network)).describe()["source"] == "photos"


@dataclass
class Own(DataSource):
    pairing: Pairing = Pairing.INPUTS_ONLY

    def train_batch(self, size, *, seed, step):
        return Batch({"main": torch.zeros(size, 3, 8, 8)})

    def images(self, split):
        return iter(())


def test_a_source_of_ones_own_passes_through(network):
    own = Own()
    assert open_source(own, open_generator(network)) is own


@pytest.mark.parametrize("data", ["nowhere", "folder", 3])
def test_what_is_no_source_is_refused_with_those_that_exist(data, network):
    with pytest.raises(DataError, match="photos"):
        open_source(data, open_generator(network))


def test_a_wrapped_generator_has_photographs_as_inputs_only(photo):
    wrapped = gansdk.wrap(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)),
        contract=Contract(channels_in=3, channels_out=3, size=(8, 8)),
    )
    source = open_source(photo, wrapped)
    assert source.pairing is Pairing.INPUTS_ONLY
    assert source.train_batch(1, seed=0, step=0).targets == {}


def translating():
    return gansdk.wrap(nn.Conv2d(3, 3, 1), contract=Contract(channels_in=3, channels_out=3, size=(8, 8)))


@pytest.fixture
def side_by_side(tmp_path):
    Image.effect_noise((48, 24), 50).save(tmp_path / "a.png")
    return tmp_path


def test_a_source_may_be_configured_as_a_mapping_or_as_json(side_by_side):
    asked = {"name": "aligned", "path": str(side_by_side), "direction": "BtoA", "preprocess": "none"}
    for data in (asked, json.dumps(asked)):
        source = open_source(data, translating(), split="all")
        assert source.pairing is Pairing.PAIRED
        batch = next(iter(source.images("eval")))
        assert batch.inputs["main"].shape == batch.targets["main"].shape == (1, 3, 24, 24)
        straight = next(iter(open_source({**asked, "direction": "AtoB"}, translating(), split="all").images("eval")))
        assert torch.equal(batch.inputs["main"], straight.targets["main"])
    assert asked["name"] == "aligned"


def test_the_mapping_goes_before_what_the_run_says(side_by_side):
    asked = {"name": "aligned", "path": side_by_side, "patch": 4, "split": "train", "holdout": 0}
    source = open_source(asked, translating(), split="all", patch=8)
    assert source.train_batch(1, seed=0, step=0).inputs["main"].shape == (1, 3, 4, 4)


def test_embedded_photographs_take_options(network):
    source = open_source({"name": "photos", "holdout": 1 / 6}, open_generator(network), patch=8)
    assert source.describe()["held_out"] == ["flower"]


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        ({"name": "aligned", "path": ".", "depth": 3}, InvalidOption, r"'aligned' has no option 'depth'.*direction"),
        ("aligned", InvalidOption, "no default for path"),
        ({"name": "none"}, PluginNotFound, "none"),
        ({"path": "."}, DataError, "'name'"),
        ('{"name": "aligned"', InvalidOption, "not valid JSON"),
        ("[1]", DataError, "no such folder"),
    ],
)
def test_sources_that_cannot_be_made_are_refused(data, error, says):
    with pytest.raises(error, match=says):
        open_source(data, translating())


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({}, "no generator"),
        ("{}", "no generator"),
        ({"A2B": None}, "NoneType"),
        ({1: "demo"}, "for the route 1"),
        ({"A2B": {"A2B": "demo"}}, "for the route 'A2B'"),
        ({"A2B": '{"A2B": "demo"}'}, "for the route 'A2B'"),
        (hostile.endless(), "for the route 'A2B'"),
        (hostile.VALUES["deep JSON"](), "nested too deeply"),
        ('{"A2B": "a", "A2B": "b"}', "'A2B' twice"),
    ],
)
def test_mappings_that_name_no_generators_of_routes_are_refused(model, says):
    with pytest.raises(GansdkError, match=says) as refused:
        open_generator(model)
    assert len(str(refused.value)) < 1000


@pytest.mark.filterwarnings("ignore::gansdk.errors.GansdkWarning")
@pytest.mark.parametrize("kind", ["adapter", "pruner", "distiller", "metric"])
def test_no_value_of_any_option_of_a_built_in_part_is_met_with_another_error(kind):
    opened = {"adapter": open_adapter, "pruner": open_pruner, "distiller": open_distillers, "metric": open_metrics}[
        kind
    ]
    for name in registry().names(kind):
        for option in inspect.signature(registry().load(kind, name)).parameters:
            for make in hostile.VALUES.values():
                part = {"name": name, option: make()}
                hostile.told(lambda part=part: opened(part))


@pytest.mark.filterwarnings("ignore::gansdk.errors.GansdkWarning")
@pytest.mark.parametrize("name", registry().names("source"))
def test_no_value_of_any_option_of_a_source_is_met_with_another_error(name, tmp_path):
    for number in range(2):
        Image.effect_noise((32, 16), 50 + number).convert("RGB").save(tmp_path / f"{number}.png")
    net = nn.Conv2d(3, 3, 1)
    generator = gansdk.wrap(net, contract=Contract(channels_in=3, channels_out=3, size=(16, 16)))
    own = {} if name == "photos" else {"path": str(tmp_path)}
    options = {
        *inspect.signature(registry().load("source", name)).parameters,
        "holdout",
        "flip",
        "load_size",
        "unknown_ids",
    }
    for option in sorted(options):
        for value, make in hostile.VALUES.items():
            if (option, value) == ("path", "root"):
                continue
            data = {"name": name, **own, option: make()}
            hostile.told(lambda data=data: open_source(data, generator))

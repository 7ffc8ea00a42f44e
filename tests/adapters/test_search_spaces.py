"""GAN Compression's search spaces: published configurations through a supernet's space, its costs and its carving."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gansdk
from gansdk.budget.budget import Budget
from gansdk.channels.carve import carve, carve_space
from gansdk.channels.configs import config_of, plan_of, read_config, spelled, widths_of
from gansdk.channels.cost import CostModel
from gansdk.channels.elastic import Elastic
from gansdk.channels.groups import Plan, Space
from gansdk.channels.knobs import SHARES, widths_at
from gansdk.channels.tracing.trace import trace
from gansdk.errors import ContractError, InvalidOption
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.pipeline.opening import open_generator
from gansdk.testing.strategies import DETERMINISTIC
from gansdk.testing.weights import randomise
from gansdk_adapters.cyclegan import CycleGAN
from gansdk_adapters.gaugan import GauGAN
from gansdk_adapters.networks.inception_spade import InceptionSPADEGenerator, InceptionSPADESizes
from gansdk_adapters.networks.resnet import ResNetGenerator, ResNetSizes
from gansdk_adapters.networks.spade import SPADEGenerator, SPADESizes
from gansdk_adapters.networks.unet import UNetGenerator, UNetSizes
from gansdk_adapters.pix2pix import Pix2Pix
from gansdk_pruners.threshold import select_by_threshold


def meta(network, sizes):
    with torch.device("meta"):
        return network(sizes).eval()


def traced(module, adapter):
    shape = (1, adapter.contract(module).channels_in, *adapter.contract(module).size)
    return trace(module, torch.empty(shape, device="meta"), {}, adapter.branches(module), adapter.knobs(module))


@cache
def resnet_space(width=64, family=Pix2Pix, separable=True):
    return traced(meta(ResNetGenerator, ResNetSizes.of(width, separable=separable)), family())


def spade_sizes(width, labels=36):
    upsampling = "more" if labels == 36 else "normal"
    return SPADESizes.of(width, separable=True, hidden=2 * width, labels=labels, upsampling=upsampling)


@cache
def spade_space(width=64, labels=36):
    return traced(meta(SPADEGenerator, spade_sizes(width, labels)), GauGAN())


def choices(space):
    return [knob.choices for knob in space.knobs]


def shapes(space):
    return {name: shape for name, shape in space.shapes.items() if not name.startswith("tap:")}


# Sections 0, 1.5 and 5.8 of the facts about GAN Compression: parameters and MACs as printed ("paper" counting).
RESNET_CONFIGS = [
    (32, CycleGAN, "16_16_32_16_32_32_16_16", 356_867, "2.546"),
    (64, CycleGAN, "16_16_24_16_32_64_16_24", 355_235, "2.641"),
    (48, Pix2Pix, "32_32_48_32_48_48_16_16", 822_051, "4.994"),
    (64, Pix2Pix, "24_24_40_56_24_56_16_40", 702_835, "4.863"),
    (48, Pix2Pix, "32_32_48_32_32_48_24_24", 780_819, "5.592"),
    (64, Pix2Pix, "16_24_48_56_40_48_24_16", 886_307, "5.451"),
    (48, Pix2Pix, "32_32_48_32_48_32_16_16", 746_211, "4.683"),
    (64, Pix2Pix, "16_16_40_40_40_64_24_16", 719_507, "4.570"),
]


@pytest.mark.parametrize(("width", "family", "config", "params", "paper"), RESNET_CONFIGS)
def test_published_configurations_have_their_parameters_and_macs_in_the_supernet(width, family, config, params, paper):
    space = resnet_space(width, family)
    values = read_config(space, config)
    assert all(values[knob.name] in knob.choices for knob in space.knobs)
    found = CostModel(space).cost(widths_of(space, config))
    assert found.params == params
    assert f"{found.paper_macs / 1e9:.3f}" == paper
    assert spelled(config_of(space, plan_of(space, config))) == config


@pytest.mark.parametrize(
    ("width", "config", "paper"),
    [
        (64, "16_16_32_16_16_64_16_24", 2_984_771_584),
        (64, "16_16_16_48_64_64_24_16", 2_597_322_752),
        (48, "32_32_48_32_48_48_16_16", 4_993_843_200),
    ],
)
def test_macs_of_configurations_are_exact(width, config, paper):
    space = resnet_space(width)
    assert CostModel(space).cost(plan_of(space, config)).paper_macs == paper


# Section 1.8; MACs from the table in 6.1, which count activations and products by element as well (section 0).
@pytest.mark.parametrize(
    ("width", "labels", "config", "params", "macs"),
    [
        (48, 36, "32_40_40_32_40_24_32_24", 21_002_811, 31.2),
        (64, 36, "32_32_32_48_32_24_24_32", 20_174_275, 31.3),
        (48, 36, "32_32_48_32_32_32_32_24", 20_425_019, 31.7),
        (64, 184, "40_32_32_40_32_40_24_24", 25_985_755, 35.5),
    ],
)
def test_published_spade_configurations_have_their_parameters_and_macs_in_the_supernet(
    width, labels, config, params, macs
):
    space = spade_space(width, labels)
    assert all(read_config(space, config)[knob.name] in knob.choices for knob in space.knobs)
    found = CostModel(space).cost(widths_of(space, config))
    assert found.params == params
    assert found.paper_macs / 1e9 == pytest.approx(macs, rel=0.005)
    upsampling = "more" if labels == 36 else "normal"
    built = meta(SPADEGenerator, SPADESizes.from_config(config, labels=labels, upsampling=upsampling))
    assert CostModel(traced(built, GauGAN())).cost(Plan()) == found
    assert spelled(config_of(space, plan_of(space, config))) == config


@pytest.mark.parametrize(
    ("space", "build", "family", "config"),
    [
        (
            lambda: resnet_space(64),
            lambda config: meta(ResNetGenerator, ResNetSizes.from_config(config, separable=True)),
            Pix2Pix,
            "24_24_40_56_24_56_16_40",
        ),
        (
            lambda: resnet_space(64, separable=False),
            lambda config: meta(ResNetGenerator, ResNetSizes.from_config(config)),
            Pix2Pix,
            "16_24_48_56_40_48_24_16",
        ),
        (
            lambda: spade_space(48),
            lambda config: meta(SPADEGenerator, SPADESizes.from_config(config)),
            GauGAN,
            "32_40_40_32_40_24_32_24",
        ),
    ],
)
def test_the_carved_space_is_that_of_the_network_built_from_the_configuration(space, build, family, config):
    full = space()
    plan = plan_of(full, config)
    small, built = carve_space(full, plan), traced(build(config), family())
    assert shapes(small) == shapes(built)
    assert CostModel(full).cost(plan) == CostModel(small).cost(Plan()) == CostModel(built).cost(Plan())
    assert [knob.choices[-1] for knob in small.knobs] == [knob.choices[-1] for knob in built.knobs]


SUPERNETS = {
    "resnet": (ResNetGenerator, ResNetSizes.of(4, 3), ResNetSizes, Pix2Pix(size=(16, 16))),
    "mobile-resnet": (ResNetGenerator, ResNetSizes.of(4, 3, separable=True), ResNetSizes, CycleGAN(size=(16, 16))),
    "mobile-spade": (
        SPADEGenerator,
        SPADESizes.of(4, separable=True, hidden=8, labels=5),
        SPADESizes,
        GauGAN(size=(128, 128), upsampling="more", edges=False),
    ),
}


@pytest.mark.parametrize("name", SUPERNETS)
@settings(DETERMINISTIC, max_examples=4)
@given(data=st.data())
def test_a_carved_configuration_is_the_network_built_from_it_and_the_elastic_view(name, data):
    kind, sizes, table, adapter = SUPERNETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomise(kind(sizes), 0).eval().double()
    space = trace(
        module, torch.empty(adapter.contract(module).example_shape, dtype=torch.float64), {}, {}, adapter.knobs(module)
    )
    assert len(space.knobs) == 8
    config = [data.draw(st.sampled_from(knob.choices), knob.name) for knob in space.knobs]
    if name == "mobile-spade" and any(2 * a == b for a, b in zip([config[0], *config[4:]], config[4:], strict=False)):
        config[4:] = [config[0]] * 4  # a network built with a block as wide as its input has no shortcut to carve
    options = {"separable": sizes.separable} | ({"labels": 5} if table is SPADESizes else {"blocks": 3})
    built = kind(table.from_config(config, **options)).eval().double()
    plan = plan_of(space, config)
    carved = carve(module, space, plan)
    assert {key: value.shape for key, value in carved.state_dict().items()} == {
        key: value.shape for key, value in built.state_dict().items()
    }
    built.load_state_dict(carved.state_dict())
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(adapter.contract(module).example_shape, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(carved(x), built(x))
        assert torch.equal(Elastic(module, space).call(plan, x), carved(x))
    assert CostModel(space).cost(plan).params == sum(p.numel() for p in built.parameters())


# Choices.


def test_choices_are_those_of_the_papers_at_their_networks_width():
    assert choices(resnet_space(64, CycleGAN)) == [(16, 24, 32, 48, 64)] * 8
    assert choices(resnet_space(64, Pix2Pix)) == [(16, 24, 32, 40, 48, 56, 64)] * 8
    assert choices(spade_space(64)) == [(32, 40, 48, 64)] * 5 + [(24, 32, 40, 48, 64)] * 3


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (lambda: resnet_space(64, CycleGAN), 390_625),
        (lambda: resnet_space(64, Pix2Pix), 5_764_801),
        (lambda: spade_space(64), 128_000),
    ],
)
def test_spaces_are_as_large_as_published(space, size):
    assert np.prod([len(values) for values in choices(space())]) == size


def test_narrower_supernets_have_the_published_choices_and_go_on_to_an_eighth():
    assert choices(resnet_space(32)) == [(4, 8, 16, 24, 32)] * 8
    both = (4, 8, 16, 24, 32, 48)
    assert choices(resnet_space(48)) == [both] * 2 + [(4, 8, 16, 24, 32, 40, 48)] * 4 + [both] * 2
    assert choices(spade_space(48)) == [(4, 8, 16, 24, 32, 40, 48)] * 8


def test_other_widths_have_shares_of_themselves_in_multiples_of_eight_or_less():
    assert choices(resnet_space(96)) == [(8, 24, 32, 48, 72, 96)] * 8
    assert choices(resnet_space(24)) == [(2, 4, 8, 12, 16, 24)] * 8
    assert choices(resnet_space(16)) == [(2, 4, 8, 12, 16)] * 8
    assert choices(spade_space(32)) == [(4, 8, 16, 24, 32)] * 8


@pytest.mark.parametrize("width", [8, 16, 24, 32, 48, 96])
def test_a_resnet_of_any_width_but_the_papers_shrinks_to_a_sixteenth_of_its_macs(width):
    space = resnet_space(width, separable=False)
    least = widths_of(space, [knob.choices[0] for knob in space.knobs])
    model = CostModel(space)
    assert 16 * model.cost(least).macs <= model.cost(Plan()).macs


@settings(DETERMINISTIC, max_examples=60)
@given(full=st.integers(1, 300), multiple=st.sampled_from([1, 4, 8, 16]))
def test_derived_choices_ascend_from_an_eighth_to_everything_in_multiples(full, multiple):
    found = widths_at(full, SHARES, multiple_of=multiple)
    assert list(found) == sorted(set(found))
    assert found[-1] == full
    assert 1 <= found[0] <= max(1, full / 8)
    for share in SHARES[1:]:
        near = max(value for value in found if value <= max(1, share * full))
        assert near == 1 or near > share * full / 2
    assert full < 8 * multiple or all(value % multiple == 0 for value in found[:-1])


def test_a_share_of_nothing_is_the_floor():
    assert widths_at(32, (0.0, 0.5), floor=0) == (0, 16, 32)
    assert widths_at(32, (0.0, 0.1), floor=5, multiple_of=1) == (5, 32)


# Which groups belong to which knob.


def test_leading_groups_come_first_and_every_group_of_a_supernet_has_a_knob():
    for space in (resnet_space(), resnet_space(separable=False), spade_space()):
        named = [group for knob in space.knobs for group, _ in knob.widths]
        assert sorted(named) == sorted(group.name for group in space.prunable)
        assert [knob.name for knob in space.knobs] == [f"c{index}" for index in range(8)]
    assert [knob.widths[0] for knob in resnet_space(separable=False).knobs] == [
        ("model.1", 1),
        ("model.4", 2),
        ("model.7", 4),
        *((f"model.{block}.conv_block.1", 4) for block in (10, 13, 16)),
        ("model.19", 2),
        ("model.22", 1),
    ]
    assert [knob.widths[0][1] for knob in spade_space().knobs] == [16, 16, 16, 16, 8, 4, 2, 1]


def test_layers_out_of_proportion_are_free():
    odd = ResNetSizes(widths=(8, 16, 33, 16, 8), inner=(32, 32, 30), separable=True)
    space = traced(meta(ResNetGenerator, odd), Pix2Pix())
    assert [knob.name for knob in space.knobs] == ["c0", "c1", "c3", "c4", "c6", "c7"]
    assert widths_of(space, {"c0": 2})["model.1"] == 2
    assert "model.7" not in widths_of(space, {})
    guided = traced(meta(SPADEGenerator, SPADESizes.of(6, hidden=10, labels=4)), GauGAN())
    assert not [group for knob in guided.knobs for group, _ in knob.widths if "mlp_shared" in group]


@pytest.mark.parametrize(
    ("network", "sizes", "adapter", "knobs"),
    [
        (ResNetGenerator, ResNetSizes.of(4, 2), Pix2Pix(), 7),
        (ResNetGenerator, ResNetSizes.of(4, 6, dropout=0.0), Pix2Pix(), 8),
        (ResNetGenerator, ResNetSizes.of(4, 3, deep=True), Pix2Pix(), 0),
        (UNetGenerator, UNetSizes(width=2, downs=5), Pix2Pix(), 0),
        (SPADEGenerator, SPADESizes.of(4, labels=5, upsampling="most"), GauGAN(), 9),
        (SPADEGenerator, SPADESizes.of(4, labels=5, deep=True), GauGAN(), 8),
        (SPADEGenerator, SPADESizes.from_config("4_4_4_4_8_16_4_4", labels=5), GauGAN(), 8),
        (InceptionSPADEGenerator, InceptionSPADESizes.of(4, labels=5), GauGAN(), 1),
    ],
)
def test_every_network_of_the_families_can_be_traced_with_its_knobs(network, sizes, adapter, knobs):
    space = traced(meta(network, sizes), adapter)
    assert len(space.knobs) == knobs
    assert Space.from_dict(space.to_dict()) == space


def test_a_pruned_network_has_the_knobs_of_what_is_left_however_it_is_opened():
    module = ResNetGenerator(ResNetSizes.of(8, 3, separable=True))
    student = ElasticStudent.of(open_generator(module))
    config = [4, 6, 8, 2, 4, 6, 8, 2]
    carved = student.carve(plan_of(student.space, config))
    assert [knob.choices[-1] for knob in carved.space.knobs] == config
    again = ElasticStudent.of(open_generator(carved.module))
    assert [knob.choices[-1] for knob in again.space.knobs] == config
    uneven = student.carve(Plan({"model.11.conv_block.1.conv.2": (0, 1, 4, 5), "model.7": tuple(range(30))}))
    assert [knob.choices for knob in uneven.space.knobs if knob.name == "c4"] == [(1,)]
    assert {"c2"} == {knob.name for knob in student.space.knobs} - {knob.name for knob in uneven.space.knobs}


# Rankings of channels obey ties only.


def test_search_knobs_do_not_tie_groups_for_rankings():
    assert not resnet_space().ties
    assert not spade_space().ties
    tied = traced(meta(InceptionSPADEGenerator, InceptionSPADESizes.of(4, labels=5)), GauGAN())
    assert tied.ties == tied.knobs


def test_a_threshold_selects_the_same_channels_with_and_without_search_knobs():
    space = resnet_space(16)
    rng = np.random.default_rng(0)
    scores = {group.name: rng.random(group.size) for group in space.prunable}
    model = CostModel(space)
    limits = Budget.parse("macs<=40%").resolve(model.cost(Plan()))
    found = [select_by_threshold(each, scores, limits, cost=model.cost) for each in (space, replace(space, knobs=()))]
    assert found[0] == found[1]
    inner = {len(found[0][name]) for name, _ in space.knobs[3].widths}
    assert len(inner) > 1


# Configurations.


def test_configurations_are_read_in_three_spellings():
    space = resnet_space(16)
    assert read_config(space, "4_8_12_16_4_8_12_16") == read_config(space, [4, 8, 12, 16, 4, 8, 12, 16])
    assert spelled(read_config(space, {"c2": np.int64(5)})) == "16_16_5_16_16_16_16_16"
    assert plan_of(space, {}) == space.full_plan()


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ("4_8", "2 values, but .* has 8 knobs: c0, c1"),
        ("4_x_4_4_4_4_4_4", "integers joined"),
        ({"c9": 4}, "no knob 'c9'; it has c0, c1"),
        ({"c0": 17}, "c0=17 must be an integer from 1 to 16"),
        ({"c0": 0}, "from 1 to 16"),
        ({"c0": 4.0}, "from 1 to 16"),
    ],
)
def test_configurations_that_are_none_are_refused(values, hint):
    with pytest.raises(InvalidOption, match=hint):
        plan_of(resnet_space(16), values)


def test_a_ranking_says_which_channels_a_configuration_keeps():
    space = resnet_space(16)
    ranking = {group.name: range(group.size)[::-1] for group in space.prunable}
    assert plan_of(space, {"c0": 3})["model.1"] == (0, 1, 2)
    assert plan_of(space, {"c0": 3}, ranking)["model.1"] == (13, 14, 15)
    assert plan_of(space, {"c0": 3}, {"model.4": range(32)})["model.1"] == (0, 1, 2)
    with pytest.raises(ContractError, match=r"'model.1' must name each of its 16"):
        plan_of(space, {"c0": 3}, {"model.1": [0] * 16})


def test_a_plan_out_of_proportion_is_no_configuration():
    space = resnet_space(16)
    with pytest.raises(ContractError, match="'c3' gives"):
        config_of(space, gansdk.Plan({space.knobs[3].widths[1][0]: (0, 1)}))
    with pytest.raises(ContractError, match="'c1' gives"):
        config_of(space, gansdk.Plan({"model.4": (0, 1, 2)}))


def test_a_space_without_knobs_has_one_configuration():
    space = replace(resnet_space(16), knobs=())
    assert read_config(space, {}) == {}
    assert plan_of(space, []) == space.full_plan()


def test_an_inspection_shows_the_knobs_with_their_choices_and_groups():
    found = gansdk.inspect(ResNetGenerator(ResNetSizes.of(8, 3)))
    assert [knob["name"] for knob in found.knobs] == [f"c{number}" for number in range(8)]
    assert found.to_dict()["knobs"][2] == {"name": "c2", "choices": [1, 2, 4, 6, 8], "groups": {"model.7": 4}}

"""Generators and discriminators of image translation: published sizes and costs, channel groups, and branches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gansdk.channels.carve import carve
from gansdk.channels.cost import CostModel
from gansdk.channels.elastic import Elastic
from gansdk.channels.groups import Plan
from gansdk.channels.tracing.trace import trace
from gansdk.errors import CheckpointError, ContractError
from gansdk.testing.oracles import relative_error, zero_consumers
from gansdk.testing.strategies import DETERMINISTIC, plans
from gansdk.testing.weights import randomise
from gansdk_adapters.networks.discriminators import PatchDiscriminator, PatchSizes, patch_discriminator
from gansdk_adapters.networks.inception import InceptionGenerator, InceptionSizes
from gansdk_adapters.networks.initialise import initialise
from gansdk_adapters.networks.resnet import ResNetGenerator, ResNetSizes
from gansdk_adapters.networks.unet import UNetGenerator, UNetSizes


def on_meta(network, sizes):
    with torch.device("meta"):
        return network(sizes).eval()


def cost(module, side=256):
    """The core's own figures for one image."""
    channels = module.sizes.channels_in
    return CostModel(trace(module, torch.empty(1, channels, side, side, device="meta"))).cost(Plan())


def counted(module):
    return sum(parameter.numel() for parameter in module.parameters())


def resnet(width=64, **options):
    return on_meta(ResNetGenerator, ResNetSizes.of(width, **options))


def mobile(width):
    return resnet(width, separable=True)


def unet(width=64, **options):
    return on_meta(UNetGenerator, UNetSizes(width=width, **options))


def inception(width=64, **options):
    return on_meta(InceptionGenerator, InceptionSizes.of(width, **options))


# cat_and_gan_compression.md section 0, omgd_wkd_dfsr.md sections A2.6 and D1: parameters, true and paper G MACs
# (the latter with one MAC per element of instance norms).
@pytest.mark.parametrize(
    ("make", "params", "true", "paper"),
    [
        (lambda: resnet(), 11_378_179, "49.552", "56.832"),
        (lambda: resnet(norm="batch"), 11_383_427, "49.552", "56.799"),
        (lambda: unet(), 54_413_955, "6.048", "18.140"),
        (lambda: unet(48), 30_611_427, "3.430", "10.289"),
        (lambda: unet(32), 13_608_259, "1.550", None),
        (lambda: unet(16), 3_404_451, "0.406", "1.219"),
        (lambda: unet(12), 1_915_899, "0.236", "0.707"),
        (lambda: unet(8), 852_307, "0.111", "0.333"),
        (lambda: mobile(96), 4_418_307, "23.848", "40.232"),
        (lambda: mobile(64), 1_987_075, "11.067", "18.366"),
        (lambda: mobile(48), 1_130_883, "6.488", "10.603"),  # the notes print 10.604: the sum of rounded parts
        (lambda: mobile(32), 514_307, "3.117", "4.955"),
        (lambda: mobile(24), 295_875, "1.885", None),
        (lambda: mobile(16), 137_347, "0.955", None),
        (lambda: mobile(12), 80_547, "0.603", None),
        (lambda: mobile(8), 38_723, "0.326", None),
        (lambda: resnet(24, separable=True, deep=True), 5_715_723, "39.750", None),
        (lambda: resnet(16, separable=True, deep=True), 2_547_123, "17.784", None),
        (lambda: resnet(12, separable=True, deep=True), 1_436_583, "10.069", None),
        (lambda: unet(16, deep=True), 44_171_939, "17.532", "18.344"),
        (lambda: unet(12, deep=True), 24_856_251, "9.869", "10.340"),
        (lambda: inception(), 8_154_255, "36.243", "43.527"),
        (lambda: inception(norm="batch"), 8_136_389, "36.243", "43.490"),
    ],
)
def test_parameters_and_macs_are_the_published_ones(make, params, true, paper):
    module = make()
    found = cost(module)
    assert counted(module) == found.params == params
    assert f"{found.macs / 1e9:.3f}" == true
    assert paper is None or f"{found.paper_macs / 1e9:.3f}" == paper


@pytest.mark.parametrize(
    ("width", "deep", "macs"),
    [
        (96, False, "40.155"),
        (64, False, "18.314"),
        (48, False, "10.565"),
        (24, False, "2.904"),
        (16, False, "1.408"),
        (12, False, "0.858"),
        (8, False, "0.440"),
        (24, True, "40.769"),
        (16, True, "18.237"),
        (12, True, "10.324"),
    ],
)
def test_omgd_counts_as_the_other_papers_but_for_instance_norms(width, deep, macs):
    network = resnet(width, separable=True, deep=deep)
    found, normalised = cost(network), []
    for norm in network.modules():
        if isinstance(norm, nn.InstanceNorm2d):
            norm.register_forward_hook(lambda module, given, made: normalised.append(made.numel()))
    network(torch.zeros(1, 3, 256, 256, device="meta"))
    assert found.norm_macs == sum(normalised)
    assert f"{found.of('macs', 'omgd') / 1e9:.3f}" == macs


@pytest.mark.parametrize(
    ("width", "macs"),
    [(64, 11_066_671_104), (48, 6_488_064_000), (24, 1_885_077_504), (16, 954_728_448), (8, 326_369_280)],
)
def test_true_macs_of_mobile_resnets_are_exact(width, macs):
    assert cost(mobile(width)).macs == macs


def test_true_macs_of_the_full_networks_are_exact():
    assert cost(resnet()).macs == 49_551_507_456
    assert [cost(unet(width)).macs for width in (64, 48, 16)] == [6_048_186_368, 3_430_416_384, 406_323_200]


# Section 5.8, and the exact integers of section 0.
@pytest.mark.parametrize(
    ("config", "params", "paper"),
    [
        ("16_16_32_16_32_32_16_16", 356_867, "2.546"),
        ("16_16_24_16_32_64_16_24", 355_235, "2.641"),
        ("32_32_48_32_48_48_16_16", 822_051, "4.994"),
        ("24_24_40_56_24_56_16_40", 702_835, "4.863"),
        ("32_32_48_32_32_48_24_24", 780_819, "5.592"),
        ("16_24_48_56_40_48_24_16", 886_307, "5.451"),
        ("32_32_48_32_48_32_16_16", 746_211, "4.683"),
        ("16_16_40_40_40_64_24_16", 719_507, "4.570"),
    ],
)
def test_configs_of_gan_compression_have_their_parameters_and_macs(config, params, paper):
    module = on_meta(ResNetGenerator, ResNetSizes.from_config(config, separable=True))
    found = cost(module)
    assert counted(module) == found.params == params
    assert f"{found.paper_macs / 1e9:.3f}" == paper


@pytest.mark.parametrize(
    ("config", "paper"),
    [
        ("16_16_32_16_16_64_16_24", 2_984_771_584),
        ("16_16_16_48_64_64_24_16", 2_597_322_752),
        ("32_32_48_32_48_48_16_16", 4_993_843_200),
    ],
)
def test_paper_macs_of_configs_are_exact(config, paper):
    assert cost(on_meta(ResNetGenerator, ResNetSizes.from_config(config, separable=True))).paper_macs == paper


def test_the_legacy_rule_searches_the_inner_width_of_every_third_block_alone():
    """Section 1.5: edges2shoes' "paper" model. Its string is not printed; this one is the only one with that count."""
    sizes = ResNetSizes.from_config("32_32_40_48_48_48_16_32", separable=True)
    inner = [searched if index % 3 == 0 else sizes.widths[2] for index, searched in enumerate(sizes.inner)]
    found = cost(on_meta(ResNetGenerator, replace(sizes, inner=tuple(inner))))
    assert (found.params, found.paper_macs) == (699_875, 4_808_769_536)


def test_a_config_of_six_numbers_has_one_inner_width():
    assert ResNetSizes.from_config("16_24_32_40_48_56") == ResNetSizes.from_config([16, 24, 32, 40, 40, 40, 48, 56])
    with pytest.raises(ContractError, match="7 numbers"):
        ResNetSizes.from_config("1_2_3_4_5_6_7")


# Section 1.10 and the discriminators of section 0; omgd_wkd_dfsr.md A2.6 for the MACs.
@pytest.mark.parametrize(
    ("options", "params", "macs"),
    [
        ({}, 2_764_737, None),
        ({"width": 32}, 694_241, None),
        ({"norm": "instance-affine"}, 2_766_529, None),
        ({"channels_in": 6, "width": 128}, 11_040_641, "12.572"),
        ({"channels_in": 6, "width": 128, "norm": "batch"}, 11_042_433, "12.572"),
        ({"channels_in": 6, "width": 96}, 6_216_097, "7.113"),
    ],
)
def test_discriminators_have_the_published_sizes(options, params, macs):
    module = on_meta(PatchDiscriminator, PatchSizes(**options))
    assert counted(module) == params
    assert macs is None or f"{cost(module).macs / 1e9:.3f}" == macs
    assert module(torch.empty(1, module.sizes.channels_in, 256, 256, device="meta")).shape == (1, 1, 30, 30)


@settings(derandomize=True, deadline=None, max_examples=10)
@given(g=st.integers(1, 24), channels=st.integers(1, 8))
def test_parameters_follow_the_closed_forms_at_any_width(g, channels):
    assert counted(resnet(g)) == 2772 * g * g + 376 * g + 3
    assert counted(mobile(g)) == 468 * g * g + 1096 * g + 3
    assert counted(unet(g)) == 13280 * g * g + 298 * g + 3
    assert counted(resnet(g, separable=True, deep=True)) == 9870 * g * g + 1275 * g + 3
    assert counted(unet(g, deep=True)) == (13280 + 159068) * g * g + (298 + 2880) * g + 3
    patch = on_meta(PatchDiscriminator, PatchSizes(width=g, channels_in=channels))
    assert counted(patch) == 672 * g * g + (16 * channels + 143) * g + 1


@settings(derandomize=True, deadline=None, max_examples=8)
@given(g=st.integers(2, 24), blocks=st.integers(1, 4))
def test_inception_costs_follow_the_closed_form_of_cat(g, blocks):
    """Section 2.2, on the grid of 32x32 pixels."""
    area, trunk, m = 32 * 32, 4 * g, 4 * g // 6
    if m == 0:
        return
    kernels = (1, 3, 5)
    macs = 147 * g * area + 9 * g * 2 * g * area // 4 + 9 * 2 * g * trunk * area // 16
    macs += blocks * (area // 16) * sum(2 * k * k * trunk * m + (2 * trunk + k * k) * m for k in kernels)
    macs += 9 * trunk * 2 * g * area // 4 + 9 * 2 * g * g * area + 147 * g * area
    norms = g * area + 2 * g * area // 4 + trunk * area // 16
    norms += blocks * (area // 16) * (9 * m + trunk) + 2 * g * area // 4 + g * area
    assert cost(inception(g, blocks=blocks), 32).paper_macs == macs + norms
    assert cost(inception(g, blocks=blocks, norm="batch"), 32).paper_macs == macs


# Initialisation (section 1.1).


@pytest.mark.parametrize("kind", ["normal", "xavier"])
def test_initial_weights_are_drawn_as_in_the_papers(kind):
    network = PatchDiscriminator(PatchSizes(width=16, norm="batch"))
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        drawn = initialise(network, kind).requires_grad_(False)
    weight, fan = drawn.model[5].weight, 16 * (32 + 64)
    expected = 0.02 if kind == "normal" else 0.02 * (2 / fan) ** 0.5
    assert float(weight.std()) == pytest.approx(expected, rel=0.05)
    assert not drawn.model[0].bias.any()
    assert float(drawn.model[6].weight.mean()) == pytest.approx(1, abs=0.02)
    assert float(drawn.model[6].weight.std()) == pytest.approx(0.02, rel=0.4)


def test_initialisation_leaves_instance_norms_alone():
    network = PatchDiscriminator(PatchSizes(width=4, norm="instance-affine"))
    network.model[3].weight.data.fill_(0.5)
    with torch.random.fork_rng([]):
        initialise(network)
    assert bool((network.model[3].weight == 0.5).all())


# Channel groups.

TINY = {
    "resnet": lambda: ResNetGenerator(ResNetSizes.of(4, 2)),
    "resnet-batch": lambda: ResNetGenerator(ResNetSizes.of(4, 2, norm="batch", dropout=0.5)),
    "mobile-resnet": lambda: ResNetGenerator(ResNetSizes.of(4, 2, norm="instance-affine", separable=True)),
    "unet": lambda: UNetGenerator(UNetSizes(width=2, downs=5)),
    "unet-6": lambda: UNetGenerator(UNetSizes(width=2, downs=6, norm="instance-affine")),
    "resnet-deep": lambda: ResNetGenerator(ResNetSizes.of(2, 3, deep=True)),
    "unet-deep": lambda: UNetGenerator(UNetSizes(width=1, downs=5, deep=True)),
    "inception": lambda: InceptionGenerator(InceptionSizes.of(4, 2, share=4)),
    "inception-batch": lambda: InceptionGenerator(InceptionSizes.of(4, 2, share=4, norm="batch")),
}
SIDE = 64


def tiny(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomise(TINY[name](), 0).eval().double()


def traced(module):
    branches = module.branches() if isinstance(module, InceptionGenerator) else {}
    return trace(module, torch.empty(1, 3, SIDE, SIDE, dtype=torch.float64), branches=branches)


def groups(module):
    return {group.name: group.size for group in traced(module).prunable}


def test_nothing_is_frozen_but_the_images():
    for name in TINY:
        frozen = [group for group in traced(tiny(name)).groups if group.frozen]
        assert [group.frozen for group in frozen] == ["it is the image input", "it is the image output"]


def test_the_groups_of_a_resnet_are_its_layers_with_one_trunk():
    inner = {f"model.{10 + i}.conv_block.1": 16 for i in range(2)}
    ups = {"model.12": 8, "model.15": 4}
    assert groups(tiny("resnet")) == {"model.1": 4, "model.4": 8, "model.7": 16, **inner, **ups}
    mobile_inner = {f"model.{10 + i}.conv_block.1.conv.2": 16 for i in range(2)}
    assert groups(tiny("mobile-resnet")) == {"model.1": 4, "model.4": 8, "model.7": 16, **mobile_inner, **ups}


def test_the_groups_of_a_unet_are_its_halvings_and_doublings():
    found = groups(tiny("unet"))
    assert sorted(found.values()) == sorted([2, 4, 8, 16, 16, 16, 8, 4, 2])


def test_the_groups_of_an_inception_generator_are_cats_59_at_nine_blocks():
    module = on_meta(InceptionGenerator, InceptionSizes.of())
    space = trace(module, torch.empty(1, 3, 256, 256, device="meta"), branches=module.branches())
    assert len(space.prunable) == 59
    assert sum(group.floor == 0 for group in space.prunable) == 54
    assert len(space.branches) == 63


@pytest.mark.parametrize("name", TINY)
@settings(DETERMINISTIC, max_examples=3)
@given(data=st.data())
def test_carved_equals_elastic_equals_zeroed(name, data):
    module = tiny(name)
    space = traced(module)
    drawn = data.draw(plans(space))
    plan = Plan({group: kept or (0,) for group, kept in drawn.items()})  # what empties branches is tested below
    x = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    carved = carve(module, space, plan)
    assert relative_error(carved(x), zero_consumers(module, space, plan)(x)) < 1e-6
    assert torch.equal(Elastic(module, space).call(plan, x), carved(x))
    assert CostModel(space).cost(plan).params == counted(carved)


@pytest.mark.parametrize("name", ["inception", "inception-batch"])
def test_emptied_branches_leave_and_an_empty_block_is_the_identity(name):
    module = tiny(name)
    space = traced(module)
    first = [group.name for group in space.prunable if group.floor == 0 and group.name.startswith("features.0.")]
    plan = Plan({**dict.fromkeys(first, ()), "features.1.dw_ops.1.0.0": ()})
    carved = carve(module, space, plan)
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(carved.features[0](x), x)
    assert not list(carved.features[0].parameters())
    assert carved.features[1].dw_ops[1] is None
    smaller = InceptionSizes.of(4, 2, share=4, norm=module.sizes.norm)
    built = InceptionGenerator(
        InceptionSizes(widths=smaller.widths, middle=((0,) * 6, (4, 4, 4, 4, 0, 4)), norm=module.sizes.norm)
    ).double()
    built.load_state_dict(carved.state_dict())
    assert torch.equal(built.eval().features(x), carved.features(x))


# Discriminators are read from their weights.


@pytest.mark.parametrize("norm", ["instance", "instance-affine", "batch"])
@pytest.mark.parametrize("layers", [1, 3, 4])
def test_a_discriminator_is_recognised_by_its_weights(norm, layers):
    original = PatchDiscriminator(PatchSizes(channels_in=5, width=3, layers=layers, norm=norm))
    before = torch.get_rng_state()
    found = patch_discriminator(original.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    assert found.sizes == original.sizes
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), original.parameters(), strict=True))


def test_old_running_statistics_of_instance_norms_are_passed_over():
    original = PatchDiscriminator(PatchSizes(width=3))
    old = {f"model.3.{name}": torch.ones(6) for name in ("running_mean", "running_var")}
    assert patch_discriminator({**original.state_dict(), **old}).sizes == original.sizes


def test_weights_of_something_else_are_refused_as_a_discriminator():
    with pytest.raises(CheckpointError, match="not the weights of a PatchGAN"):
        patch_discriminator(nn.Conv2d(3, 3, 3).state_dict())
    state = PatchDiscriminator(PatchSizes(width=3)).state_dict()
    state["model.5.weight"] = torch.zeros(12, 7, 4, 4)
    with pytest.raises(CheckpointError, match=r"width 3, 3 strided.*model\.5\.weight"):
        patch_discriminator(state)


def test_discriminators_that_claim_great_widths_are_compared_before_they_are_built():
    wide = {f"model.{index}.weight": torch.zeros(100_000, 1, 1, 1) for index in (0, 2, 5, 8, 11)}
    with pytest.raises(CheckpointError, match="not match a PatchGAN"):
        patch_discriminator(wide)

"""The adapters of pix2pix and CycleGAN: detection from weights, contracts, taps, building, and whole students."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

import gansdk
from gansdk.errors import CheckpointError, CheckpointMismatch, InvalidOption, Unsupported
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.pipeline.opening import open_generator
from gansdk_adapters.cyclegan import CycleGAN
from gansdk_adapters.networks.inception import InceptionGenerator, InceptionSizes
from gansdk_adapters.networks.resnet import ResNetGenerator, ResNetSizes
from gansdk_adapters.networks.unet import UNetGenerator, UNetSizes
from gansdk_adapters.pix2pix import Pix2Pix
from gansdk_adapters.translation_layouts import ARCHITECTURES

# The official key layouts, written out independently of the networks.


def conv(key, out, given, kernel, bias):
    weight = {f"{key}.weight": (out, given, kernel, kernel)}
    return {**weight, f"{key}.bias": (out,)} if bias else weight


def norm(key, width, kind):
    names = {
        "instance": (),
        "instance-old": ("running_mean", "running_var"),
        "instance-affine": ("weight", "bias"),
        "batch": ("weight", "bias", "running_mean", "running_var"),
        "batch-untracked": ("weight", "bias"),
    }[kind]
    counter = {f"{key}.num_batches_tracked": ()} if kind == "batch" else {}
    return {f"{key}.{name}": (width,) for name in names} | counter


def biased(kind):
    return kind.startswith("instance")


def stem_keys(prefix, g, channels_in, kind):
    bias = biased(kind)
    return {
        **conv(f"{prefix}.1", g, channels_in, 7, bias),
        **norm(f"{prefix}.2", g, kind),
        **conv(f"{prefix}.4", 2 * g, g, 3, bias),
        **norm(f"{prefix}.5", 2 * g, kind),
        **conv(f"{prefix}.7", 4 * g, 2 * g, 3, bias),
        **norm(f"{prefix}.8", 4 * g, kind),
    }


def tail_keys(prefix, first, g, channels_out, kind):
    ups = {}
    for index, given, out in ((first, 4 * g, 2 * g), (first + 3, 2 * g, g)):
        ups[f"{prefix}.{index}.weight"] = (given, out, 3, 3)
        ups |= {f"{prefix}.{index}.bias": (out,)} if biased(kind) else {}
        ups |= norm(f"{prefix}.{index + 1}", out, kind)
    return {**ups, **conv(f"{prefix}.{first + 7}", channels_out, g, 7, True)}


def resnet_keys(g=4, blocks=9, kind="instance", dropout=False, separable=False, channels=(3, 3)):
    keys = stem_keys("model", g, channels[0], kind)
    for block in range(10, 10 + blocks):
        for index in (1, 6 if dropout else 5):
            path = f"model.{block}.conv_block.{index}"
            if separable:
                keys |= {f"{path}.conv.0.weight": (4 * g, 1, 3, 3), f"{path}.conv.0.bias": (4 * g,)}
                keys |= conv(f"{path}.conv.2", 4 * g, 4 * g, 1, True)
            else:
                keys |= conv(path, 4 * g, 4 * g, 3, biased(kind))
            keys |= norm(f"model.{block}.conv_block.{index + 1}", 4 * g, kind)
    return {**keys, **tail_keys("model", 10 + blocks, g, channels[1], kind)}


def unet_keys(g=2, downs=8, kind="batch", channels=(3, 3)):
    def level(number, prefix):
        outer = g * min(8, 2 ** (number - 2))
        inner = g * min(8, 2 ** (number - 1))
        keys = conv(f"{prefix}.1", inner, outer, 4, biased(kind))
        if number == downs:
            up, last, back = 3, 4, inner
        else:
            keys |= {**norm(f"{prefix}.2", inner, kind), **level(number + 1, f"{prefix}.3.model")}
            up, last, back = 5, 6, 2 * inner
        keys[f"{prefix}.{up}.weight"] = (back, outer, 4, 4)
        keys |= {f"{prefix}.{up}.bias": (outer,)} if biased(kind) else {}
        return {**keys, **norm(f"{prefix}.{last}", outer, kind)}

    return {
        **conv("model.model.0", g, channels[0], 4, biased(kind)),
        **level(2, "model.model.1.model"),
        "model.model.3.weight": (2 * g, channels[1], 4, 4),
        "model.model.3.bias": (channels[1],),
    }


def inception_keys(g=6, blocks=9, kind="instance-affine", kernels=(1, 3, 5), channels=(3, 3), gone=()):
    """`gone`: (block, list, kernel) of branches that pruning removed; the official lists close up."""
    keys, c, bias = stem_keys("down_sampling", g, channels[0], kind), 4 * g, biased(kind)
    m = c // 6
    for block in range(blocks):
        left = [k for k in kernels if (block, "res_ops", k) not in gone]
        for i, k in enumerate(left):
            path = f"features.{block}.res_ops.{i}"
            keys |= {**conv(f"{path}.1.0", m, c, k, bias), **norm(f"{path}.1.1", m, kind)}
            keys |= conv(f"{path}.4", c, m, k, bias)
        left = [k for k in kernels if (block, "dw_ops", k) not in gone]
        for i, k in enumerate(left):
            path = f"features.{block}.dw_ops.{i}"
            keys |= {**conv(f"{path}.0.0", m, c, 1, bias), **norm(f"{path}.0.1", m, kind)}
            keys |= {**conv(f"{path}.2.0", m, 1, k, bias), **norm(f"{path}.2.1", m, kind)}
            keys |= conv(f"{path}.4", c, m, 1, bias)
        keys |= norm(f"features.{block}.pw_bn", c, kind)
    return {**keys, **tail_keys("up_sampling", 0, g, channels[1], kind)}


def weights(keys, seed=0):
    rng = torch.Generator().manual_seed(seed)

    def draw(name, shape):
        if name.endswith("num_batches_tracked"):
            return torch.tensor(3)
        return torch.rand(shape, generator=rng) * 0.2 + (0.9 if "running_var" in name else -0.1)

    return {name: draw(name, shape) for name, shape in keys.items()}


def saved(tmp_path, state):
    path = tmp_path / "latest_net_G.pth"
    torch.save(state, path)
    return path


GONE = {(0, kind, k) for kind in ("res_ops", "dw_ops") for k in (1, 3, 5)} | {(1, "res_ops", 1), (1, "dw_ops", 3)}

LAYOUTS = {
    "resnet-9": (resnet_keys(), ResNetSizes.of(4)),
    "resnet-6": (resnet_keys(blocks=6), ResNetSizes.of(4, 6)),
    "resnet-one-block": (resnet_keys(blocks=1), ResNetSizes.of(4, 1)),
    "resnet-dropout": (resnet_keys(dropout=True), ResNetSizes.of(4, dropout=0.0)),
    "resnet-batch": (resnet_keys(kind="batch", dropout=True), ResNetSizes.of(4, norm="batch", dropout=0.0)),
    "resnet-affine": (resnet_keys(kind="instance-affine"), ResNetSizes.of(4, norm="instance-affine")),
    "resnet-untracked": (resnet_keys(kind="batch-untracked"), ResNetSizes.of(4, norm="batch-untracked")),
    "resnet-old": (resnet_keys(kind="instance-old"), ResNetSizes.of(4)),
    "resnet-labels": (resnet_keys(channels=(35, 1)), ResNetSizes.of(4, channels_in=35, channels_out=1)),
    "mobile": (resnet_keys(separable=True, dropout=True), ResNetSizes.of(4, separable=True, dropout=0.0)),
    "mobile-batch": (
        resnet_keys(separable=True, kind="batch", dropout=True),
        ResNetSizes.of(4, separable=True, norm="batch", dropout=0.0),
    ),
    "mobile-no-dropout": (resnet_keys(separable=True), ResNetSizes.of(4, separable=True)),
    "unet-256": (unet_keys(), UNetSizes(width=2)),
    "unet-128": (unet_keys(downs=7), UNetSizes(width=2, downs=7)),
    "unet-32": (unet_keys(downs=5), UNetSizes(width=2, downs=5)),
    "unet-instance": (unet_keys(kind="instance"), UNetSizes(width=2, norm="instance")),
    "unet-old": (unet_keys(kind="instance-old"), UNetSizes(width=2, norm="instance")),
    "unet-labels": (unet_keys(channels=(12, 3)), UNetSizes(width=2, channels_in=12)),
    "inception": (inception_keys(), InceptionSizes.of(6)),
    "inception-batch": (inception_keys(kind="batch"), InceptionSizes.of(6, norm="batch")),
    "inception-untracked": (inception_keys(kind="batch-untracked"), InceptionSizes.of(6, norm="batch-untracked")),
    "inception-357": (inception_keys(kernels=(3, 5, 7), blocks=2), InceptionSizes.of(6, 2, kernels=(3, 5, 7))),
    "inception-pruned": (
        inception_keys(blocks=3, gone=GONE),
        InceptionSizes(
            widths=(6, 12, 24, 12, 6), middle=((0,) * 6, (0, 4, 4, 4, 0, 4), (4,) * 6), norm="instance-affine"
        ),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_official_checkpoints_load_unchanged(name, tmp_path):
    keys, sizes = LAYOUTS[name]
    state = weights(keys)
    generator = open_generator(saved(tmp_path, {f"module.{key}": tensor for key, tensor in state.items()}))
    assert generator.adapter.name == "pix2pix"
    assert generator.module.sizes == sizes
    loaded = {key: tensor for key, tensor in generator.module.state_dict().items() if "num_batches" not in key}
    floats = [tensor for tensor in state.values() if tensor.is_floating_point()]
    used = sum(any(torch.equal(tensor, other) for other in floats) for tensor in loaded.values())
    assert used == len(loaded)


def test_pruned_branches_of_the_official_code_land_at_their_kernels(tmp_path):
    state = weights(LAYOUTS["inception-pruned"][0])
    block = open_generator(saved(tmp_path, state)).module.features[1]
    assert block.res_ops[0] is None
    assert block.dw_ops[1] is None
    assert torch.equal(block.res_ops[2][4].weight, state["features.1.res_ops.1.4.weight"])
    assert torch.equal(block.dw_ops[2][2][0].weight, state["features.1.dw_ops.1.2.0.weight"])


@pytest.mark.parametrize("missing", [False, True])
def test_weights_with_a_branch_that_another_would_cover_are_refused(missing, tmp_path):
    state = weights(inception_keys(blocks=1, gone={(0, "dw_ops", 1)}))
    if missing:
        del state["features.0.dw_ops.1.2.0.weight"]
    else:
        state["features.0.dw_ops.1.2.0.weight"] = torch.zeros(4, 1, 3, 3)
    with pytest.raises(CheckpointMismatch, match=r"The closest is inception generator, 1 blocks.*features\.0\.dw_ops"):
        open_generator(saved(tmp_path, state))


def test_spectrally_normalised_weights_load_and_are_folded_for_the_student(tmp_path):
    original = ResNetGenerator(ResNetSizes.of(2, 1))
    torch.nn.utils.spectral_norm(original.model[4])
    torch.nn.utils.spectral_norm(original.model[11])
    original.eval()
    generator = open_generator(saved(tmp_path, original.state_dict()))
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(generator.module(x), original(x))
        student = ElasticStudent.of(generator)
        assert torch.allclose(student.module(x), original(x), atol=1e-6)
    assert generator.adapter.build(generator.adapter.describe(generator.module)).sizes == original.sizes
    assert not any("weight_orig" in key for key in student.module.state_dict())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s.pop("model.12.conv_block.5.weight"), r"ResNet-9, ngf 4.*model\.12\.conv_block\.5\.weight"),
        (lambda s: s.update({"model.7.weight": torch.zeros(16, 9, 3, 3)}), r"ResNet-9, ngf 4.*model\.7\.weight"),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"ResNet-9, ngf 4.*extra\.weight.*unexpected"),
        (lambda s: s.update({"model.1.weight": torch.zeros(4, 3, 5, 5)}), r"ResNet-9.*model\.1\.weight"),
    ],
)
def test_wrong_checkpoints_are_refused_with_the_nearest_variant(change, expected, tmp_path):
    state = weights(resnet_keys())
    change(state)
    with pytest.raises(CheckpointMismatch, match=f"(?s)The closest.*{expected}"):
        open_generator(saved(tmp_path, state))


@pytest.mark.parametrize(
    ("keys", "gone", "expected"),
    [
        (unet_keys(downs=6), "model.model.1.model.5.weight", "U-Net-64, ngf 2"),
        (inception_keys(blocks=2), "features.1.dw_ops.2.4.weight", "inception generator, 2 blocks"),
    ],
)
def test_other_wrong_checkpoints_name_their_kind(keys, gone, expected, tmp_path):
    state = weights(keys)
    del state[gone]
    with pytest.raises(CheckpointMismatch, match=expected):
        open_generator(saved(tmp_path, state))


def test_detection_never_raises_on_strange_states():
    for state in (
        {},
        {"model.1.weight": torch.zeros(3)},
        {"model.1.weight": torch.zeros(0, 3, 7, 7)},
        {"model.model.0.weight": torch.zeros(2, 2, 4, 4), "model.model.1.model.3.model.3.model": torch.zeros(1)},
        {"down_sampling.1.weight": torch.zeros(2, 3, 7, 7), "features.9.res_ops.0.1.0.weight": torch.zeros(1, 1, 3, 3)},
        {"model.1.weight": torch.zeros(2, 3, 7, 7), "model.99.conv_block.1.weight": torch.zeros(())},
    ):
        for variant in Pix2Pix().variants(state):
            with torch.device("meta"):
                variant.build()


def test_cyclegan_is_chosen_by_name(tmp_path):
    generator = open_generator(saved(tmp_path, weights(resnet_keys(blocks=1))), adapter="cyclegan")
    assert isinstance(generator.adapter, CycleGAN)


# Contracts and taps.


def test_the_contract_says_range_multiple_and_how_norms_run():
    def contract(network, adapter=None):
        return (adapter or Pix2Pix()).contract(network)

    with torch.device("meta"):
        resnet = ResNetGenerator(ResNetSizes.of(2, 1, norm="batch", channels_in=12, channels_out=1))
        unet, flat = UNetGenerator(UNetSizes(width=1)), UNetGenerator(UNetSizes(width=1, norm="instance", downs=9))
    found = contract(resnet)
    assert (found.channels_in, found.channels_out, found.size) == (12, 1, (256, 256))
    assert (found.input_range, found.output_range, found.multiple_of) == ((-1, 1), (-1, 1), 4)
    assert found.inference == "eval"
    assert contract(unet).multiple_of == 256
    assert contract(unet).inference == "batch-statistics"
    assert (contract(flat).size, contract(flat).inference) == ((512, 512), "eval")
    assert contract(unet, Pix2Pix(inference="eval")).inference == "eval"
    assert contract(resnet, CycleGAN(inference="batch-statistics")).inference == "batch-statistics"


def test_the_rate_of_dropout_can_be_said(tmp_path):
    path = saved(tmp_path, weights(unet_keys(downs=6)))
    assert open_generator(path).module.sizes.dropout == 0.5
    assert open_generator(path, adapter=Pix2Pix(dropout=0.0)).module.sizes.dropout == 0.0
    path = saved(tmp_path, weights(resnet_keys(blocks=1, dropout=True)))
    assert open_generator(path, adapter=Pix2Pix(dropout=0.5)).module.model[10].conv_block[4].p == 0.5


@pytest.mark.parametrize("options", [{"inference": "train"}, {"dropout": 1.0}, {"dropout": "half"}])
def test_options_of_no_meaning_are_refused(options):
    with pytest.raises(InvalidOption, match=next(iter(options))):
        Pix2Pix(**options)


@pytest.mark.parametrize(
    ("architecture", "sizes"),
    [
        ("resnet", {"width": 4.5}),
        ("resnet", {"width": "8"}),
        ("resnet", {"blocks": 0}),
        ("resnet", {"dropout": 2}),
        ("mobile-resnet", {"norm": "group"}),
        ("unet", {"downs": "8"}),
        ("inception", {"kernels": [2]}),
    ],
)
def test_sizes_of_no_meaning_are_refused_by_their_names(architecture, sizes):
    with pytest.raises(InvalidOption, match=f"^{next(iter(sizes))}="):
        Pix2Pix().create(architecture, **sizes)


def test_taps_are_those_of_the_papers_and_thirds_at_other_depths():
    with torch.device("meta"):
        resnet, six = ResNetGenerator(ResNetSizes.of(2)), ResNetGenerator(ResNetSizes.of(2, 6))
        one, inception = ResNetGenerator(ResNetSizes.of(2, 1)), InceptionGenerator(InceptionSizes.of(6))
    assert Pix2Pix().taps(resnet) == {
        "stem": "model.9",
        "body3": "model.12",
        "body6": "model.15",
        "body9": "model.18",
    }
    assert list(Pix2Pix().taps(six)) == ["stem", "body2", "body4", "body6"]
    assert list(Pix2Pix().taps(one)) == ["stem", "body1"]
    assert Pix2Pix().taps(inception) == {
        "stem": "down_sampling.9",
        "body3": "features.2",
        "body6": "features.5",
        "body9": "features.8",
    }


# Describing, building, creating, rebuilding.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_networks_are_built_again_from_their_description(architecture):
    adapter = Pix2Pix()
    network = adapter.create(architecture, width=2, **({"downs": 5} if architecture == "unet" else {"blocks": 2}))
    described = json.loads(json.dumps(adapter.describe(network)))
    assert adapter.build(described).sizes == network.sizes
    assert adapter.accepts(network)


def test_descriptions_and_sizes_of_nothing_are_refused():
    with pytest.raises(CheckpointError, match="resnet, unet, inception"):
        Pix2Pix().build({"network": "vgg"})
    with pytest.raises(CheckpointError, match="sizes are invalid"):
        Pix2Pix().build({"network": "unet", "sizes": {"depth": 3}})
    with pytest.raises(InvalidOption, match="mobile-resnet"):
        Pix2Pix().create("vgg")
    with pytest.raises(InvalidOption, match=r"no size 'blocks'\. Its sizes: width, downs, channels_in"):
        Pix2Pix().create("unet", blocks=3)
    with pytest.raises(Unsupported, match="Linear"):
        CycleGAN().contract(nn.Linear(1, 1))


def test_created_networks_start_as_in_the_papers():
    torch.manual_seed(0)
    network = CycleGAN().create("resnet", width=8, blocks=1, norm="batch", dropout=0.5)
    assert network.sizes.dropout == 0.5
    assert float(network.model[10].conv_block[1].weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_initialising_forgets_everything_inherited():
    network = ResNetGenerator(ResNetSizes.of(2, 1, norm="instance-affine"))
    network.model[2].weight.data.fill_(7)
    Pix2Pix().initialise(network)
    assert bool((network.model[2].weight == 1).all())


def test_rebuilding_scales_every_width_and_deepens():
    adapter = Pix2Pix()
    resnet = ResNetGenerator(ResNetSizes.from_config("1_2_3_4_5_6_7_8"))
    wide = adapter.rebuild(resnet, width=2.0).sizes
    assert (wide.widths, wide.inner) == ((2, 8, 24, 28, 16), (32,) * 3 + (40,) * 3 + (48,) * 3)
    deep = adapter.rebuild(resnet, deeper=True)
    assert deep.sizes == dataclasses.replace(resnet.sizes, deep=True)
    inception = InceptionGenerator(InceptionSizes.of(6, 2))
    assert adapter.rebuild(inception, width=0.5).sizes.middle == ((2,) * 6,) * 2
    assert adapter.rebuild(inception, deeper=True).sizes.blocks == 3
    unet = UNetGenerator(UNetSizes(width=2, downs=5))
    assert adapter.rebuild(unet, width=1.5, deeper=True).sizes == UNetSizes(width=3, downs=5, deep=True)
    with pytest.raises(Unsupported, match="already"):
        adapter.rebuild(deep, deeper=True)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("network", "sizes"), [(ResNetGenerator, ResNetSizes.of(2)), (UNetGenerator, UNetSizes(width=2))]
)
def test_taps_have_the_channels_and_sizes_of_the_papers_in_deeper_networks_too(network, sizes, deep):
    """GAN Compression section 5.5; omgd_wkd_dfsr.md A2.3: 2g at 64, 8g at 16, 16g at 16 and 4g at 64 pixels."""
    module = network(dataclasses.replace(sizes, deep=deep)).eval()
    student = ElasticStudent.of(open_generator(module))
    seen = student.observe(torch.zeros(1, 3, 256, 256), student.taps).features
    shapes = {name: tuple(feature.shape[1:]) for name, feature in seen.items()}
    if network is ResNetGenerator:
        assert shapes == dict.fromkeys(["stem", "body3", "body6", "body9"], (8, 64, 64))
        kinds = {type(module.get_submodule(path)).__name__ for path in Pix2Pix().taps(module).values()}
        assert kinds == {"ReLU", "ResidualBlock"}
    else:
        assert shapes == {"down3": (4, 64, 64), "down5": (16, 16, 16), "up4": (32, 16, 16), "up2": (8, 64, 64)}
        assert bool((seen["up4"] >= 0).all())


# A student with emptied branches, from pruning to the loaded folder.


def test_a_student_with_emptied_branches_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    network = Pix2Pix().create("inception", width=6, blocks=2)
    for path in ("down_sampling.2", "down_sampling.5", "down_sampling.8", "up_sampling.1", "up_sampling.4"):
        network.get_submodule(path).weight.data.fill_(2.0)
    for block in (0, 1):
        for kind, first in (("res_ops", "1.1"), ("dw_ops", "0.1")):
            for index in range(3):
                scale = network.get_submodule(f"features.{block}.{kind}.{index}.{first}").weight
                scale.data.fill_(0.01 if block == 0 or index == 2 else 1.0)
    pruner = {"name": "one-step", "importance": "norm-scale", "selection": "threshold", "floor_width": 2}
    with pytest.warns(gansdk.errors.GansdkWarning):
        result = gansdk.compress(network, budget="macs<=85%", pruner={**pruner, "inherit": "none"}, distiller=None)
    assert list(result.student.features[0].parameters()) == []
    assert result.student.features[1].res_ops[2] is None
    folder = result.save(tmp_path / "student")
    loaded = gansdk.load(folder)
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.equal(loaded(x), result.student.eval()(x))
    again = open_generator(folder)
    space = ElasticStudent.of(again).space
    assert sum(group.floor == 0 for group in space.prunable) == 4

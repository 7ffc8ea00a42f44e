"""GauGAN's networks against the published counts, official key layouts, and CAT's pruning of the inception network."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import gansdk
from gansdk.channels.tracing.trace import trace
from gansdk.errors import CheckpointError, CheckpointMismatch, ContractError, InvalidOption, Unsupported
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.recognition import recognise
from gansdk.interfaces import Generator
from gansdk.modules.weights import reset_parameters
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_pruner
from gansdk_adapters.gaugan import GauGAN
from gansdk_adapters.networks.inception_spade import InceptionSPADEGenerator, InceptionSPADESizes
from gansdk_adapters.networks.multiscale import MultiScaleDiscriminator, MultiScaleSizes, multi_scale_discriminator
from gansdk_adapters.networks.spade import SPADEGenerator, SPADESizes

TINY = {"width": 4, "labels": 5, "hidden": 12}


def meta(build):
    with torch.device("meta"):
        return build().eval()


def parameters(network) -> int:
    return sum(p.numel() for p in network.parameters())


def tiny(architecture="spade", **sizes):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return GauGAN().create(architecture, **{**TINY, **sizes}).eval()


def alive(network):
    """The network with larger weights, and norms that have seen something, so that no two channels behave alike."""
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        reset_parameters(network)
    rng = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "running_var", "norm.weight", "norm.bias")):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=rng))
    return network


def labels(size=128, channels=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(channels, (1, size // 8, size // 8), generator=rng)
    one_hot = torch.nn.functional.one_hot(ids, channels).permute(0, 3, 1, 2).float()
    return torch.nn.functional.interpolate(one_hot, scale_factor=8)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        (SPADESizes.of(64), 93_048_003),
        (SPADESizes.of(64, labels=184, upsampling="normal"), 97_480_899),
        (SPADESizes.of(64, separable=True), 70_680_771),
        (SPADESizes.of(48, separable=True, hidden=96), 39_975_315),
        (SPADESizes.from_config("32_40_40_32_40_24_32_24"), 21_002_811),
        (SPADESizes.from_config("32_32_32_48_32_24_24_32"), 20_174_275),
        (SPADESizes.from_config("32_32_48_32_32_32_32_24"), 20_425_019),
        (SPADESizes.from_config("40_32_32_40_32_40_24_24", labels=184, upsampling="normal"), 25_985_755),
    ],
)
def test_spade_has_the_published_parameters(sizes, count):
    assert parameters(meta(lambda: SPADEGenerator(sizes))) == count


def test_inception_spade_and_the_discriminator_have_the_published_parameters():
    assert parameters(meta(lambda: InceptionSPADEGenerator(InceptionSPADESizes.of(64)))) == 55_592_325
    assert parameters(meta(lambda: MultiScaleDiscriminator(MultiScaleSizes()))) == 5_601_410


@pytest.mark.parametrize(
    ("build", "labels", "size", "macs"),
    [
        (lambda: SPADEGenerator(SPADESizes.of(64)), 36, (256, 512), 281_276_612_608),
        (lambda: SPADEGenerator(SPADESizes.of(64, labels=184, upsampling="normal")), 184, (256, 256), 191.14e9),
        (lambda: SPADEGenerator(SPADESizes.of(64, separable=True)), 36, (256, 512), 118.60e9),
        (lambda: SPADEGenerator(SPADESizes.of(48, separable=True, hidden=96)), 36, (256, 512), 71.06e9),
        (lambda: InceptionSPADEGenerator(InceptionSPADESizes.of(64)), 36, (256, 512), 109.77e9),
    ],
)
def test_the_cost_model_gives_the_published_macs(build, labels, size, macs):
    space = trace(meta(build), torch.zeros(1, labels, *size, device="meta"), {})
    from gansdk.channels.cost import CostModel

    found = CostModel(space).cost(space.full_plan()).macs
    assert found == macs if isinstance(macs, int) else round(found / 1e9, 2) == macs / 1e9


@given(width=st.integers(1, 12), labels=st.integers(1, 9), hidden=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_spade_has_the_parameters_of_its_closed_form(width, labels, hidden):
    def conv(given, made, kernel, bias=True):
        return made * (kernel * kernel * given + bias)

    def spade(channels):
        return conv(labels, hidden, 3) + 2 * conv(hidden, channels, 3)

    n, total = width, 0
    for read, made in ((16, 16), (16, 16), (16, 16), (16, 8), (8, 4), (4, 2), (2, 1)):
        inner = min(read, made) * n
        total += conv(read * n, inner, 3) + conv(inner, made * n, 3) + spade(read * n) + spade(inner)
        if read != made:
            total += conv(read * n, made * n, 1, bias=False) + spade(read * n)
    total += conv(labels, 16 * n, 3) + conv(n, 3, 3)
    assert parameters(meta(lambda: SPADEGenerator(SPADESizes.of(width, labels=labels, hidden=hidden)))) == total


def test_scores_come_in_the_published_shapes():
    network = meta(lambda: MultiScaleDiscriminator(MultiScaleSizes()))
    found = network(torch.zeros(1, 39, 256, 512, device="meta"))
    assert [len(maps) for maps in found] == [5, 5]
    assert [tuple(maps[-1].shape) for maps in found] == [(1, 1, 35, 67), (1, 1, 19, 35)]


@pytest.mark.parametrize("upsampling", ["normal", "more", "most"])
@pytest.mark.parametrize("architecture", ["spade", "mobile", "inception"])
def test_images_are_as_large_as_label_maps_and_everything_in_between_can_be_pruned(architecture, upsampling):
    network = tiny(architecture, upsampling=upsampling)
    with torch.no_grad():
        image = network(labels(256))
    assert image.shape == (1, 3, 256, 256)
    assert image.abs().max() <= 1
    generator = open_generator(network)
    frozen = {group.name for group in ElasticStudent.of(generator).space.groups if group.frozen}
    assert frozen == {"input", "conv_img"}


@pytest.mark.parametrize("architecture", ["spade", "mobile", "inception"])
def test_a_carved_student_is_its_elastic_view(architecture):
    student = ElasticStudent.of(open_generator(alive(tiny(architecture)), GauGAN(size=(128, 128))))
    rng = torch.Generator().manual_seed(2)
    keep = {
        group.name: tuple(sorted(torch.randperm(group.size, generator=rng)[: (group.size + 1) // 2].tolist()))
        for group in student.space.prunable
    }
    plan = gansdk.Plan(keep)
    carved = student.carve(plan)
    student.activate(plan)
    student.train(False)
    carved.train(False)
    with torch.no_grad():
        expected, found = student.observe(labels()).image, carved.observe(labels()).image
    assert expected.std() > 1e-4
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert carved.cost(carved.space.full_plan()) == student.cost(plan)


def test_a_block_without_branches_gives_its_shortcut_and_loses_its_norm():
    student = ElasticStudent.of(open_generator(alive(tiny("inception")), GauGAN(size=(128, 128))))
    inside = [
        g.name for g in student.space.prunable if g.floor == 0 and g.name.startswith("up_0.") and "spade" not in g.name
    ]
    assert len(inside) == 6
    plan = gansdk.Plan({**student.space.full_plan(), **dict.fromkeys(inside, ())})
    carved = student.carve(plan)
    block = carved.module.up_0
    assert block.spade is None
    assert not any(branch is not None for branch in (*block.res_ops, *block.dw_ops))
    x = torch.rand(1, 64, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(block(x, labels()), block.shortcut(x))
    assert carved.cost(carved.space.full_plan()) == student.cost(plan)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("architecture", ["spade", "mobile", "inception"])
def test_checkpoints_are_recognised_by_their_weights_alone(architecture, spectral, wrapped, tmp_path):
    if architecture == "inception" and spectral:
        return
    network = tiny(architecture, **({"spectral": True} if spectral else {}))
    state = {f"{'module.' if wrapped else ''}{name}": tensor for name, tensor in network.state_dict().items()}
    if spectral:
        assert any(name.endswith("head_0.conv_0.weight_orig") for name in state)
    torch.save(state, tmp_path / "latest_net_G.pth")
    found = open_generator(tmp_path / "latest_net_G.pth")
    assert found.adapter.name == "gaugan"
    with torch.no_grad():
        torch.testing.assert_close(found.module(labels()), network(labels()))


def test_what_weights_do_not_tell_follows_the_published_networks_or_the_options():
    cityscapes = meta(lambda: SPADEGenerator(SPADESizes.of(2, labels=36)))
    contract = GauGAN().contract(cityscapes)
    assert contract.labels == gansdk.Labels(classes=35, edges=True)
    assert (contract.size, contract.multiple_of) == ((256, 512), 64)
    coco = meta(lambda: SPADEGenerator(SPADESizes.of(2, labels=184, upsampling="normal")))
    contract = GauGAN().contract(coco)
    assert contract.labels == gansdk.Labels(classes=182, unknown=True, edges=True)
    assert (contract.size, contract.multiple_of) == ((256, 256), 32)
    own = GauGAN(edges=True, size=(64, 128)).contract(meta(lambda: SPADEGenerator(SPADESizes.of(2, labels=12))))
    assert own.labels == gansdk.Labels(classes=11, edges=True)
    assert own.size == (64, 128)


def test_a_checkpoint_that_fits_nothing_names_the_nearest_network(tmp_path):
    state = tiny().state_dict()
    state["up_1.conv_1.weight"] = state["up_1.conv_1.weight"][:, :3]
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(CheckpointMismatch, match=r"SPADE generator, trunk of 64.*up_1\.conv_1\.weight"):
        open_generator(tmp_path / "odd.pth")


def pruned(middle=None, guide=None):
    """A tiny inception-SPADE network with these rows for some blocks, by index, and whole ones for the others."""
    whole, named = InceptionSPADESizes.of(1, labels=5, upsampling="normal", share=1), [middle or {}, guide or {}]
    rows = [tuple(own.get(block, (2,) * 6) for block in range(7)) for own in named]
    return alive(InceptionSPADEGenerator(replace(whole, middle=rows[0], guide=rows[1])).eval())


def closed_up(state):
    """The keys as the official code's pruned students have them: no place is left for an emptied branch."""
    branch = re.compile(r"(.+\.(?:res_ops|dw_ops))\.(\d+)\.")
    found = {}
    for above, index in (match.groups() for match in map(branch.match, state) if match):
        places = found.setdefault(above, {})
        places.setdefault(index, str(len(places)))
    return {branch.sub(lambda m: f"{m[1]}.{found[m[1]][m[2]]}.", key): tensor for key, tensor in state.items()}


def loaded(state):
    return recognise(state, {"gaugan": GauGAN()}).module


ROWS = st.dictionaries(st.integers(0, 6), st.tuples(*[st.integers(0, 2)] * 6), max_size=7)


@example(middle={1: (0, 2, 2, 1, 0, 2)}, guide={})
@example(middle={0: (2, 0, 1, 1, 2, 2)}, guide={})
@example(middle={}, guide={2: (0, 2, 2, 1, 1, 1), 3: (0,) * 6})
@example(middle={0: (0,) * 6, 5: (0,) * 6}, guide={})
@example(middle=dict.fromkeys(range(7), (0,) * 6), guide={})
@given(middle=ROWS, guide=ROWS)
@settings(derandomize=True, deadline=None, max_examples=4)
def test_students_with_emptied_branches_load_whether_their_lists_keep_the_places_or_close_up(middle, guide):
    network = pruned(middle, guide)
    with torch.no_grad():
        expected = network(labels(64))
        for state in (network.state_dict(), closed_up(network.state_dict())):
            assert torch.equal(loaded(state)(labels(64)), expected)


def test_a_carved_student_with_emptied_branches_loads_from_its_bare_weights():
    student = ElasticStudent.of(open_generator(alive(tiny("inception")), GauGAN(size=(128, 128))))
    gone = ("head_0.res_ops.1.0.conv", "G_middle_0.dw_ops.0.0.conv", "up_2.spade.res_ops.2.0.conv")
    carved = student.carve(gansdk.Plan({**student.space.full_plan(), **dict.fromkeys(gone, ())})).module.eval()
    with torch.no_grad():
        assert torch.equal(loaded(carved.state_dict())(labels()), carved(labels()))


def test_blocks_without_branches_may_keep_their_norm_which_does_not_run():
    network = pruned()
    state = {key: tensor for key, tensor in network.state_dict().items() if not key.startswith("up_1.")}
    state |= {key: tensor for key, tensor in network.state_dict().items() if key.startswith("up_1.s")}
    found = loaded(state)
    assert found.up_1.spade is None
    network.up_1.forward = lambda x, labels: network.up_1.shortcut(x)
    with torch.no_grad():
        assert torch.equal(found(labels(64)), network(labels(64)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # Moved to the place of its kernel, a branch would be covered by the rest of the next one.
        (lambda state: state.pop("up_0.dw_ops.1.1.conv.weight"), r"up_0\.dw_ops"),
        (lambda state: state.update({"up_0.dw_ops.1.1.conv.weight": torch.zeros(2, 1, 3, 3)}), r"up_0\.dw_ops"),
        (lambda state: state.pop("up_0.res_ops.0.0.conv.weight"), r"up_0\.res_ops"),
        (lambda state: state.pop("up_0.spade.param_free_norm.running_var"), r"up_0\.spade\.param_free_norm"),
        (lambda state: state.update({"up_0.res_ops.1.1.conv.weight": torch.zeros(8, 2, 3, 3)}), r"up_0\.res_ops\.2"),
    ],
)
def test_wrong_weights_of_a_pruned_student_are_refused_with_the_nearest_network(change, expected):
    state = closed_up(pruned({3: (0, 2, 2, 0, 2, 2)}).state_dict())
    change(state)
    with pytest.raises(CheckpointMismatch, match=rf"The closest is inception-SPADE generator, trunk of 16.*{expected}"):
        loaded(state)


def test_a_generator_that_starts_from_noise_is_refused_by_name():
    noise = {"fc.weight": torch.zeros(64 * 16, 256), "fc.bias": torch.zeros(64 * 16)}
    with pytest.raises(CheckpointMismatch, match=r"use_vae.*trunk of 64, 5 label channels.* 2 keys differ: fc\.weight"):
        loaded({**tiny().state_dict(), **noise})


@pytest.mark.parametrize("architecture", ["spade", "mobile", "inception"])
def test_descriptions_build_and_rebuild(architecture, tmp_path):
    adapter, network = GauGAN(), tiny(architecture)
    again = adapter.build(adapter.describe(network))
    again.load_state_dict(network.state_dict())
    wider = adapter.rebuild(network, width=2.0, deeper=True)
    assert wider.sizes.trunk == 2 * network.sizes.trunk
    assert wider.eval()(labels()).shape == (1, 3, 128, 128)
    torch.save(wider.state_dict(), tmp_path / "deeper.pth")
    assert open_generator(tmp_path / "deeper.pth", GauGAN()).module.sizes == wider.sizes
    with pytest.raises(Unsupported, match="already a deeper teacher"):
        adapter.rebuild(wider, deeper=True)


@pytest.mark.parametrize("architecture", ["spade", "mobile", "inception"])
def test_a_deeper_network_has_one_expansion_block_of_the_maps_width_behind_every_block(architecture):
    network = tiny(architecture)
    deeper = GauGAN().rebuild(network, deeper=True)
    widths = dict(zip(deeper.sizes.names, deeper.sizes.made, strict=True))
    assert {name: block.conv_block[1].in_channels for name, block in deeper.deeper.items()} == widths
    # Four convolutions (two 1x1, two 3x3) with biases and four affine norms each; OMGD's block (Ren et al., ICCV 2021).
    added = sum(4 * w * w + 16 * w * w * 9 + 4 * w * w + 9 * w * w + (4 + 4 + 1 + 1) * w * 2 for w in widths.values())
    bias = sum(10 * w for w in widths.values()) if deeper.deeper["up_0"].conv_block[1].bias is not None else 0
    counts = [sum(p.numel() for p in net.parameters()) for net in (network, deeper)]
    assert counts[1] - counts[0] == added + bias


def test_students_of_fresh_weights_start_as_the_paper_starts():
    student = ElasticStudent.of(open_generator(tiny(), GauGAN(size=(128, 128))))
    fresh = student.carve(student.space.full_plan(), inherit="none").module
    weight = fresh.head_0.conv_0.weight
    fan = weight[0].numel() + weight[:, 0].numel()
    assert weight.std().item() == pytest.approx(0.02 * (2 / fan) ** 0.5, rel=0.05)


def test_a_discriminator_is_gone_on_with_or_refused():
    network = tiny()
    state = MultiScaleDiscriminator(MultiScaleSizes(channels_in=8, width=4)).state_dict()
    task = GauGAN(perceptual=None).task(network, discriminator=state)
    assert all(torch.equal(value, state[name]) for name, value in task.discriminator.items())
    other = MultiScaleDiscriminator(MultiScaleSizes(channels_in=9, width=4)).state_dict()
    with pytest.raises(CheckpointError, match=r"takes 9 channels.*5 \+ 3"):
        GauGAN(perceptual=None).task(network, discriminator=other)
    with pytest.raises(CheckpointError, match="multi-scale discriminator"):
        multi_scale_discriminator({"model.0.weight": torch.zeros(4, 3, 4, 4)})
    broken = dict(state)
    broken.pop("discriminator_1.model2.0.0.weight_orig")
    with pytest.raises(CheckpointError, match=r"discriminator_1\.model2"):
        multi_scale_discriminator(broken)


def test_wrong_options_are_refused():
    with pytest.raises(InvalidOption, match="'normal', 'more', 'most'"):
        GauGAN(upsampling="much")
    with pytest.raises(InvalidOption, match="spade, mobile or inception"):
        GauGAN().create("resnet")
    with pytest.raises(InvalidOption, match=r"no size 'ngf'\. Its sizes: width, labels"):
        GauGAN().create("spade", ngf=3)
    with pytest.raises(InvalidOption, match=r"hidden=0\.5 must be an integer"):
        GauGAN().create("mobile", hidden=0.5)
    with pytest.raises(ContractError, match="eight"):
        SPADESizes.from_config("1_2_3")


class NoImages:
    seed = 0

    def probe_batches(self, count):
        return None


def test_cats_rule_gives_the_recorded_network_at_the_recorded_threshold(caplog):
    adapter = GauGAN()
    network = meta(lambda: InceptionSPADEGenerator(InceptionSPADESizes.of(64)))
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine:
            norm.weight = nn.Parameter((torch.arange(norm.num_features) + 1) / norm.num_features)
    space = trace(
        network,
        torch.zeros(1, 36, 256, 512, device="meta"),
        adapter.taps(network),
        adapter.branches(network),
        adapter.knobs(network),
    )
    student = ElasticStudent(network, space, adapter.contract(network), adapter.taps(network))
    pruner = open_pruner({"name": "one-step", "importance": "norm-scale", "selection": "threshold", "floor_width": 16})
    limits = gansdk.Budget.parse("macs<=30G").resolve(student.cost(space.full_plan()))
    with caplog.at_level("INFO", "gansdk_pruners.threshold"):
        plan = pruner.search(student, limits, NoImages())
    assert "0.5000004768371582" in caplog.text
    widths, cost = plan.widths(space), student.cost(plan)
    assert [widths[name] for name in ("fc", *(f"up_{i}.shortcut.1.conv" for i in range(4)))] == [512, 256, 128, 64, 32]
    blocks = ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3")
    for name, middle in zip(blocks, (85, 85, 85, 43, 21, 11, 5), strict=True):
        own = {widths[group] for group in widths if group.startswith((f"{name}.res_ops", f"{name}.dw_ops"))}
        guide = {widths[group] for group in widths if group.startswith(f"{name}.spade.")}
        assert (own, guide) == ({middle}, {11})
    assert cost.macs == 29_696_266_496
    assert cost.params == 14_184_265
    floor = gansdk.Budget.parse("macs<=327712768").resolve(student.cost(space.full_plan()))
    assert student.cost(pruner.search(student, floor, NoImages())).macs == 327_712_768


def test_the_generator_is_what_gansdk_opens():
    found = open_generator(tiny("inception"))
    assert isinstance(found, Generator)
    assert list(found.taps) == ["head_0", "G_middle_1", "up_1"]


def test_a_depthwise_branch_of_one_channel_is_one_group_and_leaves_as_one():
    student = ElasticStudent.of(open_generator(tiny("inception", width=6), GauGAN(size=(128, 128))))
    names = [group.name for group in student.space.groups if group.name.startswith("up_3.dw_ops.0.")]
    assert names == ["up_3.dw_ops.0.0.conv"]
    carved = student.carve(gansdk.Plan({**student.space.full_plan(), names[0]: ()}))
    assert carved.module.up_3.dw_ops[0] is None
    pruner = open_pruner({"name": "one-step", "importance": "norm-scale", "selection": "threshold"})
    limits = gansdk.Budget.parse("2x").resolve(student.cost(student.space.full_plan()))
    plan = pruner.search(student, limits, NoImages())
    assert limits.fits(student.cost(plan))


def test_training_on_one_pixel_of_the_coarsest_grid_is_refused_with_what_to_do():
    net = SPADEGenerator(SPADESizes.of(1, labels=3, upsampling="normal", hidden=2))
    with pytest.raises(ContractError, match=r"Increase the batch size.*patch=64"):
        net(torch.zeros(1, 3, 32, 32))
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 3, 32, 32)
    assert net.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("budget", ["5x", "10x"])
def test_uniform_widths_empty_no_branch_and_use_the_budget(budget):
    found = gansdk.plan(open_generator(tiny("inception", width=8), GauGAN(size=(128, 128))), budget, "uniform")
    assert min(kept for kept, _ in found.widths.values()) == 1
    assert found.used > 0.95

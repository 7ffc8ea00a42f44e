"""The super-resolution family: sizes, published key layouts, costs, taps, rebuilding and degradation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gansdk.contracts import Batch
from gansdk.errors import CheckpointError, ContractError, InvalidOption, Unsupported
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.recognition import recognise
from gansdk.modules.weights import read_state
from gansdk.pipeline.opening import open_generator
from gansdk.toolkit.resampling import bicubic
from gansdk_adapters.networks.edsr import EDSR, EDSRBasicSR, EDSRSizes
from gansdk_adapters.networks.sizes import Sizes, upsampling_factors
from gansdk_adapters.networks.srresnet import MSRResNet, SRGANGenerator, SRGANSizes, SRResNet, SRResNetSizes
from gansdk_adapters.networks.vdsr import VDSR
from gansdk_adapters.sr import LAYOUTS, SuperResolution

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not there")

TINY = {
    "srresnet": lambda: SRResNet(SRResNetSizes(width=4, blocks=2, scale=4)),
    "srresnet-per-channel": lambda: SRResNet(SRResNetSizes(width=4, blocks=2, scale=2, per_channel_slopes=True)),
    "srgan": lambda: SRGANGenerator(SRGANSizes(width=4, blocks=2, scale=4)),
    "srgan-norm": lambda: SRGANGenerator(SRGANSizes(width=4, blocks=3, scale=2, trunk_norm=True)),
    "msrresnet": lambda: MSRResNet(Sizes(width=4, blocks=2, scale=4)),
    "msrresnet-x3": lambda: MSRResNet(Sizes(width=4, blocks=1, scale=3)),
    "edsr": lambda: EDSR(EDSRSizes(width=4, blocks=2, scale=4)),
    "edsr-x3": lambda: EDSR(EDSRSizes(width=4, blocks=2, scale=3)),
    "edsr-unit": lambda: EDSR(EDSRSizes(width=4, blocks=2, scale=2, peak=1.0)),
    "edsr-basicsr": lambda: EDSRBasicSR(EDSRSizes(width=4, blocks=2, scale=2)),
    "vdsr": lambda: VDSR(Sizes(width=4, blocks=3, channels=1)),
}
tiny_networks = pytest.mark.parametrize("make", TINY.values(), ids=TINY)


def params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def macs(network: nn.Module, side: int) -> int:
    """Multiply-accumulates of one square image, counted by torch on the meta device."""
    channels = network.sizes.channels
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.empty(1, channels, side, side, device="meta"))
    return counter.get_total_flops() // 2


def on_meta(make):
    with torch.device("meta"):
        return make()


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """`network` with random weights and running statistics of its own generator."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and "mean." not in name:
                spread = torch.rand(tensor.shape, generator=rng)
                tensor.copy_(spread + 0.5 if "running_var" in name else 0.2 * spread - 0.1)
    return network.eval()


# Section C5 of the method notes: parameters and MACs of every row.


@pytest.mark.parametrize(
    ("make", "n_params", "side", "giga_macs"),
    [
        (lambda: VDSR(Sizes(width=64, blocks=18, channels=1)), 664_704, 48, "1.531"),
        (lambda: VDSR(Sizes(width=64, blocks=18, channels=1)), 664_704, 256, "43.56"),
        (lambda: VDSR(Sizes(width=32, blocks=18, channels=1)), 166_464, 48, "0.3835"),
        (lambda: VDSR(Sizes(width=32, blocks=18, channels=1)), 166_464, 256, "10.91"),
        (lambda: EDSR(EDSRSizes(width=256, blocks=32, scale=2)), 40_729_603, 48, "93.85"),
        (lambda: EDSR(EDSRSizes(width=256, blocks=32, scale=3)), 43_680_003, 48, "100.72"),
        (lambda: EDSR(EDSRSizes(width=256, blocks=32, scale=4)), 43_089_923, 48, "115.78"),
        (lambda: EDSRBasicSR(EDSRSizes(width=256, blocks=32, scale=4)), 43_089_923, 48, "115.78"),
        (lambda: EDSR(EDSRSizes(width=128, blocks=32, scale=2)), 10_190_339, 48, "23.48"),
        (lambda: EDSR(EDSRSizes(width=128, blocks=32, scale=3)), 10_928_259, 48, "25.22"),
        (lambda: EDSR(EDSRSizes(width=128, blocks=32, scale=4)), 10_780_675, 48, "29.01"),
        (lambda: EDSR(EDSRSizes(width=64, blocks=16, scale=2)), 1_369_859, 48, "3.162"),
        (lambda: EDSR(EDSRSizes(width=64, blocks=16, scale=3)), 1_554_499, 48, "3.607"),
        (lambda: EDSR(EDSRSizes(width=64, blocks=16, scale=4)), 1_517_571, 48, "4.569"),
        (lambda: EDSR(EDSRSizes(width=32, blocks=16, scale=2)), 343_939, 48, "0.796"),
        (lambda: EDSR(EDSRSizes(width=32, blocks=16, scale=3)), 390_179, 48, "0.912"),
        (lambda: EDSR(EDSRSizes(width=32, blocks=16, scale=4)), 380_931, 48, "1.159"),
        (lambda: SRResNet(SRResNetSizes(width=64, blocks=16, scale=4)), 1_547_350, 48, "5.111"),
        (lambda: SRResNet(SRResNetSizes(width=64, blocks=16, scale=2)), 1_399_637, 48, "3.322"),
    ],
)
def test_parameters_and_macs_are_those_of_the_papers(make, n_params, side, giga_macs):
    network = on_meta(make)
    assert params(network) == n_params
    decimals = len(giga_macs.partition(".")[2])
    assert f"{macs(network, side) / 1e9:.{decimals}f}" == giga_macs


@pytest.mark.parametrize(
    ("blocks", "weights"), [(1, 9_792), (2, 19_008), (3, 28_224), (6, 55_872), (9, 83_520)], ids=str
)
def test_vdsr_grows_by_nine_c_squared_a_block(blocks, weights):
    assert params(on_meta(lambda: VDSR(Sizes(width=32, blocks=blocks, channels=1)))) == weights


@given(c=st.integers(1, 40), n=st.integers(1, 6), scale=st.sampled_from([2, 3, 4]))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_parameters_follow_the_closed_forms_at_any_size(c, n, scale):
    up = {2: 36 * c * c + 4 * c, 3: 81 * c * c + 9 * c, 4: 72 * c * c + 8 * c}[scale]
    edsr = 55 * c + 3 + n * (18 * c * c + 2 * c) + (9 * c * c + c) + up
    stages = {2: 1, 3: 1, 4: 2}[scale]
    srresnet = 486 * c + c + 4 + n * (18 * c * c + 4 * c + 1) + (9 * c * c + 2 * c) + up + stages
    assert params(on_meta(lambda: EDSR(EDSRSizes(width=c, blocks=n, scale=scale)))) == edsr
    assert params(on_meta(lambda: EDSRBasicSR(EDSRSizes(width=c, blocks=n, scale=scale)))) == edsr
    assert params(on_meta(lambda: SRResNet(SRResNetSizes(width=c, blocks=n, scale=scale)))) == srresnet
    assert params(on_meta(lambda: VDSR(Sizes(width=c, blocks=n, channels=1)))) == 18 * c + 9 * c * c * n


# The published key layouts, written out independently of the networks.


def conv(key: str, out: int, given: int, kernel: int = 3, bias: bool = True) -> dict[str, tuple[int, ...]]:
    weight = {f"{key}.weight": (out, given, kernel, kernel)}
    return {**weight, f"{key}.bias": (out,)} if bias else weight


def norm(key: str, width: int) -> dict[str, tuple[int, ...]]:
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{key}.{name}": (width,) for name in names} | {f"{key}.num_batches_tracked": ()}


def srresnet_keys() -> dict[str, tuple[int, ...]]:
    keys = conv("conv1.0", 4, 3, 9) | {"conv1.1.weight": (1,)}
    for i in range(2):
        block = f"trunk.{i}.rcb"
        keys |= conv(f"{block}.0", 4, 4, bias=False) | norm(f"{block}.1", 4) | {f"{block}.2.weight": (1,)}
        keys |= conv(f"{block}.3", 4, 4, bias=False) | norm(f"{block}.4", 4)
    keys |= conv("conv2.0", 4, 4, bias=False) | norm("conv2.1", 4)
    for i in range(2):
        keys |= conv(f"upsampling.{i}.upsample_block.0", 16, 4) | {f"upsampling.{i}.upsample_block.2.weight": (1,)}
    return keys | conv("conv3", 3, 4, 9)


def srgan_keys() -> dict[str, tuple[int, ...]]:
    keys = conv("block1.0", 4, 3, 9) | {"block1.1.weight": (1,)}
    for i in (2, 3):
        block = f"block{i}"
        keys |= conv(f"{block}.conv1", 4, 4) | norm(f"{block}.bn1", 4) | {f"{block}.prelu.weight": (1,)}
        keys |= conv(f"{block}.conv2", 4, 4) | norm(f"{block}.bn2", 4)
    keys |= conv("block4.0", 4, 4) | {"block4.1.weight": (1,)}
    for i in range(2):
        keys |= conv(f"block5.{i}.conv", 16, 4) | {f"block5.{i}.prelu.weight": (1,)}
    return keys | conv("block5.2", 3, 4, 9)


def msrresnet_keys(body: str, high: str) -> dict[str, tuple[int, ...]]:
    keys = conv("conv_first", 4, 3)
    for i in range(2):
        keys |= conv(f"{body}.{i}.conv1", 4, 4) | conv(f"{body}.{i}.conv2", 4, 4)
    return keys | conv("upconv1", 16, 4) | conv("upconv2", 16, 4) | conv(high, 4, 4) | conv("conv_last", 3, 4)


def edsr_keys() -> dict[str, tuple[int, ...]]:
    keys = conv("sub_mean", 3, 3, 1) | conv("head.0", 4, 3)
    for i in range(2):
        keys |= conv(f"body.{i}.body.0", 4, 4) | conv(f"body.{i}.body.2", 4, 4)
    keys |= conv("body.2", 4, 4) | conv("tail.0.0", 16, 4) | conv("tail.0.2", 16, 4)
    return keys | conv("tail.1", 3, 4) | conv("add_mean", 3, 3, 1)


def edsr_basicsr_keys() -> dict[str, tuple[int, ...]]:
    keys = conv("conv_first", 4, 3)
    for i in range(2):
        keys |= conv(f"body.{i}.conv1", 4, 4) | conv(f"body.{i}.conv2", 4, 4)
    keys |= conv("conv_after_body", 4, 4) | conv("upsample.0", 36, 4)
    return keys | conv("conv_last", 3, 4)


def vdsr_keys() -> dict[str, tuple[int, ...]]:
    keys = conv("input", 4, 1, bias=False) | conv("output", 1, 4, bias=False)
    return keys | conv("residual_layer.0.conv", 4, 4, bias=False) | conv("residual_layer.1.conv", 4, 4, bias=False)


@pytest.mark.parametrize(
    ("keys", "kind", "scale"),
    [
        (srresnet_keys(), SRResNet, 4),
        (srgan_keys(), SRGANGenerator, 4),
        (msrresnet_keys("body", "conv_hr"), MSRResNet, 4),
        (msrresnet_keys("recon_trunk", "HRconv"), MSRResNet, 4),
        (edsr_keys(), EDSR, 4),
        (edsr_basicsr_keys(), EDSRBasicSR, 3),
        (vdsr_keys(), VDSR, 1),
    ],
    ids=["srresnet", "srgan", "msrresnet", "msrresnet-mmsr", "edsr", "edsr-basicsr", "vdsr"],
)
def test_a_checkpoint_in_each_published_layout_loads_with_data_parallel_prefixes(tmp_path, keys, kind, scale):
    rng = torch.Generator().manual_seed(0)
    weights = {key: torch.rand(shape, generator=rng) * 0.1 if shape else torch.tensor(7) for key, shape in keys.items()}
    torch.save({"params": {f"module.{key}": tensor for key, tensor in weights.items()}}, tmp_path / "net.pth")
    generator = recognise(read_state(tmp_path / "net.pth"), {"sr": SuperResolution()}, "net.pth")
    assert type(generator.module) is kind
    assert generator.contract.scale == scale
    assert (generator.module.sizes.width, generator.module.sizes.blocks) == (4, 2)
    loaded = sorted(float(tensor.sum()) for tensor in generator.module.state_dict().values())
    assert loaded == sorted(float(tensor.sum()) for tensor in weights.values())
    assert not generator.module.training


@tiny_networks
def test_every_network_is_recognised_from_its_own_weights(make):
    network = seeded(make())
    generator = recognise(network.state_dict(), {"sr": SuperResolution()})
    assert type(generator.module) is type(network)
    assert generator.module.sizes == network.sizes
    x = torch.rand(2, network.sizes.channels, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(generator.module(x), network(x))


@tiny_networks
def test_a_network_keeps_its_contract(make):
    network = seeded(make())
    contract = SuperResolution().contract(network)
    x = (
        torch.rand(2, contract.channels_in, 12, 16, generator=torch.Generator().manual_seed(1))
        * contract.input_range[1]
    )
    image = network(x)
    assert image.shape == (2, contract.channels_out, 12 * contract.scale, 16 * contract.scale)
    assert image.isfinite().all()


@tiny_networks
def test_taps_are_paths_in_execution_order(make):
    network = seeded(make())
    taps = SuperResolution().taps(network)
    seen: list[str] = []
    handles = [
        network.get_submodule(path).register_forward_hook(lambda *_, tap=tap: seen.append(tap))
        for tap, path in taps.items()
    ]
    network(torch.ones(1, network.sizes.channels, 8, 8))
    for handle in handles:
        handle.remove()
    assert seen == list(taps)
    assert seen[0] == "stem"
    assert f"body{network.sizes.blocks}" in seen


def test_taps_sit_at_the_quarter_points():
    network = on_meta(lambda: EDSR(EDSRSizes(width=4, blocks=16, scale=2)))
    assert SuperResolution().taps(network) == {
        "stem": "head",
        "body4": "body.3",
        "body8": "body.7",
        "body12": "body.11",
        "body16": "body.15",
        "trunk": "body.16",
    }


def test_contracts_state_the_ranges_and_sizes_of_each_family():
    adapter = SuperResolution(pre_upsampled=3)
    srgan, edsr, vdsr = (adapter.contract(TINY[name]()) for name in ("srgan", "edsr", "vdsr"))
    assert (srgan.scale, srgan.input_range, srgan.output_range, srgan.size) == (4, (0, 1), (0, 1), (64, 64))
    assert (edsr.scale, edsr.input_range, edsr.output_range) == (4, (0, 255), (0, 255))
    assert (vdsr.scale, vdsr.pre_upsampled, vdsr.channels_in, vdsr.size) == (1, 3, 1, (256, 256))


def test_both_edsr_layouts_are_the_same_function_in_their_own_ranges():
    official, basic = seeded(TINY["edsr"]()), EDSRBasicSR(EDSRSizes(width=4, blocks=2, scale=4)).eval()
    renamed = {
        "head.0": "conv_first",
        "body.0.body.0": "body.0.conv1",
        "body.0.body.2": "body.0.conv2",
        "body.1.body.0": "body.1.conv1",
        "body.1.body.2": "body.1.conv2",
        "body.2": "conv_after_body",
        "tail.0.0": "upsample.0",
        "tail.0.2": "upsample.2",
        "tail.1": "conv_last",
    }
    for theirs, ours in renamed.items():
        basic.get_submodule(ours).load_state_dict(official.get_submodule(theirs).state_dict())
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(basic(x) * 255, official(x * 255), rtol=1e-4, atol=1e-2)


def test_the_mean_shift_is_the_published_frozen_convolution():
    network = EDSR(EDSRSizes(width=2, blocks=1, scale=2))
    x = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    shift = network.sub_mean
    torch.testing.assert_close(shift(x), nn.functional.conv2d(x, shift.weight, shift.bias))
    torch.testing.assert_close(shift.bias, torch.tensor([-114.444, -111.4605, -103.02]))
    torch.testing.assert_close(network.add_mean(shift(x)), x)


def test_wide_edsr_checkpoints_get_the_published_residual_factor():
    for width, factor in ((255, 1.0), (256, 0.1)):
        state = on_meta(lambda width=width: EDSR(EDSRSizes(width=width, blocks=1, scale=2))).state_dict()
        (variant,) = SuperResolution().variants(state)
        assert on_meta(variant.build).sizes.res_scale == factor


@tiny_networks
def test_a_description_survives_json_and_builds_the_same_network(make):
    adapter = SuperResolution()
    network = make()
    again = adapter.build(json.loads(json.dumps(adapter.describe(network))))
    assert type(again) is type(network)
    assert again.sizes == network.sizes
    assert adapter.describe(again) == adapter.describe(network)


@pytest.mark.parametrize(
    "description", [{}, {"network": "unet"}, {"network": "edsr"}, {"network": "edsr", "sizes": {"depth": 3}}], ids=str
)
def test_a_strange_description_is_refused(description):
    with pytest.raises(CheckpointError, match="srresnet"):
        SuperResolution().build(description)


@tiny_networks
def test_rebuilding_widens_and_deepens(make):
    network = make()
    wider = SuperResolution().rebuild(network, width=2.0)
    deeper = SuperResolution().rebuild(network, deeper=True)
    assert (wider.sizes.width, wider.sizes.blocks) == (8, network.sizes.blocks)
    assert (deeper.sizes.width, deeper.sizes.blocks) == (4, network.sizes.blocks + 1)
    x = torch.ones(1, network.sizes.channels, 8, 8)
    assert wider.eval()(x).shape == deeper.eval()(x).shape == network.eval()(x).shape


def test_deeper_means_one_more_block_for_every_four():
    network = on_meta(lambda: EDSR(EDSRSizes(width=64, blocks=16, scale=2)))
    deeper = on_meta(lambda: SuperResolution().rebuild(network, width=4, deeper=True))
    assert deeper.sizes == EDSRSizes(width=256, blocks=20, scale=2, res_scale=0.1)


def test_only_reachable_scales_are_built():
    assert [upsampling_factors(scale) for scale in (1, 2, 3, 4, 8)] == [(), (2,), (3,), (2, 2), (2, 2, 2)]
    for scale in (0, 5, 6):
        with pytest.raises(ContractError, match="powers of two"):
            upsampling_factors(scale)


def test_the_task_is_l1_to_the_ground_truth():
    task = SuperResolution().task(TINY["vdsr"]())
    fake, truth = torch.zeros(1, 1, 2, 2, requires_grad=True), torch.full((1, 1, 2, 2), 0.25)
    batch = Batch({}, {"main": truth})
    assert task.generator_loss(batch, {"main": fake}, batch.targets)[0].item() == 0.25
    assert task.generator_loss(batch, {"main": fake}, {})[0].item() == 0


@given(
    keys=st.lists(st.sampled_from([layout.head for layout in LAYOUTS] + ["body.0.conv1.weight", "tail.0.0.weight"])),
    shape=st.lists(st.integers(0, 3), max_size=4),
)
@settings(derandomize=True, deadline=None, max_examples=60)
def test_variants_never_raise_on_strange_weights(keys, shape):
    for variant in SuperResolution().variants({key: torch.zeros(shape) for key in keys}):
        on_meta(variant.build)


# Degradation.


def pil_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("name", ["srgan", "edsr", "edsr-x3", "edsr-basicsr"])
def test_degrading_equals_pil_but_for_the_border_in_the_networks_own_range(name):
    network = TINY[name]()
    adapter = SuperResolution().bind(network)
    contract = adapter.contract(network)
    peak, scale = contract.output_range[1], contract.scale
    image = torch.rand(1, 3, 16 * scale, 12 * scale, generator=torch.Generator().manual_seed(0))
    small = adapter.degrade(image * peak) / peak
    oracle = np.stack([pil_bicubic(channel, 16, 12) for channel in image[0].numpy()])
    np.testing.assert_allclose(small[0, :, 3:-3, 3:-3], oracle[:, 3:-3, 3:-3].clip(0, 1), atol=1e-5)
    torch.testing.assert_close(small, bicubic(image, 16, 12).clamp(0, 1))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_vdsr_inputs_are_shrunk_and_enlarged_to_their_own_size(factor):
    adapter = SuperResolution(pre_upsampled=factor).bind(TINY["vdsr"]())
    image = torch.rand(1, 1, 24, 36, generator=torch.Generator().manual_seed(0))
    degraded = adapter.degrade(image)
    small = bicubic(image, 24 // factor, 36 // factor)
    torch.testing.assert_close(degraded, bicubic(small, 24, 36).clamp(0, 1))


@pytest.mark.parametrize("name", ["srgan", "edsr", "vdsr"])
def test_gradients_pass_through_the_degradation(name):
    network = TINY[name]()
    adapter = SuperResolution().bind(network)
    contract = adapter.contract(network)
    image = torch.rand(1, contract.channels_out, 16, 16, generator=torch.Generator().manual_seed(0))
    image.requires_grad_()
    adapter.degrade(image * contract.output_range[1]).square().sum().backward()
    assert image.grad.norm() > 0


def test_degrading_refuses_what_it_cannot_do():
    adapter = SuperResolution()
    with pytest.raises(Unsupported, match="bind"):
        adapter.degrade(torch.zeros(1, 3, 16, 16))
    bound = adapter.bind(TINY["srgan"]())
    for shape in ((1, 1, 16, 16), (3, 16, 16), (1, 3, 18, 16)):
        with pytest.raises(ContractError):
            bound.degrade(torch.zeros(shape))
    with pytest.raises(ContractError, match="at least 4"):
        adapter.bind(TINY["vdsr"]()).degrade(torch.zeros(1, 1, 3, 8))


def test_a_foreign_module_is_not_accepted_and_says_so():
    adapter = SuperResolution()
    assert not adapter.accepts(nn.Conv2d(3, 3, 3))
    with pytest.raises(Unsupported, match=r"gansdk\.wrap"):
        adapter.contract(nn.Conv2d(3, 3, 3))


# The real SRGAN.


def real_srgan():
    path = DATA / "weights" / "srgan_x4_netG.pth"
    return recognise(read_state(path), {"sr": SuperResolution()}, path.name)


@pytest.mark.data
@needs_data
def test_the_real_srgan_loads_unchanged_and_gives_finite_images():
    generator = real_srgan()
    assert params(generator.module) == 734_092
    assert generator.contract.scale == 4
    stored = read_state(DATA / "weights" / "srgan_x4_netG.pth")
    loaded = generator.module.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in stored.items())
    with torch.no_grad():
        image = generator.module(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert image.shape == (1, 3, 64, 64)
    assert image.isfinite().all()
    assert image.min() >= 0
    assert image.max() <= 1


@pytest.mark.data
@pytest.mark.slow
@needs_data
def test_the_real_srgan_reaches_its_measured_psnr_on_set5():
    """30.66 dB on luma with a border of 4 pixels removed: shared/data/README.md."""
    network = real_srgan().module
    scores = []
    for path in sorted((DATA / "sr" / "Set5" / "image_SRF_4").glob("*HR.png")):
        truth, low = rgb(path), rgb(path.with_name(path.name.replace("HR", "LR")))
        with torch.no_grad():
            image = network(low[None])[0]
        error = (luma(image) - luma(truth))[4:-4, 4:-4]
        scores.append(-10 * float(error.square().mean().log10()))
    assert len(scores) == 5
    assert np.mean(scores) == pytest.approx(30.66, abs=0.02)


def rgb(path: Path) -> torch.Tensor:
    """(3, H, W) in [0, 1]."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) / 255


def luma(image: torch.Tensor) -> torch.Tensor:
    """BT.601 in studio range, (3, H, W) in [0, 1] -> (H, W)."""
    red, green, blue = image
    return (65.481 * red + 128.553 * green + 24.966 * blue + 16) / 255


# Depth, and networks made by name.


@tiny_networks
def test_every_block_can_be_left_out_and_the_last_one_alone_too(make):
    network = make().eval()
    student = ElasticStudent.of(open_generator(network))
    assert len(student.blocks) == network.sizes.blocks
    x = torch.rand(1, network.sizes.channels, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = student.observe(x).image
    for depth in range(len(student.blocks) + 1):
        with student.at_depth(depth):
            image = student.observe(x).image
        assert image.shape == whole.shape
        assert torch.equal(image, whole) == (depth == len(student.blocks))
        assert torch.equal(student.observe(x).image, whole)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_vdsr_at_a_depth_is_the_smaller_network(depth):
    torch.manual_seed(0)
    network = VDSR(Sizes(width=4, blocks=3, channels=1))
    smaller = VDSR(Sizes(width=4, blocks=depth, channels=1))
    smaller.load_state_dict({key: value for key, value in network.state_dict().items() if key in smaller.state_dict()})
    student = ElasticStudent.of(open_generator(network))
    x = torch.rand(1, 1, 8, 8)
    with student.at_depth(depth):
        assert torch.equal(student.observe(x).image, smaller(x))


def test_blocks_that_change_widths_in_a_carved_network_are_kept():
    student = ElasticStudent.of(open_generator(VDSR(Sizes(width=4, blocks=3, channels=1))))
    plan = student.space.full_plan()
    group = next(group for group in student.space.prunable if "residual_layer.1.conv.weight" in str(group.axes))
    carved = student.carve(type(plan)({**plan.keep, group.name: (0, 2)}))
    wide = [path for path in student.blocks if path not in carved.blocks]
    assert wide
    with carved.at_depth(0):
        assert carved.observe(torch.rand(1, 1, 8, 8)).image.shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("architecture", "sizes", "count"),
    [
        ("vdsr", {}, 664_704),
        ("vdsr", {"width": 32}, 166_464),
        ("vdsr", {"width": 32, "blocks": 9}, 83_520),
        ("edsr", {"scale": 2}, 1_369_859),
        ("edsr", {"scale": 2, "width": 256, "blocks": 32}, 40_729_603),
        ("edsr-basicsr", {"scale": 3, "width": 32}, 390_179),
        ("srresnet", {}, 1_547_350),
        ("", {"scale": 2}, 1_399_637),
    ],
)
def test_networks_are_made_by_name_at_their_published_sizes(architecture, sizes, count):
    network = on_meta(lambda: SuperResolution().create(architecture, **sizes))
    assert params(network) == count


def test_what_cannot_be_made_is_refused():
    for architecture, sizes, words in (
        ("rcan", {}, "srresnet"),
        ("edsr", {"depth": 3}, "depth"),
        ("vdsr", {"scale": 3}, "pre_upsampled=3"),
    ):
        with pytest.raises(InvalidOption, match=words):
            SuperResolution().create(architecture, **sizes)
    with pytest.raises(ContractError, match="powers of two"):
        SuperResolution().create("edsr", scale=5)


def test_a_vdsr_starts_afresh_with_the_variance_of_its_paper():
    adapter = SuperResolution()
    network = VDSR(Sizes(width=32, blocks=2, channels=1))
    torch.nn.init.zeros_(network.residual_layer[0].conv.weight)
    torch.manual_seed(0)
    adapter.initialise(network)
    assert network.residual_layer[0].conv.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)

"""What data-free distillation is made of: its image network, resampling, growth, optimisers and inputs."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

import gansdk
from gansdk.contracts import MAIN, Contract
from gansdk.errors import InvalidOption
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.interfaces import Training
from gansdk.pipeline.opening import open_generator
from gansdk.toolkit.resampling import bicubic
from gansdk.training.processes import Processes
from gansdk_adapters.networks.sizes import Sizes
from gansdk_adapters.networks.vdsr import VDSR
from gansdk_distillers.data_free.inputs import Passage
from gansdk_distillers.data_free.network import ImageGenerator
from gansdk_distillers.data_free.regime import active_parameters, depth_at, published_adam, published_sgd
from gansdk_distillers.data_free.source import GeneratedImages


def params(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# The network. Counts are those of the published networks (methods file, C4).


@pytest.mark.parametrize(
    ("side", "channels", "count"),
    [(24, 1, 1_406_849), (16, 1, 748_929), (12, 1, 518_657), (48, 1, 4_959_617), (24, 3, 1_408_003)],
)
def test_the_published_networks_have_their_published_number_of_parameters(side, channels, count):
    with torch.device("meta"):
        assert params(ImageGenerator(channels, (side, side))) == count


@given(st.integers(8, 60), st.integers(8, 60), st.integers(1, 4), st.integers(1, 300))
@settings(max_examples=25, deadline=None)
def test_parameters_and_sides_follow_the_formula(height, width, channels, latent):
    with torch.device("meta"):
        network = ImageGenerator(channels, (height, width), latent=latent)
        image = network(torch.zeros(2, latent, device="meta"))
    cells = (height // 4) * (width // 4)
    assert params(network) == (latent + 1) * 128 * cells + 222_016 + 577 * channels
    assert image.shape == (2, channels, height // 4 * 4, width // 4 * 4)


def test_the_network_is_the_published_sequence_of_operations():
    torch.manual_seed(0)
    network = ImageGenerator(3, (12, 12), latent=5)
    w = dict(network.named_parameters())
    z = torch.randn(2, 5)

    def norm(x, at, eps):
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)
        scale, shift = (w[f"layers.{at}.{name}"].view(1, -1, 1, 1) for name in ("weight", "bias"))
        return (x - mean) / (variance + eps).sqrt() * scale + shift

    def conv(x, at):
        return F.conv2d(x, w[f"layers.{at}.weight"], w[f"layers.{at}.bias"], padding=1)

    x = (z @ w["layers.0.weight"].T + w["layers.0.bias"]).view(2, 128, 3, 3)
    x = norm(x, 2, 1e-5).repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = F.leaky_relu(norm(conv(x, 4), 5, 0.8), 0.2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = F.leaky_relu(norm(conv(x, 8), 9, 0.8), 0.2)
    expected = (torch.tanh(conv(x, 11)) + 1) / 2
    torch.testing.assert_close(network(z), expected, atol=1e-5, rtol=1e-4)
    # Kaiming normal: variance 2 / fan-in.
    assert w["layers.4.weight"].std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)


def test_images_too_small_for_an_instance_norm_are_refused():
    with pytest.raises(InvalidOption, match="at least 8"):
        ImageGenerator(3, (24, 7))


def test_there_and_back_leaves_smooth_images_as_they_are():
    axis = torch.linspace(0, 1, 12)
    image = (0.4 + 0.2 * axis[:, None] + 0.3 * axis[None]).view(1, 1, 12, 12)
    for scale in (2, 3, 4):
        passage = Passage(contract=contract(pre_upsampled=4, input_range=(0.0, 1.0), output_range=(0.0, 1.0)))
        back = passage.back(passage.enter(image, scale), scale)
        torch.testing.assert_close(back[..., 3:-3, 3:-3], image[..., 3:-3, 3:-3], atol=2e-3, rtol=0)


def contract(**changes) -> Contract:
    return Contract(**{"channels_in": 1, "channels_out": 1, "size": (32, 32), **changes})


def test_ranges_are_those_of_the_contract_on_both_sides():
    made = torch.rand(1, 3, 4, 4)
    passage = Passage(
        contract=contract(channels_in=3, channels_out=3, input_range=(0.0, 255.0), output_range=(-1.0, 1.0), scale=2),
        degrade=lambda image: (image + 1) * 127.5,
    )
    torch.testing.assert_close(passage.enter(made), made * 255)
    torch.testing.assert_close(passage.back(made * 2 - 1), made)


# Growth.


def test_growth_is_the_published_one_for_eighteen_stages_of_one_epoch():
    found = [depth_at(epoch, 80, 18, 18) for epoch in range(80)]
    assert found == [*range(1, 19), *[18] * 62]


@given(st.integers(1, 300), st.integers(0, 40), st.integers(1, 30))
def test_depth_never_falls_and_is_whole_in_the_end(steps, blocks, stages):
    found = [depth_at(step, steps, blocks, stages) for step in range(steps)]
    assert found == sorted(found)
    assert found[-1] == blocks
    assert stages == 1 or blocks == 0 or found[0] >= 1


@pytest.mark.parametrize("width", [3, 4])
def test_a_vdsr_grows_by_nine_times_the_squared_width_a_block(width):
    student = ElasticStudent.of(open_generator(VDSR(Sizes(width=width, blocks=6, channels=1))))
    counts = [sum(p.numel() for p in active_parameters(student, depth)) for depth in range(7)]
    assert counts == [18 * width + 9 * width**2 * n for n in range(7)]


# Optimisers.


def training(steps: int, rate: float = 0.01) -> Training:
    return Training(steps=steps, rng=torch.Generator(), processes=Processes("cpu"), learning_rate=rate)


def test_the_published_sgd_is_torchs_with_stairs_and_clipping():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 3), nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    descend = published_sgd(list(ours.parameters()), training(16), steps=16)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    for step in range(16):
        x = 5 * torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        descend(ours(x).square().sum())
        optimizer.zero_grad()
        theirs(x).square().sum().backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.4)
        optimizer.step()
        scheduler.step()
        torch.testing.assert_close(ours.weight, theirs.weight)


def test_stairs_are_an_eighth_of_all_steps_also_behind_growth():
    layer = nn.Linear(1, 1)
    descend = published_sgd(list(layer.parameters()), training(64), steps=80)
    rates = []
    for _ in range(64):
        descend(layer(torch.ones(1, 1)).sum())
        rates.append(descend.state_dict()["optimizer"]["param_groups"][0]["lr"])
    assert rates == pytest.approx([0.1 * 0.1 ** (step // 10) for step in range(64)])


def test_optimisers_go_on_from_their_state():
    def steps(descend, layer, which):
        for step in which:
            descend(layer(torch.full((1, 2), step + 1.0)).square().sum())

    for make in (partial(published_sgd, steps=6), published_adam):
        torch.manual_seed(0)
        straight, first, second = (nn.Linear(2, 2) for _ in range(3))
        first.load_state_dict(straight.state_dict())
        steps(make(list(straight.parameters()), training(6)), straight, range(6))
        begun = make(list(first.parameters()), training(6))
        steps(begun, first, range(3))
        second.load_state_dict(first.state_dict())
        resumed = make(list(second.parameters()), training(6))
        resumed.load_state_dict(begun.state_dict())
        steps(resumed, second, range(3, 6))
        assert torch.equal(second.weight, straight.weight)


# The source.


def source(**changes) -> GeneratedImages:
    passage = Passage(contract=contract(pre_upsampled=4, input_range=(0.0, 1.0), output_range=(0.0, 1.0)))
    return GeneratedImages(passage, {2: (12, 12), 3: (8, 8)}, latent=6, data=None, **changes)


def test_batches_follow_seed_and_step_and_mix_the_scales():
    made = source()
    batches = [made.train_batch(2, seed=1, step=step).inputs[MAIN] for step in range(12)]
    assert torch.equal(batches[3], made.train_batch(2, seed=1, step=3).inputs[MAIN])
    assert not any(torch.equal(batches[0], other) for other in batches[1:])
    assert {x.shape[2] for x in batches} == {24}
    assert not batches[0].requires_grad
    assert all(x.min() >= 0 and x.max() <= 1 for x in batches)


def test_a_batch_is_an_enlarged_image_of_the_generator_of_its_scale():
    made = source()
    for step in range(6):
        rng = torch.Generator().manual_seed(hash((1, step)))
        scale = (2, 3)[int(torch.randint(2, (), generator=rng))]
        small = made.generators[str(scale)](torch.randn(2, 6, generator=rng))
        expected = bicubic(small, 24, 24).clamp(0, 1)
        assert torch.equal(made.train_batch(2, seed=1, step=step).inputs[MAIN], expected)


def test_probes_stay_the_same_whatever_is_trained():
    made = source()
    before = [made.probe(i, seed=4).inputs[MAIN] for i in range(3)]
    searched = [batch.inputs[MAIN] for batch in made.images("search")]
    made.renew(9, torch.device("cpu"))
    with torch.no_grad():
        for p in made.generators.parameters():
            p.mul_(2)
    assert all(torch.equal(made.probe(i, seed=4).inputs[MAIN], x) for i, x in enumerate(before))
    assert all(torch.equal(a.inputs[MAIN], b) for a, b in zip(made.images("search"), searched, strict=True))
    assert len(searched) == 8
    assert list(made.images("eval")) == []
    assert not torch.equal(before[0], made.probe(0, seed=5).inputs[MAIN])


def test_the_users_images_are_what_is_scored(tmp_path):
    torch.manual_seed(0)
    for i in range(3):
        pixels = (255 * torch.rand(24, 24, 3)).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    from gansdk.pipeline.opening import open_source

    given = open_source(str(tmp_path), open_generator(VDSR(Sizes(width=4, blocks=1, channels=1))), split="all")
    made = GeneratedImages(source().passage, {2: (12, 12)}, latent=6, data=given)
    assert [batch.names for batch in made.images("eval")] == [batch.names for batch in given.images("eval")]
    assert made.pairing is given.pairing
    assert made.describe()["data"] == given.describe()


def test_seeds_and_devices_leave_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    made = source()
    made.renew(1, torch.device("cpu"))
    made.probe(0, seed=0)
    made.train_batch(1, seed=0, step=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_plugin_is_listed_with_what_it_needs():
    spec = gansdk.registry.discovery.registry().specs("distiller")["data-free"]
    assert (spec.kind, spec.data, spec.needs) == ("regime", False, frozenset({"degrade"}))

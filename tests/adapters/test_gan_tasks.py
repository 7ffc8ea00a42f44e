"""The families' losses against literal transcriptions, and what their discriminators do in a run."""

import copy
import io

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from gansdk.contracts import MAIN, Batch, Contract
from gansdk.errors import InvalidOption, MissingData
from gansdk.generators.online_teacher import OnlineTeacher
from gansdk.interfaces import Optimisation, Training
from gansdk.registry.parts import open_adapter
from gansdk.training.processes import Processes
from gansdk_adapters.tasks.adversarial import ImageToImageTask
from gansdk_adapters.tasks.cycle import A2B, B2A, POOL, CycleTask, CycleTeacher, ImagePool
from gansdk_adapters.tasks.losses import discriminator_loss, generator_loss
from gansdk_adapters.tasks.semantic import SemanticSynthesisTask, feature_matching, perceptual_distance

CONTRACT = Contract(channels_in=3, channels_out=3, size=(16, 16))


def made(build):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return build()


def patches(channels: int) -> nn.Module:
    return made(lambda: nn.Sequential(nn.Conv2d(channels, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 4, 1, 1)))


def generator() -> nn.Module:
    return made(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1), nn.Tanh())
    )


class Scales(nn.Module):
    """A multi-scale discriminator of two scales with three maps each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.parts = made(lambda: nn.ModuleList(nn.ModuleList(self._scale(channels)) for _ in range(2)))

    @staticmethod
    def _scale(channels):
        spectral = nn.utils.spectral_norm(nn.Conv2d(4, 5, 4, 2, 2))
        return nn.Conv2d(channels, 4, 4, 2, 2), spectral, nn.Conv2d(5, 1, 4, 1, 2)

    def forward(self, x):
        found = []
        for scale in self.parts:
            maps = []
            y = x
            for layer in scale:
                y = F.leaky_relu(layer(y), 0.2)
                maps.append(y)
            found.append(maps)
            x = F.avg_pool2d(x, 2)
        return found


def training(steps: int = 4) -> Training:
    rng = torch.Generator().manual_seed(0)
    return Training(steps=steps, rng=rng, processes=Processes("cpu"), learning_rate=2e-4)


def batch(seed: int = 0, **changes) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(2, 3, 16, 16, generator=rng) * 2 - 1 for _ in range(2))
    return Batch(**{"inputs": {MAIN: x}, "targets": {MAIN: y}, **changes})


def reread(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_hinge_losses_of_known_scores():  # golden values of the methods file, part E
    scores = torch.tensor([0.5, -2.0])
    assert discriminator_loss("hinge", scores, real=True).item() == 1.75
    assert discriminator_loss("hinge", scores, real=False).item() == 0.75
    assert generator_loss("hinge", scores).item() == 0.75


@pytest.mark.parametrize("kind", ["hinge", "lsgan", "vanilla"])
def test_adversarial_losses_are_the_papers(kind):
    scores = torch.tensor([-2.0, -0.5, 0.3, 1.7])
    real, fake, fool = [], [], []
    for s in scores.double():
        if kind == "hinge":
            real.append(max(0.0, 1 - s)), fake.append(max(0.0, 1 + s)), fool.append(-s)
        elif kind == "lsgan":
            real.append((s - 1) ** 2), fake.append(s**2), fool.append((s - 1) ** 2)
        else:
            p = 1 / (1 + (-s).exp())
            real.append(-p.log()), fake.append(-(1 - p).log()), fool.append(-p.log())
    for found, rows in (
        (discriminator_loss(kind, scores, real=True), real),
        (discriminator_loss(kind, scores, real=False), fake),
        (generator_loss(kind, scores), fool),
    ):
        assert found.item() == pytest.approx(float(sum(rows)) / 4, rel=1e-6)


@pytest.mark.parametrize("conditional", [True, False])
def test_pix2pix_losses_against_a_literal_transcription(conditional):
    task = ImageToImageTask(patches(6 if conditional else 3), conditional=conditional, reconstruction_weight=100.0)
    data, fake = batch(), batch(1).targets[MAIN]
    x, y = data.inputs[MAIN], data.targets[MAIN]
    critic = copy.deepcopy(task.network)
    shown = (lambda image: torch.cat([x, image], 1)) if conditional else (lambda image: image)
    loss, parts = task.generator_loss(data, {MAIN: fake}, data.targets)
    torch.testing.assert_close(loss, -critic(shown(fake)).mean() + 100 * (fake - y).abs().mean())
    assert set(parts) == {"g/gan", "g/l1"}
    expected = 0.5 * (F.relu(1 - critic(shown(y))).mean() + F.relu(1 + critic(shown(fake))).mean())
    optimizer = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.999))
    expected.backward()
    optimizer.step()
    task.bind(training())
    told = task.discriminate(data, {MAIN: fake})
    torch.testing.assert_close(0.5 * (told["d/real"] + told["d/fake"]), expected.detach())
    for own, literal in zip(task.network.parameters(), critic.parameters(), strict=True):
        torch.testing.assert_close(own, literal)


def test_without_a_reference_the_generator_only_has_to_fool():
    task = ImageToImageTask(patches(3), conditional=False)
    _, parts = task.generator_loss(batch(), {MAIN: batch(1).targets[MAIN]}, {})
    assert set(parts) == {"g/gan"}


def test_the_generators_step_leaves_no_gradient_in_the_discriminator():
    task, fake = ImageToImageTask(patches(6)), batch(1).targets[MAIN].requires_grad_()
    task.generator_loss(batch(), {MAIN: fake}, {})[0].backward()
    assert fake.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in task.network.parameters())


def test_gaugan_losses_against_a_literal_transcription():
    critic = Scales(6)
    task = SemanticSynthesisTask(copy.deepcopy(critic), perceptual=None, feature_weight=10.0)
    data, fake = batch(), batch(1).targets[MAIN]
    x, y = data.inputs[MAIN], data.targets[MAIN]
    made_maps = critic(torch.cat([x, fake], 1))
    critic.eval()
    true_maps = critic(torch.cat([x, y], 1))
    adversarial = sum(-maps[-1].mean() for maps in made_maps) / 2
    matching = sum(
        (own[i] - other[i]).abs().mean() for own, other in zip(made_maps, true_maps, strict=True) for i in range(2)
    )
    loss, _ = task.generator_loss(data, {MAIN: fake}, data.targets)
    torch.testing.assert_close(loss, adversarial + 10 * matching / 2)
    assert task.network.training
    critic = copy.deepcopy(task.network)
    both = critic(torch.cat([torch.cat([x, fake], 1), torch.cat([x, y], 1)]))
    expected = sum(F.relu(1 + m[-1][:2]).mean() + F.relu(1 - m[-1][2:]).mean() for m in both) / 2
    task.bind(training())
    told = task.discriminate(data, {MAIN: fake})
    torch.testing.assert_close(told["d/real"] + told["d/fake"], expected.detach())


def test_gaugan_learns_on_two_time_scales():
    task = SemanticSynthesisTask(Scales(6), perceptual=None)
    task.bind(training())
    task.discriminate(batch(), {MAIN: batch(1).targets[MAIN]})
    group = task.state_dict()["descent"]["optimizer"]["param_groups"][0]
    assert group["lr"] == pytest.approx(4 * 2e-4)
    assert group["betas"] == (0.0, 0.9)
    assert task.generator_first


def test_feature_matching_leaves_the_scores_out_and_perceptual_weights_rise_with_depth():
    maps = [[torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4)]]
    other = [[torch.ones(1, 2, 4, 4), torch.full((1, 1, 4, 4), 9.0)]]
    assert feature_matching(maps, other).item() == 1.0
    made_maps, true_maps = [torch.zeros(1)] * 5, [torch.ones(1)] * 5
    assert perceptual_distance(made_maps, true_maps).item() == pytest.approx(1 / 32 + 1 / 16 + 1 / 8 + 1 / 4 + 1)


VGG19 = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 1))
"""Channels and convolutions of each stage (Simonyan and Zisserman, 2014, E), down to relu5_1."""


@pytest.fixture(scope="module")
def vgg19() -> dict[str, torch.Tensor]:
    """A checkpoint in torchvision's layout, with values from a seed."""
    rng = torch.Generator().manual_seed(0)
    state, index, channels = {}, 0, 3
    for width, count in VGG19:
        for _ in range(count):
            scale = (2 / (9 * channels)) ** 0.5
            state[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3, generator=rng) * scale
            state[f"features.{index}.bias"] = torch.randn(width, generator=rng) * 0.1
            channels, index = width, index + 2
        index += 1
    return state


def perceptual_by_hand(state, made, true):
    """SPADE's VGG loss: the first activation of each stage, images as they are."""
    total, index = torch.zeros(()), 0
    for (_, count), weight in zip(VGG19, (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), strict=True):
        if index:
            made, true = F.max_pool2d(made, 2), F.max_pool2d(true, 2)
        for number in range(count):
            kernel, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
            made, true = (F.relu(F.conv2d(image, kernel, bias, padding=1)) for image in (made, true))
            if number == 0:
                total = total + weight * (made - true).abs().mean()
            index += 2
        index += 1
    return total


@pytest.mark.parametrize("kind", ["weights", "file"])
def test_gaugans_perceptual_term_against_a_literal_vgg19(kind, vgg19, tmp_path):
    if kind == "file":
        save_file(vgg19, tmp_path / "vgg19.safetensors")
    given = vgg19 if kind == "weights" else tmp_path / "vgg19.safetensors"
    task = SemanticSynthesisTask(Scales(6), perceptual=given, perceptual_weight=3.0, feature_weight=0.0)
    without = SemanticSynthesisTask(Scales(6), perceptual=None, feature_weight=0.0)
    task.prepare()
    data = batch()
    fake, by_hand = (batch(1).targets[MAIN].requires_grad_() for _ in range(2))
    loss, told = task.generator_loss(data, {MAIN: fake}, data.targets)
    other, _ = without.generator_loss(data, {MAIN: by_hand}, data.targets)
    expected = perceptual_by_hand(vgg19, by_hand, data.targets[MAIN])
    torch.testing.assert_close(told["g/perceptual"], expected.detach())
    torch.testing.assert_close(loss, other + 3 * expected)
    loss.backward()
    (other + 3 * expected).backward()
    torch.testing.assert_close(fake.grad, by_hand.grad)
    assert not any(p.requires_grad for p in task.perceptual.parameters())


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("kind", ["paired", "unpaired", "semantic", "cycle"])
def test_a_teacher_learns_and_a_resumed_one_repeats_it_bit_for_bit(kind, stop):
    straight, first, resumed = (teacher(kind) for _ in range(3))
    before = copy.deepcopy(straight.networks())
    for step in range(4):
        straight.learn(batch(step, paired=kind in ("paired", "semantic")))
        if step < stop:
            first.learn(batch(step, paired=kind in ("paired", "semantic")))
    resumed.load_state_dict(reread(first.state_dict()))
    for step in range(stop, 4):
        resumed.learn(batch(step, paired=kind in ("paired", "semantic")))
    for route, network in straight.networks().items():
        for own, again, old in zip(
            network.parameters(), resumed.networks()[route].parameters(), before[route].parameters(), strict=True
        ):
            assert torch.equal(own, again)
            assert not torch.equal(own, old)
    for route, critic in straight.discriminators().items():
        again = resumed.discriminators()[route]
        assert all(torch.equal(value, again[name]) for name, value in critic.items())


def teacher(kind: str, **options):
    if kind == "cycle":
        found = CycleTeacher(dict.fromkeys((A2B, B2A), generator()), CONTRACT, {}, cycle_task(**options))
    elif kind == "semantic":
        found = OnlineTeacher(generator(), CONTRACT, {}, SemanticSynthesisTask(Scales(6), perceptual=None))
    else:
        task = ImageToImageTask(patches(6 if kind == "paired" else 3), conditional=kind == "paired")
        found = OnlineTeacher(generator(), CONTRACT, {}, task)
    found.bind(training())
    return found


def cycle_task(**options) -> CycleTask:
    rates = Optimisation(learning_rate=2e-4, betas=(0.5, 0.999), schedule="constant-linear")
    return CycleTask({route: patches(3) for route in (A2B, B2A)}, optimisation=rates, **options)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_cyclegan_losses_against_a_literal_transcription(weight):
    found = teacher("cycle", gan_weight=weight)
    g = {route: copy.deepcopy(network) for route, network in found.networks().items()}
    d = {route: copy.deepcopy(critic) for route, critic in found.task.critics.items()}
    data = batch(paired=False)
    a, b = data.inputs[MAIN], data.targets[MAIN]
    fake_b, fake_a = g[A2B](a), g[B2A](b)
    loss = weight * (((d[A2B](fake_b) - 1) ** 2).mean() + ((d[B2A](fake_a) - 1) ** 2).mean())
    loss = loss + 10 * (g[B2A](fake_b) - a).abs().mean() + 10 * (g[A2B](fake_a) - b).abs().mean()
    loss = loss + 5 * (g[A2B](b) - b).abs().mean() + 5 * (g[B2A](a) - a).abs().mean()
    critics = {
        A2B: ((d[A2B](b) - 1) ** 2).mean() + (d[A2B](fake_b) ** 2).mean(),
        B2A: ((d[B2A](a) - 1) ** 2).mean() + (d[B2A](fake_a) ** 2).mean(),
    }
    told = found.learn(data)
    torch.testing.assert_close(told["loss"], loss.detach())
    for route, value in critics.items():
        torch.testing.assert_close(told[f"d/{route}"], value.detach())


def test_a_cyclegan_without_an_adversarial_loss_leaves_its_discriminators_alone():
    found = teacher("cycle", gan_weight=0.0)
    before = copy.deepcopy(found.task.critics.state_dict())
    told = found.learn(batch(paired=False))
    assert {name.split("/")[1] for name in told if "/" in name} == {"cycle", "identity"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.task.critics.state_dict().items())
    assert all(parameter.grad is None for parameter in found.task.critics.parameters())


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan", "gaugan"])
def test_adapters_say_for_how_long_learning_rates_stay(name):
    options = {"perceptual": None} if name == "gaugan" else {}
    adapter = open_adapter({"name": name, "constant": 0.4, "discriminator_width": 4, **options})
    assert adapter.options()["constant"] == 0.4
    net = (
        adapter.create("spade", width=4, labels=5) if name == "gaugan" else adapter.create("resnet", width=4, blocks=1)
    )
    tasks = [adapter.task(net), adapter.learner(net).task, *(one.task for one in adapter.learners([net, net]))]
    assert [task.optimisation.constant for task in tasks] == [0.4] * 4
    with pytest.raises(InvalidOption, match="constant=2"):
        open_adapter({"name": name, "constant": 2})


def test_both_directions_have_the_weights_that_the_adapter_was_given():
    adapter = open_adapter({"name": "cyclegan", "gan_weight": 0.5, "cycle_weight": 3.0, "discriminator_width": 4})
    nets = {route: adapter.create("resnet", width=4, blocks=1) for route in (A2B, B2A)}
    task = adapter.joint_task(nets, discriminators={})
    assert (task.gan_weight, task.cycle_weight) == (0.5, 3.0)
    with pytest.raises(InvalidOption, match="gan_weight=0 and cycle_weight=0 leave no loss"):
        open_adapter({"name": "cyclegan", "gan_weight": 0, "cycle_weight": 0}).joint_task(nets, discriminators={})


def test_a_pool_gives_new_images_until_it_is_full_and_then_half_of_them_old():
    pool = ImagePool(POOL, torch.Generator().manual_seed(0))
    images = torch.arange(2000.0).view(2000, 1, 1, 1)
    given = pool.exchange(images)
    assert torch.equal(given[:POOL], images[:POOL])
    old = (given[POOL:] != images[POOL:]).float().mean().item()
    assert 0.4 < old < 0.6
    assert len(pool.images) == POOL
    assert (given <= images).all()


def test_bad_losses_weights_and_data_are_refused():
    with pytest.raises(InvalidOption, match="hinge, lsgan, vanilla"):
        ImageToImageTask(patches(6), gan="wasserstein")
    with pytest.raises(InvalidOption, match="gan_weight"):
        ImageToImageTask(patches(6), gan_weight=-1.0)
    for kind in ("paired", "cycle"):
        with pytest.raises(MissingData):
            teacher(kind).learn(batch(targets={}))

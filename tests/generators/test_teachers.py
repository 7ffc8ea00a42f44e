import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.contracts import Contract
from gansdk.errors import ContractError
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.modules.taps import observe, reading
from gansdk.testing.networks import NETWORKS, network
from gansdk.testing.weights import randomise


def contract(**changes) -> Contract:
    return Contract(**{"channels_in": 3, "channels_out": 3, "size": (16, 16), **changes})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def state_bytes(module: nn.Module) -> dict[str, bytes]:
    return {name: value.detach().numpy().tobytes() for name, value in module.state_dict().items()}


class InPlace(nn.Module):
    """Every layer behind a tap overwrites its input, by module, by function and by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        x = F.leaky_relu_(self.second(x))
        y = self.third(x)
        y += 1.0
        return y


class Counted(nn.Module):
    """Applies one convolution twice, and counts how often its parts run."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.once, self.tail = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.idle = nn.Identity()
        self.runs: list[str] = []
        for name in ("twice", "once", "tail"):
            getattr(self, name).register_forward_hook(lambda *_, name=name: self.runs.append(name))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.once(torch.tanh(self.twice(torch.tanh(self.twice(x))))))


class Tuples(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize("name", ["resnet-in", "resnet-bn-zero", "unet-bn", "srresnet-one-slope", "spectral-norm-hook"])
def test_a_teacher_gives_the_images_of_the_module_in_eval_mode(name):
    entry = network(name)
    module = randomise(entry.build(), 0).eval()
    x = entry.example()
    image = FrozenTeacher(module, contract(), {}).observe(x).image
    torch.testing.assert_close(image, module(x), rtol=0, atol=0)


@pytest.mark.parametrize("inference", ["eval", "batch-statistics"])
@pytest.mark.parametrize(
    "entry", [n for n in NETWORKS if len(n.shape) == 4 and n.name != "two-outputs"], ids=lambda n: n.name
)
def test_no_teacher_changes_itself_or_the_users_module(entry, inference):
    module = randomise(entry.build(), 0).train()
    module.requires_grad_(True)
    before, modes = state_bytes(module), [part.training for part in module.modules()]
    teacher = FrozenTeacher(module, contract(channels_in=entry.shape[1], inference=inference), {})
    own = state_bytes(teacher.networks()["main"])
    teacher.observe(entry.example(batch=2)).image.sum()
    assert state_bytes(teacher.networks()["main"]) == own
    assert state_bytes(module) == before == own
    assert [part.training for part in module.modules()] == modes
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert not any(part._forward_hooks for part in teacher.networks()["main"].modules())


def test_gradients_reach_the_input_and_no_weight():
    x = noise(2, 3, 16, 16).requires_grad_()
    teacher = FrozenTeacher(network("resnet-in-affine").build(), contract(), {"down": "down.1"})
    seen = teacher.observe(x, ["down"])
    (seen.image.square().sum() + seen.features["down"].sum()).backward()
    assert x.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in teacher.networks()["main"].parameters())


@pytest.mark.parametrize("name", ["resnet-bn-zero", "resnet-in-tracked", "unet-bn"])
def test_with_batch_statistics_norms_see_the_batch_as_in_training(name):
    entry = network(name)
    module = randomise(entry.build(), 0)
    x = entry.example(batch=2)
    image = FrozenTeacher(module, contract(inference="batch-statistics"), {}).observe(x).image
    assert not torch.equal(image, FrozenTeacher(module, contract(), {}).observe(x).image)
    torch.testing.assert_close(image, module.train()(x))


def test_dropout_is_no_part_of_what_a_teacher_shows():
    module = network("unet-in-dropout").build()
    x = noise(1, 3, 16, 16)
    teacher = FrozenTeacher(module, contract(inference="batch-statistics"), {})
    torch.testing.assert_close(teacher.observe(x).image, module.eval()(x))


def test_a_teacher_survives_spectral_norm_after_a_training_step():
    module = network("spectral-norm-hook").build().train()
    module(noise(1, 3, 16, 16)).sum().backward()
    teacher = FrozenTeacher(module, contract(), {"body": "body"})
    assert teacher.observe(noise(1, 3, 16, 16), ["body"]).features["body"].isfinite().all()


def test_features_are_what_the_submodule_returned_even_if_it_is_overwritten_later():
    module = InPlace()
    x = noise(1, 3, 4, 4)
    seen = observe(module, module, x, {"first": "first", "second": "second", "third": "third"})
    first = module.first(x)
    second = module.second(F.relu(first))
    third = module.third(F.leaky_relu(second))
    for tap, expected in {"first": first, "second": second, "third": third}.items():
        torch.testing.assert_close(seen.features[tap], expected)
    seen_gradient = torch.autograd.grad(
        sum(f.square().sum() for f in seen.features.values()) + seen.image.sum(), module.first.weight
    )
    expected = torch.autograd.grad(
        sum(f.square().sum() for f in (first, second, third)) + third.sum(), module.first.weight
    )
    torch.testing.assert_close(seen_gradient, expected)


def test_of_a_submodule_that_runs_twice_the_last_output_counts_with_and_without_the_image():
    module = Counted()
    x = noise(1, 3, 4, 4)
    teacher = FrozenTeacher(module, contract(), {"twice": "twice", "once": "once"})
    expected = module.twice(torch.tanh(module.twice(x)))
    for image in (True, False):
        torch.testing.assert_close(teacher.observe(x, ["twice"], image=image).features["twice"], expected)


def test_without_the_image_layers_behind_the_last_tap_do_not_run():
    module, x = Counted(), noise(1, 3, 4, 4)
    teacher = FrozenTeacher(module, contract(), {"twice": "twice", "once": "once"})
    teacher.observe(x, ["once"], image=False)  # the first of a shape also counts the calls
    module.runs.clear()
    seen = teacher.observe(x, ["twice", "once"], image=False)  # the copy's hooks write to the module's list
    assert module.runs == ["twice", "twice", "once"]
    assert seen.image is None
    assert list(seen.features) == ["twice", "once"]
    module.runs.clear()
    assert teacher.observe(x, image=False).features == {}
    assert module.runs == []


def test_hooks_are_removed_after_an_error():
    module = Counted()
    hooks = len(module.once._forward_hooks)
    with reading(module, {"once": "once"}):
        assert len(module.once._forward_hooks) == hooks + 1
    with pytest.raises(RuntimeError, match="channels"):
        observe(module, module, noise(1, 5, 4, 4), {"once": "once", "tail": "tail"})
    assert len(module.once._forward_hooks) == hooks


def test_a_path_that_does_not_exist_is_refused_with_the_nearest_ones():
    with pytest.raises(ContractError, match=r"'tails', but Counted has no such submodule. Closest: tail"):
        FrozenTeacher(Counted(), contract(), {"end": "tails"})


def test_taps_routes_and_inputs_of_other_generators_are_refused():
    teacher = FrozenTeacher(Counted(), contract(), {"end": "tail"})
    with pytest.raises(ContractError, match="'stem' does not exist; this generator offers end"):
        teacher.observe(noise(1, 3, 4, 4), ["stem"])
    with pytest.raises(ContractError, match="'B2A' does not exist; this teacher offers main"):
        teacher.observe(noise(1, 3, 4, 4), route="B2A")
    with pytest.raises(ContractError, match=r"takes \(N, 3, H, W\)"):
        teacher.observe(noise(1, 1, 4, 4))


def test_a_tap_that_never_runs_or_gives_no_tensor_is_refused():
    with pytest.raises(ContractError, match="does not run in the forward pass"):
        FrozenTeacher(Counted(), contract(), {"idle": "idle"}).observe(noise(1, 3, 4, 4), ["idle"])
    module = nn.Sequential(Tuples())
    with pytest.raises(ContractError, match="returns a tuple"):
        observe(module, module, noise(1, 3, 4, 4), {"both": "0"})
    with pytest.raises(ContractError, match="returns a tuple"):
        observe(module, module, noise(1, 3, 4, 4), {})

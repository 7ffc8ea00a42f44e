import copy
import dataclasses
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gansdk.budget.cost import Cost
from gansdk.channels.groups import Plan, Space
from gansdk.contracts import MAIN, Batch, Contract, Metrics, Observation, Route
from gansdk.errors import ContractError, IncompatibleParts, InvalidOption
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.generators.wrapping import ReconstructionTask
from gansdk.interfaces import Inherit, Optimisation, Stage, Student, Task, Teacher, Term
from gansdk.modules.taps import observe, select
from gansdk.registry.discovery import Registry
from gansdk.toolkit.optim import warmup_cosine
from gansdk.training.offline_regime import OfflineRegime

PATHS = {"stem": "0", "body": "2"}
STEPS = 8


def contract(**changes) -> Contract:
    return Contract(**{"channels_in": 3, "channels_out": 3, "size": (16, 16), **changes})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator(width: int, seed: int = 0, norm: bool = False) -> nn.Sequential:
    """Convolutions with weights from the seed; the global random generator stays as it is."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        middle = nn.BatchNorm2d(width) if norm else nn.Identity()
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.ReLU(True),
            nn.Conv2d(width, width, 3, padding=1),
            middle,
            nn.ReLU(),
            nn.Conv2d(width, 3, 3, padding=1),
        )


class SmallStudent(Student):
    """A few convolutions that are pruned already: one plan, one width."""

    def __init__(self, width: int = 2, *, seed: int = 1, **changes) -> None:
        self.network = generator(width, seed, norm=True)
        self.contracts = {MAIN: contract(**changes)}
        self.taps = ("stem", "body", "own")
        self.space = Space((), (), (), (), {}, frozenset(), {})
        self.plan = Plan()
        self.runs = 0

    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        self.runs += 1
        return observe(self.network, self.network, x, select({**PATHS, "own": "5"}, taps), image=image)

    def activate(self, plan: Plan) -> None:
        assert plan == self.plan

    def channels(self, tap: str) -> Tensor:
        return torch.arange(self.width(tap))

    def width(self, tap: str) -> int:
        return self.network[0].out_channels

    def cost(self, plan: Plan) -> Cost:
        return Cost(macs=0, paper_macs=0, params=0, bytes=0)

    def carve(self, plan: Plan, *, inherit: Inherit = "all") -> Student:
        return copy.deepcopy(self)

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.network.parameters()

    def networks(self) -> Mapping[Route, nn.Module]:
        return {MAIN: self.network}

    def train(self, mode: bool = True) -> None:
        self.network.train(mode)


class NothingIsRead(TorchDispatchMode):
    """Fails where the host waits for the value of a tensor."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        assert func is not torch.ops.aten.nonzero.default
        return func(*args, **(kwargs or {}))


class OneUnreadProcess:
    """One process on the CPU that lets nothing read a value until the gradients are there.

    Adam's step counters, which are read later, are on the host in any case.
    """

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.mode = NothingIsRead()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        self.mode.__exit__(None, None, None)


@dataclass
class OneProcess:
    """One process on the CPU, which records what was asked of it."""

    device: torch.device = torch.device("cpu")  # noqa: RUF009
    asked: list[str] = field(default_factory=list)

    def backward(self, loss: Tensor) -> None:
        self.asked.append("backward")
        loss.backward()

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        assert all(parameter.grad is not None for parameter in parameters)
        self.asked.append("average")


class Watched(Teacher):
    """A teacher that records what was asked of it."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.contracts, self.taps = teacher, teacher.contracts, teacher.taps
        self.asked: list[tuple[tuple[str, ...], bool]] = []

    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        assert not torch.is_grad_enabled()
        self.asked.append((tuple(taps), image))
        return self.teacher.observe(x, taps, image=image, route=route)


class Connected(Term):
    """MSE of one feature map behind a trained 1x1 convolution from the student's width to the teacher's."""

    name = "connected"

    def taps(self, available: Sequence[str]) -> tuple[str, ...]:
        return ("body",)

    def bind(self, stage: Stage) -> None:
        self.connector = nn.Conv2d(stage.student.width("body"), 4, 1)
        with torch.no_grad():
            for parameter in self.connector.parameters():
                parameter.normal_(generator=stage.rng)

    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        assert list(student.features) == list(teacher.features) == ["body"]
        return F.mse_loss(self.connector(student.features["body"]), teacher.features["body"])

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.connector.parameters()

    def state_dict(self):
        return self.connector.state_dict()

    def load_state_dict(self, state) -> None:
        self.connector.load_state_dict(state)


class Adversarial(Task):
    """A critic that is trained first, and told apart from the generator by what it was given."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def discriminate(self, batch: Batch, fakes: Mapping[Route, Tensor]) -> Metrics:
        self.order.append("critic")
        assert not any(fake.requires_grad for fake in fakes.values())
        return {"critic": torch.zeros(())}

    def generator_loss(self, batch, fakes, references):
        self.order.append("generator")
        assert all(fake.requires_grad for fake in fakes.values())
        return torch.stack([fake.square().mean() for fake in fakes.values()]).sum(), {}


def terms(**distillers) -> tuple[Term, ...]:
    """Terms of the SDK's own distillers, found by name as a run finds them."""
    known = Registry()
    return tuple(
        term for name, options in distillers.items() for term in known.load("distiller", name)(**options).terms
    )


def teacher(**changes) -> FrozenTeacher:
    return FrozenTeacher(generator(4), contract(**changes), PATHS)


def stage(**changes) -> Stage:
    parts = {
        "student": SmallStudent(),
        "teachers": (teacher(),),
        "task": ReconstructionTask(),
        "steps": STEPS,
        "rng": torch.Generator().manual_seed(0),
        "processes": OneProcess(),
        "terms": terms(pixel={}),
    }
    return Stage(**{**parts, **changes})


def batch(seed: int = 0, *, images: int = 2, targets: bool = True) -> Batch:
    x = noise(images, 3, 16, 16, seed=seed)
    return Batch({MAIN: x}, {MAIN: 0.5 * x} if targets else {})


def bound(regime: OfflineRegime | None = None, **changes) -> tuple[OfflineRegime, Stage]:
    regime, given = regime or OfflineRegime(), stage(**changes)
    regime.bind(given)
    return regime, given


def saved(state):
    """What comes back from a file that is read without executing it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_loss_is_the_weighted_sum_of_task_and_terms():
    regime, given = bound(OfflineRegime(task_weight=2.0), terms=terms(pixel={"weight": 3.0}, gka={"weight": 0.5}))
    x, y = batch().inputs[MAIN], batch().targets[MAIN]
    student = copy.deepcopy(given.student).observe(x)
    reference = given.teachers[0].observe(x)
    told = regime.step(batch())
    assert list(told) == ["loss", "task", "pixel", "gka"]
    torch.testing.assert_close(told["task"], F.l1_loss(student.image, y).detach())
    torch.testing.assert_close(told["pixel"], F.l1_loss(student.image, reference.image).detach())
    torch.testing.assert_close(told["loss"], 2 * told["task"] + 3 * told["pixel"] + 0.5 * told["gka"])
    assert all(value.ndim == 0 and not value.requires_grad for value in told.values())


def test_training_brings_the_student_nearer_to_its_teacher():
    regime, _ = bound(steps=60, learning_rate=0.02, terms=terms(pixel={}, gka={}, wavelet={}))
    losses = [regime.step(batch(seed, targets=False))["pixel"].item() for seed in range(60)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_a_step_runs_the_student_once_and_the_critic_before_the_generator():
    task, processes = Adversarial(), OneProcess()
    regime, given = bound(task=task, processes=processes)
    told = regime.step(batch())
    assert given.student.runs == 1
    assert task.order == ["critic", "generator"]
    assert processes.asked == ["backward", "average"]
    assert list(told) == ["loss", "critic", "task", "pixel"]


@pytest.mark.parametrize(
    ("chosen", "asked"),
    [
        ({"pixel": {}}, ((), True)),
        ({"gka": {}}, (("stem", "body"), False)),
        ({"gka": {"taps": ["body"]}}, (("body",), False)),
        ({"gka": {"taps": ["body"]}, "wavelet": {}}, (("body",), True)),
    ],
)
def test_the_teacher_is_asked_for_exactly_what_the_terms_compare(chosen, asked):
    watched = Watched(teacher())
    regime, _ = bound(teachers=(watched,), terms=terms(**chosen))
    regime.step(batch())
    assert watched.asked == [asked]


def test_no_value_is_read_before_the_gradients_are_there():
    processes = OneUnreadProcess()
    regime, _ = bound(processes=processes, terms=terms(pixel={}, gka={}, wavelet={"basis": "db2"}))
    for seed in range(2):
        processes.mode.__enter__()
        regime.step(batch(seed))


def test_without_terms_the_teacher_does_not_run():
    watched = Watched(teacher())
    regime, _ = bound(teachers=(watched,), terms=())
    assert list(regime.step(batch())) == ["loss", "task"]
    assert watched.asked == []


def test_neither_teacher_nor_global_random_generator_changes():
    regime, given = bound(terms=terms(pixel={}, gka={}))
    network = given.teachers[0].networks()[MAIN]
    before, rng = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    regime.step(batch())
    assert torch.equal(torch.get_rng_state(), rng)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("clip_norm", [None, 0.01])
@pytest.mark.parametrize("stop", [1, 5])
def test_a_resumed_stage_repeats_a_straight_one_bit_for_bit(clip_norm, stop):
    def parts():
        return OfflineRegime(clip_norm=clip_norm), stage(
            student=SmallStudent(), terms=(*terms(gka={}, pixel={}), Connected())
        )

    straight, straight_stage = parts()
    straight.bind(straight_stage)
    first, first_stage = parts()
    first.bind(first_stage)
    for seed in range(stop):
        straight.step(batch(seed))
        first.step(batch(seed))
    regime_state, student_state = saved(first.state_dict()), saved(first_stage.student.state_dict())
    resumed, resumed_stage = parts()
    resumed_stage.rng.manual_seed(99)
    resumed_stage.student.load_state_dict(student_state)
    resumed.bind(resumed_stage)
    resumed.load_state_dict(regime_state)
    for seed in range(stop, STEPS):
        expected, told = straight.step(batch(seed)), resumed.step(batch(seed))
        assert all(torch.equal(told[name], expected[name]) for name in expected)
    expected, given = straight_stage.student.state_dict(), resumed_stage.student.state_dict()
    assert all(torch.equal(given[name], expected[name]) for name in expected)
    assert torch.equal(resumed_stage.terms[2].connector.weight, straight_stage.terms[2].connector.weight)


def test_connectors_are_trained_with_the_student():
    connected = Connected()
    regime, _ = bound(terms=(connected, *terms(pixel={})))
    before = connected.connector.weight.detach().clone()
    assert "connected" in regime.step(batch())
    assert not torch.equal(connected.connector.weight, before)


def test_binding_anew_starts_anew():
    regime, given = bound()
    for seed in range(3):
        regime.step(batch(seed))
    again = stage(student=SmallStudent(seed=7))
    regime.bind(again)
    fresh, fresh_stage = bound(student=SmallStudent(seed=7))
    regime.step(batch())
    fresh.step(batch())
    for left, right in zip(again.student.parameters(), fresh_stage.student.parameters(), strict=True):
        assert torch.equal(left, right)
    assert given.student is not again.student


def test_the_learning_rate_reaches_adam():
    regime, given = bound(learning_rate=0.1, steps=4)
    before = [parameter.detach().clone() for parameter in given.student.parameters()]
    regime.step(batch())
    moved = max((new - old).abs().max().item() for new, old in zip(given.student.parameters(), before, strict=True))
    assert moved == pytest.approx(0.1, rel=1e-3)  # the first step of Adam is the learning rate in every entry


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 3000))
def test_the_learning_rate_rises_to_one_and_falls_to_a_hundredth(steps):
    factors = [warmup_cosine(step, steps) for step in range(steps)]
    peak = factors.index(max(factors))
    assert max(factors) == 1.0
    assert all(0 < factor <= 1 for factor in factors)
    assert peak + 1 == max(1, round(0.02 * steps))
    assert all(a < b for a, b in itertools.pairwise(factors[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(factors[peak:]))
    if steps > 1:
        assert math.isclose(factors[-1], 0.01)
        assert warmup_cosine(steps + 5, steps) == factors[-1]


@pytest.mark.parametrize("distiller", ["pixel", "wavelet"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_image_terms_mean_the_same_for_every_value_range(distiller, norm):
    x, y = noise(1, 3, 16, 16), noise(1, 3, 16, 16, seed=1)
    values = []
    for output_range in ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)):
        (term,) = terms(**{distiller: {"norm": norm}})
        term.bind(stage(student=SmallStudent(output_range=output_range)))
        low, high = output_range
        scaled = [low + (image + 1) / 2 * (high - low) for image in (x, y)]
        values.append(term(*(Observation(image, {}) for image in scaled)).item())
    assert values == pytest.approx([values[0]] * 3, rel=1e-4)


def test_terms_of_one_name_are_told_apart_by_number():
    regime, _ = bound(terms=(*terms(pixel={}), *terms(pixel={"norm": "l2"})))
    told = regime.step(batch(targets=False))
    torch.testing.assert_close(told["loss"], told["task"] + told["pixel"] + told["pixel-2"])


@pytest.mark.parametrize("chosen", [{}, {"gka": {}}, {"wavelet": {}}, {"gka": {}, "wavelet": {}}])
def test_terms_that_leave_colours_free_are_refused_without_the_tasks_loss(chosen):
    with pytest.raises(IncompatibleParts, match=r"Add a distiller of whole images \(such as 'pixel'"):
        bound(OfflineRegime(task_weight=0.0), terms=terms(**chosen))


@pytest.mark.parametrize(("targets", "paired"), [(False, True), (True, False)])
def test_without_a_paired_truth_the_task_compares_with_the_teachers_image(targets, paired):
    regime, given = bound(terms=terms(gka={}))
    data = dataclasses.replace(batch(targets=targets), paired=paired)
    student = copy.deepcopy(given.student).observe(data.inputs[MAIN])
    reference = given.teachers[0].observe(data.inputs[MAIN])
    torch.testing.assert_close(regime.step(data)["task"], F.l1_loss(student.image, reference.image).detach())


def test_a_generator_first_task_judges_fresh_images_after_the_generators_step():
    task = Adversarial()
    task.generator_first = True
    regime, given = bound(task=task)
    told = regime.step(batch())
    assert task.order == ["generator", "critic"]
    assert given.student.runs == 2
    assert "critic" in told


@pytest.mark.parametrize(
    ("constant", "factors"),
    [
        (0.5, [1, 1, 1, 0.5]),
        (0.0, [1, 0.75, 0.5, 0.25]),
        (0.25, [1, 1, 2 / 3, 1 / 3]),
        (1.0, [1, 1, 1, 1]),
    ],
)
def test_the_task_says_how_its_family_is_optimised(constant, factors):
    task = Adversarial()
    task.optimisation = Optimisation(learning_rate=1.0, betas=(0.5, 0.9), schedule="constant-linear", constant=constant)
    regime, _ = bound(task=task, learning_rate=0.01, steps=4)
    rates = []
    for seed in range(4):
        regime.step(batch(seed))
        rates.append(regime.state_dict()["optimizer"]["param_groups"][0]["lr"])
    assert rates == pytest.approx([0.01 * factor for factor in factors])
    assert regime.state_dict()["optimizer"]["param_groups"][0]["betas"] == (0.5, 0.9)


def test_a_schedule_that_there_is_not_is_refused():
    task = Adversarial()
    task.optimisation = Optimisation(schedule="stairs")
    with pytest.raises(ContractError, match="schedule='stairs' is unknown"):
        bound(task=task)


def test_a_stage_with_nothing_to_learn_from_or_several_teachers_is_refused():
    with pytest.raises(IncompatibleParts, match="Nothing determines the colors"):
        bound(OfflineRegime(task_weight=0.0), terms=())
    with pytest.raises(IncompatibleParts, match="imitates one teacher, but got 2"):
        bound(teachers=(teacher(), teacher()))


def test_taps_that_only_one_side_offers_are_not_compared():
    with pytest.raises(IncompatibleParts, match="'own' is not offered by both"):
        bound(terms=terms(gka={"taps": ["own"]}))


@pytest.mark.parametrize(
    "options", [{"task_weight": -1.0}, {"task_weight": math.nan}, {"clip_norm": 0.0}, {"clip_norm": math.nan}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(InvalidOption):
        OfflineRegime(**options)


def test_clipping_bounds_the_gradient_of_everything_together():
    regime, given = bound(OfflineRegime(clip_norm=1e-3))
    regime.step(batch())
    norm = torch.stack([parameter.grad.norm() for parameter in given.student.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)

"""The distiller "feature": connectors that follow any subnet by channel ids, train with the student and resume."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gansdk
from gansdk.contracts import MAIN, Batch, Contract, Observation
from gansdk.errors import ContractError, IncompatibleParts, InvalidOption
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.generators.online_teacher import OnlineTeacher
from gansdk.generators.wrapping import ReconstructionTask
from gansdk.interfaces import Stage
from gansdk.registry.discovery import Registry
from gansdk.toolkit.terms import TermSum
from gansdk.training.offline_regime import OfflineRegime
from gansdk_distillers.channel import channel
from gansdk_distillers.connected import Connector, feature_distance
from gansdk_distillers.feature import feature

TAPS = {"stem": "1", "body": "3", "up": "5"}
CONTRACT = Contract(channels_in=3, channels_out=3, size=(8, 8), scale=2)
SMALLER = gansdk.Plan({"0": (0, 2, 5), "2": (1, 3), "4": (0, 2)})
IDS = {"stem": [0, 2, 5], "body": [1, 3], "up": [0, 2]}
WIDTHS = {"stem": 6, "body": 5, "up": 3}
STEPS = 6


def network(seed=0, width=6, body=5):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, body, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(body, 12, 3, padding=1),
            nn.PixelShuffle(2),
            nn.Conv2d(3, 3, 3, padding=1),
        ).eval()


def student(seed=1):
    return ElasticStudent.of(gansdk.wrap(network(seed), contract=CONTRACT, taps=TAPS))


def teacher():
    return FrozenTeacher(network(0, 7, 4), CONTRACT, TAPS)


class OneProcess:
    device = torch.device("cpu")

    def backward(self, loss):
        loss.backward()

    def average_gradients(self, parameters): ...


def terms(*distillers):
    known = Registry()
    return tuple(term for name in distillers for term in known.load("distiller", name)().terms)


def stage(**changes):
    parts = {
        "student": student(),
        "teachers": (teacher(),),
        "task": ReconstructionTask(),
        "steps": STEPS,
        "rng": torch.Generator().manual_seed(0),
        "processes": OneProcess(),
        "terms": terms("feature"),
    }
    return Stage(**{**parts, **changes})


def bound(given, term=None):
    term = term or feature().terms[0]
    term.bind(given)
    return term


def images(seed=0, count=2):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def seen(given, term):
    """What both sides show of the term's taps."""
    taps = term.taps(given.student.taps)
    x = images()
    return given.student.observe(x, taps, image=False), given.teachers[0].observe(x, taps, image=False)


def literal(connector, x, y, ids):
    """Section 5.5 of the facts about GAN Compression, written out: f(x) = Wx + b at every pixel, then mean squares."""
    n, _, h, w = x.shape
    total, count = 0.0, 0
    for image in range(n):
        for i in range(h):
            for j in range(w):
                for out in range(y.shape[1]):
                    value = connector.bias[out]
                    for place, own in enumerate(ids):
                        value = value + connector.weight[out, own] * x[image, place, i, j]
                    total, count = total + (value - y[image, out, i, j]) ** 2, count + 1
    return total / count


@pytest.mark.parametrize("channels", [[0, 1, 2, 3], [1, 3]])
def test_the_distance_is_the_mean_square_behind_a_pointwise_convolution(channels):
    rng = torch.Generator().manual_seed(0)
    connector = Connector(4, 3, rng=rng, device=torch.device("cpu")).double()
    connector.bias.data.normal_(generator=rng)
    x = torch.randn(2, len(channels), 3, 2, generator=rng, dtype=torch.float64)
    y = torch.randn(2, 3, 3, 2, generator=rng, dtype=torch.float64)
    ours = feature_distance(connector(x, torch.tensor(channels)), y)
    torch.testing.assert_close(ours, literal(connector, x, y, channels), rtol=1e-12, atol=0.0)


def test_taps_are_summed_and_connectors_are_as_wide_as_student_and_teacher():
    given = stage()
    term = bound(given)
    weights = {tap: tuple(state["weight"].shape) for tap, state in term.state_dict().items()}
    assert weights == {"stem": (7, 6), "body": (4, 5), "up": (3, 3)}
    shown, target = seen(given, term)
    expected = 0.0
    for tap, state in term.state_dict().items():
        connected = F.conv2d(shown.features[tap], state["weight"][:, :, None, None], state["bias"])
        expected += F.mse_loss(connected, target.features[tap])
    torch.testing.assert_close(term(shown, target), expected, rtol=1e-5, atol=0.0)


def test_initial_weights_are_small_normal_numbers_of_the_stages_generator_and_biases_zero():
    before = torch.get_rng_state()
    rng = torch.Generator().manual_seed(3)
    connector = Connector(200, 300, rng=rng, device=torch.device("cpu")).requires_grad_(False)
    assert float(connector.weight.std()) == pytest.approx(0.02, rel=0.02)
    assert float(connector.weight.mean()) == pytest.approx(0.0, abs=5e-4)
    assert not connector.bias.any()
    again, other = (bound(stage(rng=torch.Generator().manual_seed(seed))).state_dict() for seed in (0, 1))
    first = bound(stage()).state_dict()
    assert torch.equal(first["stem"]["weight"], again["stem"]["weight"])
    assert not torch.equal(first["stem"]["weight"], other["stem"]["weight"])
    assert torch.equal(torch.get_rng_state(), before)


def carved(given):
    return stage(student=given.student.carve(SMALLER))


def active(given):
    given.student.activate(SMALLER)
    return given


@pytest.mark.parametrize("smaller", [carved, active])
def test_a_subnet_reads_and_trains_only_the_columns_of_its_channels(smaller):
    given = smaller(stage())
    term = bound(given)
    shown, target = seen(given, term)
    loss = term(shown, target)
    loss.backward()
    for tap, connector in term._connectors.items():
        assert connector.weight.shape[1] == WIDTHS[tap]
        touched = connector.weight.grad.abs().sum(0) > 0
        assert touched.nonzero().flatten().tolist() == IDS[tap]
    with torch.no_grad():
        for tap, connector in term._connectors.items():
            others = [channel for channel in range(WIDTHS[tap]) if channel not in IDS[tap]]
            connector.weight[:, others] = 99.0
        assert torch.equal(term(shown, target), loss)


def test_carved_and_elastic_student_have_one_loss_and_the_full_one_another():
    given = stage()
    values = []
    for smaller in (lambda: stage(student=given.student.carve(SMALLER)), lambda: active(given)):
        parts = smaller()
        parts.rng.manual_seed(0)
        term = bound(parts)
        values.append(float(term(*seen(parts, term)).detach()))
    given.student.activate(given.student.space.full_plan())
    full = float(term(*seen(given, term)).detach())  # the same term, asked anew which channels are active
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert full != pytest.approx(values[1], rel=1e-3)


def test_zeroed_inactive_channels_of_the_full_student_give_the_subnets_loss():
    given = stage()
    term = bound(given)
    full, target = seen(given, term)
    given.student.activate(SMALLER)
    inside = Observation(None, {tap: full.features[tap][:, ids] for tap, ids in IDS.items()})
    loss = term(inside, target)
    given.student.activate(given.student.space.full_plan())
    masks = {tap: torch.zeros(WIDTHS[tap]).index_fill(0, torch.tensor(ids), 1.0) for tap, ids in IDS.items()}
    masked = Observation(None, {tap: full.features[tap] * masks[tap][:, None, None] for tap in IDS})
    torch.testing.assert_close(term(masked, target), loss, rtol=1e-5, atol=0.0)


def test_connectors_learn_with_the_student_and_follow_subnets_from_step_to_step():
    given = stage()
    regime = OfflineRegime()
    regime.bind(given)
    (term,) = given.terms
    first = [parameter.detach().clone() for parameter in term.parameters()]
    told = []
    for step in range(STEPS):
        given.student.activate(SMALLER if step % 2 else given.student.space.full_plan())
        told.append(float(regime.step(Batch({MAIN: images(step)}))["feature"]))
    assert all(not torch.equal(a, b) for a, b in zip(first, term.parameters(), strict=True))
    assert told[-2] < told[0]


@pytest.mark.parametrize("distillers", [("feature",), ("gka", "feature", "wavelet")])
def test_a_resumed_stage_repeats_a_straight_one_bit_for_bit(distillers):
    def parts(seed=0):
        made = stage(
            student=student().carve(SMALLER),
            terms=terms(*distillers),
            rng=torch.Generator().manual_seed(seed),
        )
        regime = OfflineRegime()
        regime.bind(made)
        return regime, made

    def run(regime, steps):
        return [regime.step(Batch({MAIN: images(step)})) for step in steps]

    (straight, whole), (first, half) = parts(), parts()
    expected = run(straight, range(STEPS))[2:]
    assert {"feature", *distillers} <= set(expected[0])
    run(first, range(2))
    file = io.BytesIO()
    torch.save({"regime": first.state_dict(), "student": half.student.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed, rest = parts(seed=9)
    rest.student.load_state_dict(state["student"])
    resumed.load_state_dict(state["regime"])
    given = run(resumed, range(2, STEPS))
    for before, after in zip(expected, given, strict=True):
        assert all(torch.equal(after[name], before[name]) for name in before)
    for left, right in ((whole.student, rest.student), (whole.terms[-1], rest.terms[-1])):
        assert all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def test_a_term_among_several_teachers_is_bound_to_the_one_it_is_compared_with():
    other = FrozenTeacher(network(2, 9, 8), CONTRACT, TAPS)
    given = stage(teachers=(teacher(), other))
    sum_of = TermSum(given, other)
    assert {tap: len(state["bias"]) for tap, state in sum_of.state_dict()["feature"].items()} == {
        "stem": 9,
        "body": 8,
        "up": 3,
    }


def test_asking_a_learning_teacher_for_its_widths_leaves_it_as_it_was():
    learner = OnlineTeacher(network(), CONTRACT, TAPS, ReconstructionTask())
    before = {name: value.clone() for name, value in learner.module.state_dict().items()}
    assert learner.widths(("body", "stem"), torch.device("cpu")) == {"body": 5, "stem": 6}
    assert all(torch.equal(value, before[name]) for name, value in learner.module.state_dict().items())
    assert learner.module.training


def test_half_precision_features_are_compared_in_float32():
    given = stage()
    term = bound(given)
    shown, target = seen(given, term)
    halves = [Observation(None, {tap: x.half() for tap, x in side.features.items()}) for side in (shown, target)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = term(*halves)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, term(shown, target), rtol=2e-3, atol=0.0)


def test_gradients_reach_student_and_connectors_only():
    given = stage()
    term = bound(given)
    shown, target = seen(given, term)
    leaves = [
        Observation(None, {tap: x.detach().requires_grad_() for tap, x in side.features.items()})
        for side in (shown, target)
    ]
    term(*leaves).backward()
    assert all(x.grad is not None and x.grad.abs().max() > 0 for x in leaves[0].features.values())
    assert all(x.grad is None for x in leaves[1].features.values())
    assert all(parameter.grad is not None for parameter in term.parameters())


def test_networks_without_common_taps_are_refused_and_so_are_unknown_ones():
    strange = FrozenTeacher(network(), CONTRACT, {"elsewhere": "1"})
    with pytest.raises(IncompatibleParts, match="feature compares feature maps, but"):
        OfflineRegime().bind(stage(teachers=(strange,)))
    with pytest.raises(IncompatibleParts, match="'neck' is not offered"):
        OfflineRegime().bind(stage(terms=feature(taps=["neck"]).terms))
    assert list(bound(stage(), feature(taps=["up"]).terms[0]).state_dict()) == ["up"]


def test_taps_of_other_sides_are_refused_instead_of_broadcast():
    with pytest.raises(ContractError, match="equal height and width"):
        feature_distance(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 1, 1))


def test_a_term_that_was_not_bound_says_so():
    with pytest.raises(RuntimeError, match="bind"):
        feature().terms[0](Observation(None, {}), Observation(None, {}))


@pytest.mark.parametrize(("options", "hint"), [({"weight": 0}, "above zero"), ({"taps": "stem"}, "different names")])
def test_options_out_of_range_are_refused(options, hint):
    with pytest.raises(InvalidOption, match=hint):
        feature(**options)
    assert feature(weight=10).terms[0].weight == 10.0
    assert not feature().terms[0].anchors_low_frequencies


@pytest.mark.parametrize("made", [feature, channel])
def test_maps_of_networks_whose_values_run_to_255_weigh_like_those_to_1(made):
    def value(peak, factor):
        contract = replace(CONTRACT, output_range=(0.0, peak))
        own = ElasticStudent.of(gansdk.wrap(network(1), contract=contract, taps=TAPS))
        given = stage(student=own, teachers=(FrozenTeacher(network(0, 7, 4), contract, TAPS),))
        term = bound(given, made().terms[0])
        sides = seen(given, term)
        larger = [Observation(None, {tap: factor * maps for tap, maps in side.features.items()}) for side in sides]
        return term(*larger)

    assert value(1.0, 1.0) > 0
    torch.testing.assert_close(value(255.0, 127.5), value(1.0, 1.0))

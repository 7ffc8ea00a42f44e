"""OMGD's regime: who learns when and from what, against the published loop written out."""

import copy
import io
import math
from dataclasses import replace
from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import gansdk
from gansdk.contracts import MAIN, Batch, Pairing
from gansdk.errors import GansdkWarning, IncompatibleParts, InvalidOption, MissingData, Unsupported
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.interfaces import Distiller, Stage, Training
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter
from gansdk.training.processes import Processes
from gansdk_adapters.networks.discriminators import PatchDiscriminator, PatchSizes, share_stages
from gansdk_distillers.omgd.distiller import omgd
from gansdk_distillers.omgd.regime import BLOCKS, OnlineTeachers, _Blocks
from gansdk_distillers.ssim import moments, similarity
from gansdk_distillers.wavelet import wavelet

SIDE = 32
RATE = 2e-3
PIX2PIX = {"name": "pix2pix", "discriminator_width": 2, "size": [SIDE, SIDE]}
CYCLEGAN = {"name": "cyclegan", "discriminator_width": 2, "size": [SIDE, SIDE]}
SMALL = {"perceptual": None, "style_weight": 0, "feature_weight": 0}
PUBLISHED = {**SMALL, "wide": 2.0, "deep": 1.0}


def generator(adapter=PIX2PIX, architecture="mobile-resnet", **sizes):
    if architecture != "unet":
        sizes.setdefault("blocks", 3)
    family = open_adapter(adapter)
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        module = family.create(architecture, **{"width": 2, **sizes})
    return open_generator(module.eval(), family)


def images(seed: int, count: int = 2) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(count, 3, SIDE, SIDE, generator=rng) * 2 - 1 for _ in range(2))
    return x, y


def batch(seed: int = 0, *, paired: bool = True) -> Batch:
    x, y = images(seed)
    return Batch({MAIN: x}, {MAIN: y}, paired=paired)


class Pairs(gansdk.DataSource):
    pairing = Pairing.PAIRED

    def train_batch(self, size, *, seed, step):
        return batch(step % 997)

    def images(self, split):
        yield batch(9999)


def bound(distiller: Distiller, given=None, *, steps: int = 12, source=None, extra=()) -> tuple[OnlineTeachers, Stage]:
    """The regime as a run binds it: teachers from the seed, a student of the whole generator."""
    given = given or generator()
    regime = distiller.regime
    regime.source(source or Pairs(), given)
    reference = FrozenTeacher(given.module, given.contract, given.taps)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        teachers = regime.teachers(reference, given.adapter)
    stage = Stage(
        student=ElasticStudent.of(given),
        teachers=teachers,
        task=given.adapter.task(given.module),
        steps=steps,
        rng=torch.Generator().manual_seed(0),
        processes=Processes("cpu"),
        learning_rate=RATE,
        terms=(*distiller.terms, *extra),
    )
    regime.bind(stage)
    return regime, stage


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def parts(stage: Stage) -> dict[str, nn.Module]:
    """Everything that a step may change."""
    found = {"student": stage.student.module}
    for role, teacher in zip(("wider", "deeper"), stage.teachers, strict=False):
        found[role] = teacher.module
        found[f"critic of {role}"] = teacher.task.network
    return found


def changed(stage: Stage, before: dict[str, dict[str, Tensor]]) -> set[str]:
    return {
        name
        for name, network in parts(stage).items()
        if any(not torch.equal(tensor, before[name][key]) for key, tensor in network.state_dict().items())
    }


def reread(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# The published loop (section A4), written out.


def by_hand(regime, stage, steps: int, every: int, channel_weight: float) -> tuple[dict[str, nn.Module], list[float]]:
    nets = {name: copy.deepcopy(network).train() for name, network in parts(stage).items()}
    for index in range(8):  # three of five stages; copies made one by one share nothing any more
        nets["critic of deeper"].model[index] = nets["critic of wider"].model[index]
    connectors = copy.deepcopy([term for term in stage.terms if term.name == "channel"])
    stems = dict(connectors[0]._connectors) if connectors else {}

    def adam(*networks, total):
        unique = {id(p): p for network in networks for p in network.parameters()}
        optimizer = torch.optim.Adam(unique.values(), lr=RATE, betas=(0.5, 0.999))
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, 2 * (total - i) / total))

    student = adam(nets["student"], *stems.values(), total=stage.steps)
    teachers = {role: adam(nets[role], total=stage.steps // every) for role in ("wider", "deeper")}
    critic = adam(nets["critic of wider"], nets["critic of deeper"], total=stage.steps // every)
    paths = stage.student._paths
    losses = []

    def seen(net, x):
        maps = {}
        hooks = [
            net.get_submodule(path).register_forward_hook(lambda m, i, o, tap=tap: maps.update({tap: o}))
            for tap, path in paths.items()
        ]
        image = net(x)
        for hook in hooks:
            hook.remove()
        return image, maps

    for number in range(1, steps + 1):
        x, y = images(number)
        s, s_maps = seen(nets["student"], x)
        (tw, w_maps), td = seen(nets["wider"], x), nets["deeper"](x)
        if number % every == 0:
            for part in (critic, *teachers.values()):
                part[0].zero_grad()
            d_loss = 0.0
            for role, image in (("wider", tw), ("deeper", td)):
                judge = nets[f"critic of {role}"]
                real, fake = judge(torch.cat([x, y], 1)), judge(torch.cat([x, image.detach()], 1))
                d_loss = d_loss + 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
            d_loss.backward()
            kept = {p: p.grad.clone() for p in critic[0].param_groups[0]["params"]}
            for role, image in (("wider", tw), ("deeper", td)):
                judge = nets[f"critic of {role}"]
                (-judge(torch.cat([x, image], 1)).mean() + 100 * (image - y).abs().mean()).backward()
            for p, gradient in kept.items():
                p.grad = gradient
            for optimizer, schedule in (critic, *teachers.values()):
                optimizer.step()
                schedule.step()
        loss = torch.zeros(())
        for image in (tw.detach(), td.detach()):
            loss = loss + 10 * (1 - similarity(s, image, moments(s), moments(image)))
            loss = loss + 1e-5 * (s.diff(dim=2).abs().sum() + s.diff(dim=3).abs().sum())
        for tap, connector in stems.items():
            z = F.relu(connector(s_maps[tap], torch.arange(s_maps[tap].shape[1]))).mean((2, 3))
            loss = loss + channel_weight * (z - w_maps[tap].detach().mean((2, 3))).square().mean()
        student[0].zero_grad()
        loss.backward()
        student[0].step()
        student[1].step()
        losses.append(loss.item())
    return nets, losses


@pytest.mark.parametrize("architecture", ["mobile-resnet", "unet"])
def test_steps_are_those_of_the_published_loop(architecture):
    sizes = {"downs": 5, "dropout": None} if architecture == "unet" else {"blocks": 3}
    given = generator(architecture=architecture, **sizes)
    regime, stage = bound(omgd(**PUBLISHED, student_steps=2, channel_weight=7.0), given)
    expected, losses = by_hand(regime, stage, 5, 2, 7.0)
    for number in range(1, 6):
        told = regime.step(batch(number))
        assert told["loss"].item() == pytest.approx(losses[number - 1], rel=1e-4)
    x, y = images(99)
    for name, network in parts(stage).items():  # what they do: biases in front of instance norms drift by rounding
        shown = torch.cat([x, y], 1) if "critic" in name else x
        first = expected[name](shown)
        difference = (network(shown) - first).norm() / first.norm()
        assert difference.item() < 5e-3, name


# Acceptance list F7, items 2 to 6.


def test_teachers_and_critic_stand_still_but_for_every_third_step_and_the_student_moves_in_each():
    regime, stage = bound(omgd(**PUBLISHED, student_steps=3))
    for number in range(1, 7):
        before = {name: weights(network) for name, network in parts(stage).items()}
        told = regime.step(batch(number))
        everybody = set(before)
        assert changed(stage, before) == (everybody if number % 3 == 0 else {"student"})
        assert ("wider/loss" in told) == ("deeper/d/real" in told) == (number % 3 == 0)
        assert all(value.ndim == 0 and not value.requires_grad for value in told.values())


def test_the_students_step_does_not_depend_on_the_truth():
    steps = []
    for shuffled in (False, True):
        regime, stage = bound(omgd(**PUBLISHED))
        x, y = images(1)
        regime.step(Batch({MAIN: x}, {MAIN: y.flip(0) if shuffled else y}))
        steps.append((weights(stage.student.module), weights(stage.teachers[0].module)))
    (first, teacher), (second, other) = steps
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in teacher.items())


def test_the_students_loss_leaves_no_gradient_in_teachers_and_critic():
    regime, stage = bound(omgd(**PUBLISHED, student_steps=2))
    regime.step(batch(1))
    for name, network in parts(stage).items():
        assert (name == "student") == any(p.grad is not None for p in network.parameters())


def test_without_channel_distillation_there_are_no_connectors():
    regime, stage = bound(omgd(**PUBLISHED, channel_weight=0))
    assert [term.name for term in stage.terms] == ["ssim", "tv"]
    assert list(regime._terms.parameters()) == []
    assert regime._terms.taps == ()
    regime, stage = bound(omgd(**PUBLISHED))
    assert len(list(regime._terms.parameters())) == 3 * len(stage.student.taps)


# F7, item 6, and section A2.5: only what is used is allocated.
@pytest.mark.parametrize(("shared", "count"), [(0, 2 * 11_040_641), (3, 19_446_658), (4, 11_057_026), (5, 11_040_641)])
def test_partially_shared_discriminators_have_the_published_sizes(shared, count):
    with torch.device("meta"):
        networks = [PatchDiscriminator(PatchSizes(channels_in=6, width=128)) for _ in range(2)]
    share_stages(networks, shared)
    assert sum(p.numel() for p in nn.ModuleList(networks).parameters()) == count
    assert [network(torch.empty(1, 6, 64, 64, device="meta")).shape[1:] for network in networks] == [(1, 6, 6)] * 2


def test_the_wider_and_deeper_teachers_are_the_published_ones():
    given = open_adapter("pix2pix")
    with torch.device("meta"):
        student = given.create("unet", width=16, dropout=None)
        wide, deep = given.rebuild(student, width=4.0), given.rebuild(student, deeper=True)
    counts = [sum(p.numel() for p in network.parameters()) for network in (student, wide, deep)]
    assert counts == [3_404_451, 54_413_955, 44_171_939]


def test_teachers_share_their_critic_and_start_from_different_branches():
    for share, same in ((0, 0), (3, 3), (None, 3), (5, 5)):
        _, stage = bound(omgd(**PUBLISHED, share=share))
        first, second = (
            [part for part in teacher.task.network.model if isinstance(part, nn.Conv2d)] for teacher in stage.teachers
        )
        assert [a is b for a, b in zip(first, second, strict=True)] == [True] * same + [False] * (5 - same)
        assert not any(torch.equal(a.weight, b.weight) for a, b in list(zip(first, second, strict=True))[same:])
    with pytest.raises(InvalidOption, match="0 to 5 stages"):
        bound(omgd(**PUBLISHED, share=6))
    with pytest.raises(InvalidOption, match=">= 0"):
        omgd(**PUBLISHED, share=-1)


# Teachers.


def test_a_pruned_students_wider_teacher_is_the_given_generator_fresh_or_warm():
    given = generator(width=8)
    for warm in (False, True):
        _, stage = bound(omgd(**SMALL, warm=warm), given)
        wide, deep = (teacher.module for teacher in stage.teachers)
        assert wide.sizes == replace(given.module.sizes, dropout=wide.sizes.dropout)
        assert deep.sizes.deep
        assert deep.sizes.widths == (2, 4, 8, 4, 2)
        same = [torch.equal(a, b) for a, b in zip(wide.parameters(), given.module.parameters(), strict=True)]
        assert all(same) if warm else not all(same)
        assert all(p.requires_grad for p in wide.parameters())


def test_one_teacher_alone_will_do():
    for options, names in (({"deep": None}, {"wider"}), ({"wide": None}, {"deeper"})):
        regime, stage = bound(omgd(**SMALL, **options))
        assert len(stage.teachers) == 1
        told = regime.step(batch(1))
        assert {name.split("/")[0] for name in told if "/" in name} == names


def test_dropout_of_teachers_is_off():
    _, stage = bound(omgd(**PUBLISHED), generator(architecture="resnet", dropout=0.5))
    for teacher in stage.teachers:
        x, _ = images(1)
        assert torch.equal(teacher.observe(x).image, teacher.observe(x).image)


def test_running_statistics_of_teachers_move_in_every_step():
    regime, stage = bound(omgd(**PUBLISHED, student_steps=3), generator(norm="batch"))
    before = {name: weights(network) for name, network in parts(stage).items()}
    regime.step(batch(1))
    after = stage.teachers[1].module.state_dict()
    moved = {key for key, tensor in after.items() if not torch.equal(tensor, before["deeper"][key])}
    assert moved
    assert all("running" in key or "num_batches" in key for key in moved)


def test_a_teacher_runs_once_a_step_whether_it_learns_or_not():
    regime, stage = bound(omgd(**PUBLISHED, student_steps=2))
    calls = []
    for role in ("wider", "deeper", "student"):
        parts(stage)[role].register_forward_hook(lambda *_, role=role: calls.append(role))
    for number in (1, 2):
        calls.clear()
        regime.step(batch(number))
        assert sorted(calls) == ["deeper", "student", "wider"]


def test_gaugans_critics_are_shared_whole_or_not_at_all():
    family = open_adapter({"name": "gaugan", "perceptual": None, "discriminator_width": 2})
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        module = family.create("mobile", width=2, labels=4, hidden=4)
    for shared, same in ((None, False), (0, False), (5, True)):
        first, second = family.learners([module, module], shared=shared)
        assert (first.task.network is second.task.network) is same
    with pytest.raises(InvalidOption, match="can share 0 or 5 stages, but 3 were requested"):
        family.learners([module, module], shared=3)


# Terms of other distillers, resuming, refusals.


def test_terms_of_other_distillers_are_added_for_every_teacher_and_features_for_the_wider_one():
    distiller = omgd(**PUBLISHED)
    with_waves, _ = bound(distiller, extra=wavelet(weight=2.0).terms)
    plain, stage = bound(omgd(**PUBLISHED))
    x, _ = images(1)
    s = stage.student.observe(x).image
    expected = sum(
        wavelet().terms[0](*(gansdk.Observation(image, {}) for image in (s, teacher.module(x)))).detach()
        for teacher in stage.teachers
    )
    told, before = with_waves.step(batch(1)), plain.step(batch(1))
    torch.testing.assert_close(told["wavelet"], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(told["loss"], before["loss"] + 2.0 * expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("schedule", ["steps", "blocks"])
def test_a_resumed_training_repeats_a_straight_one_bit_for_bit(schedule, stop):
    given = generator() if schedule == "steps" else generator(CYCLEGAN, "resnet", blocks=1)
    options = {**SMALL, "wide": 2.0, "schedule": schedule, "student_steps": 2}

    def state(regime, stage):
        return {
            "regime": regime.state_dict(),
            "teachers": [teacher.state_dict() for teacher in stage.teachers],
            "student": stage.student.state_dict(),
        }

    straight, first, resumed = (bound(omgd(**options), given) for _ in range(3))
    paired = schedule == "steps"
    for number in range(1, 6):
        straight[0].step(batch(number, paired=paired))
        if number <= stop:
            first[0].step(batch(number, paired=paired))
    saved = reread(state(*first))
    resumed[1].student.load_state_dict(saved["student"])
    resumed[0].load_state_dict(saved["regime"])
    for teacher, of_teacher in zip(resumed[1].teachers, saved["teachers"], strict=True):
        teacher.load_state_dict(of_teacher)
    for number in range(stop + 1, 6):
        resumed[0].step(batch(number, paired=paired))

    def flat(value, name=""):
        if isinstance(value, dict):
            return {k: v for key, item in value.items() for k, v in flat(item, f"{name}/{key}").items()}
        if isinstance(value, (list, tuple)):
            return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{name}/{i}").items()}
        return {name: value}

    own, other = (flat(state(*part)) for part in (straight, resumed))
    assert own.keys() == other.keys()
    for name, value in own.items():
        assert torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name], name


class Inputs(Pairs):
    pairing = Pairing.INPUTS_ONLY


class Unpaired(Pairs):
    pairing = Pairing.UNPAIRED


def test_what_cannot_work_is_refused():
    given = generator()
    with pytest.raises(MissingData, match=r"only inputs.*distiller=\['ssim', 'perceptual', 'tv', 'channel'\]"):
        bound(omgd(**SMALL), source=Inputs())
    with pytest.raises(MissingData, match="data=None"):
        omgd(**SMALL).regime.source(None, given)
    for options, words in (
        ({"wide": None, "deep": None}, "no teacher"),
        ({"warm": True, "wide": 4.0}, "must be 1"),
        ({"student_steps": 0}, "frozen teacher, leave out 'omgd'"),
        ({"student_steps": 1.5}, "integer"),
        ({"schedule": "epochs"}, "'steps', 'blocks'"),
        ({"wide": -1.0}, "wide=-1.0"),
        ({"ssim_weight": -1}, "from zero"),
        ({"channel_reduction": "max"}, "reduction"),
        ({"channel_weight": 0, "channel_reduction": "max"}, "channel_reduction"),
        ({"style_weight": -1}, "style_weight"),
        ({"select": "kid"}, "function of a network"),
        ({"wide": 0}, "to do without, give None"),
    ):
        with pytest.raises(InvalidOption, match=words):
            omgd(**{**SMALL, **options})
    with pytest.raises(IncompatibleParts, match="colors and brightness"):
        bound(omgd(**SMALL, ssim_weight=0))
    deep = given.adapter.rebuild(given.module, deeper=True)
    with pytest.raises(Unsupported, match="already a deeper teacher"):
        bound(omgd(**SMALL), open_generator(deep, given.adapter))
    with pytest.raises(InvalidOption, match="share no stages"):
        bound(omgd(**SMALL, share=3, schedule="steps"), generator(CYCLEGAN))
    with pytest.raises(InvalidOption, match="share needs two teachers"):
        bound(omgd(**SMALL, share=3, deep=None))
    for width in (1e9, 1e300):
        with pytest.raises(InvalidOption, match=r"wide=1e.* times .* cannot be built|wide=1000000000.0 times"):
            bound(omgd(**SMALL, wide=width))
    with pytest.raises(InvalidOption, match="second teacher, but training in blocks has one"):
        bound(omgd(**SMALL, deep=0.5, schedule="blocks"))
    with pytest.raises(InvalidOption, match="two teachers side by side"):
        bound(omgd(**SMALL, share=3), generator(CYCLEGAN), source=Unpaired())
    with pytest.raises(InvalidOption, match="best teacher of blocks"):
        bound(omgd(**SMALL, select=lambda network: 0.0))
    with pytest.warns(GansdkWarning, match="but the run has only 5"):
        bound(omgd(**SMALL, student_steps=6), steps=5)


# Blocks (section A5).


def spans(plan: _Blocks, steps: int) -> list[tuple[int, int]]:
    """(teacher's, student's) steps of every block, and they begin with the teacher's."""
    turns = [(teacher, len(list(run))) for teacher, run in groupby(range(1, steps + 1), plan.teaches)]
    assert [teacher for teacher, _ in turns] == [place % 2 == 0 for place in range(len(turns))]
    lengths = [length for _, length in turns] + [0] * (len(turns) % 2)
    return list(zip(lengths[::2], lengths[1::2], strict=True))


def test_blocks_are_as_many_as_asked_for():
    assert spans(_Blocks(1000, 4, 20), 1000) == 20 * [(10, 40)]
    assert spans(_Blocks(1000, 4, 5000), 1000) == 200 * [(1, 4)]
    assert len(spans(_Blocks(1000, 4, 34), 1000)) == 34


@given(st.integers(1, 3000), st.integers(1, 9), st.integers(1, 60))
def test_steps_that_do_not_divide_evenly_are_spread_over_all_blocks(steps, ratio, most):
    plan = _Blocks(steps, ratio, most)
    found = spans(plan, steps)
    assert len(found) == plan.count == max(1, min(most, steps // (1 + ratio)))
    teacher, student = (sum(column) for column in zip(*found, strict=True))
    assert (teacher, student) == (plan.taught, steps - plan.taught)
    assert teacher == max(1, steps // (1 + ratio))
    for column in zip(*found, strict=True):
        assert max(column) - min(column) <= 2
    assert [step for step in range(1, steps + 1) if plan.ends(step)] == [
        sum(map(sum, found[:block])) + found[block][0] for block in range(len(found))
    ]


def test_unpaired_images_make_blocks_of_one_wider_teacher_and_then_the_student():
    given = generator(CYCLEGAN, "resnet", blocks=1)
    steps = 3 * BLOCKS * 5
    regime, stage = bound(omgd(**SMALL), given, steps=steps, source=Unpaired())
    (teacher,) = stage.teachers
    assert set(teacher.networks()) == {"A2B", "B2A"}
    pattern = "".join("T" if regime._plan.teaches(step) else "s" for step in range(1, steps + 1))
    assert pattern == ("TTT" + "s" * 12) * BLOCKS
    frozen = regime._frozen.networks()[MAIN]
    for number in range(1, 20):
        before = weights(stage.student.module), weights(teacher.networks()["A2B"]), weights(frozen)
        told = regime.step(batch(number, paired=False))
        after = weights(stage.student.module), weights(teacher.networks()["A2B"]), weights(frozen)
        moved = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in zip(before, after, strict=True)]
        if pattern[number - 1] == "T":
            assert moved == [False, True, number % 15 == 3]
            assert set(told) >= {"wider/loss", "wider/d/A2B"}
            assert "loss" not in told
        else:
            assert moved == [True, False, False]
            assert set(told) == {"loss", "ssim", "tv", "channel"}
    assert all(torch.equal(tensor, after[2][name]) for name, tensor in after[1].items())


@pytest.mark.filterwarnings("ignore:All 1 steps train the teacher")
@pytest.mark.parametrize(("steps", "pattern"), [(1, "T"), (4, "Tsss"), (7, "Tssssss"), (11, "TssssTsssss")])
def test_a_short_run_has_fewer_blocks_and_leaves_the_rest_to_the_student(steps, pattern):
    regime, _ = bound(omgd(**SMALL), generator(CYCLEGAN, "resnet", blocks=1), steps=steps, source=Unpaired())
    assert "".join("T" if regime._plan.teaches(step) else "s" for step in range(1, steps + 1)) == pattern


def test_the_best_teacher_so_far_is_kept_by_the_users_measure():
    scores = iter([3.0, 5.0, 1.0])
    asked = []

    def measure(network):
        asked.append(weights(network))
        return next(scores)

    given = generator(CYCLEGAN, "resnet", blocks=1)
    regime, _ = bound(omgd(**SMALL, student_steps=1, select=measure), given, steps=6, source=Unpaired())
    kept = []
    for number in range(1, 7):
        regime.step(batch(number, paired=False))
        if number % 2 == 0:
            kept.append(weights(regime._frozen.networks()[MAIN]))
    assert len(asked) == 3
    for own, expected in zip(kept, (asked[0], asked[0], asked[2]), strict=True):
        assert all(torch.equal(tensor, expected[name]) for name, tensor in own.items())
    assert regime.state_dict()["best"] == 1.0


def test_a_measure_that_is_not_a_number_is_never_the_best():
    scores = iter([float("nan"), 2.0, float("nan"), 1.0])
    given = generator(CYCLEGAN, "resnet", blocks=1)
    asked = {**SMALL, "student_steps": 1, "select": lambda network: next(scores)}
    regime, _ = bound(omgd(**asked), given, steps=8, source=Unpaired())
    best = []
    for number in range(1, 9):
        regime.step(batch(number, paired=False))
        best.append(regime.state_dict()["best"])
    assert best == [math.inf, math.inf, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0]


@pytest.mark.parametrize("value", ["best", None, torch.zeros(2)])
def test_a_measure_that_returns_no_number_is_refused(value):
    asked = {**SMALL, "student_steps": 1, "select": lambda network: value}
    regime, _ = bound(omgd(**asked), generator(CYCLEGAN, "resnet", blocks=1), steps=2, source=Unpaired())
    with pytest.raises(InvalidOption, match="select must return a number, lower is better, but returned"):
        regime.step(batch(1, paired=False))


def test_a_cyclegan_shows_what_it_learnt_from_and_learns_as_before():
    given = generator(CYCLEGAN, "resnet", blocks=1)
    learners = [given.adapter.learner(given.module) for _ in range(2)]
    learners[1] = copy.deepcopy(learners[0])
    for learner in learners:
        rng = torch.Generator().manual_seed(0)
        learner.bind(Training(steps=4, rng=rng, processes=Processes("cpu"), learning_rate=RATE))
    data = batch(1, paired=False)
    expected = learners[0].observe(data.inputs[MAIN], ["stem"])
    shown, told = learners[0].teach(data, ["stem"])
    assert torch.equal(shown[MAIN].image, expected.image)
    assert torch.equal(shown[MAIN].features["stem"], expected.features["stem"])
    assert not shown[MAIN].image.requires_grad
    again = learners[1].learn(data)
    assert all(torch.equal(value, again[name]) for name, value in told.items())

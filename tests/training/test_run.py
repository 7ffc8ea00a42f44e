import math

import pytest
import torch
from torch import nn

import gansdk
from gansdk.contracts import MAIN, Batch, Contract, Pairing
from gansdk.errors import GansdkWarning, TrainingDiverged
from gansdk.events import StageStarted, StepDone
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.generators.joint import source_of, student_of, teacher_of, together
from gansdk.generators.wrapping import ReconstructionTask
from gansdk.interfaces import PROBE_STEP, DataSource, Regime
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter
from gansdk.training.loop import Loop
from gansdk.training.offline_regime import OfflineRegime
from gansdk.training.processes import Processes
from gansdk.training.run import CompressionRun
from gansdk.training.run_folder import RunFolder
from gansdk_distillers.data_free.regime import DataFree
from gansdk_distillers.omgd.regime import OnlineTeachers

CONTRACT = Contract(channels_in=3, channels_out=3, size=(8, 8))


class Waves(DataSource):
    """Smooth pictures made from their position alone; what they are mapped to is their negative."""

    pairing = Pairing.PAIRED

    def __init__(self, *, targets: bool = True, held_out: int = 2) -> None:
        self.asked: list[tuple[int, int, int]] = []
        self.targets = targets
        self.held_out = held_out

    def train_batch(self, size, *, seed, step):
        self.asked.append((size, seed, step))
        return self._batch(torch.Generator().manual_seed(seed * 1000 + step % 997), size)

    def images(self, split):
        for number in range(self.held_out):
            yield self._batch(torch.Generator().manual_seed(10**6 + number), 1)

    def _batch(self, rng, size):
        phase = 6 * torch.rand(size, 3, 1, 1, generator=rng)
        x = torch.sin(phase + torch.linspace(0, 3, 8).view(1, 1, 8, 1) + torch.linspace(0, 2, 8))
        return Batch({MAIN: x}, {MAIN: -x} if self.targets else {})


class Scripted(Regime):
    """A regime whose losses are given; it moves one weight by one in every step."""

    def __init__(self, losses) -> None:
        self.losses = list(losses)

    def bind(self, stage):
        self.stage = stage
        self.steps = []

    def step(self, batch):
        loss = self.losses[len(self.steps)]
        self.steps.append(batch)
        with torch.no_grad():
            next(self.stage.student.parameters()).view(-1)[0] = math.inf if loss == "broken weight" else 1.0
        return {"loss": torch.tensor(1.0 if loss == "broken weight" else loss), "other": torch.tensor(2.0)}


def network() -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)).eval()


def started(regime=None, source=None, folder=None, scored_on=(), **changes) -> CompressionRun:
    generator = gansdk.wrap(network(), contract=CONTRACT)
    student = ElasticStudent.of(generator)
    teacher = FrozenTeacher(generator.module, CONTRACT, generator.taps)
    settings = {"seed": 0, "batch_size": 3, "observers": (), **changes}
    loop = Loop(source=source, processes=Processes("cpu"), folder=RunFolder(folder, {}, resume="auto"), **settings)
    run = CompressionRun(
        loop,
        generator=generator,
        student=student,
        teacher=teacher,
        teachers=(teacher,),
        task=ReconstructionTask(),
        regime=regime or OfflineRegime(),
        terms=(),
        learning_rate=1e-2,
        scored_on=scored_on,
    )
    run.enter("distil", student)
    return run


def test_every_step_asks_for_the_batch_of_its_number():
    source = Waves()
    started(source=source, seed=5).distil(3)
    assert source.asked == [(3, 5, 0), (3, 5, 1), (3, 5, 2)]


def test_probe_batches_are_single_images_that_no_training_sees():
    source = Waves()
    batches = started(source=source, seed=5).probe_batches(2)
    assert [batch.inputs[MAIN].shape for batch in batches] == [(1, 3, 8, 8)] * 2
    assert source.asked == [(1, 5, PROBE_STEP), (1, 5, PROBE_STEP + 1)]
    assert started(source=None).probe_batches(2) is None


def test_held_out_images_are_read_once_for_all_scores():
    source = Waves(held_out=3)
    run = started(source=source)
    first = run.score(run.student.space.full_plan())
    source.held_out = 0
    assert run.scored_images == 3
    assert run.score(run.student.space.full_plan()) == first
    assert started(source=None).scored_images == 0


class Folders(Waves):
    """Scored on other images than a search looks at, but for `shared` of them."""

    def __init__(self, shared: int) -> None:
        super().__init__(targets=False)
        self.shared = shared

    def images(self, split):
        first = 10**6 if split == "search" else 10**6 + self.held_out - self.shared
        for number in range(self.held_out):
            yield self._batch(torch.Generator().manual_seed(first + number), 1)


@pytest.mark.parametrize("shared", [1, 2])
def test_subnets_compared_on_images_that_the_student_is_scored_on_are_warned_about(shared):
    run = started(source=Folders(shared), scored_on=[Folders(0), Folders(shared)])
    with pytest.warns(GansdkWarning, match="images that the student is scored on too"):
        assert run.scored_images == 2
    run.score(run.student.space.full_plan())  # once is enough; warnings are errors here


def test_subnets_compared_on_images_of_their_own_need_no_warning():
    run = started(source=Folders(0), scored_on=[Folders(0)])
    assert run.score(run.student.space.full_plan()) == 0.0


def test_images_to_search_on_are_counted_by_the_route_with_the_fewest():
    family = open_adapter({"name": "cyclegan", "size": [8, 8]})
    parts = {route: open_generator(family.create(width=2, blocks=1), family) for route in ("A2B", "B2A")}
    joint = together(parts)
    source = source_of(Uneven(), joint)
    loop = Loop(
        source=source, processes=Processes("cpu"), folder=RunFolder(None, {}, resume="auto"), seed=0, batch_size=1
    )
    run = CompressionRun(
        loop,
        generator=joint,
        student=student_of(joint),
        teacher=teacher_of(joint),
        teachers=(),
        task=ReconstructionTask(),
        regime=OfflineRegime(),
        terms=(),
        learning_rate=1e-2,
    )
    assert run.scored_images == 1


class Uneven(Waves):
    """Two domains, of which three images and one are held out."""

    pairing = Pairing.UNPAIRED

    def images(self, split):
        for number in range(3):
            yield Batch(self._batch(torch.Generator().manual_seed(number), 1).inputs, {}, paired=False)

    def references(self, split):
        yield Batch({}, self._batch(torch.Generator().manual_seed(9), 1).targets, paired=False)


def test_notes_are_what_earlier_starts_of_the_run_noted(tmp_path):
    run = started(source=Waves(), folder=tmp_path)
    assert run.notes("scores") == []
    assert run.note("scores", {"a": 1.5}) == {"a": 1.5}
    assert started(source=Waves(), folder=tmp_path).notes("scores") == [{"a": 1.5}]
    assert started(source=Waves()).notes("scores") == []


def test_results_of_one_process_come_in_order_and_only_when_asked_for():
    asked = []
    results = started(source=Waves()).map(lambda item: asked.append(item) or item**2, [3, 1, 2])
    assert asked == []
    assert next(results) == 9
    assert asked == [3]
    assert list(results) == [1, 4]


def test_what_is_asked_before_a_step_is_asked_once_for_every_step():
    asked = []
    started(Scripted([1.0] * 4), Waves()).distil(4, before_step=asked.append)
    assert asked == [0, 1, 2, 3]


def test_metrics_are_told_and_kept_as_means_over_intervals():
    told = []
    run = started(Scripted([float(i % 2) for i in range(100)]), Waves(), observers=[told.append])
    run.distil(100)
    assert [row["step"] for row in run.loop.history] == [float(step) for step in range(2, 101, 2)]
    assert all(row == {"stage": 0.0, "step": row["step"], "loss": 0.5, "other": 2.0} for row in run.loop.history)
    assert told[0] == StageStarted(stage="distil-0", steps=100)
    steps = [event for event in told if isinstance(event, StepDone)]
    assert [event.step for event in steps] == list(range(2, 101, 2))
    assert all(event.metrics == {"loss": 0.5, "other": 2.0} for event in steps)
    assert all(event.wait_s >= 0 and event.rate > 0 for event in steps)


def test_an_interval_that_is_not_full_is_told_at_the_end():
    run = started(Scripted([1.0] * 99), Waves())
    run.distil(99)
    assert [row["step"] for row in run.loop.history][-2:] == [98.0, 99.0]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_training_and_names_it(loss):
    with pytest.raises(TrainingDiverged, match="loss is no longer finite at step 3 of 4"):
        started(Scripted([1.0, 1.0, loss, 1.0]), Waves()).distil(4)


class Faulty(Scripted):
    """A regime with a summand that is no number."""

    def step(self, batch):
        return {**super().step(batch), "loss": torch.tensor(math.nan), "perceptual": torch.tensor(math.nan)}


def test_of_a_loss_that_never_was_finite_the_summand_is_named_and_what_it_is_computed_from():
    with pytest.raises(TrainingDiverged, match=r"^perceptual is no longer finite.*If it never was.*weights and images"):
        started(Faulty([1.0, 1.0]), Waves()).distil(2)


def test_a_loss_that_grew_tenfold_and_stayed_there_stops_the_training():
    regime = Scripted([1.0] * 8 + [11.0] * 32)
    with pytest.raises(TrainingDiverged, match="grew from 1 to 11 by step 32 of 40"):
        started(regime, Waves()).distil(40)


def test_in_long_trainings_intervals_are_long_enough_and_three_of_them_say_that_the_loss_grew():
    regime = Scripted([1.0] * 10 + [11.0] * 390)
    with pytest.raises(TrainingDiverged, match="grew from 1 to 11 by step 40 of 400"):
        started(regime, Waves()).distil(400)


def test_a_first_step_on_an_easy_image_is_no_sign_that_the_loss_grew():
    losses = [0.001, *[0.3, 0.5, 0.05, 0.4, 0.2] * 8]
    run = started(Scripted(losses), Waves())
    run.distil(len(losses))
    assert len(run.loop.history) == len(losses)


def test_whether_the_loss_grew_is_the_same_after_a_kill(tmp_path):
    losses = [1.0] * 8 + [11.0] * 32

    class Killed(Exception):
        pass

    def kill(step):
        if step == 30:
            raise Killed

    with pytest.raises(Killed):
        started(Scripted(losses), Waves(), folder=tmp_path).distil(40, before_step=kill)
    with pytest.raises(TrainingDiverged, match="grew from 1 to 11 by step 32 of 40"):
        started(Scripted(losses[30:]), Waves(), folder=tmp_path).distil(40)


def test_a_loss_may_grow_where_the_regime_says_so_but_not_beyond_numbers():
    regime = Scripted([1.0, 11.0, 110.0, 1100.0, math.inf])
    regime.loss_may_grow = True
    with pytest.raises(TrainingDiverged, match="loss is no longer finite at step 5 of 5"):
        started(regime, Waves()).distil(5)
    assert OnlineTeachers.loss_may_grow
    assert DataFree.loss_may_grow
    assert not OfflineRegime.loss_may_grow


@pytest.mark.parametrize(
    "losses",
    [
        [1.0] * 8 + [*[11.0] * 23, 1.0] * 2,
        [-1.0] * 8 + [50.0] * 40,
        [1.0] * 8 + [9.0] * 40,
    ],
    ids=str,
)
def test_a_loss_that_comes_back_or_begins_below_zero_stops_nothing(losses):
    run = started(Scripted(losses), Waves())
    run.distil(len(losses))
    assert len(run.loop.history) == len(losses)


def test_a_weight_that_broke_in_the_last_update_never_replaces_a_good_state(tmp_path):
    run = started(Scripted([1.0, 1.0, "broken weight", 1.0]), Waves(), folder=tmp_path)
    with pytest.raises(TrainingDiverged, match=r"weight .* step 3 of 4\. The last good state is kept"):
        run.distil(4)
    state = run.loop.load("distil-0")
    assert state["step"] == 2
    assert all(tensor.isfinite().all() for tensor in state["student"].values())


def test_without_a_folder_no_kept_state_is_promised():
    with pytest.raises(TrainingDiverged) as stopped:
        started(Scripted([math.nan]), Waves()).distil(1)
    assert "kept" not in str(stopped.value)


def test_a_stage_is_continued_from_its_last_state_bit_for_bit(tmp_path):
    straight = started(source=Waves())
    straight.distil(6)

    class Stopped(Exception):
        pass

    def stop(step):
        if step == 4:
            raise Stopped

    with pytest.raises(Stopped):
        started(source=Waves(), folder=tmp_path).distil(6, before_step=stop)
    source = Waves()
    resumed = started(source=source, folder=tmp_path)
    resumed.distil(6)
    assert [step for _, _, step in source.asked] == [4, 5]
    expected, found = straight.student.state_dict(), resumed.student.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert resumed.loop.history == straight.loop.history


def test_stages_of_one_phase_and_of_others_keep_their_own_states(tmp_path):
    run = started(Scripted([1.0] * 2), Waves(), folder=tmp_path)
    run.enter("search", run.student)
    run.distil(1)
    run.distil(2)
    run.enter("distil", run.student)
    run.distil(2)
    assert sorted(path.stem for path in (tmp_path / "run").glob("*.pt")) == ["distil-0", "search-0", "search-1"]
    assert [row["stage"] for row in run.loop.history] == [0.0, 1.0, 1.0, 2.0, 2.0]


def test_scores_are_mean_errors_to_the_ground_truth_or_else_to_the_teacher():
    run = started(source=Waves())
    full = run.student.space.full_plan()
    net = network()
    with torch.no_grad():
        expected = [float((net(b.inputs[MAIN]) - b.targets[MAIN]).abs().mean()) for b in Waves().images("search")]
    assert run.score(full) == pytest.approx(sum(expected) / len(expected), rel=1e-6)
    assert started(source=Waves(targets=False)).score(full) == 0.0


def test_scores_of_a_subnet_leave_the_active_plan_and_the_weights_alone():
    run = started(source=Waves())
    group = run.student.space.prunable[0]
    smaller = gansdk.Plan({**run.student.space.full_plan(), group.name: (0, 1)})
    before = {name: tensor.clone() for name, tensor in run.student.state_dict().items()}
    assert run.score(smaller) != run.score(run.student.space.full_plan())
    assert run.student.plan == run.student.space.full_plan()
    assert all(torch.equal(before[name], tensor) for name, tensor in run.student.state_dict().items())


@pytest.mark.parametrize("source", [None, Waves(held_out=0)])
def test_scores_without_images_are_not_a_number(source):
    run = started(source=source)
    assert math.isnan(run.score(run.student.space.full_plan()))


def test_training_leaves_the_global_random_generator_alone():
    before = torch.random.get_rng_state()
    run = started(source=Waves())
    run.distil(2)
    run.score(run.student.space.full_plan())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_metric_of_some_steps_is_the_mean_over_those():
    class Rarely(Regime):
        def bind(self, stage):
            self.steps = 0

        def step(self, batch):
            self.steps += 1
            rare = {"rare": torch.tensor(6.0)} if self.steps % 3 == 0 else {}
            return {"often": torch.tensor(1.0 + self.steps), **rare}

    run = started(Rarely(), Waves())
    run.distil(120)
    assert run.loop.history
    assert {row["rare"] for row in run.loop.history if "rare" in row} == {6.0}

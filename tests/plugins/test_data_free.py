"""The regime of data-free distillation: who moves when, by which losses, and who is refused."""

import copy
import dataclasses
import io
import logging
from unittest.mock import patch

import pytest
import torch
from torch import nn

import gansdk
from gansdk.contracts import MAIN, Contract, Labels, Observation
from gansdk.errors import GansdkWarning, IncompatibleParts, InvalidOption
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.interfaces import Distiller, Generator, Stage, Term
from gansdk.pipeline.opening import open_generator
from gansdk.training.processes import Processes
from gansdk_adapters.networks.edsr import EDSR, EDSRSizes
from gansdk_adapters.networks.sizes import Sizes
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes
from gansdk_adapters.networks.vdsr import VDSR
from gansdk_distillers.data_free.distiller import data_free
from gansdk_distillers.data_free.regime import active_parameters
from gansdk_distillers.kernel_alignment import gka
from gansdk_distillers.pixel import pixel
from gansdk_distillers.ssim import ssim
from gansdk_distillers.wavelet import wavelet

NETWORKS = {
    "vdsr": lambda: VDSR(Sizes(width=4, blocks=4, channels=1)),
    "edsr": lambda: EDSR(EDSRSizes(width=4, blocks=3, scale=2)),
    "srresnet": lambda: SRResNet(SRResNetSizes(width=4, blocks=3, scale=2)),
}
every_network = pytest.mark.parametrize("name", list(NETWORKS))
STEPS = 40


class Painter(nn.Module):
    """An image-to-image generator of no family."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return torch.tanh(self.conv(x))


def generator(name="edsr", seed=2) -> Generator:
    torch.manual_seed(seed)
    return open_generator(NETWORKS[name]().eval())


def painter() -> Generator:
    torch.manual_seed(0)
    return gansdk.wrap(Painter(), contract=Contract(channels_in=3, channels_out=3, size=(16, 16)))


class Bound:
    """A regime bound to a student, and everything whose weights it could move."""

    def __init__(self, given="edsr", *, terms=(), fresh=False, steps=STEPS, patch=0, seed=0, **options):
        self.generator = generator(given) if isinstance(given, str) else given
        self.regime = data_free(**{"student_steps": 3, "latent": 8, **options}).regime
        usual = 32 if self.generator.contract.pre_upsampled > 1 else 16
        self.source = self.regime.source(None, self.generator, patch=usual if patch == 0 else patch)
        whole = ElasticStudent.of(generator(given, seed=1) if isinstance(given, str) else given)
        self.student = whole.carve(whole.space.full_plan(), inherit="none") if fresh else whole
        self.teacher = FrozenTeacher(self.generator.module, self.generator.contract, self.generator.taps)
        self.rng = torch.Generator().manual_seed(seed)
        self.stage = Stage(
            student=self.student,
            teachers=(self.teacher,),
            task=self.generator.adapter.task(self.generator.module),
            steps=steps,
            rng=self.rng,
            processes=Processes("cpu"),
            terms=tuple(term for made in terms for term in made.terms),
        )
        self.regime.bind(self.stage)

    def step(self, number, size=2):
        return self.regime.step(self.source.train_batch(size, seed=0, step=number))

    @property
    def images(self):
        return self.source.generators

    def content(self):
        """Bytes of the image networks, the student and the teacher."""
        return tuple(
            [tensor.clone() for tensor in net.state_dict().values()]
            for net in (self.images, self.student.module, self.teacher.networks()[MAIN])
        )


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# Who moves when.


@every_network
@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.filterwarnings("ignore:The student's batch norms")
def test_the_student_moves_in_its_steps_and_the_images_in_theirs(name, fresh):
    bound = Bound(name, fresh=fresh, stages=1)
    for number in range(3):
        images, student, teacher = bound.content()
        # The step of the images' network is the end of every third step; here it is held back to be looked at alone.
        search, bound.regime._search = bound.regime._search, lambda size: {}
        bound.step(number)
        bound.regime._search = search
        after = bound.content()
        assert same(images, after[0])
        assert not same(student, after[1])
        assert same(teacher, after[2])
    before = bound.content()
    told = bound.regime._search(2)
    after = bound.content()
    assert set(told) == {"g/adversarial", "g/reconstruction"}
    assert not same(before[0], after[0])
    assert same(before[1], after[1])
    assert same(before[2], after[2])
    assert all(p.requires_grad for p in bound.student.parameters())
    assert bound.student.module.training


def test_the_images_learn_after_every_so_many_steps():
    bound = Bound()
    learned = ["g/adversarial" in bound.step(number) for number in range(7)]
    assert learned == [False, False, True, False, False, True, False]


@every_network
def test_student_steps_keep_no_graph_of_the_images(name):
    bound = Bound(name)
    for number in range(2):
        bound.step(number)
    assert all(p.grad is None for p in bound.images.parameters())


@every_network
def test_a_gradient_reaches_the_images_through_student_and_teacher(name):
    """Rounding anywhere on the way makes it zero: the fault of the released code's resampling."""

    def slopes(rounded):
        bound = Bound(name)
        passage, rng = bound.source.passage, torch.Generator().manual_seed(0)
        scale = bound.source.scales[0]
        x = passage.enter(bound.source.make(2, scale, rng), scale)
        x = (255 * x).round() / 255 if rounded else x
        distance = (bound.student.observe(x).image - bound.teacher.observe(x).image).abs().mean()
        network = bound.images[str(scale)]
        found = torch.autograd.grad(-torch.log1p(distance), list(network.parameters()), allow_unused=True)
        return [0.0 if slope is None else slope.abs().sum().item() for slope in found]

    assert sum(slopes(rounded=False)) > 0
    assert sum(slopes(rounded=True)) == 0


# The losses.


def literal_distance(a, b, peak, norm, reduction):
    error = (a - b) / peak
    values = error.abs() if norm == "l1" else error**2
    return values.mean() if reduction == "mean" else values.sum()


@every_network
@pytest.mark.parametrize("setting", ["general", "official"])
def test_losses_are_the_published_formulas(name, setting):
    bound = Bound(name, setting=setting, reconstruction_weight=0.3, stages=1)
    norm, reduction = ("l1", "mean") if setting == "general" else ("l2", "sum")
    contract = bound.generator.contract
    peak = contract.output_range[1] - contract.output_range[0]
    batch = bound.source.train_batch(2, seed=0, step=0)
    x = batch.inputs[MAIN]
    bound.student.train()
    with torch.no_grad():
        expected = literal_distance(
            bound.student.observe(x).image, bound.teacher.observe(x).image, peak, norm, reduction
        )
    told = bound.regime.step(batch)
    torch.testing.assert_close(told["imitation"], expected)
    torch.testing.assert_close(told["loss"], expected)

    # The same draws as the regime's: a scale, then the number of the noise's own generator.
    rng = torch.Generator()
    rng.set_state(bound.rng.get_state())
    scale = bound.source.scales[int(torch.randint(len(bound.source.scales), (), generator=rng))]
    number = int(torch.randint(2**62, (), generator=rng))
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(hash((number, 0))))
    network = copy.deepcopy(bound.images[str(scale)])
    bound.student.train(False)
    made = network(z)
    inputs = bound.source.passage.enter(made, scale)
    image = bound.teacher.observe(inputs).image
    adversarial = -torch.log(1 + literal_distance(bound.student.observe(inputs).image, image, peak, norm, reduction))
    reconstruction = literal_distance(bound.source.passage.back(image, scale), made, 1.0, norm, reduction)
    slopes = torch.autograd.grad(adversarial + 0.3 * reconstruction, list(network.parameters()))

    seen = []
    bound.regime._descend_generator = lambda loss: seen.extend(
        torch.autograd.grad(loss, list(bound.images[str(scale)].parameters()))
    )
    told = bound.regime._search(2)
    torch.testing.assert_close(told["g/adversarial"], adversarial)
    torch.testing.assert_close(told["g/reconstruction"], reconstruction)
    for ours, theirs in zip(seen, slopes, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.abs().max().item(), rtol=1e-3)


def test_the_larger_the_disagreement_the_lower_the_images_loss():
    bound = Bound()
    near = bound.regime._search(2)["g/adversarial"]
    with torch.no_grad():
        for p in bound.student.parameters():
            p.mul_(2)
    assert bound.regime._search(2)["g/adversarial"] < near


def test_both_players_read_terms_on_images_and_the_student_alone_those_on_feature_maps():
    bound = Bound(terms=[wavelet(weight=7.0), gka(taps=["stem", "body3"])])
    alone, only_features = Bound(), Bound(terms=[gka(taps=["stem", "body3"])])
    told, expected = bound.step(0), alone.step(0)
    torch.testing.assert_close(told["imitation"], expected["imitation"])
    torch.testing.assert_close(told["loss"], told["imitation"] + 7 * told["wavelet"] + told["gka"])
    for other in (bound, alone, only_features):
        other.student.load_state_dict(Bound().student.state_dict())
    made = alone.regime._search(2)["g/adversarial"]
    assert torch.equal(only_features.regime._search(2)["g/adversarial"], made)

    seen = []
    (term,) = (term for term in bound.stage.terms if term.name == "wavelet")
    value = type(term).__call__
    with patch.object(type(term), "__call__", lambda *a: seen.append(value(*a)) or seen[-1]):
        joint = bound.regime._search(2)["g/adversarial"]
    assert seen[0] > 0
    torch.testing.assert_close(joint, -torch.log1p(torch.expm1(-made) + 7 * seen[0].detach()))


class Undetached(Term):
    """As a stranger may write it: the teacher's side is not detached, for it has no gradient elsewhere."""

    name = "undetached"
    needs_image = True

    def __call__(self, student, teacher):
        return (student.image - teacher.image).square().mean()


@pytest.mark.parametrize(
    "made",
    [pixel(norm="l2"), ssim(), wavelet(norm="l2", levels=2), Distiller((Undetached(),))],
    ids=lambda made: made.terms[0].name,
)
def test_terms_on_images_have_a_gradient_to_both_sides_in_the_search(made):
    bound = Bound(terms=[made, gka(taps=["stem", "body3"])])
    rng = torch.Generator().manual_seed(3)
    sides = [(torch.rand(1, 3, 8, 8, generator=rng).double() * 255).requires_grad_() for _ in range(2)]

    def apart(*images):
        return bound.regime._terms.of_images(*(Observation(image, {}) for image in images))

    assert apart(*sides).detach() > 0
    torch.autograd.gradcheck(apart, sides)


# Growth.


@every_network
@pytest.mark.filterwarnings("ignore:The student's batch norms")
def test_growth_preserves_what_is_there_and_adds_a_block_as_it_was_drawn(name):
    bound = Bound(name, fresh=True, stages=99)
    student, regime = bound.student, bound.regime
    network = student.networks()[MAIN]
    drawn = {path: copy.deepcopy(network.get_submodule(path).state_dict()) for path in student.blocks}
    assert regime._depth == 1
    depths = []
    for number in range(STEPS):
        before = copy.deepcopy(network.state_dict())
        depth = regime._depth
        if regime._depth_now() != depth:
            regime._grow(regime._depth_now(), number)
            assert same(before.values(), network.state_dict().values())
            assert all(p.grad is not None for p in active_parameters(student, depth))
        bound.step(number)
        depths.append(regime._depth)
        for path in student.blocks[regime._depth :]:
            assert same(drawn[path].values(), network.get_submodule(path).state_dict().values())
    assert sorted(set(depths)) == list(range(1, len(student.blocks) + 1))
    assert depths == sorted(depths)


def test_growth_begins_a_new_optimiser():
    bound = Bound("vdsr", fresh=True, stages=4)
    optimisers = []
    for number in range(STEPS):
        bound.step(number)
        if not optimisers or optimisers[-1] is not bound.regime._descend:
            optimisers.append(bound.regime._descend)
    assert len(optimisers) == 4


def test_students_with_inherited_weights_are_whole_from_the_start_unless_asked_to_grow():
    assert Bound("vdsr").regime._depth == 4
    grown = Bound("vdsr", stages=4)
    assert grown.regime._depth == 1
    inherited = ElasticStudent.of(generator("vdsr", seed=1))
    assert same(grown.student.state_dict().values(), inherited.state_dict().values())


def test_fresh_blocks_are_drawn_anew_and_nothing_else_is():
    kept = Bound("vdsr", stages=2).student.module.state_dict()
    fresh = Bound("vdsr", stages=2, new_blocks="fresh").student.module.state_dict()
    again = Bound("vdsr", stages=2, new_blocks="fresh").student.module.state_dict()
    changed = {key for key in kept if not torch.equal(kept[key], fresh[key])}
    assert changed == {"residual_layer.2.conv.weight", "residual_layer.3.conv.weight"}
    assert same(fresh.values(), again.values())


def test_a_student_without_blocks_is_trained_whole_and_this_is_noted(caplog):
    with caplog.at_level(logging.INFO), pytest.warns(GansdkWarning, match="mode collapse"):
        bound = Bound(painter(), fresh=True, reconstruction_weight=0, patch=None)
    assert "in a single stage" in caplog.text
    bound.step(0)


# Resuming.


@pytest.mark.parametrize("setting", ["general", "official"])
def test_a_resumed_regime_repeats_a_straight_one_to_the_bit(setting):
    options = {"fresh": True, "stages": 3, "setting": setting, "terms": [pixel()]}
    straight = Bound("vdsr", **options)
    for number in range(9):
        if number == 5:
            file = io.BytesIO()
            torch.save(
                {
                    "student": straight.student.state_dict(),
                    "regime": straight.regime.state_dict(),
                    "rng": straight.rng.get_state(),
                },
                file,
            )
        straight.step(number)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    resumed = Bound("vdsr", **options)
    resumed.student.load_state_dict(state["student"])
    resumed.regime.load_state_dict(state["regime"])
    resumed.rng.set_state(state["rng"])
    for number in range(5, 9):
        resumed.step(number)
    assert same(straight.content()[0], resumed.content()[0])
    assert same(straight.content()[1], resumed.content()[1])


# Who is refused, and who is let in.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setting": "published"}, "general"),
        ({"norm": "l3"}, "l1"),
        ({"reduction": "max"}, "mean"),
        ({"reconstruction_weight": -1}, "reconstruction_weight"),
        ({"student_steps": 0}, "student_steps"),
        ({"latent": 1.5}, "latent"),
        ({"generator_learning_rate": 0}, "generator_learning_rate"),
        ({"stages": 0}, "stages"),
        ({"new_blocks": "old"}, "kept"),
        ({"scales": [2, 2]}, "different"),
        ({"scales": 2}, "list"),
        ({"norm": ""}, "norm=''"),
        ({"cycle": "folder", "reconstruction_weight": 0}, "only one of them"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(InvalidOption, match=message):
        data_free(**options)


def test_scales_are_for_enlarged_inputs():
    with pytest.raises(InvalidOption, match="VDSR"):
        data_free(scales=[2]).regime.source(None, generator("edsr"))
    made = data_free(scales=[2]).regime.source(None, generator("vdsr"))
    assert made.scales == (2,)
    assert made.train_batch(1, seed=0, step=0).inputs[MAIN].shape == (1, 1, 48, 48)


def test_terms_are_shown_every_size_that_images_may_have():
    source = data_free(scales=[2, 3, 5]).regime.source(None, generator("vdsr"))
    sizes = [tuple(batch.inputs[MAIN].shape) for batch in source.examples(seed=0)]
    assert sizes == [(1, 1, 48, 48), (1, 1, 48, 48), (1, 1, 40, 40)]


def test_usual_sizes_are_the_published_ones():
    assert data_free().regime.source(None, generator("vdsr")).describe()["sizes"] == {
        "2": [24, 24],
        "3": [16, 16],
        "4": [12, 12],
    }
    assert data_free().regime.source(None, generator("edsr")).describe()["sizes"] == {"1": [24, 24]}
    with pytest.raises(InvalidOption, match="larger"):
        data_free().regime.source(None, generator("vdsr"), patch=24)


def test_translation_is_refused_with_the_reason_and_both_ways_around_it():
    with pytest.raises(IncompatibleParts, match="gives the input back") as refused:
        data_free().regime.source(None, painter())
    assert refused.value.missing == ("degrade",)
    assert "cycle=" in str(refused.value)
    assert "reconstruction_weight=0" in str(refused.value)


def test_label_maps_are_refused():
    given = painter()
    labelled = dataclasses.replace(given.contract, labels=Labels(classes=3))
    with pytest.raises(IncompatibleParts, match="label maps"):
        data_free(reconstruction_weight=0).regime.source(None, dataclasses.replace(given, contract=labelled))


def test_several_teachers_are_refused():
    bound = Bound()
    with pytest.raises(IncompatibleParts, match="one teacher"):
        bound.regime.bind(dataclasses.replace(bound.stage, teachers=(bound.teacher, bound.teacher)))


def test_without_reconstruction_a_translator_is_distilled_with_a_warning():
    with pytest.warns(GansdkWarning, match="mode collapse"):
        bound = Bound(painter(), reconstruction_weight=0, patch=None)
    assert set(bound.step(0)) == {"loss", "imitation"}
    bound.step(1)
    assert "g/reconstruction" not in bound.step(2)


def test_norms_that_start_afresh_and_runs_too_short_for_the_images_are_warned_of():
    with pytest.warns(GansdkWarning, match="batch norms"):
        Bound("srresnet", fresh=True)
    with pytest.warns(GansdkWarning, match="but the run has only"):
        Bound(steps=2)


def test_what_the_instance_needs_follows_its_options():
    assert data_free().needs is None
    assert data_free(reconstruction_weight=0).needs == frozenset()
    assert data_free(cycle="folder").needs == frozenset()
    assert Distiller().needs is None


def test_a_term_with_the_name_of_the_regimes_own_metric_is_refused():
    class Imitation(Undetached):
        name = "imitation"

    own = data_free(student_steps=2, latent=6)
    with pytest.raises(InvalidOption, match=r"'imitation'.*Give the class Imitation another name"):
        gansdk.compress(generator(), budget="1.5x", distiller=[own, Distiller((Imitation(),))], steps=1, device="cpu")

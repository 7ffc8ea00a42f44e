"""What is measured of a teacher, and what distiller="auto" makes of it."""

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gansdk
from gansdk.contracts import MAIN, Batch, Contract, Labels, Pairing
from gansdk.errors import ContractError
from gansdk.evaluation.teacher_facts import IMAGES, facts_of, least_true
from gansdk.interfaces import TeacherFacts, Teaching, by_images
from gansdk.interfaces.teaching import TRUE_DETAIL
from gansdk.pipeline.opening import open_generator, open_source
from gansdk.registry.parts import open_adapter

DATA = Path(__file__).parents[2].parent / "shared" / "data"
UNIT = Contract(channels_in=1, channels_out=1, size=(48, 48), input_range=(0.0, 1.0), output_range=(0.0, 1.0))


class Pairs(gansdk.DataSource):
    """Given inputs and targets, shown as held-out images."""

    def __init__(self, inputs: Tensor, targets: Tensor | None = None, *, paired: bool = True, held_out: int = 99):
        self.pairing = Pairing.PAIRED if paired else Pairing.UNPAIRED
        self.inputs, self.targets, self.paired, self.held_out = inputs, targets, paired, held_out
        self.probed: list[int] = []

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        raise AssertionError("nothing is trained")

    def probe(self, index: int, *, seed: int) -> Batch:
        self.probed.append(index)
        return self.batch(index % len(self.inputs))

    def batch(self, index: int) -> Batch:
        targets = {} if self.targets is None else {MAIN: self.targets[index : index + 1]}
        return Batch({MAIN: self.inputs[index : index + 1]}, targets, paired=self.paired)

    def images(self, split: str) -> Iterator[Batch]:
        return (self.batch(index) for index in range(min(self.held_out, len(self.inputs))))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(count: int = 8, side: int = 48, seed: int = 0) -> Tensor:
    """(count, 1, side, side): soft random images from 0.2 to 0.8, whose details can be seen."""
    coarse = torch.rand(count, 1, side // 2, side // 2, generator=torch.Generator().manual_seed(seed))
    return 0.2 + 0.6 * nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


class Making(nn.Module):
    """What a function makes of its input, with a layer that could be pruned."""

    def __init__(self, function):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def measured(function, source, contract: Contract = UNIT) -> TeacherFacts:
    return facts_of(gansdk.wrap(Making(function), contract=contract), source, seed=0)[MAIN]


class Textured(nn.Module):
    """A generator whose images have a pattern on top of them that no input says: made-up detail."""

    def __init__(self, inner: nn.Module, amount: float, value_range: tuple[float, float] = (0.0, 1.0)):
        super().__init__()
        self.inner, self.amount, self.low, self.high = inner, amount, *value_range

    def forward(self, x: Tensor) -> Tensor:
        unit = self.high - self.low
        image = self.inner((x - self.low) / unit)
        rows, columns = (torch.arange(side) for side in image.shape[2:])
        return (image + self.amount * (-1.0) ** (rows[:, None] + columns)) * unit + self.low


@pytest.fixture(scope="module")
def demo():
    return open_generator("demo")


def on_photographs(generator, **options) -> TeacherFacts:
    return facts_of(generator, open_source({"name": "photos", **options}, generator, seed=0), seed=0)[MAIN]


def test_a_real_reconstruction_is_one_and_learns_from_the_truth(demo):
    facts = on_photographs(demo)
    assert facts.images == IMAGES
    assert facts.psnr > facts.bicubic + 1
    assert not facts.is_perceptual
    teaching = demo.adapter.teaching(facts)
    assert (teaching.distillers, teaching.task_weight) == (("pixel",), 1.0)
    assert "reconstruction" in teaching.reason
    assert f"{facts.psnr:.2f} dB" in teaching.reason


@settings(max_examples=8)
@given(
    amount=st.floats(0.015, 0.024),
    value_range=st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]),
)
def test_made_up_detail_makes_a_teacher_perceptual_whatever_its_range(amount, value_range):
    teacher = open_generator("demo")
    contract = replace(teacher.contract, input_range=value_range, output_range=value_range)
    made_up, plain = (
        on_photographs(gansdk.wrap(Textured(teacher.module, each, value_range), contract=contract), patch=24)
        for each in (amount, 0.0)
    )
    assert made_up.is_perceptual
    assert made_up.true_detail < TRUE_DETAIL
    assert made_up.sharpness > plain.sharpness
    assert not plain.is_perceptual
    own = on_photographs(teacher, patch=24)  # a family's probes have another size than a wrapped network's
    for name in ("psnr", "bicubic", "sharpness", "true_detail"):
        assert getattr(plain, name) == pytest.approx(getattr(own, name), rel=1e-3)
    teaching = by_images(made_up)
    assert (teaching.distillers, teaching.task_weight) == (("pixel",), 0.0)
    assert "perceptual" in teaching.reason


@settings(max_examples=12)
@given(unknown=st.floats(0.05, 0.1), seed=st.integers(0, 1000))
def test_the_mean_of_what_an_input_can_come_from_has_a_slope_of_one_and_a_sample_of_it_has_not(unknown, seed):
    x = smooth(seed=seed)
    source = Pairs(x, x + unknown * noise(*x.shape, seed=seed + 1))
    mean = measured(lambda given: given, source)
    assert mean.true_detail == pytest.approx(1, abs=0.2)
    assert mean.sharpness < 1
    assert not mean.is_perceptual
    sample = measured(lambda given: given + unknown * noise(*given.shape, seed=seed + 2), source)
    assert sample.sharpness == pytest.approx(1, abs=0.1)
    assert sample.is_perceptual
    assert mean.psnr > sample.psnr
    assert mean.bicubic is None


def test_a_range_that_was_mistaken_is_far_below_bicubic(demo):
    wrong = replace(demo.contract, output_range=(-1.0, 1.0))
    facts = on_photographs(gansdk.wrap(demo.module, contract=wrong))
    assert facts.below_bicubic
    assert facts.range_looks_wrong
    assert "output_range" in by_images(facts).reason
    right = on_photographs(demo)
    assert not right.below_bicubic
    assert not right.range_looks_wrong
    assert "output_range" not in by_images(right).reason


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: 0 * x + 0.5, "images of one colour for all 8 images"),
        (lambda x: 0 * x + smooth(1), "the same image for all 8 images"),
        (lambda x: x / (x != 0.5), "NaN or infinite values on 1 of the 8 images"),
    ],
    ids=["one colour", "one image", "not finite"],
)
def test_a_teacher_that_there_is_nothing_to_imitate_of_is_refused_with_what_to_try(function, says):
    x = smooth()
    x[3, 0, 5, 5] = 0.5  # which noise, that the trace is checked on, never is
    with pytest.raises(ContractError, match=says) as refused:
        measured(function, Pairs(x, x))
    assert "nothing to imitate. Check" in str(refused.value)
    assert measured(lambda given: given, Pairs(x, x)).images == 8


def test_images_of_one_colour_are_no_fault_of_the_teacher():
    x = torch.full((8, 1, 48, 48), 0.3) * torch.linspace(0.5, 1, 8).view(8, 1, 1, 1)
    assert measured(lambda given: given, Pairs(x, x)).images == 8


def test_faint_images_of_a_network_that_was_never_trained_are_not_constant():
    x = smooth()
    assert measured(lambda given: 1e-9 * given, Pairs(x, x)).images == 8


@pytest.mark.parametrize(
    "source",
    [Pairs(smooth()), Pairs(smooth(), smooth(seed=1), paired=False), Pairs(smooth(), smooth(side=24))],
    ids=["inputs only", "unpaired", "of another size"],
)
def test_without_a_truth_nothing_is_compared_and_the_student_imitates_the_teacher(source):
    facts = measured(lambda x: x.square(), source)
    assert facts == TeacherFacts(images=8)
    assert not facts.is_perceptual
    assert by_images(facts).task_weight == 1.0
    assert "no ground truth" in by_images(facts).reason


def test_label_maps_and_noise_are_looked_at_too():
    ids = torch.randint(3, (8, 48, 48), generator=torch.Generator().manual_seed(0))
    maps = nn.functional.one_hot(ids, 3).permute(0, 3, 1, 2).float()
    labels = replace(UNIT, channels_in=3, labels=Labels(classes=3))
    facts = measured(lambda x: x[:, :1] / 2 + x[:, 1:2] / 4, Pairs(maps, maps[:, :1]), labels)
    assert facts.bicubic is None
    assert facts.psnr is not None
    seeds = noise(8, 4, 1, 1)
    drawn = Contract(channels_in=4, channels_out=1, size=(1, 1), scale=28)
    spots = torch.linspace(0, 1, 28).view(1, 1, 1, 28)
    assert measured(lambda z: z.sum(1, keepdim=True) * spots.expand(1, 1, 28, 28), Pairs(seeds), drawn).images == 8
    with pytest.raises(ContractError, match="the same image"):
        measured(lambda z: 0 * z.sum(1, keepdim=True) + spots.expand(1, 1, 28, 28), Pairs(seeds), drawn)


def test_probes_stand_in_for_images_that_are_not_held_out_and_no_more_is_looked_at_than_said():
    source = Pairs(smooth(3), smooth(3), held_out=3)
    assert measured(lambda x: x, source).images == IMAGES
    assert source.probed == list(range(IMAGES - 3))
    many = Pairs(smooth(20), smooth(20))
    assert measured(lambda x: x, many).images == IMAGES
    assert many.probed == []


def test_whole_images_are_cut_to_the_contracts_size():
    seen = []

    def note(x):
        seen.append(tuple(x.shape[2:]))
        return x

    large = smooth(2, side=96)
    assert measured(note, Pairs(large, large)).psnr == 100
    assert set(seen) == {(48, 48)}


def test_the_same_call_gives_the_same_facts_and_leaves_the_network_as_it_was(demo):
    before = {name: value.clone() for name, value in demo.module.state_dict().items()}
    modes = [module.training for module in demo.module.modules()]
    assert on_photographs(demo) == on_photographs(demo)
    assert all(torch.equal(value, before[name]) for name, value in demo.module.state_dict().items())
    assert modes == [module.training for module in demo.module.modules()]


@pytest.mark.parametrize("family", ["pix2pix", "cyclegan", "gaugan"])
@pytest.mark.parametrize("true_detail", [0.1, 1.0])
def test_translation_has_what_its_papers_publish_whatever_the_teacher_is(family, true_detail):
    facts = TeacherFacts(images=8, psnr=15.0, sharpness=1.0, true_detail=true_detail)
    teaching = open_adapter(family).teaching(facts)
    assert (teaching.distillers, teaching.task_weight) == (("gka",), 1.0)


def test_of_several_generators_one_that_is_perceptual_decides():
    true, made_up = (TeacherFacts(images=8, psnr=30, bicubic=29, sharpness=1, true_detail=t) for t in (1, 0.1))
    assert least_true({"A2B": true, "B2A": made_up}) is made_up
    assert least_true({"A2B": true, "B2A": true}) is true


@pytest.mark.parametrize("distillers", ["pixel", (), ["pixel"], (1,)])
def test_a_teaching_that_could_not_be_opened_is_refused(distillers):
    with pytest.raises(TypeError, match="distillers"):
        Teaching(distillers=distillers)


def test_facts_are_json_with_their_verdicts():
    facts = TeacherFacts(images=5, psnr=28.0, bicubic=29.0, sharpness=1.2, true_detail=0.2)
    told = facts.to_dict()
    assert told["psnr"] == 28.0
    assert (told["below_bicubic"], told["is_perceptual"], told["range_looks_wrong"]) == (True, True, False)
    assert not any(isinstance(value, float) and math.isnan(value) for value in told.values())


def real():
    """models() and build() of the shared generators."""
    spec = importlib.util.spec_from_file_location("real_networks", DATA / "real" / "networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.data
@pytest.mark.skipif(not (DATA / "real").is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("name", "perceptual"),
    [("compact_x4", True), ("imdn_x4", False), ("rfdn_x4", False), ("lapsrn_x4", False), ("upconv7_x2", False)],
)
@pytest.mark.parametrize("folder", ["Set5/image_SRF_{scale}", "BSD100_HR"])
def test_real_generators_are_told_apart_with_a_margin(name, perceptual, folder):
    networks = real()
    contract = Contract(**networks.models()[name][2])
    generator = gansdk.wrap(networks.build(name), contract=contract)
    path = DATA / "sr" / folder.format(scale=contract.scale)
    facts = facts_of(generator, open_source(path, generator, split="train"), seed=0)[MAIN]
    assert facts.is_perceptual == perceptual
    assert facts.true_detail < 0.45 if perceptual else facts.true_detail > 0.7

"""Every adapter with every pruner and every distiller: what `gansdk plugins --compat` says is what happens.

The cells are the registry's, so the parts of other plugins join by themselves. Each runs once on the tiny network of
its family, the other architectures once with every pruner and all terms together. Runs are killed and continued in as
many cells as hold every two parts together.
"""

import itertools

import pytest
import torch

import gansdk
from gansdk.channels.carve import carve
from gansdk.errors import IncompatibleParts
from gansdk.events import StepDone
from gansdk.modules.fold import fold
from gansdk.pipeline.opening import open_generator
from gansdk.registry.compatibility import CAPABILITIES, matrix
from gansdk.registry.discovery import registry
from gansdk.testing.perceptual import made_up_vgg16

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*teachers learn beside both")]

BUDGET = "1.5x"
STEPS = 3
PRUNERS: dict[str, dict[str, object]] = {
    "one-step": {"recovery": "none"},
    "once-for-all": {"steps": 2, "population": 2, "iterations": 1, "calibration": 2, "importance": "consumer-norm"},
}
"""Options that make parts quick, or independent of downloads; others run with their defaults."""
VGG = made_up_vgg16()
DISTILLERS: dict[str, dict[str, object]] = {
    "perceptual": {"weights": VGG, "style_weight": 0},
    "omgd": {"perceptual": VGG, "style_weight": 0},
    "data-free": {"student_steps": 2, "latent": 8},
}
CELLS = matrix()
LEGAL = [(cell.adapter, cell.pruner, cell.distiller) for cell in CELLS if not cell.missing]
ILLEGAL = [cell for cell in CELLS if cell.missing]


def _first_of_their_pairs():
    """Cells in which two parts meet for the first time."""
    seen = set()
    for cell in LEGAL:
        pairs = set(itertools.combinations(enumerate(cell), 2))
        if pairs - seen:
            seen |= pairs
            yield cell


KILLED = frozenset(_first_of_their_pairs())
OTHERS = ["sr-edsr", "sr-vdsr", "pix2pix-mobile", "pix2pix-unet", "pix2pix-inception"]
OTHERS += ["cyclegan-inception", "gaugan-mobile", "gaugan-inception"]
KINDS = {name: spec.kind for name, spec in registry().specs("distiller").items()}
TERMS = [name for name, kind in KINDS.items() if kind == "term"]
REGIMES = [name for name, kind in KINDS.items() if kind != "term"]


@pytest.fixture(scope="module")
def teacher(examples):
    """Generators by name, each made once."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = examples[name].generator()
        return made[name]

    return of


@pytest.fixture
def run(teacher, examples):
    """`gansdk.compress` of an example with named parts."""

    def compress(name, pruner, distillers, **settings):
        generator = teacher(name)
        source = examples[name].source(generator.contract)
        return gansdk.compress(
            generator,
            budget=BUDGET,
            pruner={"name": pruner, **PRUNERS.get(pruner, {})},
            distiller=[{"name": distiller, **DISTILLERS.get(distiller, {})} for distiller in distillers],
            data=source,
            batch_size=2,
            device="cpu",
            **{"steps": STEPS, **settings},
        )

    return compress


def test_every_adapter_has_an_example(examples):
    assert {cell.adapter for cell in CELLS} <= set(examples)


class Killed(Exception):
    pass


def kill(event):
    """When one step was kept and another one taken."""
    if isinstance(event, StepDone) and event.stage.startswith("distil") and event.step == 2:
        raise Killed


@pytest.mark.parametrize(("name", "pruner", "distiller"), LEGAL, ids=str)
def test_every_legal_cell_compresses_saves_and_loads_and_resumes_to_the_same_bytes(
    name, pruner, distiller, run, teacher, content, tmp_path
):
    before = content(teacher(name).module)
    result = run(name, pruner, [distiller], out_dir=tmp_path / "straight")
    check(result, tmp_path / "straight")
    assert distiller not in TERMS or distiller in result.history[-1]
    if (name, pruner, distiller) in KILLED:
        with pytest.raises(Killed):
            run(name, pruner, [distiller], out_dir=tmp_path / "killed", observers=[kill])
        resumed = run(name, pruner, [distiller], out_dir=tmp_path / "killed")
        assert content(resumed.student) == content(result.student)
    assert content(teacher(name).module) == before


@pytest.mark.parametrize(("name", "pruner"), list(itertools.product(OTHERS, registry().names("pruner"))), ids=str)
def test_every_other_architecture_runs_with_every_pruner_and_all_terms_together(name, pruner, run, tmp_path):
    result = run(name, pruner, TERMS, out_dir=tmp_path)
    check(result, tmp_path)
    assert {"loss", *TERMS} <= set(result.history[-1])


@pytest.mark.parametrize("regime", REGIMES)
def test_every_regime_takes_all_terms_besides(regime, run, tmp_path):
    name = next(name for name, _, own in LEGAL if own == regime)
    result = run(name, "uniform", [regime, *TERMS], out_dir=tmp_path)
    check(result, tmp_path)
    own = [part.name for part in registry().load("distiller", regime)(**DISTILLERS.get(regime, {})).terms]
    assert {f"{term}-2" if term in own else term for term in TERMS} <= set(result.history[-1])


def check(result, out_dir):
    """The budget is met, the student has learned, and what was saved gives its images."""
    assert result.after.macs <= result.before.macs / 1.5
    untrained = carve(fold(result.teacher)[0], result.space, result.plan)
    assert any(
        not torch.equal(value, old)
        for value, old in zip(result.student.parameters(), untrained.parameters(), strict=True)
    )
    saved = open_generator(out_dir / "student")
    network = saved.module.state_dict()
    assert all(
        torch.equal(value, network[name]) for name, value in result.student.state_dict().items() if name in network
    )
    critic = result.discriminator or {}
    assert all(torch.equal(value, saved.discriminator[name]) for name, value in critic.items())


@pytest.mark.parametrize("cell", ILLEGAL, ids=lambda cell: f"{cell.adapter}-{cell.pruner}-{cell.distiller}")
def test_every_illegal_cell_is_refused_with_its_reason_before_any_step(cell, run, teacher, content, tmp_path):
    before, seen = content(teacher(cell.adapter).module), []
    with pytest.raises(IncompatibleParts) as refused:
        run(cell.adapter, cell.pruner, [cell.distiller], out_dir=tmp_path, observers=[seen.append])
    assert refused.value.missing == cell.missing
    assert cell.verdict.removeprefix("needs ") in str(refused.value)
    assert not seen
    assert not list(tmp_path.iterdir())
    assert content(teacher(cell.adapter).module) == before


def test_every_capability_that_is_needed_has_a_meaning():
    needed = {word for cell in CELLS for word in cell.missing}
    assert needed <= set(CAPABILITIES)

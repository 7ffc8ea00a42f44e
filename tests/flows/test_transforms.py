"""Students that start from a transform of their teacher: costs, checks, training, and the folder they leave in."""

import json

import pytest
import torch

import gansdk
from gansdk.contracts import MAIN, Batch, Pairing
from gansdk.errors import BudgetUnreachable, GansdkWarning, ResumeMismatch, Unsupported
from gansdk.events import Carved
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter
from gansdk_adapters.networks.resnet import SeparableConv

pytestmark = pytest.mark.slow

SIDE = 64
SIZES = {
    "pix2pix": {"width": 4, "blocks": 2},
    "gaugan": {"width": 4, "labels": 5, "hidden": 8, "spectral": True},
}
PRUNERS = {
    "one-step": {"name": "one-step", "recovery": "none"},
    "once-for-all": {"name": "once-for-all", "steps": 2, "population": 2, "iterations": 1, "calibration": 2},
}


class Tiles(gansdk.DataSource):
    """Coarse label maps, or their colours, and other colours for them."""

    pairing = Pairing.PAIRED

    def __init__(self, family):
        self.family = family

    def train_batch(self, size, *, seed, step):
        return self._batch(size, 1000 * seed + step % 997)

    def images(self, split):
        return (self._batch(1, (10**6 if split == "search" else 10**7) + number) for number in range(2))

    def _batch(self, size, seed):
        ids = torch.randint(5, (size, 8, 8), generator=torch.Generator().manual_seed(seed))
        ids = ids.repeat_interleave(SIDE // 8, 1).repeat_interleave(SIDE // 8, 2)
        image = torch.linspace(-1, 1, 15).view(5, 3)[ids].movedim(3, 1).contiguous()
        x = torch.nn.functional.one_hot(ids, 5).movedim(3, 1).float() if self.family == "gaugan" else image.flip(1)
        return Batch({MAIN: x}, {MAIN: image})


def teacher(family):
    extra = {"perceptual": None} if family == "gaugan" else {}
    adapter = open_adapter({"name": family, "size": [SIDE, SIDE], "discriminator_width": 4, **extra})
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return open_generator(adapter.create(**SIZES[family]).eval(), adapter)


def compress(family, *, transform="mobile", pruner="one-step", budget="3x", **changes):
    fixed = {"distiller": ["gka", "pixel"], "data": Tiles(family), "steps": 2, "batch_size": 2, "device": "cpu"}
    return gansdk.compress(
        teacher(family), budget=budget, transform=transform, pruner=PRUNERS[pruner], **{**fixed, **changes}
    )


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_student_of_a_transform_is_counted_against_the_teacher_saved_loaded_and_exported(family, pruner, tmp_path):
    seen = []
    result = compress(family, pruner=pruner, out_dir=tmp_path, observers=[seen.append])
    plain = gansdk.inspect(teacher(family)).cost
    assert result.before == plain
    assert result.after.macs <= plain.macs / 3
    assert result.after.macs < result.transformed.macs < plain.macs
    (carved,) = (event for event in seen if isinstance(event, Carved))
    assert carved.full == plain
    assert any(isinstance(part, SeparableConv) for part in result.student.modules())
    assert not any(isinstance(part, SeparableConv) for part in result.teacher.modules())
    assert result.checks["teacher -> traced copy"] < 1e-5
    assert any(name.startswith("gka/") or name == "gka" for name in result.history[-1])

    x = next(Tiles(family).images("eval")).inputs[MAIN]
    with torch.no_grad():
        expected = result.student(x)
        torch.testing.assert_close(gansdk.load(tmp_path / "student")(x), expected)
    assert gansdk.inspect(tmp_path / "student").cost == result.after
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["before"]["macs"] == plain.macs
    assert config["settings"]["transform"] == "mobile"
    assert config["teacher"]["sha256"] == config["settings"]["weights"]
    report = json.loads((tmp_path / "student" / "report.json").read_text())
    assert report["transformed"]["params"] == result.transformed.params
    for page in ("report.html", "README.md"):
        assert f"{result.transformed.params:,} parameters" in (tmp_path / "student" / page).read_text()
    if family == "pix2pix" and pruner == "one-step":
        result.export("pt2", tmp_path / "student.pt2")
        assert result.checks["student -> pt2"] < 1e-4


def test_a_transform_is_looked_at_and_planned_before_anything_is_made():
    plain = gansdk.inspect(teacher("pix2pix"))
    found = gansdk.inspect(teacher("pix2pix"), "4x", transform="mobile")
    made = compress("pix2pix", dry_run=True, budget="4x")
    assert found.cost == made.transformed
    assert {group["name"] for group in found.groups} != {group["name"] for group in plain.groups}
    planned = gansdk.plan(teacher("pix2pix"), "4x", "uniform", transform="mobile")
    assert planned.before == plain.cost
    assert planned.after.macs <= plain.cost.macs / 4
    assert set(planned.widths) <= {group["name"] for group in found.groups}
    with pytest.raises(BudgetUnreachable):
        gansdk.inspect(teacher("pix2pix"), f"macs<={found.floor.macs - 1}", transform="mobile")
    with pytest.raises(Unsupported, match="mobile"):
        gansdk.plan(teacher("pix2pix"), "4x", "uniform", transform="huge")


def test_every_student_of_a_ladder_starts_from_the_transform_and_is_counted_against_the_teacher():
    made = gansdk.ladder(
        teacher("pix2pix"),
        budgets=["4x", "6x"],
        transform="mobile",
        pruner=PRUNERS["once-for-all"],
        distiller="pixel",
        data=Tiles("pix2pix"),
        steps=1,
        batch_size=2,
        device="cpu",
    )
    plain = gansdk.inspect(teacher("pix2pix")).cost
    for result, factor in zip(made.results, (4, 6), strict=True):
        assert result.before == plain
        assert result.after.macs <= plain.macs / factor
        assert result.transformed == made.results[0].transformed


def test_fresh_weights_follow_the_seed():
    def mobile(seed):
        return compress("pix2pix", seed=seed, distiller=None).student.state_dict()

    one, two, other = mobile(1), mobile(1), mobile(2)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(one[name].shape != other[name].shape or not torch.equal(one[name], other[name]) for name in one)


def test_tracked_statistics_follow_a_network_that_was_not_trained_yet():
    with pytest.warns(GansdkWarning, match="nothing was pruned"):
        result = compress("gaugan", budget="1.2x", steps=1)
    name = "up_0.norm_0.param_free_norm.running_var"
    assert result.after == result.transformed, "the mobile form itself meets this budget"
    assert not torch.equal(result.student.state_dict()[name], result.teacher.state_dict()[name])


def test_a_run_begun_without_the_transform_is_not_continued_with_it(tmp_path):
    compress("pix2pix", transform=None, out_dir=tmp_path, steps=1)
    with pytest.raises(ResumeMismatch, match="transform: None there, 'mobile' now"):
        compress("pix2pix", out_dir=tmp_path, steps=1)

"""What a run does with the checks of its student: warnings, reports, floors, folders and exports."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gansdk
from gansdk.cli.app import main
from gansdk.contracts import MAIN, Batch, Pairing
from gansdk.errors import GansdkWarning, MissingData, QualityFloorMissed, StudentWarning
from gansdk.evaluation.findings import CHECKS
from gansdk.events import StepDone, Warned
from gansdk.interfaces import Distiller, Term
from gansdk.pipeline.opening import open_generator
from gansdk_pruners.uniform import Uniform

CONTRACT = gansdk.Contract(
    channels_in=3, channels_out=3, size=(24, 24), scale=2, input_range=(0.0, 1.0), output_range=(0.0, 1.0)
)


class Smooth(nn.Module):
    """Enlarges as bicubic interpolation does, and sharpens a little: above bicubic where that is the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        rng = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.rand(parameter.shape, generator=rng) * 0.04 - 0.02

    def forward(self, x):
        return F.interpolate(x + self.tail(torch.relu(self.head(x))), scale_factor=2, mode="nearest")


class Waves(gansdk.DataSource):
    """Smooth images, and what the teacher makes of them; the truth is exactly that."""

    pairing = Pairing.PAIRED

    def train_batch(self, size, *, seed, step):
        return self._batch(size, 1000 * seed + step % 997)

    def images(self, split):
        for number in range(3):
            yield self._batch(1, 10**6 + number, (f"{number}.png",))

    def _batch(self, size, seed, names=()):
        coarse = torch.rand(size, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
        x = F.interpolate(coarse, (40, 40), mode="bilinear") * 0.8 + 0.1
        with torch.no_grad():
            return Batch({MAIN: x}, {MAIN: Smooth()(x)}, names)


class Breaking(Uniform):
    """Repairs a student by what ruins it: multiplies its last layer."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def recover(self, full, carved, plan, run):
        with torch.no_grad():
            carved.module.tail.weight *= self.factor
            carved.module.tail.bias *= self.factor


class Dark(Term):
    """What no teacher says: all images should be black."""

    name = "dark"
    weight = 100.0

    def __call__(self, student, teacher):
        return student.image.square().mean()


def compressed(factor=1.0, **changes):
    settings = {"budget": "1.5x", "data": Waves(), "distiller": None, "device": "cpu", **changes}
    return gansdk.compress(gansdk.wrap(Smooth().eval(), contract=CONTRACT), pruner=Breaking(factor), **settings)


def test_what_is_out_of_line_is_in_the_result_the_events_and_on_top_of_the_report(tmp_path):
    seen = []
    with pytest.warns(StudentWarning, match="below bicubic"):
        result = compressed(1e14, out_dir=tmp_path, observers=[seen.append])
    missed = {finding.check: finding.text for finding in result.findings if finding.passed is False}
    assert missed.keys() == {"range", "baseline"}
    assert "values of" in missed["range"]
    assert "e+1" in missed["range"]
    assert set(missed.values()) <= set(result.warnings)
    assert set(missed.values()) <= {event.message for event in seen if isinstance(event, Warned)}
    told = json.loads((tmp_path / "student" / "report.json").read_text())
    assert {row["check"]: row["passed"] for row in told["findings"]} == {
        "teacher": True,
        "finite": True,
        "range": False,
        "baseline": False,
        "training": None,
        "activations": True,
    }
    assert set(missed.values()) <= set(told["warnings"])
    page = (tmp_path / "student" / "report.html").read_text()
    first = page.index("The student is below bicubic enlargement")
    assert page.index("<h2>Warnings</h2>") < first < page.index("<h2>Cost of one image</h2>")
    assert page.index("<h2>Checks of the student</h2>") > first


def test_a_student_that_is_in_line_has_no_warning_and_its_worst_image_is_named(tmp_path):
    result = compressed(out_dir=tmp_path)
    assert [finding.passed for finding in result.findings] == [True, True, True, True, None, True]
    assert result.warnings == []
    for row in result.quality:
        scores = {image["name"]: image[row.reference][row.metric]["student"] for image in result.evaluation.per_image}
        assert row.worst == min(scores.values()) <= row.student
        assert scores[row.worst_image] == row.worst
    shown = f"{result.quality[0].worst:.4g} ({result.quality[0].worst_image})"
    assert shown in (tmp_path / "student" / "report.html").read_text()


def test_a_student_that_is_not_finite_is_saved_with_warnings_and_can_miss_a_floor_of_checks(tmp_path):
    with pytest.warns(GansdkWarning), pytest.raises(QualityFloorMissed, match="Check 'finite': The stu") as missed:
        compressed(float("nan"), out_dir=tmp_path, quality="teacher,finite")
    result = missed.value.result
    assert any("non-finite values on 3 of 3 images" in text for text in result.warnings)
    assert any("student was not scored" in text for text in result.warnings)
    assert isinstance(gansdk.load(tmp_path / "student"), nn.Module)
    assert json.loads((tmp_path / "student" / "report.json").read_text())["quality"] == []


def test_floors_of_checks_and_of_the_worst_image_are_met_or_missed():
    good = "checks,finite,range,baseline,activations,worst-psnr-y>=20,psnr-y-to-teacher>=20"
    assert compressed(quality=good).quality
    with pytest.warns(StudentWarning), pytest.raises(QualityFloorMissed, match=r"Check 'baseline': .*below bicubic"):
        compressed(-1e14, quality="finite,baseline")
    with pytest.raises(QualityFloorMissed, match=r"worst image, '\d\.png', is \d+\.?\d*, not >= 99"):
        compressed(quality="worst-psnr-y-to-teacher>=99.9")
    with pytest.raises(QualityFloorMissed, match="Check 'training': Not checked: nothing was trained"):
        compressed(quality="training")


def test_a_floor_that_needs_images_is_refused_without_any_before_compute_and_one_that_does_not_is_met():
    with pytest.raises(MissingData, match="quality asks for baseline"):
        compressed(quality="finite,baseline", data=None)
    with pytest.warns(GansdkWarning, match="not scored"):
        result = compressed(quality="finite,checks", data=None)
    assert "synthetic images" in result.findings[1].text
    assert result.inputs == {}


def test_a_dry_run_checks_nothing():
    result = compressed(dry_run=True)
    assert result.findings == []
    assert result.inputs == {}


def test_training_that_leads_away_is_told_and_a_resumed_run_tells_the_same(tmp_path):
    class Stop(Exception):
        pass

    def stop(event):
        if isinstance(event, StepDone) and event.step == 4:
            raise Stop

    settings = {"distiller": Distiller((Dark(),)), "steps": 6, "batch_size": 2, "learning_rate": 0.01, "patch": 12}
    with pytest.warns(StudentWarning, match="further from the teacher after training than before"):
        straight = compressed(**settings)
    with pytest.raises(Stop):
        compressed(**settings, out_dir=tmp_path, observers=[stop])
    with pytest.warns(StudentWarning):
        resumed = compressed(**settings, out_dir=tmp_path)
    assert resumed.findings == straight.findings
    assert resumed.warnings == straight.warnings
    kind = {**settings, "learning_rate": 1e-6}
    trained = next(finding for finding in compressed(**kind).findings if finding.check == "training")
    assert trained.passed is True


def test_every_route_has_findings_of_its_own(tmp_path):
    class Domains(gansdk.DataSource):
        pairing = Pairing.UNPAIRED

        def train_batch(self, size, *, seed, step):
            rng = torch.Generator().manual_seed(step)
            x, y = (torch.rand(size, 3, 32, 32, generator=rng) * 2 - 1 for _ in range(2))
            return Batch({MAIN: x}, {MAIN: y}, paired=False)

        def images(self, split):
            batch = self.train_batch(1, seed=0, step=7)
            yield Batch(batch.inputs, {}, ("a",), paired=False)

        def references(self, split):
            batch = self.train_batch(1, seed=0, step=8)
            yield Batch({}, batch.targets, ("b",), paired=False)

    family = {"name": "cyclegan", "size": [32, 32], "discriminator_width": 4}
    sizes = {"width": 8, "blocks": 1}
    gansdk.train_teacher(family, Domains(), sizes=sizes, steps=1, out_dir=tmp_path / "t", device="cpu")
    result = gansdk.compress(
        tmp_path / "t" / "teacher",
        data=Domains(),
        budget="2x",
        adapter=family,
        distiller="pixel",
        pruner="uniform",
        steps=1,
        batch_size=1,
        device="cpu",
        out_dir=tmp_path / "s",
    )
    assert [(finding.route, finding.check) for finding in result.findings] == [
        (route, check) for route in ("A2B", "B2A") for check in CHECKS
    ]
    for route, part in result.routes.items():
        assert {finding.route for finding in part.findings} == {route}
        assert list(part.inputs) == ["a" if route == "A2B" else "b"]
        assert open_generator(tmp_path / "s" / "student" / route).inputs
    assert "A2B" in (tmp_path / "s" / "student" / "report.html").read_text()


def test_exports_of_a_run_are_compared_on_its_images_by_the_command_line_too(tmp_path, capsys):
    result = compressed(out_dir=tmp_path)
    result.export("pt2", tmp_path / "a.pt2")
    records = json.loads((tmp_path / "check.json").read_text())
    assert records["a.pt2"]["inputs"] == ["0.png", "1.png", "2.png"]
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "student"), "pt2", "--json", "--out", str(tmp_path / "b.pt2")])
    assert not ended.value.code
    record = json.loads(capsys.readouterr().out)
    assert record["inputs"] == ["1: 0.png", "2: 1.png", "3: 2.png"]
    assert record["passed"] is True


def test_the_command_line_says_what_is_out_of_line(tmp_path, capsys, build):
    torch.save(build().state_dict(), tmp_path / "untrained.pth")
    asked = ["compress", str(tmp_path / "untrained.pth"), "--budget", "macs<=60%", "--data", "photos", "--distiller"]
    with pytest.raises(SystemExit) as ended:
        main([*asked, "none", "--pruner", "uniform", "--out", str(tmp_path / "out"), "--quality", "teacher", "--json"])
    assert ended.value.code == 4
    shown = capsys.readouterr()
    assert "warning: The contract's range looks wrong: the teacher itself is below bicubic" in shown.err
    assert "QualityFloorMissed: Check 'teacher'" in shown.err
    findings = json.loads(shown.out)["findings"]
    assert [row["check"] for row in findings if row["passed"] is False] == ["teacher"]

"""Every check of a student, with a network that deserves its warning and one that does not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.contracts import MAIN, Batch, Contract, Labels, Pairing
from gansdk.errors import DataError, StudentWarning
from gansdk.evaluation import views
from gansdk.evaluation.findings import ACTIVATIONS, BASELINE, CHECKS, FINITE, RANGE, TEACHER, TRAINING, Finding, warn_of
from gansdk.evaluation.self_checks import SelfCheck
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.interfaces import DataSource

CONTRACT = Contract(
    channels_in=3, channels_out=3, size=(16, 16), scale=2, input_range=(0.0, 1.0), output_range=(0.0, 1.0)
)
SAME_SIZE = Contract(channels_in=3, channels_out=3, size=(16, 16), input_range=(0.0, 1.0), output_range=(0.0, 1.0))
CPU = torch.device("cpu")


class Net(nn.Module):
    """The input enlarged, with some detail of its own; `change` is applied to the image, `gain` to the inner maps."""

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor] | None = None, *, gain: float = 1.0, scale: int = 2):
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)
        rng = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.rand(parameter.shape, generator=rng) * 0.4 - 0.2
        self.head.weight.data *= gain
        self.head.bias.data *= gain
        self.tail.weight.data /= gain
        self.change, self.scale = change or (lambda image, x: image), scale

    def forward(self, x: Tensor) -> Tensor:
        image = (x + 0.5 * self.tail(torch.relu(self.head(x)))).clamp(0, 1)
        return self.change(F.interpolate(image, scale_factor=self.scale, mode="nearest"), x)


class Images(DataSource):
    """Five smooth images from dark to bright; their truth is what `truth` makes of them."""

    pairing = Pairing.PAIRED

    def __init__(self, truth: nn.Module | None = None, side: int = 24, most: int = 5) -> None:
        self.truth, self.side, self.most = truth, side, most

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        raise NotImplementedError

    def images(self, split: str) -> Iterator[Batch]:
        assert split == "eval"
        for number in range(self.most):
            rng = torch.Generator().manual_seed(number)
            coarse = torch.rand(1, 3, 6, 6, generator=rng)
            x = F.interpolate(coarse, (self.side, self.side), mode="bilinear") * 0.3 + 0.15 * number
            with torch.no_grad():
                targets = {} if self.truth is None else {MAIN: self.truth(x)}
            yield Batch({MAIN: x}, targets, (f"{number}.png",))


def teacher(net: nn.Module, contract: Contract = CONTRACT, taps: dict[str, str] | None = None) -> FrozenTeacher:
    return FrozenTeacher(net, contract, {"stem": "head"} if taps is None else taps)


def student(net: nn.Module, contract: Contract = CONTRACT, *, taps: dict[str, str] | None = None, fresh: bool = False):
    made = teacher(net, contract, taps)
    made.fresh, made.train = fresh, lambda mode: None
    return made


def check(of: nn.Module, source: DataSource | None = None, contract: Contract = CONTRACT, taps=None) -> SelfCheck:
    return SelfCheck(teacher(of, contract, taps), source, contract, CPU, 0)


def found(findings: list[Finding], name: str) -> Finding:
    assert [finding.check for finding in findings] == list(CHECKS)
    return next(finding for finding in findings if finding.check == name)


def bright(value: float) -> Callable[[Tensor, Tensor], Tensor]:
    """On the brightest of the five images, and on no other, multiply by `value`."""
    return lambda image, x: image * torch.where(x.mean() > 0.7, torch.tensor(value), torch.tensor(1.0))


def noisy(amount: float) -> Callable[[Tensor, Tensor], Tensor]:
    def change(image: Tensor, x: Tensor) -> Tensor:
        return image + amount * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))

    return change


@pytest.mark.parametrize(
    ("name", "deserving", "words"),
    [
        (FINITE, Net(bright(torch.nan)), r"non-finite values on 1 of 5 images, such as '4\.png' at 16x16"),
        (FINITE, Net(bright(torch.inf)), "non-finite values on 1 of 5 images"),
        (
            RANGE,
            Net(bright(1e13)),
            r"On 1 of 5 images .* \[0, 1\]: '4\.png' at 16x16 has values of \d.*e\+1[23], the",
        ),
        (BASELINE, Net(noisy(0.4)), r"below bicubic enlargement: .* dB to the teacher against .* Train longer"),
        (BASELINE, Net(bright(0.0)), r"On '4\.png' at 16x16 the student is below bicubic .* not on the mean"),
        (ACTIVATIONS, Net(gain=30.0), r"activations grow to 30 times the teacher's, at 'stem'"),
    ],
)
def test_a_student_that_deserves_a_warning_has_it_and_its_teacher_as_a_student_has_none(name, deserving, words):
    source = Images()
    finding = found(check(Net(), source).after(student(deserving)), name)
    assert finding.passed is False
    with pytest.warns(StudentWarning, match=words):
        warn_of([finding])
    fine = check(Net(), source).after(student(Net(noisy(0.004))))
    assert {finding.check for finding in fine if finding.passed is False} == set()
    assert found(fine, name).passed is True


def test_a_student_may_be_below_bicubic_to_the_truth_only_where_its_teacher_is():
    def apart(detail: float, shift: float) -> Net:
        """Bicubic enlargement with a pattern that it lacks, and a little too bright."""

        def change(image: Tensor, x: Tensor) -> Tensor:
            rows, columns = (torch.arange(side) for side in image.shape[2:])
            pattern = 1.0 - 2.0 * ((rows[:, None] + columns) % 2)
            return F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False) + detail * pattern + shift

        return Net(change)

    source = Images(apart(0.04, 0.0))
    off = student(apart(0.04, 0.06))
    finding = found(check(apart(0.04, 0.03), source).after(off), BASELINE)
    assert finding.passed is False
    assert "to the ground truth against" in finding.text
    assert "where the teacher is above" in finding.text
    assert found(check(apart(0.04, 0.03), source).after(student(apart(0.04, 0.035))), BASELINE).passed is True
    assert found(check(apart(0.04, 0.05), source).after(off), BASELINE).passed is True


def test_training_that_leads_away_from_the_teacher_is_told_and_training_towards_it_is_not():
    near, far = student(Net(noisy(0.02))), student(Net(noisy(0.04)))
    self_check = check(Net(), Images())
    self_check.before(near)
    finding = found(self_check.after(far), TRAINING)
    assert finding.passed is False
    assert "further from the teacher after training than before" in finding.text
    assert finding.measured["before"] == pytest.approx(finding.measured["after"] + 6, abs=0.5)
    self_check.before(far)
    assert found(self_check.after(near), TRAINING).passed is True
    assert found(self_check.after(near, imitates=False), TRAINING).passed is None
    assert found(check(Net(), Images()).after(near), TRAINING).passed is None  # nothing was trained


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image, x: image * 255, r"range looks wrong: .* output range \[0, 1\], with values of"),
        (lambda image, x: image / 255, r"fill only 0\.\d+% of the contract's output range"),
        (lambda image, x: image * 0 + 0.5, r"fill only 0\.00% of"),
        (lambda image, x: 1 - image, r"the teacher itself is below bicubic enlargement \(.* dB to the ground truth"),
        (bright(torch.nan), r"teacher itself returns non-finite values on 1 of 5 images, such as '4\.png'"),
    ],
)
def test_a_teacher_at_fault_is_told_before_any_student_and_its_student_is_not_blamed(change, words):
    faulty = check(Net(change), Images(Net()))
    with pytest.warns(StudentWarning, match=words):
        warn_of([faulty.of_teacher()])
    blamed = {finding.check for finding in faulty.after(student(Net(change))) if finding.passed is False}
    assert blamed == {TEACHER}
    assert check(Net(), Images(Net())).of_teacher().passed is True


def test_a_teacher_that_is_finite_on_no_image_leaves_nothing_to_look_at():
    findings = check(Net(lambda image, x: image * torch.nan), Images()).after(student(Net()))
    assert [finding.passed for finding in findings] == [False, *[None] * 5]


def test_images_to_images_of_one_size_are_held_against_their_own_input():
    source, one = Images(), SAME_SIZE
    net = Net(scale=1)
    findings = check(net, source, one).after(student(Net(noisy(0.3), scale=1), one))
    assert "below its own input, left as it is" in found(findings, BASELINE).text
    assert found(check(net, source, one).after(student(Net(noisy(0.004), scale=1), one)), BASELINE).passed is True


def test_two_sizes_are_looked_at_and_multiples_are_kept():
    text = found(check(Net(), Images()).after(student(Net())), FINITE).text
    assert text == "All values are finite on 5 image(s) at 16x16, 12x12."
    even = Contract(**{**_fields(CONTRACT), "multiple_of": 8})
    text = found(check(Net(), Images(), even).after(student(Net(), even)), FINITE).text
    assert "at 16x16, 8x8" in text
    small = found(check(Net(), Images(side=6), even).after(student(Net(), even)), FINITE)  # padded by reflection
    assert "at 8x8 only" in small.text


def test_crops_are_bounded(monkeypatch):
    monkeypatch.setattr(views, "LARGEST", 8)
    self_check = check(Net(), Images(most=9))
    assert {tuple(x.shape) for x in self_check.inputs.values()} == {(1, 3, 8, 8)}
    assert len(self_check.inputs) == views.MOST_IMAGES


class OneSize(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.zeros(1, 1, 16, 16))


def test_a_network_of_one_size_is_looked_at_in_that_size_alone_without_a_warning(monkeypatch):
    for largest in (256, 8):
        monkeypatch.setattr(views, "LARGEST", largest)
        findings = check(OneSize(), Images()).after(student(OneSize()))
        assert "at 16x16 only; there was no second size" in found(findings, FINITE).text
        assert not [finding for finding in findings if finding.passed is False]


def test_without_images_made_ones_show_what_they_can_and_this_is_said():
    class Unreadable(Images):
        def images(self, split):
            raise DataError("none")

    for source in (None, Images(most=0), Unreadable()):
        self_check = check(Net(), source)
        assert self_check._views.are_synthetic
        assert not self_check.inputs
        self_check.before(student(Net()))
        findings = self_check.after(student(Net(lambda image, x: image * torch.nan)))
        assert {finding.check: finding.passed for finding in findings} == {
            "teacher": True,
            "finite": False,
            "range": None,
            "baseline": None,
            "training": None,
            "activations": True,
        }
        fine = found(self_check.after(student(Net())), FINITE)
        assert fine.passed is True
        assert "synthetic images, since there is no data" in fine.text


def test_a_generator_of_noise_is_looked_at():
    net = nn.Sequential(nn.ConvTranspose2d(8, 4, 4), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Tanh()).eval()
    contract = Contract(channels_in=8, channels_out=1, size=(1, 1), scale=8)
    taps = {"first": "0"}
    self_check = SelfCheck(teacher(net, contract, taps), None, contract, CPU, 0)
    findings = self_check.after(student(net, contract, taps=taps))
    assert found(findings, FINITE).passed is True
    assert found(findings, ACTIVATIONS).measured == {"first": 1.0}
    assert "at 1x1 only" in found(findings, FINITE).text


def test_made_images_for_label_maps_are_label_maps():
    contract = Contract(channels_in=5, channels_out=3, size=(4, 6), labels=Labels(classes=5))
    for x in views._synthetic(contract, 0):
        assert torch.equal(x.sum(1), torch.ones(1, 4, 6))
        assert set(x.unique().tolist()) == {0.0, 1.0}
    net = nn.Conv2d(5, 3, 1)
    findings = SelfCheck(teacher(net, contract, {}), None, contract, CPU, 0).after(student(net, contract, taps={}))
    assert found(findings, FINITE).passed is True
    assert found(findings, ACTIVATIONS).passed is None


def test_networks_of_batch_statistics_run_by_those_of_the_crop_and_keep_their_own():
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Sigmoid()).eval()
    net[1].running_mean.fill_(1e6)  # by which nothing could be seen
    contract = Contract(**{**_fields(SAME_SIZE), "inference": "batch-statistics"})
    findings = check(net, Images(), contract, {}).after(student(net, contract, taps={}))
    assert not [finding for finding in findings if finding.passed is False]
    assert check(net, Images(), SAME_SIZE, {}).of_teacher().passed is False
    assert float(net[1].running_mean[0]) == 1e6


def test_fresh_students_are_not_held_against_the_teachers_activations():
    findings = check(Net(), Images()).after(student(Net(gain=30.0), fresh=True))
    assert found(findings, ACTIVATIONS).passed is None


def _fields(contract: Contract) -> dict:
    return {name: getattr(contract, name) for name in contract.__dataclass_fields__}


# A real network.

REAL = Path(__file__).parents[3] / "shared" / "data"


class Set5(DataSource):
    """Low-resolution images of Set5 and their truth, from 0 to 255 as RFDN takes them."""

    pairing = Pairing.PAIRED

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        raise NotImplementedError

    def images(self, split: str) -> Iterator[Batch]:
        for path in sorted((REAL / "sr" / "Set5").rglob("*SRF_4_LR.png"))[:3]:
            low, high = (_read(p) for p in (path, path.with_name(path.name.replace("_LR", "_HR"))))
            yield Batch({MAIN: low}, {MAIN: high}, (path.name,))


def _read(path: Path) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float()


@pytest.mark.data
@pytest.mark.skipif(not (REAL / "real").is_dir(), reason="needs ../shared/data/real")
def test_a_real_network_whose_trunk_is_cut_deserves_warnings_and_one_that_hardly_changed_does_not():
    spec = spec_from_file_location("networks_of_real", REAL / "real" / "networks.py")
    networks = module_from_spec(spec)
    sys.modules["networks_of_real"] = networks
    spec.loader.exec_module(networks)
    facts = networks.models()["rfdn_x4"][2]
    contract = Contract(**facts)
    taps = {f"block{i}": f"B{i}" for i in range(1, 5)}
    net, slight, cut = (networks.build("rfdn_x4") for _ in range(3))
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in slight.parameters():
            parameter *= 1 + 0.01 * torch.randn(parameter.shape, generator=rng)
        cut.fea_conv.weight[5:] = 0
        cut.fea_conv.bias[5:] = 0
    self_check = SelfCheck(teacher(net, contract, taps), Set5(), contract, CPU, 0)
    self_check.before(student(slight, contract, taps=taps))
    fine = self_check.after(student(slight, contract, taps=taps))
    assert [finding.passed for finding in fine] == [True] * 6, fine
    ruined = self_check.after(student(cut, contract, taps=taps))
    assert found(ruined, BASELINE).passed is False
    assert found(ruined, TRAINING).passed is False
    wrong = Contract(**{**facts, "output_range": (0.0, 1.0)})
    assert "range looks wrong" in SelfCheck(teacher(net, wrong, taps), Set5(), wrong, CPU, 0).of_teacher().text

"""Measures of sets of images beside those of pairs: who is shown to them, and what comes out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import gansdk
from gansdk.contracts import Batch, Contract, Pairing
from gansdk.errors import DataError, GansdkWarning, InvalidOption, MissingData
from gansdk.evaluation.evaluate import evaluate
from gansdk.evaluation.metrics import check_metrics
from gansdk.evaluation.quality import Bound, QualityFloor, protocols
from gansdk.interfaces import DataSource, Measured, Metric, Quality
from gansdk.modules.randomness import seeded

CONTRACT = Contract(channels_in=3, channels_out=3, size=(16, 16), input_range=(0, 1), output_range=(-1, 1))


class Brightness(Metric):
    """The distance of mean grey values, in levels of 255."""

    name = "brightness(mean)"

    def start(self, contract: Contract, device: torch.device | str) -> None:
        self.levels: dict[str, list[float]] = {}
        self.batches: dict[str, list[Batch]] = {}

    def update(self, who: str, images: Tensor, batch: Batch) -> None:
        assert images.dtype == torch.uint8
        assert images.ndim == 4
        self.levels.setdefault(who, []).extend(images.float().mean((1, 2, 3)).tolist())
        self.batches.setdefault(who, []).append(batch)

    def result(self) -> Measured:
        if "real" not in self.levels:
            raise DataError("No real image was shown.")
        means = {who: sum(levels) / len(levels) for who, levels in self.levels.items()}
        real = means.pop("real")
        return Measured({who: abs(mean - real) for who, mean in means.items()}, f"{len(self.levels['real'])} real")


class Flat(nn.Module):
    """Paints every image in one colour."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.value)


class Images(DataSource):
    """Three inputs; targets of the same scenes, or two images of another domain, or none."""

    def __init__(self, pairing: Pairing) -> None:
        self.pairing = pairing

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        return next(self.images("search"))

    def images(self, split: str) -> Iterator[Batch]:
        for i in range(3):
            x = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(i))
            target = {"main": torch.full_like(x, -1.0)} if self.pairing is Pairing.PAIRED else {}
            yield Batch({"main": x}, target, (f"{i}.png",))


class TwoDomains(Images):
    def __init__(self) -> None:
        super().__init__(Pairing.UNPAIRED)

    def references(self, split: str) -> Iterator[Batch]:
        for _ in range(2):
            yield Batch({}, {"main": torch.ones(1, 3, 16, 16)}, paired=False)


def scored(source: DataSource, *, teacher: nn.Module | None, metric: Metric | None = None) -> dict[str, Quality]:
    metric = metric or Brightness()
    result = evaluate(Flat(-0.6), teacher=teacher, source=source, contract=CONTRACT, metrics=[metric])
    return {f"{quality.metric} to {quality.reference}": quality for quality in result.qualities}


def test_teacher_and_student_are_measured_on_the_same_images_as_pairs_are() -> None:
    metric = Brightness()
    found = scored(Images(Pairing.PAIRED), teacher=Flat(0.2), metric=metric)
    assert list(found) == [
        "psnr to ground-truth",
        "ssim to ground-truth",
        "psnr to teacher",
        "ssim to teacher",
        "brightness(mean) to ground-truth",
    ]
    quality = found["brightness(mean) to ground-truth"]
    assert (quality.teacher, quality.student, quality.images) == (153, 51, 3)
    assert quality.protocol == "3 real"
    assert [batch.names for batch in metric.batches["student"]] == [("0.png",), ("1.png",), ("2.png",)]


def test_unpaired_sources_are_compared_with_their_references() -> None:
    found = scored(TwoDomains(), teacher=None)
    assert list(found) == ["brightness(mean) to ground-truth"]
    quality = found["brightness(mean) to ground-truth"]
    assert (quality.teacher, quality.student, quality.images) == (None, 204, 3)
    assert quality.protocol == "2 real"


def test_targets_that_are_no_pairs_are_not_compared_pixel_by_pixel() -> None:
    class Both(Images):
        def images(self, split: str) -> Iterator[Batch]:
            for batch in Images.images(self, split):
                yield Batch(batch.inputs, batch.targets, batch.names, paired=False)

    assert list(scored(Both(Pairing.PAIRED), teacher=None)) == ["brightness(mean) to ground-truth"]


def test_a_metric_that_cannot_be_computed_is_left_out_with_a_warning() -> None:
    with pytest.warns(GansdkWarning, match=r"brightness\(mean\) is not measured: No real image"):
        found = scored(Images(Pairing.INPUTS_ONLY), teacher=Flat(0.2))
    assert list(found) == ["psnr to teacher", "ssim to teacher"]


def test_without_pairs_teacher_and_metrics_nothing_can_be_scored() -> None:
    with pytest.raises(DataError, match="no ground truth and there is no teacher"):
        evaluate(Flat(0.0), teacher=None, source=TwoDomains(), contract=CONTRACT)


@pytest.mark.parametrize(
    ("metrics", "source", "message"),
    [
        ([Brightness(), Brightness()], TwoDomains(), "listed more than once"),
        ([Brightness()], Images(Pairing.INPUTS_ONLY), "has 0. Pass eval_data"),
        ([Brightness()], None, "has 0. Pass eval_data"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(
    metrics: list[Metric], source: DataSource | None, message: str
) -> None:
    with pytest.raises((InvalidOption, MissingData), match=message):
        check_metrics(metrics, CONTRACT, source)


def test_metrics_of_two_channels_are_refused() -> None:
    contract = Contract(channels_in=3, channels_out=2, size=(16, 16))
    with pytest.raises(InvalidOption, match="1 or 3 channels, but the generator makes 2"):
        Brightness().check(contract)


def test_floors_name_the_metric_in_full() -> None:
    floor = QualityFloor.parse("kid(efficientnet-lite0) <= 0.05")
    assert floor == QualityFloor((Bound("kid(efficientnet-lite0)", "<=", 0.05),))
    floor.check(["psnr"], ["kid(efficientnet-lite0)"])
    with pytest.raises(InvalidOption, match=r"choose one of psnr, kid\(efficientnet-lite0\)"):
        QualityFloor((Bound("kid", "<=", 0.05),)).check(["psnr"], ["kid(efficientnet-lite0)"])
    rows = [
        Quality("kid(efficientnet-lite0)", "ground-truth", 0.01, value, 3, "") for value in (0.06, -0.01, float("nan"))
    ]
    assert floor.missed(rows[:1]).endswith("0.06, not <= 0.05.")
    assert floor.missed(rows[1:2]) == ""
    assert floor.missed(rows[2:])
    assert QualityFloor.parse("kid(x)<=-1e-3") == QualityFloor((Bound("kid(x)", "<=", -1e-3),))


@pytest.mark.parametrize("text", ["kid()<=1", "kid(a b)<=1", "kid(a(b))<=1", "kid(a)=1", "(a)<=1"])
def test_floors_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match="cannot be read"):
        QualityFloor.parse(text)


def test_each_protocol_is_stated_once_with_its_metrics() -> None:
    rows = [
        Quality(name, "teacher", None, 1.0, 3, how) for name, how in (("a", "x"), ("b", "x"), ("a", "x"), ("c", "y"))
    ]
    assert protocols(rows) == ["a, b: x", "c: y"]


def test_seeded_draws_repeat_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(3):
            draws.append(torch.rand(2))
    assert torch.equal(*draws)
    assert torch.equal(before, torch.get_rng_state())


def test_compress_measures_what_it_is_asked_to() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    result = gansdk.compress(
        gansdk.wrap(network, contract=CONTRACT),
        budget="macs<=60%",
        distiller=None,
        data=TwoDomains(),
        metrics=Brightness(),
        quality="brightness(mean)<=255",
    )
    quality = result.quality[-1]
    assert quality.metric == "brightness(mean)"
    assert quality.teacher is not None
    assert quality.teacher != quality.student
    assert result.summary()["quality"][-1]["protocol"] == "2 real"
    with pytest.raises(InvalidOption, match=r"choose one of psnr, ssim, brightness\(mean\)"):
        gansdk.compress(
            gansdk.wrap(network, contract=CONTRACT),
            budget="macs<=60%",
            distiller=None,
            data=TwoDomains(),
            metrics=Brightness(),
            quality="brightness<=255",
        )

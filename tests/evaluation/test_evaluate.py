import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from gansdk.contracts import Batch, Contract, Pairing
from gansdk.errors import ContractError, DataError, GansdkWarning
from gansdk.evaluation.evaluate import Protocol, evaluate
from gansdk.interfaces import DataSource
from gansdk.modules.inference import inferring
from gansdk.toolkit.images import to_tensor

DATA = Path(__file__).parents[2].parent / "shared" / "data"


class Images(DataSource):
    """Inputs and targets that are given as tensors."""

    pairing = Pairing.PAIRED

    def __init__(self, *pairs: tuple[Tensor, Tensor | None]) -> None:
        self.pairs = pairs

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        raise NotImplementedError

    def images(self, split: str) -> Iterator[Batch]:
        assert split == "eval"
        for index, (x, target) in enumerate(self.pairs):
            targets = {} if target is None else {"main": target}
            yield Batch({"main": x}, targets, (f"{index}.png",))


class Enlarge(nn.Module):
    """Nearest neighbours, made brighter, with a count of its runs."""

    def __init__(self, scale: int = 1, brighter: float = 0.0) -> None:
        super().__init__()
        self.scale, self.brighter, self.runs = scale, brighter, 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return F.interpolate(x, scale_factor=self.scale, mode="nearest") + self.brighter


def contract(**changes) -> Contract:
    given = {"channels_in": 3, "channels_out": 3, "size": (16, 16), "input_range": (0, 1), "output_range": (0, 1)}
    return Contract(**{**given, **changes})


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Multiples of 1/255, so that rounding changes nothing."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)) / 255


def by_name(evaluation):
    return {(quality.metric, quality.reference): quality for quality in evaluation.qualities}


def test_plain_generators_are_scored_on_all_channels_as_other_libraries_do():
    from skimage.metrics import peak_signal_noise_ratio
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, target = noise(1, 3, 20, 24), noise(1, 3, 20, 24, seed=1)
    result = evaluate(Enlarge(), teacher=None, source=Images((x, target)), contract=contract())
    scores = by_name(result)
    assert set(scores) == {("psnr", "ground-truth"), ("ssim", "ground-truth")}
    image, truth = (tensor[0].permute(1, 2, 0).double().numpy() for tensor in (x, target))
    psnr = peak_signal_noise_ratio(truth, image, data_range=1)
    pair = x.double(), target.double()
    _, full = structural_similarity_index_measure(*pair, data_range=1.0, sigma=1.5, return_full_image=True)
    ssim = float(full[..., 5:-5, 5:-5].mean())  # the windows of 11 pixels that lie inside the image
    assert scores["psnr", "ground-truth"].student == pytest.approx(psnr, abs=1e-4)
    assert scores["ssim", "ground-truth"].student == pytest.approx(ssim, abs=1e-5)
    assert scores["psnr", "ground-truth"].teacher is None
    assert scores["psnr", "ground-truth"].extra == {}
    assert "all channels, no border" in scores["psnr", "ground-truth"].protocol


def test_super_resolution_is_scored_on_luma_without_the_border():
    x, target = noise(1, 3, 10, 12), noise(1, 3, 20, 24, seed=1)
    result = evaluate(Enlarge(2), teacher=None, source=Images((x, target)), contract=contract(scale=2))
    image = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    error = (image - target)[..., 2:-2, 2:-2].mul(torch.tensor([65.481, 128.553, 24.966]).view(3, 1, 1)).sum(1)
    quality = by_name(result)["psnr-y", "ground-truth"]
    assert quality.student == pytest.approx(20 * np.log10(255 / float(error.square().mean().sqrt())), abs=1e-3)
    assert quality.protocol.startswith("Y channel of BT.601 (16 to 235), border of 2 pixels removed")
    assert set(quality.extra) == {"bicubic"}


def test_the_baseline_is_pils_bicubic():
    x, target = noise(1, 3, 10, 12), noise(1, 3, 20, 24, seed=1)
    result = evaluate(Enlarge(2), teacher=None, source=Images((x, target)), contract=contract(scale=2))
    pixels = (x[0] * 255).round().byte().permute(1, 2, 0).numpy()
    expected = np.asarray(Image.fromarray(pixels).resize((24, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(result.examples[0].bicubic, expected)
    truth = result.examples[0].target
    values = Protocol(on_luma=True, border=2).compare(expected, truth)
    assert by_name(result)["psnr-y", "ground-truth"].extra == {"bicubic": values["psnr-y"]}


def test_the_input_of_a_pre_upsampled_generator_is_its_baseline():
    x, target = noise(1, 1, 20, 24), noise(1, 1, 20, 24, seed=1)
    vdsr = contract(channels_in=1, channels_out=1, pre_upsampled=3)
    result = evaluate(Enlarge(), teacher=None, source=Images((x, target)), contract=vdsr)
    quality = by_name(result)["psnr-y", "ground-truth"]
    assert quality.extra["bicubic"] == quality.student
    assert "border of 3 pixels" in quality.protocol


def test_a_student_is_also_compared_with_its_teacher():
    x, target = noise(1, 3, 16, 16), noise(1, 3, 16, 16, seed=1)
    teacher, student = Enlarge(), Enlarge(brighter=-51 / 255)
    bright = x.clamp(min=0.2)
    result = evaluate(student, teacher=teacher, source=Images((bright, target)), contract=contract())
    scores = by_name(result)
    assert scores["psnr", "teacher"].student == pytest.approx(20 * np.log10(5), abs=1e-2)
    assert scores["psnr", "teacher"].teacher is None
    assert scores["psnr", "ground-truth"].teacher > 0
    assert (student.runs, teacher.runs) == (1, 1)


def test_without_ground_truth_only_the_teacher_is_compared_with():
    result = evaluate(
        Enlarge(), teacher=Enlarge(brighter=0.1), source=Images((noise(1, 3, 16, 16), None)), contract=contract()
    )
    assert {quality.reference for quality in result.qualities} == {"teacher"}
    assert result.examples[0].target is None


def test_networks_beside_the_student_are_scored_as_it_is_and_leave_no_example():
    x, target = noise(1, 3, 20, 24), noise(1, 3, 20, 24, seed=1)
    other = Enlarge(brighter=0.1)
    scored = {"teacher": Enlarge(), "source": Images((x, target)), "contract": contract()}
    found = evaluate(Enlarge(brighter=0.2), beside={"wider teacher": other}, **scored)
    alone = by_name(evaluate(other, **scored))
    assert {name: row.extra for name, row in by_name(found).items()} == {
        name: {"wider teacher": row.student} for name, row in alone.items()
    }
    assert len(alone) == 4
    assert len(found.examples) == 1


def test_identical_images_count_as_100_db():
    source = Images((noise(1, 3, 16, 16), None))
    result = evaluate(Enlarge(), teacher=Enlarge(), source=source, contract=contract())
    assert by_name(result)["psnr", "teacher"].student == 100
    assert by_name(result)["ssim", "teacher"].student == pytest.approx(1)


@pytest.mark.parametrize("level", [1, 127, 128, 254])
def test_identical_flat_images_have_an_ssim_of_1(level):
    source = Images((torch.full((1, 3, 16, 16), level / 255), None))
    result = evaluate(Enlarge(), teacher=Enlarge(), source=source, contract=contract())
    assert by_name(result)["ssim", "teacher"].student == pytest.approx(1, abs=1e-9)


def test_images_are_clamped_and_rounded_before_they_are_scored():
    x = torch.ones(1, 3, 16, 16)
    result = evaluate(Enlarge(brighter=7.0), teacher=None, source=Images((x, x)), contract=contract())
    assert by_name(result)["psnr", "ground-truth"].student == 100
    half_a_level = Enlarge(brighter=-0.4 / 255)
    result = evaluate(half_a_level, teacher=None, source=Images((x, x)), contract=contract())
    assert by_name(result)["psnr", "ground-truth"].student == 100


def test_means_are_over_images_and_each_image_is_listed():
    pairs = [(noise(1, 3, 16, 16 + index, seed=index), noise(1, 3, 16, 16 + index, seed=9)) for index in range(3)]
    result = evaluate(Enlarge(), teacher=Enlarge(), source=Images(*pairs), contract=contract(), examples=2)
    quality = by_name(result)["psnr", "ground-truth"]
    assert quality.images == 3
    assert [row["name"] for row in result.per_image] == ["0.png", "1.png", "2.png"]
    listed = [row["ground-truth"]["psnr"]["student"] for row in result.per_image]
    assert quality.student == pytest.approx(sum(listed) / 3)
    assert len(result.examples) == 2
    assert json.loads(json.dumps(result.per_image)) == list(result.per_image)


def test_examples_show_everybodys_image_in_eight_bits():
    ranged = contract(scale=2, input_range=(-1, 1), output_range=(0, 255))
    x = noise(1, 3, 10, 9) * 2 - 1

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x / 2 + 0.5, scale_factor=2) * 255

    result = evaluate(Net(), teacher=Net(), source=Images((x, noise(1, 3, 20, 18) * 255)), contract=ranged)
    (example,) = result.examples
    shown = {name: getattr(example, name) for name in ("input", "target", "teacher", "student", "bicubic")}
    assert {name: image.shape for name, image in shown.items()} == {
        name: (10, 9, 3) if name == "input" else (20, 18, 3) for name in shown
    }
    assert all(image.dtype == np.uint8 for image in shown.values())
    np.testing.assert_array_equal(example.student[::2, ::2], example.input)


@pytest.mark.parametrize(("height", "width"), [(13, 17), (16, 19), (15, 16)])
def test_odd_sides_are_padded_for_the_network_and_cropped_back(height, width):
    class Picky(Enlarge):
        def forward(self, x: Tensor) -> Tensor:
            assert not any(side % 8 for side in x.shape[2:])
            return super().forward(x)

    x, target = noise(1, 3, height, width), noise(1, 3, 2 * height, 2 * width)
    padded = contract(scale=2, multiple_of=8)
    result = evaluate(Picky(2), teacher=None, source=Images((x, target)), contract=padded)
    plain = evaluate(Enlarge(2), teacher=None, source=Images((x, target)), contract=contract(scale=2))
    assert result.qualities == plain.qualities


class Normed(nn.Module):
    """Everything whose behaviour depends on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.instance = nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.instance(self.norm(x)))


@pytest.mark.parametrize("inference", ["eval", "batch-statistics"])
@pytest.mark.parametrize("training", [True, False])
def test_inference_leaves_modes_statistics_and_random_numbers_alone(inference, training):
    net = Normed().train(training)
    net.drop.train(not training)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    with inferring(net, contract(inference=inference)):
        net(noise(1, 3, 8, 8))
    assert (net.training, net.norm.training, net.drop.training) == (training, training, not training)
    assert net.norm.track_running_stats
    assert net.instance.track_running_stats
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_statistics_are_those_of_the_image():
    net, x = nn.BatchNorm2d(3), noise(1, 3, 8, 8)
    with inferring(net, contract(inference="batch-statistics")):
        normed = net(x)
    torch.testing.assert_close(normed, F.batch_norm(x, None, None, training=True))
    with inferring(net, contract()):
        torch.testing.assert_close(net(x), x, rtol=1e-4, atol=1e-4)


def test_modes_are_restored_when_the_network_fails():
    net = nn.Sequential(nn.BatchNorm2d(5)).train()
    with pytest.raises(RuntimeError), inferring(net, contract(inference="batch-statistics")):
        net(noise(1, 3, 8, 8))
    assert net.training
    assert net[0].track_running_stats


def test_labels_as_inputs_are_scored_and_painted():
    class Paint(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3]

    labels = contract(channels_in=36)
    x = noise(1, 36, 16, 16)
    result = evaluate(Paint(), teacher=None, source=Images((x, noise(1, 3, 16, 16))), contract=labels)
    shown = result.examples[0].input
    voc = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128), 15: (192, 128, 128)}
    for label, colour in voc.items():
        assert (shown[x[0].argmax(0).numpy() == label] == colour).all()


def test_images_too_small_to_score_are_left_out_with_a_warning():
    small, large = noise(1, 3, 7, 20), noise(1, 3, 8, 20)
    source = Images(*((x, F.interpolate(x, scale_factor=2)) for x in (small, large)))
    with pytest.warns(GansdkWarning, match=r"0\.png.*too small"):
        result = evaluate(Enlarge(2), teacher=None, source=source, contract=contract(scale=2))
    assert [row["name"] for row in result.per_image] == ["1.png"]


def test_what_cannot_be_scored_is_refused():
    x = noise(1, 3, 16, 16)
    with pytest.raises(DataError, match=r"no images to score.*eval_data"):
        evaluate(Enlarge(), teacher=None, source=Images(), contract=contract())
    with pytest.raises(DataError, match="no ground truth and there is no teacher"):
        evaluate(Enlarge(), teacher=None, source=Images((x, None)), contract=contract())
    with pytest.raises(ContractError, match=r"Enlarge returned \(1, 3, 32, 32\)"):
        evaluate(Enlarge(2), teacher=None, source=Images((x, x)), contract=contract())
    with pytest.raises(ContractError, match="the target has"):
        evaluate(Enlarge(), teacher=None, source=Images((x, x[..., 1:])), contract=contract())
    with pytest.raises(ContractError, match="NaN"):
        evaluate(Enlarge(brighter=torch.nan), teacher=None, source=Images((x, x)), contract=contract())


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_bicubic_on_set5_has_its_known_psnr():
    """28.43 dB on the luma of Set5 x4, border of 4 pixels removed: README of the data."""
    files = sorted((DATA / "sr" / "Set5" / "image_SRF_4").glob("*_LR.png"))
    pairs = [
        tuple(
            to_tensor(np.asarray(Image.open(str(path).replace("_LR", role)).convert("RGB")), (0, 1))[None]
            for role in ("_LR", "_HR")
        )
        for path in files
    ]
    result = evaluate(Enlarge(4), teacher=None, source=Images(*pairs), contract=contract(scale=4))
    quality = by_name(result)["psnr-y", "ground-truth"]
    assert quality.images == 5
    assert quality.extra["bicubic"] == pytest.approx(28.43, abs=0.02)
    assert quality.student < quality.extra["bicubic"]

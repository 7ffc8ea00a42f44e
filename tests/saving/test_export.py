import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gansdk.saving.export as exporting
from gansdk.contracts import Contract
from gansdk.errors import GansdkWarning, InvalidOption, OutputError, Unsupported, VerificationError
from gansdk.modules.inference import inference_form
from gansdk.modules.programs.program import trace_program
from gansdk.saving.export import export


def fresh(make) -> nn.Module:
    """A network whose weights and statistics are drawn without moving the global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make()
        for norm in (part for part in net.modules() if isinstance(part, nn.BatchNorm2d)):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return net.eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def contract(**changes) -> Contract:
    return Contract(**{"channels_in": 3, "channels_out": 3, "size": (16, 16), **changes})


class SkipNet(nn.Module):
    """Half the size and back, beside a skip: sides must be even. Doubled at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.PReLU(4))
        self.up = nn.ConvTranspose2d(4, 4, 4, 2, 1)
        self.out = nn.Conv2d(7, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        image = torch.tanh(self.out(torch.cat([self.up(self.down(x)), x], 1)))
        return F.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False)


class LooksAtValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


class OneSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.ones(1, 3, 16, 16))
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x + self.position)


def skip_contract() -> Contract:
    return contract(scale=2, multiple_of=2)


def onnx_run(path: Path, x: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["image"], {"input": x.numpy()})[0])


def test_an_onnx_student_gives_the_same_images_at_other_batches_and_sizes(tmp_path):
    import onnx

    net, path = fresh(SkipNet), tmp_path / "export" / "model.onnx"
    record = export(net, skip_contract(), "onnx", path)
    x = noise(3, 3, 12, 30)
    expected = net(x).detach()
    torch.testing.assert_close(onnx_run(path, x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert record["relative_error"] <= 1e-5
    assert [shape[0] for shape in record["shapes"]] == [1, 2, 3]
    sides = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert sides[0].dim_param == "batch"
    assert all(sides[index].dim_param for index in (2, 3))
    assert sorted(p.name for p in path.parent.iterdir()) == ["check.json", "model.onnx"]


def test_a_pt2_student_is_read_by_torch_alone_and_equals_the_original(tmp_path):
    net, path = fresh(SkipNet), tmp_path / "model.pt2"
    record = export(net, skip_contract(), "pt2", path)
    x = noise(1, 3, 20, 18)
    assert torch.equal(torch.export.load(path).module()(x), net(x))
    assert record["max_error"] == 0


def test_the_records_of_both_exports_stay_side_by_side(tmp_path):
    net = fresh(SkipNet)
    for format in ("pt2", "onnx"):
        export(net, skip_contract(), format, tmp_path / f"model.{format}")
    records = json.loads((tmp_path / "check.json").read_text())
    assert set(records) == {"model.pt2", "model.onnx"}
    assert records["model.onnx"]["opset"] >= 18
    assert records["model.onnx"]["torch"] == torch.__version__


def test_exports_name_no_source_file(tmp_path):
    for format in ("pt2", "onnx"):
        path = tmp_path / f"model.{format}"
        export(fresh(SkipNet), skip_contract(), format, path)
        content = path.read_bytes()
        assert b"test_export.py" not in content
        assert str(Path(torch.__file__).parent).encode() not in content


def test_a_generator_of_batch_statistics_is_exported_with_them(tmp_path):
    net = fresh(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1)))
    export(net, contract(inference="batch-statistics"), "onnx", tmp_path / "model.onnx")
    x = noise(1, 3, 20, 24)
    found = onnx_run(tmp_path / "model.onnx", x)
    by_input = F.batch_norm(net[0](x), None, None, net[1].weight, net[1].bias, training=True)
    torch.testing.assert_close(found, net[2](by_input).detach(), rtol=0, atol=1e-5)
    assert not torch.allclose(found, net(x), atol=1e-3)


def test_a_generator_of_one_size_is_exported_at_that_size(tmp_path):
    net = fresh(OneSize)
    for format in ("pt2", "onnx"):
        record = export(net, contract(), format, tmp_path / f"model.{format}")
        assert record["shapes"] == [[1, 3, 16, 16], [2, 3, 16, 16], [3, 3, 16, 16]]


def test_exporting_leaves_the_module_as_it_was(tmp_path):
    net = fresh(SkipNet).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    export(net, skip_contract(), "pt2", tmp_path / "model.pt2")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(part.training for part in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_an_unknown_format_is_refused_by_naming_the_two(tmp_path):
    with pytest.raises(InvalidOption, match="'onnx', 'pt2'"):
        export(fresh(SkipNet), skip_contract(), "tflite", tmp_path / "model.tflite")


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_a_forward_that_decides_by_values_is_refused_in_one_paragraph(format, tmp_path):
    with pytest.raises(Unsupported, match="LooksAtValues") as caught:
        export(fresh(LooksAtValues), contract(), format, tmp_path / f"model.{format}")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_wrong_export_is_an_error_and_is_not_written(tmp_path, monkeypatch):
    content, _, _ = exporting._to_pt2(trace_program(inference_form(fresh(SkipNet), contract()), skip_contract()))
    wrong = (content, lambda x: F.interpolate(x, scale_factor=2), {})
    monkeypatch.setitem(exporting._FORMATS, "pt2", lambda program: wrong)
    with pytest.raises(VerificationError) as caught:
        export(fresh(SkipNet), skip_contract(), "pt2", tmp_path / "model.pt2")
    assert caught.value.stage == "export"
    assert caught.value.max_error > 0.1
    assert not list(tmp_path.iterdir())


class Loud(nn.Module):
    """Gives values far outside its contract's range, whose rounding errors are large in its units alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * 1e7


def test_errors_count_relative_to_the_students_own_images(tmp_path):
    record = export(fresh(Loud), contract(), "onnx", tmp_path / "model.onnx")
    span = 2  # of the contract's output range
    assert record["max_error"] > exporting.TOLERANCE * span
    assert record["relative_error"] < 1e-5
    assert record["passed"] is True
    assert record["inputs"] == "noise within the contract's input range"


def wrong_where_bright(monkeypatch, by: float) -> None:
    """Let exports as pt2 differ on images that are bright in the mean, and on no others."""
    content, run, _ = exporting._to_pt2(trace_program(inference_form(fresh(SkipNet), skip_contract()), skip_contract()))

    def wrong(x: Tensor) -> Tensor:
        return run(x) + by * (x.mean((1, 2, 3), keepdim=True) > 0.5)

    monkeypatch.setitem(exporting._FORMATS, "pt2", lambda program: (content, wrong, {}))


IMAGES = {
    "dark.png": torch.zeros(1, 3, 6, 40),
    "bright.png": torch.ones(1, 3, 40, 6),
    "grey.png": torch.full((1, 3, 9, 9), 0.4),
}


def test_what_differs_is_said_by_image_amount_and_format_and_can_be_written_all_the_same(tmp_path, monkeypatch):
    wrong_where_bright(monkeypatch, 0.25)
    path = tmp_path / "model.pt2"
    with pytest.raises(
        VerificationError, match=r"pt2 .* by 0\.25 on 'bright\.png' in a batch of .*--unchecked"
    ) as caught:
        export(fresh(SkipNet), skip_contract(), "pt2", path, inputs=IMAGES)
    assert caught.value.max_error == pytest.approx(0.25, rel=1e-3)
    assert not path.exists()
    with pytest.warns(GansdkWarning, match=r"'bright\.png' .* was still written"):
        record = export(fresh(SkipNet), skip_contract(), "pt2", path, inputs=IMAGES, check=False)
    assert record["passed"] is False
    assert json.loads((tmp_path / "check.json").read_text())["model.pt2"]["passed"] is False
    assert torch.export.load(path).module()(noise(1, 3, 16, 16)).shape == (1, 3, 32, 32)
    record = export(fresh(SkipNet), skip_contract(), "pt2", path, inputs={"dark.png": IMAGES["dark.png"]})
    assert record["inputs"] == ["dark.png"]
    assert record["passed"] is True


def test_small_differences_of_small_images_are_found(tmp_path, monkeypatch):
    wrong_where_bright(monkeypatch, 1e-3)
    wide = contract(scale=2, multiple_of=2, output_range=(-5000.0, 5000.0))
    export(fresh(SkipNet), wide, "pt2", tmp_path / "rounding.pt2", inputs=IMAGES)  # images of next to nothing
    with pytest.raises(VerificationError, match=r"by 0\.001 on 'bright\.png'"):
        export(
            fresh(SkipNet),
            contract(scale=2, multiple_of=2, output_range=(-50.0, 50.0)),
            "pt2",
            tmp_path / "x.pt2",
            inputs=IMAGES,
        )


def test_values_that_are_not_finite_are_equal_to_themselves_and_to_nothing_else():
    a = torch.tensor([1.0, torch.nan, torch.inf])
    assert exporting._gap(a, a.clone()) == 0
    assert exporting._gap(a, torch.tensor([1.5, torch.nan, torch.inf])) == 0.5
    for other in ([1.0, 0.0, torch.inf], [1.0, torch.nan, 0.0], [1.0, torch.nan, -torch.inf]):
        assert exporting._gap(a, torch.tensor(other)) == torch.inf


def test_a_path_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file, but"):
        export(fresh(SkipNet), skip_contract(), "pt2", tmp_path / "file" / "model.pt2")

"""Every translation family's teachers, from training to a compressed student, on patterns made up here."""

import pytest
import torch
from PIL import Image

import gansdk
from gansdk.contracts import MAIN, Pairing
from gansdk.errors import DataError, InvalidOption, MissingData
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter

pytestmark = pytest.mark.slow

FAMILIES = ["pix2pix", "pix2pix-mobile", "pix2pix-unet", "pix2pix-inception", "cyclegan", "cyclegan-inception"]
FAMILIES += ["gaugan", "gaugan-mobile", "gaugan-inception"]


@pytest.fixture(scope="module")
def data(examples):
    """The images of a family."""
    return lambda name: examples[name].source(examples[name].generator().contract)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_teacher_is_trained_resumed_and_compressed_with_its_discriminator(name, examples, data, tmp_path):
    example, source = examples[name], data(name)
    options = {"architecture": example.architecture, "sizes": example.sizes, "batch_size": 2, "device": "cpu"}
    straight = gansdk.train_teacher(example.adapter, source, steps=3, **options)
    out = tmp_path / "out"

    class Killed(Exception):
        pass

    def kill(event):
        if getattr(event, "step", 0) == 2:
            raise Killed

    with pytest.raises(Killed):
        gansdk.train_teacher(example.adapter, source, steps=3, out_dir=out, observers=[kill], **options)
    resumed = gansdk.train_teacher(example.adapter, source, steps=3, out_dir=out, **options)
    assert list((out / "samples").glob("*.png"))
    for route, generator in straight.generators.items():
        other = resumed.generators[route].module.state_dict()
        assert all(torch.equal(value, other[key]) for key, value in generator.module.state_dict().items())
        folder = out / "teacher" if route == MAIN else out / "teacher" / route
        saved = open_generator(folder)
        assert saved.discriminator
        assert saved.contract == generator.contract
        assert saved.adapter.options() == example.adapter.options()
        for file in ("README.md", "report.html"):
            text = (folder / file).read_text()
            assert ", trained teacher" in text
            assert "compressed" not in text
        assert f"gives (N, {generator.contract.channels_out}, H, W)" in " ".join(
            (folder / "README.md").read_text().split()
        )
        result = gansdk.compress(
            folder,
            budget="1.5x",
            data=source,
            steps=1,
            batch_size=2,
            device="cpu",
            pruner="uniform",
            out_dir=tmp_path / "again" / route,
        )
        assert result.discriminator.keys() == saved.discriminator.keys()


@pytest.mark.parametrize("name", ["pix2pix", "gaugan"])
def test_unpaired_images_are_refused_by_a_family_of_pairs(name, examples, data):
    example, source = examples[name], data(name)
    source.pairing = Pairing.UNPAIRED
    with pytest.raises(gansdk.errors.IncompatibleParts, match=r"without pairs.*adapter='cyclegan'"):
        gansdk.compress(example.generator(), budget="1.5x", data=source, steps=1, device="cpu")
    with pytest.raises(gansdk.errors.IncompatibleParts, match="without pairs"):
        gansdk.train_teacher(example.adapter, source, architecture=example.architecture, sizes=example.sizes, steps=1)


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan", "gaugan"])
def test_a_student_gets_a_narrower_discriminator_of_its_own_only_on_request(name, examples, data, tmp_path):
    example, source = examples[name], data(name)
    options = {"architecture": example.architecture, "sizes": example.sizes, "steps": 1, "device": "cpu"}
    trained = gansdk.train_teacher(example.adapter, source, batch_size=2, **options)
    trained.save(tmp_path)
    folder = tmp_path if (tmp_path / "config.json").is_file() else tmp_path / "A2B"
    asked = {"name": example.family, **example.options, "discriminator_width": 2}
    settings = {"budget": "1.5x", "data": source, "steps": 1, "batch_size": 2, "device": "cpu", "pruner": "uniform"}
    with pytest.raises(InvalidOption, match=r"discriminator_width=2 .* has width 4\. Pass discriminator='fresh'"):
        gansdk.compress(folder, adapter=asked, **settings)
    result = gansdk.compress(folder, adapter=asked, discriminator="fresh", **settings)
    own = result.settings["task"]["discriminator"]
    assert own["width"] == 2
    first = next(
        value for name, value in result.discriminator.items() if name.endswith("weight") or "weight_orig" in name
    )
    assert first.shape[0] == 2
    assert own["parameters"] < sum(value.numel() for value in trained.generator.discriminator.values())
    assert result.settings["discriminator"] == "fresh"
    assert gansdk.compress(folder, adapter=example.adapter, **settings).settings["discriminator"] == "inherited"


class Noisy(torch.nn.Sequential):
    def forward(self, x):
        return super().forward(x) + torch.rand(x.shape).to(x)


def test_a_generator_that_draws_noise_is_refused_before_any_training():
    generator = gansdk.wrap(
        Noisy(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 3, 1)),
        contract=gansdk.Contract(channels_in=3, channels_out=3, size=(16, 16)),
    )
    with pytest.raises(gansdk.errors.ContractError, match="not deterministic"):
        gansdk.compress(generator, budget="1x", distiller=None, device="cpu")


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_images_too_small_for_the_discriminator_are_refused_with_what_it_takes_and_leave_no_folder(
    name, examples, tmp_path
):
    example = examples[name]
    family = open_adapter({"name": name, **example.options, "size": 8})
    module = family.create(**example.sizes).eval()
    source = example.source(family.contract(module))
    settings = {"batch_size": 1, "steps": 1, "device": "cpu", "out_dir": tmp_path / "out"}
    says = r"images of 8x8 pixels are too small for the discriminator.*sides of at least 24"
    with pytest.raises(DataError, match=says):
        gansdk.train_teacher(family, source, sizes=example.sizes, **settings)
    with pytest.raises(DataError, match=says):
        gansdk.compress(open_generator(module, family), budget="1.5x", data=source, pruner="uniform", **settings)
    assert not (tmp_path / "out").exists()


def test_what_a_discriminator_takes_is_enough_to_train_on(examples):
    example = examples["pix2pix"]
    family = open_adapter({"name": "pix2pix", **example.options, "size": 24})
    source = example.source(family.contract(family.create(**example.sizes)))
    gansdk.train_teacher(family, source, sizes=example.sizes, steps=1, device="cpu")


@pytest.mark.parametrize(
    ("name", "says"), [("pix2pix", "'images'.*folders A and B"), ("cyclegan", "trainA and trainB")]
)
def test_inputs_alone_teach_nobody_and_leave_no_folder(name, says, examples, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "a.png")
    example = examples[name]
    with pytest.raises(MissingData, match=says):
        gansdk.train_teacher(
            example.adapter, tmp_path / "photos", sizes=example.sizes, steps=1, device="cpu", out_dir=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [{"architecture": "inception"}, {"sizes": {"width": 8}}])
def test_a_model_to_go_on_from_has_its_architecture_already(given, examples, data, tmp_path):
    example = examples["pix2pix"]
    with pytest.raises(InvalidOption, match=f"{next(iter(given))} too, but it keeps"):
        gansdk.train_teacher(
            example.adapter, data("pix2pix"), model=example.generator().module, steps=1, out_dir=tmp_path / "o", **given
        )
    assert not (tmp_path / "o").exists()

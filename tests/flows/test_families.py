"""Every translation family's teachers, from training to a compressed student, on patterns made up here."""

import pytest
import torch

import gansdk
from gansdk.contracts import MAIN, Pairing
from gansdk.errors import InvalidOption
from gansdk.opening import open_generator

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
    with pytest.raises(gansdk.errors.ContractError, match="other images for the same input"):
        gansdk.compress(generator, budget="1x", distiller=None, device="cpu")

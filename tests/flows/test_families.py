"""Every translation family from training to a compressed student, at tiny sizes on pictures made up here."""

import itertools

import pytest
import torch

import gansdk
from gansdk.contracts import MAIN, Batch, Pairing
from gansdk.opening import open_adapter, open_generator

pytestmark = pytest.mark.slow

SIDE = 128
SIZES = {"width": 4}
FAMILIES = {
    "pix2pix": ("resnet", {"blocks": 2}),
    "pix2pix-mobile": ("mobile-resnet", {"blocks": 2}),
    "pix2pix-unet": ("unet", {"downs": 7}),
    "pix2pix-inception": ("inception", {"width": 8, "blocks": 2}),
    "cyclegan": ("resnet", {"blocks": 2}),
    "cyclegan-inception": ("inception", {"width": 8, "blocks": 2}),
    "gaugan": ("spade", {"labels": 5, "hidden": 8}),
    "gaugan-mobile": ("mobile", {"labels": 5, "hidden": 8}),
    "gaugan-inception": ("inception", {"labels": 5, "hidden": 12}),
}
OPTIONS = {"size": [SIDE, SIDE]}
DISTILLERS = ("pixel", "gka", "wavelet", ["gka", "wavelet"])
PRUNERS = {
    "one-step": {"name": "one-step", "recovery": "none"},
    "uniform": "uniform",
    "once-for-all": {"name": "once-for-all", "steps": 2, "population": 2, "iterations": 1, "calibration": 2},
}
RUNS = list(itertools.product(FAMILIES, PRUNERS, DISTILLERS))


class Scenes(gansdk.DataSource):
    """Coarse label maps and what they show: a colour per label; unpaired, the colours of another scene."""

    def __init__(self, family: str) -> None:
        self.labels = 5 if family == "gaugan" else 0
        self.paired = family != "cyclegan"
        self.pairing = Pairing.PAIRED if self.paired else Pairing.UNPAIRED

    def train_batch(self, size, *, seed, step):
        return self._batch(size, torch.Generator().manual_seed(1000 * seed + step % 997))

    def images(self, split):
        for number in range(2):
            batch = self._batch(1, torch.Generator().manual_seed(10**6 + number))
            yield batch if self.paired else Batch(batch.inputs, {}, paired=False)

    def _batch(self, size, rng):
        ids = torch.randint(5, (size, 8, 8), generator=rng).repeat_interleave(SIDE // 8, 1)
        ids = ids.repeat_interleave(SIDE // 8, 2)
        colours = torch.linspace(-1, 1, 15).view(5, 3)
        images = colours[ids].permute(0, 3, 1, 2).contiguous()
        x = torch.nn.functional.one_hot(ids, 5).permute(0, 3, 1, 2).float() if self.labels else images.flip(1)
        return Batch({MAIN: x}, {MAIN: images if self.paired else images.flip(0, 3)}, paired=self.paired)


def family(name):
    return name.split("-")[0]


def adapter(name):
    extra = {"perceptual": None, "discriminator_width": 4} if family(name) == "gaugan" else {"discriminator_width": 4}
    return open_adapter({"name": family(name), **OPTIONS, **extra})


@pytest.fixture(scope="module")
def teacher():
    made = {}

    def of(name):
        if name not in made:
            architecture, sizes = FAMILIES[name]
            with torch.random.fork_rng([]):
                torch.manual_seed(0)
                module = adapter(name).create(architecture, **{**SIZES, **sizes}).eval()
            made[name] = open_generator(module, adapter(name))
        return made[name]

    return of


@pytest.mark.parametrize(("name", "pruner", "distiller"), RUNS, ids=str)
def test_every_family_pruner_and_distiller_compress_end_to_end(name, pruner, distiller, teacher, tmp_path):
    generator = teacher(name)
    result = gansdk.compress(
        generator,
        budget="1.5x",
        pruner=PRUNERS[pruner],
        distiller=distiller,
        data=Scenes(family(name)),
        steps=2,
        batch_size=2,
        device="cpu",
        out_dir=tmp_path,
    )
    assert result.after.macs <= result.before.macs / 1.5
    assert {"loss", "task", "d/real", "d/fake"} <= set(result.history[-1])
    assert result.discriminator
    again = open_generator(tmp_path / "student")
    x = next(Scenes(family(name)).images("eval")).inputs[MAIN]
    with torch.no_grad():
        if generator.contract.inference == "eval":
            torch.testing.assert_close(again.module(x), result.student(x))
    assert all(torch.equal(value, again.discriminator[key]) for key, value in result.discriminator.items())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_teacher_is_trained_resumed_and_compressed_with_its_discriminator(name, tmp_path):
    architecture, sizes = FAMILIES[name]
    options = {
        "architecture": architecture,
        "sizes": {**SIZES, **sizes},
        "batch_size": 2,
        "device": "cpu",
    }
    straight = gansdk.train_teacher(adapter(name), Scenes(family(name)), steps=3, **options)
    out = tmp_path / "out"

    class Killed(Exception):
        pass

    def kill(event):
        if getattr(event, "step", 0) == 2:
            raise Killed

    with pytest.raises(Killed):
        gansdk.train_teacher(adapter(name), Scenes(family(name)), steps=3, out_dir=out, observers=[kill], **options)
    resumed = gansdk.train_teacher(adapter(name), Scenes(family(name)), steps=3, out_dir=out, **options)
    assert list((out / "samples").glob("*.png"))
    for route, generator in straight.generators.items():
        other = resumed.generators[route].module.state_dict()
        assert all(torch.equal(value, other[key]) for key, value in generator.module.state_dict().items())
        folder = out / "teacher" if route == MAIN else out / "teacher" / route
        saved = open_generator(folder)
        assert saved.discriminator
        assert saved.contract == generator.contract
        assert saved.adapter.options() == adapter(name).options()
        result = gansdk.compress(
            folder,
            budget="1.5x",
            data=Scenes(family(name)),
            steps=1,
            batch_size=2,
            device="cpu",
            out_dir=tmp_path / "again" / route,
        )
        assert result.discriminator.keys() == saved.discriminator.keys()


@pytest.mark.parametrize("name", ["pix2pix", "gaugan"])
def test_unpaired_images_are_refused_by_a_family_of_pairs(name, teacher):
    source = Scenes(family(name))
    source.pairing = Pairing.UNPAIRED
    with pytest.raises(gansdk.errors.IncompatibleParts, match=r"without pairs.*adapter='cyclegan'"):
        gansdk.compress(teacher(name), budget="1.5x", data=source, steps=1, device="cpu")
    with pytest.raises(gansdk.errors.IncompatibleParts, match="without pairs"):
        gansdk.train_teacher(adapter(name), source, architecture=FAMILIES[name][0], sizes=SIZES, steps=1)


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

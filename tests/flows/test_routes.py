"""Both directions of a CycleGAN compressed in one run: one budget, one training with cycles, two students."""

import copy
import json

import pytest
import torch
from PIL import Image

import gansdk
from gansdk.cli.app import main
from gansdk.contracts import MAIN, Batch, Pairing
from gansdk.errors import CheckpointError, GansdkWarning, IncompatibleParts, InvalidOption, MissingData, Unsupported
from gansdk.generators.joint import source_of, student_of, task_of, teacher_of
from gansdk.interfaces import Distiller, Regime, Stage
from gansdk.pipeline.opening import open_generator, open_source
from gansdk.recipe import read_recipe
from gansdk.registry.parts import open_adapter
from gansdk.saving.reading import sealed
from gansdk.training.offline_regime import OfflineRegime
from gansdk.training.processes import Processes
from gansdk_distillers.wavelet import wavelet, wavelet_distance

SIDE = 32
ROUTES = ("A2B", "B2A")
FAMILY = {"name": "cyclegan", "size": [SIDE, SIDE], "discriminator_width": 4}
SETTINGS = {"budget": "2x", "adapter": FAMILY, "steps": 3, "batch_size": 2, "device": "cpu"}
CHEAP = {"name": "one-step", "recovery": "none"}


class Domains(gansdk.DataSource):
    """Coarse patterns: A is reddish, B is bluish; two images of each to score on."""

    pairing = Pairing.UNPAIRED

    def train_batch(self, size, *, seed, step):
        rng = torch.Generator().manual_seed(1000 * seed + step % 997)
        return Batch({MAIN: pictures(size, rng)}, {MAIN: pictures(size, rng).flip(1)}, paired=False)

    def images(self, split):
        for number in range(2):
            x = pictures(1, torch.Generator().manual_seed((10**6 if split == "search" else 10**8) + number))
            yield Batch({MAIN: x}, {}, (f"a{number}",), paired=False)

    def references(self, split):
        for number in range(3):
            y = pictures(1, torch.Generator().manual_seed((10**7 if split == "search" else 10**9) + number)).flip(1)
            yield Batch({}, {MAIN: y}, (f"b{number}",), paired=False)


def pictures(size, rng):
    coarse = torch.rand(size, 3, 4, 4, generator=rng) * torch.tensor([2.0, 1.0, 0.5]).view(3, 1, 1) - 1
    return coarse.repeat_interleave(SIDE // 4, 2).repeat_interleave(SIDE // 4, 3)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The folder of a teacher with A2B and B2A."""
    out = tmp_path_factory.mktemp("teacher")
    sizes = {"width": 8, "blocks": 1}
    gansdk.train_teacher(FAMILY, Domains(), sizes=sizes, steps=1, out_dir=out, device="cpu")
    return out / "teacher"


def weights(module):
    return torch.cat([tensor.flatten().double() for tensor in module.state_dict().values()])


def test_both_directions_are_compressed_trained_and_saved_together(teacher, tmp_path):
    before = {route: weights(gansdk.load(teacher / route)) for route in ROUTES}
    result = gansdk.compress(
        teacher, data=Domains(), distiller=["gka", "wavelet"], pruner=CHEAP, out_dir=tmp_path, **SETTINGS
    )
    assert result.after.macs <= result.before.macs / 2
    assert result.before.macs == sum(part.before.macs for part in result.routes.values())
    assert result.after.params == sum(part.after.params for part in result.routes.values())
    told = set(result.history[-1])
    assert {
        "task",
        "gka",
        "wavelet",
        *(f"{part}/{route}" for part in ("g/gan", "g/cycle", "g/identity", "d") for route in ROUTES),
    } <= told
    assert result.settings["discriminator"] == dict.fromkeys(ROUTES, "inherited")
    untrained = gansdk.compress(teacher, distiller=None, data=Domains(), pruner=CHEAP, **{**SETTINGS, "steps": None})
    for route, part in result.routes.items():
        saved = open_generator(tmp_path / "student" / route)
        x = pictures(1, torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert torch.equal(saved.module(x), result.student[route](x))
            assert torch.equal(part.student(x), result.student[route](x))
        assert saved.discriminator
        recipe = read_recipe(tmp_path / "student" / route / "recipe.toml")
        assert (recipe["budgets"], recipe["model"]) == (["macs/2"], str(teacher))
        assert not torch.equal(weights(part.student), weights(untrained.routes[route].student))
        assert torch.equal(weights(part.teacher), before[route])
        assert torch.equal(weights(gansdk.load(teacher / route)), before[route])
    report = json.loads((tmp_path / "student" / "report.json").read_text())
    assert set(report["routes"]) == set(ROUTES)
    assert {row["reference"] for row in report["quality"]} == {"teacher"}
    assert {(row["metric"], row["images"]) for row in report["quality"]} >= {("psnr, A2B", 2), ("psnr, B2A", 3)}
    assert "A2B" in (tmp_path / "student" / "report.html").read_text()


def test_a_step_is_that_of_a_literal_transcription(teacher):
    generator = open_generator(teacher, FAMILY)
    student, frozen = student_of(generator), teacher_of(generator)
    with torch.no_grad():
        for parameter in student.parameters():  # another network than its teacher, or the term is zero
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    task = task_of(generator, {route: part.discriminator for route, part in generator.parts.items()})
    regime = OfflineRegime()
    rng, processes = torch.Generator(), Processes("cpu")
    terms = wavelet(weight=0.4).terms
    stage = Stage(student=student, teachers=(frozen,), task=task, terms=terms, steps=9, rng=rng, processes=processes)
    regime.bind(stage)
    g = {route: copy.deepcopy(part.module) for route, part in student.parts().items()}
    d = {route: copy.deepcopy(critic) for route, critic in task.critics.items()}
    t = {route: part.module for route, part in generator.parts.items()}
    data = source_of(Domains(), generator).train_batch(2, seed=0, step=0)
    a, b = data.inputs["A2B"], data.inputs["B2A"]
    assert torch.equal(data.targets["A2B"], b)
    assert torch.equal(data.targets["B2A"], a)
    fake_b, fake_a = g["A2B"](a), g["B2A"](b)
    loss = ((d["A2B"](fake_b) - 1) ** 2).mean() + ((d["B2A"](fake_a) - 1) ** 2).mean()
    loss = loss + 10 * ((g["B2A"](fake_b) - a).abs().mean() + (g["A2B"](fake_a) - b).abs().mean())
    loss = loss + 5 * ((g["A2B"](b) - b).abs().mean() + (g["B2A"](a) - a).abs().mean())
    known = wavelet_distance(fake_b, t["A2B"](a)) + wavelet_distance(fake_a, t["B2A"](b))
    judged = ((d["A2B"](b) - 1) ** 2).mean() + (d["A2B"](fake_b) ** 2).mean()  # before both steps
    told = regime.step(data)
    torch.testing.assert_close(told["wavelet"], known.detach())
    torch.testing.assert_close(told["loss"], (loss + 0.4 * known).detach())
    torch.testing.assert_close(told["d/A2B"], judged.detach())


def test_students_of_both_directions_are_compressed_once_more(teacher, tmp_path):
    first = gansdk.compress(teacher, data=Domains(), pruner=CHEAP, out_dir=tmp_path, **SETTINGS)
    again = gansdk.compress(tmp_path / "student", data=Domains(), pruner="uniform", **SETTINGS)
    assert again.before == first.after
    assert again.after.macs <= first.after.macs / 2
    assert again.settings["discriminator"] == dict.fromkeys(ROUTES, "inherited")


@pytest.mark.parametrize(
    "pruner",
    [
        "one-step",
        "uniform",
        {"name": "once-for-all", "steps": 2, "population": 2, "iterations": 1},
        {"name": "one-step", "importance": "consumer-norm", "inherit": "none"},
    ],
    ids=str,
)
def test_every_pruner_cuts_both_directions_under_one_budget(pruner, teacher):
    generators = {route: open_generator(teacher / route, FAMILY) for route in ROUTES}
    result = gansdk.compress(generators, data=Domains(), distiller="wavelet", pruner=pruner, **SETTINGS)
    assert result.after.macs <= result.before.macs / 2
    assert all(part.after.macs < part.before.macs for part in result.routes.values())


def test_a_killed_run_of_both_directions_resumes_to_the_same_bytes(teacher, tmp_path):
    settings = {**SETTINGS, "steps": 4, "distiller": ["feature", "wavelet"], "pruner": CHEAP, "data": Domains()}
    straight = gansdk.compress(teacher, **settings)

    class Killed(Exception):
        pass

    def kill(event):
        if getattr(event, "step", 0) == 2:
            raise Killed

    with pytest.raises(Killed):
        gansdk.compress(teacher, out_dir=tmp_path, observers=[kill], **settings)
    resumed = gansdk.compress(teacher, out_dir=tmp_path, **settings)
    for route in ROUTES:
        assert torch.equal(weights(straight.student[route]), weights(resumed.student[route]))
        critics = (part.routes[route].discriminator for part in (straight, resumed))
        assert all(torch.equal(a, b) for a, b in zip(*(critic.values() for critic in critics), strict=True))


def test_a_term_of_one_route_leaves_the_other_to_the_cycles(teacher):
    one = {"name": "wavelet", "routes": ["A2B"], "weight": 50.0}
    runs = {
        name: gansdk.compress(
            teacher, data=Domains(), distiller=distiller, pruner="uniform", **{**SETTINGS, "steps": 1}
        )
        for name, distiller in (("one", one), ("both", {**one, "routes": None}))
    }
    assert runs["one"].history[-1]["wavelet"] < runs["both"].history[-1]["wavelet"]
    with pytest.raises(IncompatibleParts, match="'C2D' is not trained in this run"):
        gansdk.compress(teacher, data=Domains(), distiller={"name": "wavelet", "routes": ["C2D"]}, **SETTINGS)


def test_fresh_discriminators_are_asked_for_by_route_or_for_all(teacher):
    narrow = {**FAMILY, "discriminator_width": 2}
    settings = {**SETTINGS, "adapter": narrow, "data": Domains(), "pruner": "uniform", "steps": 1}
    with pytest.raises(InvalidOption, match=r"discriminator_width=2 .* width 4"):
        gansdk.compress(teacher, **settings)
    result = gansdk.compress(teacher, discriminator="fresh", **settings)
    assert {part.discriminator["model.0.weight"].shape[0] for part in result.routes.values()} == {2}
    assert result.settings["task"]["discriminators"]["B2A"]["width"] == 2
    half = gansdk.compress(teacher, discriminator={"A2B": "fresh"}, **{**settings, "adapter": FAMILY})
    assert half.settings["discriminator"] == {"A2B": "fresh", "B2A": "inherited"}
    with pytest.raises(InvalidOption, match="route 'main'"):
        gansdk.compress(teacher, discriminator="critic.pth", **settings)


class OneWay(Regime):
    def bind(self, stage):
        raise AssertionError("never reached")

    def step(self, batch):
        raise AssertionError("never reached")


class InputsOnly(Domains):
    pairing = Pairing.INPUTS_ONLY


def test_what_cannot_be_trained_together_is_refused_before_any_step(teacher, tmp_path):
    with pytest.raises(IncompatibleParts, match="OneWay trains one generator"):
        gansdk.compress(teacher, data=Domains(), distiller=Distiller(regime=OneWay()), **SETTINGS)
    with pytest.raises(MissingData, match="trainA and trainB"):
        gansdk.compress(teacher, data=InputsOnly(), **SETTINGS)
    generators = {route: open_generator(teacher / route, {"name": "pix2pix"}) for route in ROUTES}
    with pytest.raises(Unsupported, match="'pix2pix' trains these together: none"):
        gansdk.compress(generators, data=Domains(), **{**SETTINGS, "adapter": "pix2pix"})
    with pytest.raises(CheckpointError, match="holds A2B, B2A"):
        gansdk.load(teacher)
    with pytest.raises(CheckpointError, match="holds A2B, B2A"):
        gansdk.compress(teacher, data=Domains(), **{**SETTINGS, "adapter": "pix2pix"})
    assert not list(tmp_path.iterdir())


def test_looking_at_both_directions_names_the_groups_of_each(teacher):
    found = gansdk.inspect(teacher)
    assert {group["name"].split(".")[0] for group in found.groups} == set(ROUTES)
    chosen = gansdk.plan(teacher, "2x", "uniform")
    assert chosen.after.macs <= found.cost.macs / 2


def test_a_teacher_of_both_directions_goes_on_from_its_folder_or_from_one_of_them_with_a_warning(teacher, tmp_path):
    def trained(model):
        made = gansdk.train_teacher(FAMILY, Domains(), model=model, steps=1, device="cpu", learning_rate=1e-9)
        known = {route: open_generator(teacher / route).module for route in ROUTES}
        kept = {r: bool((weights(made.generators[r].module) - weights(known[r])).abs().max() < 1e-6) for r in ROUTES}
        return made, kept

    both, kept = trained(teacher)
    assert kept == {"A2B": True, "B2A": True}
    assert not both.warnings
    critics = {route: open_generator(teacher / route).discriminator for route in ROUTES}
    assert all(
        (value.double() - both.generators[route].discriminator[name].double()).abs().max() < 1e-6
        for route, critic in critics.items()
        for name, value in critic.items()
    )
    assert trained({route: str(teacher / route) for route in ROUTES})[1] == {"A2B": True, "B2A": True}
    for route, other in (ROUTES, ROUTES[::-1]):
        with pytest.warns(GansdkWarning, match=f"goes on from {route}, but {other} starts from fresh"):
            made, kept = trained(teacher / route)
        assert kept == {route: True, other: False}
        assert made.warnings
        assert {r: part.way for r, part in made.generators.items()} == {"A2B": "forward", "B2A": "backward"}


def test_directions_between_images_of_other_channels_are_not_trained_together(tmp_path):
    says = "same number of channels on both sides, but A2B maps 3 to 1 and B2A maps"
    sizes = {"width": 4, "blocks": 1, "channels_out": 1}
    with pytest.raises(Unsupported, match=f"{says} 3 to 1"):
        gansdk.train_teacher(FAMILY, Domains(), sizes=sizes, steps=1, out_dir=tmp_path / "out", device="cpu")
    family = open_adapter(FAMILY)
    there, back = family.create(**sizes), family.create(width=4, blocks=1, channels_in=1)
    with pytest.raises(Unsupported, match=f"{says} 1 to 3"):
        gansdk.compress({"A2B": there.eval(), "B2A": back.eval()}, data=Domains(), out_dir=tmp_path / "out", **SETTINGS)
    assert not (tmp_path / "out").exists()


def test_several_files_are_given_on_the_command_line_as_json(teacher, domains, tmp_path, capsys):
    model, critics = ({r: str(tmp_path / f"{kind}_{r}.pth") for r in ROUTES} for kind in "GD")
    for route in ROUTES:
        generator = open_generator(teacher / route)
        torch.save(generator.module.state_dict(), model[route])
        torch.save(generator.discriminator, critics[route])
    asked = [json.dumps(model), "--budget", "2x", "--adapter", "cyclegan", "--adapter-option", f"size={SIDE}"]
    run = ["--data", str(domains), "--distiller", "pixel", "--pruner", "uniform", "--steps", "1", "--batch-size", "1"]
    rest = ["--device", "cpu", "--out", str(tmp_path / "out"), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["compress", *asked, "--discriminator", json.dumps(critics), *run, *rest])
    assert not ended.value.code
    facts = json.loads(capsys.readouterr().out)
    assert facts["settings"]["discriminator"] == dict.fromkeys(ROUTES, "inherited")
    for shown, given in (("model=", '{"A2B"'), ("--discriminator ", asked[0])):
        with pytest.raises(SystemExit) as ended:
            main(["compress", given, *asked[1:], "--discriminator", '{"A2B"', *run, *rest])
        assert ended.value.code == 2
        assert f"{shown}'{{\"A2B\"' is not valid JSON" in capsys.readouterr().err


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    """A folder of two reddish images A and three bluish images B, and one of each to score on."""
    root = tmp_path_factory.mktemp("domains")
    for folder, number in (("trainA", 2), ("trainB", 3), ("testA", 1), ("testB", 1)):
        (root / folder).mkdir()
        for index in range(number):
            pixels = pictures(1, torch.Generator().manual_seed(index))[0].add(1).mul(127).byte()
            pixels = pixels.flip(0) if folder.endswith("B") else pixels
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(root / folder / f"{index}.png")
    return root


def is_reddish(images):
    return bool(images[:, 0].mean() > images[:, 2].mean())


def test_one_direction_alone_sees_the_data_from_its_own_side_and_so_does_its_student(teacher, domains, tmp_path):
    def sides(model, data=domains):
        source = open_source(data, open_generator(model))
        batch, shown = source.train_batch(1, seed=0, step=0), next(iter(source.images("eval")))
        assert is_reddish(batch.inputs[MAIN]) != is_reddish(batch.targets[MAIN])
        assert is_reddish(next(iter(source.references("eval"))).targets[MAIN]) != is_reddish(shown.inputs[MAIN])
        assert is_reddish(shown.inputs[MAIN]) == is_reddish(batch.inputs[MAIN])
        return "A to B" if is_reddish(batch.inputs[MAIN]) else "B to A"

    assert sides(teacher / "A2B") == "A to B"
    assert sides(teacher / "B2A") == "B to A"
    for direction, seen in (("BtoA", "B to A"), ("AtoB", "A to B")):
        assert sides(teacher / "B2A", {"name": "folder", "path": domains, "direction": direction}) == seen
    settings = {**SETTINGS, "distiller": None, "pruner": "uniform", "data": str(domains)}
    result = gansdk.compress(teacher / "B2A", transform="mobile", out_dir=tmp_path / "one", **settings)
    assert result.settings["data"]["way"] == "backward"
    assert sides(tmp_path / "one" / "student") == "B to A"
    gansdk.compress(teacher, out_dir=tmp_path / "both", **settings)
    student = tmp_path / "both" / "student" / "B2A"
    assert sides(student) == "B to A"
    only = next(iter(open_source(domains / "testB", open_generator(student), split="all").images("eval")))
    assert not is_reddish(only.inputs[MAIN])
    config = json.loads((student / "config.json").read_text())
    assert config.pop("way") == "backward"
    (student / "config.json").write_text(json.dumps(sealed(config, config["files"])))
    assert sides(student) == "A to B"


def test_the_command_line_compresses_both_directions_against_fresh_discriminators(teacher, tmp_path, capsys):
    for folder, number in (("trainA", 3), ("trainB", 3), ("testA", 2), ("testB", 1)):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for index in range(number):
            pixels = pictures(1, torch.Generator().manual_seed(index))[0].add(1).mul(127).byte()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "data" / folder / f"{index}.png")
    options = ["--adapter-option", "size=[32, 32]", "--adapter-option", "discriminator_width=2"]
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "compress",
                str(teacher),
                "--budget",
                "2x",
                "--adapter",
                "cyclegan",
                *options,
                "--discriminator",
                "fresh",
                "--data",
                str(tmp_path / "data"),
                "--distiller",
                "wavelet",
                "--pruner",
                "uniform",
                "--steps",
                "1",
                "--batch-size",
                "1",
                "--device",
                "cpu",
                "--out",
                str(tmp_path / "out"),
                "--json",
            ]
        )
    assert not ended.value.code
    facts = json.loads(capsys.readouterr().out)
    assert facts["settings"]["task"]["discriminators"]["A2B"]["width"] == 2
    assert set(facts["routes"]) == set(ROUTES)
    images = {row["metric"]: row["images"] for row in facts["quality"]}
    assert (images["psnr, A2B"], images["psnr, B2A"]) == (2, 1)
    assert (tmp_path / "out" / "student" / "B2A" / "model.safetensors").is_file()


def test_a_ladder_and_a_transform_are_of_both_directions_too(teacher, tmp_path):
    settings = {key: value for key, value in SETTINGS.items() if key != "budget"}
    made = gansdk.ladder(
        teacher, budgets=["1.5x", "3x"], data=Domains(), pruner="uniform", out_dir=tmp_path, **{**settings, "steps": 1}
    )
    assert [set(result.routes) for result in made.results] == [set(ROUTES)] * 2
    assert all((tmp_path / rung / "student" / "B2A" / "config.json").is_file() for rung in ("1.5x", "3x"))
    mobile = gansdk.compress(teacher, data=Domains(), transform="mobile", pruner="uniform", **SETTINGS)
    assert mobile.after.macs <= mobile.before.macs / 2
    assert {"separable": True}.items() <= mobile.routes["B2A"].generator.adapter.describe(
        mobile.routes["B2A"].generator.module
    )["sizes"].items()

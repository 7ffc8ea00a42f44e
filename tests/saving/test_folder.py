import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import gansdk
from gansdk.channels.groups import Plan
from gansdk.contracts import Contract
from gansdk.errors import (
    CheckpointError,
    GansdkWarning,
    IntegrityError,
    InvalidOption,
    NothingPruned,
    OutputError,
    PluginNotFound,
    VerificationError,
)
from gansdk.files import UNFINISHED, sha256_of, unfinished_name
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.wrapping import WrappedAdapter
from gansdk.interfaces import Adapter, Generator
from gansdk.modules.inference import inferring
from gansdk.modules.weights import fingerprint
from gansdk.pipeline.opening import open_generator
from gansdk.pipeline.result import CompressionResult
from gansdk.recipe import Recipe
from gansdk.registry.discovery import registry
from gansdk.saving import reading as artifact
from gansdk.saving import writing as saving
from gansdk.saving.reading import check_saved, load, load_generator, sealed
from gansdk.specs import AdapterSpec
from gansdk_adapters.networks.edsr import EDSR, EDSRSizes
from gansdk_adapters.networks.sizes import Sizes
from gansdk_adapters.networks.srresnet import SRGANGenerator, SRGANSizes, SRResNet, SRResNetSizes
from gansdk_adapters.networks.vdsr import VDSR
from gansdk_adapters.sr import SuperResolution

FILES = {"config.json", "model.safetensors", "plan.json", "report.json", "report.html", "README.md"}
SIZES = SRResNetSizes(width=4, blocks=1, scale=2, per_channel_slopes=True)


class Own(nn.Module):
    """A user's generator: a constant outside the state dict, and two convolutions of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.again.weight = self.middle.weight
        self.norm = nn.BatchNorm2d(4)
        self.tail = nn.Conv2d(4, 3, 3, padding=1)
        self.register_buffer("mean", torch.rand(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.head(x - self.mean))
        hidden = torch.relu(self.norm(self.again(torch.relu(self.middle(hidden)))))
        return self.tail(hidden) + self.mean


class Deciding(Own):
    """Not to be traced by torch.export."""

    def forward(self, x: Tensor) -> Tensor:
        image = super().forward(x)
        return image if image.isfinite().all() else torch.zeros_like(image)


class OwnAdapter(WrappedAdapter):
    """An adapter that can build `Own` again."""

    name = "own"

    def __init__(self) -> None:
        super().__init__(Contract(channels_in=3, channels_out=3, size=(16, 16)), {"head": "head"})

    def describe(self, module):
        return {}

    def build(self, description):
        return Own()


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    rng = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            low, high = (0.5, 1.5) if name.endswith(("running_var", "norm.weight")) else (-0.5, 0.5)
            tensor.copy_(torch.rand(tensor.shape, generator=rng) * (high - low) + low)
    return net.eval()


def make(kind) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomised(kind())


def small(adapter: Adapter, net: nn.Module) -> Generator:
    bound = adapter.bind(net)
    contract = replace(bound.contract(net), size=(12, 16))
    return Generator(module=net, contract=contract, adapter=bound, taps=bound.taps(net), source="weights.pth")


def compressed(generator: Generator, step: int = 2) -> CompressionResult:
    full = ElasticStudent.of(generator)
    plan = Plan({group.name: tuple(range(0, group.size, step)) for group in full.space.prunable})
    carved = full.carve(plan)
    return CompressionResult(
        student=carved.module.eval(),
        teacher=generator.module,
        generator=generator,
        space=full.space,
        plan=plan,
        budget="macs/2",
        before=full.cost(full.space.full_plan()),
        after=full.cost(plan),
        settings={"pruner": "every-other", "seed": 0},
    )


def family(kind=None) -> CompressionResult:
    return compressed(small(SuperResolution(), make(kind or (lambda: SRResNet(SIZES)))))


def wrapped(kind=Own, **changes) -> CompressionResult:
    contract = Contract(channels_in=3, channels_out=3, size=(16, 16), **changes)
    return compressed(gansdk.wrap(make(kind), contract=contract))


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def same(one: nn.Module, other: nn.Module, shape=(2, 3, 12, 20)) -> bool:
    with torch.no_grad():
        return torch.equal(one(noise(*shape)), other(noise(*shape)))


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    seal(path.parent)


def seal(folder: Path) -> None:
    """Give a changed folder checksums of its own, as somebody who means harm does."""
    config = folder / "config.json"
    files = {path.name: sha256_of(path) for path in folder.iterdir() if path != config}
    config.write_text(json.dumps(sealed(json.loads(config.read_text()), files)))


KINDS = {
    "srresnet": lambda: SRResNet(SIZES),
    "srgan": lambda: SRGANGenerator(SRGANSizes(width=4, blocks=1, scale=2)),
    "edsr": lambda: EDSR(EDSRSizes(width=4, blocks=1, scale=2)),
    "vdsr": lambda: VDSR(Sizes(width=4, blocks=1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_a_family_is_loaded_bit_for_bit(kind, tmp_path):
    result = family(KINDS[kind])
    folder = result.save(tmp_path / "student")
    loaded = load(folder)
    assert type(loaded) is type(result.student)
    assert same(loaded, result.student)
    assert not any(part.training for part in loaded.modules())
    assert loaded.state_dict().keys() == result.student.state_dict().keys()
    assert {path.name for path in folder.iterdir()} == FILES
    assert result.checks["saved -> loaded"] == 0
    assert sum(p.numel() for p in loaded.parameters()) == result.after.params < result.before.params


def test_a_fresh_process_loads_without_the_teacher_and_without_unpickling(tmp_path):
    result = family()
    folder = result.save(tmp_path / "student")
    save_file({"x": noise(1, 3, 12, 16)}, tmp_path / "x.safetensors")
    script = (
        "import pickle, sys\n"
        "import torch, gansdk\n"
        "from safetensors.torch import load_file, save_file\n"
        "def refuse(*a, **k): raise SystemExit('unpickled')\n"
        "pickle.load = pickle.loads = torch.load = refuse\n"
        "student = gansdk.load(sys.argv[1])\n"
        "with torch.no_grad(): y = student(load_file(sys.argv[2])['x'])\n"
        "save_file({'y': y}, sys.argv[3])\n"
    )
    arguments = [folder, tmp_path / "x.safetensors", tmp_path / "y.safetensors"]
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True)
    with torch.no_grad():
        assert torch.equal(load_file(arguments[2])["y"], result.student(noise(1, 3, 12, 16)))


def test_loading_leaves_the_global_generator_alone(tmp_path):
    folder = family().save(tmp_path / "student")
    before = torch.random.get_rng_state()
    load(folder)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_wrapped_generator_is_saved_as_a_program_and_loaded_bit_for_bit(tmp_path):
    result = wrapped()
    folder = result.save(tmp_path / "student")
    assert {path.name for path in folder.iterdir()} == FILES | {"model.pt2"}
    for shape in [(1, 3, 16, 16), (3, 3, 10, 22)]:
        assert same(load(folder).eval(), result.student, shape)
    assert result.checks["saved -> loaded"] == 0


def test_a_wrapped_generator_is_loaded_into_the_users_own_class_too(tmp_path):
    result = wrapped()
    folder = result.save(tmp_path / "student")
    loaded = load(folder, network=Own())
    assert type(loaded) is Own
    assert loaded.again.weight is loaded.middle.weight
    assert same(loaded, result.student)


def test_shared_tensors_are_stored_once_and_buffers_outside_the_state_dict_too(tmp_path):
    folder = wrapped().save(tmp_path / "student")
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "middle.weight" in names
    assert "again.weight" not in names
    assert "mean" in names


def test_a_generator_that_nothing_describes_is_saved_with_a_warning_and_loaded_with_its_class(tmp_path):
    result = wrapped(Deciding)
    with pytest.warns(GansdkWarning, match=r"gansdk\.load\(directory, network=net\)"):
        folder = result.save(tmp_path / "student")
    with pytest.raises(CheckpointError, match=r"gansdk\.load\(dir, network=net\)"):
        load(folder)
    assert same(load(folder, network=Deciding()), result.student)
    assert "network=net" in (folder / "README.md").read_text()


class Mixed(nn.Sequential):
    """Traced to a program with a part that no file of ours may hold."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).float()


def test_a_program_that_would_be_refused_when_read_is_never_the_only_form(tmp_path):
    result = wrapped(Mixed)
    with pytest.warns(GansdkWarning, match="wrap_with_autocast"):
        folder = result.save(tmp_path / "student")
    assert same(load(folder, network=Mixed()), result.student)


class Halving(nn.Module):
    """Runs at even sides only."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 4, 2, 1)
        self.up = nn.ConvTranspose2d(4, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x))


def test_a_student_saved_for_one_size_says_so(tmp_path):
    result = wrapped(Halving)
    with pytest.warns(GansdkWarning, match=r"16x16, but not on inputs larger by 1.*multiple_of"):
        result.save(tmp_path / "one-size")
    result = wrapped(Halving, multiple_of=2)
    assert same(load(result.save(tmp_path / "any-size")), result.student, (2, 3, 24, 10))


def test_a_network_of_another_class_is_refused(tmp_path):
    folder = wrapped().save(tmp_path / "student")
    with pytest.raises(CheckpointError, match="student"):
        load(folder, network=nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3)))


@pytest.fixture
def own_adapter():
    class Plugin:
        @gansdk.hookimpl
        def gansdk_adapters(self):
            yield AdapterSpec(name="own", factory=f"{__name__}:OwnAdapter", summary="Own")

    sys.modules.setdefault(__name__, sys.modules[OwnAdapter.__module__])
    registry().register(Plugin(), "own-plugin")
    yield OwnAdapter()
    registry().unregister("own-plugin")


def test_buffers_outside_the_state_dict_and_ties_survive_the_builder(own_adapter, tmp_path):
    result = compressed(small(own_adapter, make(Own)))
    folder = result.save(tmp_path / "student")
    assert json.loads((folder / "config.json").read_text())["form"] == "builder"
    loaded = load(folder)
    assert torch.equal(loaded.mean, result.student.mean)
    assert loaded.again.weight is loaded.middle.weight
    assert same(loaded, result.student)


def test_a_student_of_a_plugin_that_is_gone_says_so(tmp_path):
    folder = family().save(tmp_path / "student")
    edit(folder / "config.json", adapter={"name": "acme-gan"})
    with pytest.raises(PluginNotFound, match="acme-gan"):
        load(folder)


def test_a_builder_that_forgets_something_is_noticed_when_saving(own_adapter, tmp_path, monkeypatch):
    result = compressed(small(own_adapter, make(Own)))
    result.student.register_forward_hook(lambda part, inputs, output: output * 1.5)
    with pytest.raises(VerificationError) as caught:
        result.save(tmp_path / "student")
    assert caught.value.stage == "saved"
    assert list(tmp_path.iterdir()) == []


def test_batch_statistics_are_used_by_the_loaded_student_itself(own_adapter, tmp_path):
    generator = small(own_adapter, make(Own))
    generator = replace(generator, contract=replace(generator.contract, inference="batch-statistics"))
    result = compressed(generator)
    loaded = load(result.save(tmp_path / "student"))
    x = noise(1, 3, 12, 16)
    with inferring(result.student, generator.contract):
        expected = result.student(x)
    with torch.no_grad():
        assert torch.equal(loaded(x), expected)
        assert not torch.allclose(result.student(x), expected, atol=1e-3)


def test_a_saved_student_can_be_compressed_and_saved_again(tmp_path):
    first = family(lambda: SRResNet(replace(SIZES, width=8)))
    generator = load_generator(first.save(tmp_path / "first"))
    assert generator.adapter.name == "sr"
    assert generator.contract == first.generator.contract
    second = compressed(generator)
    loaded = load(second.save(tmp_path / "second"))
    assert same(loaded, second.student)
    assert second.after.params < first.after.params
    again = load_generator(tmp_path / "second")
    assert len(again.carvings) == 2


def remembered(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())["adapter"]["options"]


def test_the_adapter_comes_back_with_its_options(tmp_path):
    generator = small(SuperResolution(pre_upsampled=3), make(lambda: VDSR(Sizes(width=8, blocks=1))))
    folder = compressed(generator).save(tmp_path / "first")
    assert remembered(folder) == {"pre_upsampled": 3}
    for asked in ("auto", "sr", {"name": "sr"}):
        again = open_generator(folder, asked)
        assert again.adapter.options() == {"pre_upsampled": 3}
        assert again.contract == generator.contract
    for asked in (
        {"name": "sr", "pre_upsampled": 2},
        {"name": "auto", "pre_upsampled": 2},
        SuperResolution(pre_upsampled=2),
    ):
        again = open_generator(folder, asked)
        assert again.adapter.options() == {"pre_upsampled": 2}
        assert again.contract == replace(generator.contract, size=(256, 256), pre_upsampled=2)  # the adapter's own
    assert remembered(compressed(again).save(tmp_path / "second")) == {"pre_upsampled": 2}


def test_folders_from_before_options_were_remembered_open_with_the_defaults(tmp_path):
    folder = family(KINDS["vdsr"]).save(tmp_path / "student")
    edit(folder / "config.json", adapter={"name": "sr"})
    assert load_generator(folder).adapter.options() == SuperResolution().options()


def test_a_saved_program_says_why_it_cannot_be_compressed_further(tmp_path):
    folder = wrapped().save(tmp_path / "student")
    with pytest.raises(NothingPruned, match=r"traced program.*network=net"):
        gansdk.compress(folder, budget="1.1x", distiller=None)


def test_a_saved_program_is_a_generator_that_can_be_scored(tmp_path):
    result = wrapped()
    generator = load_generator(result.save(tmp_path / "student"))
    assert generator.contract == result.generator.contract
    assert same(generator.module, result.student)


def test_the_folder_tells_what_it_is(tmp_path):
    result = family()
    folder = result.save(tmp_path / "student")
    config = json.loads((folder / "config.json").read_text())
    assert config["adapter"]["name"] == "sr"
    assert config["builder"] == SuperResolution().describe(result.generator.module)
    assert config["teacher"] == {"source": "weights.pth", "sha256": fingerprint(result.generator.module)}
    assert config["after"]["params"] == result.after.params
    assert config["settings"] == result.settings
    plan = json.loads((folder / "plan.json").read_text())
    assert Plan.from_dict(plan["plan"]) == result.plan
    card = (folder / "README.md").read_text()
    assert f"{result.after.macs:,}" in card
    assert "gansdk.load(" in card
    assert "(N, 3, 2H, 2W)" in card
    assert str(tmp_path) not in card


def test_the_fingerprint_follows_names_and_values():
    net = make(Own)
    before = fingerprint(net)
    assert fingerprint(make(Own)) == before
    with torch.no_grad():
        net.head.weight[0, 0, 0, 0] += 1
    assert fingerprint(net) != before


def test_the_reload_error_is_measured(tmp_path):
    result = family()
    folder = result.save(tmp_path / "student")
    x = noise(1, 3, 12, 16)
    assert check_saved(folder, result.student, x) == 0
    with torch.no_grad():
        result.student.conv3.bias += 0.25
    assert check_saved(folder, result.student, x) == pytest.approx(0.25, abs=1e-5)


# Folders that are there already, or cannot be written.


def test_saving_the_very_same_student_again_leaves_one(tmp_path):
    for seconds in (1.0, 2.0):
        result = family()
        result.settings["seconds"] = seconds
        result.save(tmp_path / "student")
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
    assert same(load(tmp_path / "student"), result.student)


@pytest.mark.parametrize("change", ["settings", "warnings", "weights"])
def test_a_student_that_differs_in_anything_leaves_the_earlier_one(tmp_path, change: str):
    family().save(tmp_path / "student")
    result = family()
    if change == "settings":
        result.settings["seed"] = 99
    elif change == "warnings":
        result.warnings.append("something was different")
    else:
        with torch.no_grad():
            result.student.conv3.bias += 1
    result.save(tmp_path / "student")
    assert {path.name for path in tmp_path.iterdir()} == {"student", "student.old-1"}


def test_an_earlier_student_is_moved_aside_and_stays_whole(tmp_path):
    first, second, third = family(), family(KINDS["srgan"]), family(KINDS["edsr"])
    for result in (first, second, third):
        result.save(tmp_path / "student")
    assert {path.name for path in tmp_path.iterdir()} == {"student", "student.old-1", "student.old-2"}
    assert same(load(tmp_path / "student.old-1"), first.student)
    assert same(load(tmp_path / "student.old-2"), second.student)
    assert same(load(tmp_path / "student"), third.student)


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "student").mkdir()
    family().save(tmp_path / "student")
    assert {path.name for path in tmp_path.iterdir()} == {"student"}


def test_somebody_elses_folder_is_never_moved(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_text("")
    with pytest.raises(OutputError, match="not a student"):
        family().save(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.png").exists()


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "student").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        family().save(tmp_path / "student")


def test_a_full_disk_leaves_the_earlier_student_as_it_was(tmp_path, monkeypatch):
    first = family()
    first.save(tmp_path / "student")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "_write_text", full)
    with pytest.raises(OutputError, match="No space left on device"):
        family(KINDS["edsr"]).save(tmp_path / "student")
    assert {path.name for path in tmp_path.iterdir()} == {"student"}
    assert same(load(tmp_path / "student"), first.student)


def test_a_rename_that_fails_brings_the_earlier_student_back(tmp_path, monkeypatch):
    first = family()
    first.save(tmp_path / "student")
    rename = os.replace

    def failing(source, target):
        if Path(source).name.endswith(UNFINISHED) and Path(target).name == "student":
            raise OSError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(saving.os, "replace", failing)
    with pytest.raises(OutputError, match="Permission denied"):
        family(KINDS["edsr"]).save(tmp_path / "student")
    assert {path.name for path in tmp_path.iterdir()} == {"student"}
    assert same(load(tmp_path / "student"), first.student)


def test_all_of_a_student_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (done.append(os.readlink(f"/proc/self/fd/{descriptor}")), fsync(descriptor))
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append(Path(paths[1]).name), replace(*paths)))
    family().save(tmp_path / "student")
    before, after = done[: done.index("student")], done[done.index("student") + 1 :]
    assert {path.name for path in (tmp_path / "student").iterdir()} <= {Path(name).name for name in before}
    assert after == [str(tmp_path)]


def test_what_a_killed_save_left_is_removed_by_the_next_one_and_what_goes_on_is_not(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    running = unfinished_name(tmp_path / "student")
    killed = running.with_name(running.name.replace(f".{os.getpid()}-", f".{ended.pid}-"))
    earlier = tmp_path / f".student.unfinished-{ended.pid}"
    for folder in (running, killed, earlier):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    family().save(tmp_path / "student")
    assert {path.name for path in tmp_path.iterdir()} == {"student", running.name}


def test_the_very_same_student_stays_where_it_is(tmp_path):
    result = family()
    result.save(tmp_path / "student")
    before = (tmp_path / "student").stat().st_ino
    result.save(tmp_path / "student")
    assert (tmp_path / "student").stat().st_ino == before
    assert {path.name for path in tmp_path.iterdir()} == {"student"}


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        family().save(tmp_path / "file" / "student")


# Folders that are damaged, foreign, or hostile.


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b"{}"),
        ("config.json", b"\xff\xfe"),
        ("plan.json", b"null"),
        ("plan.json", b'{"plan": {}, "space": {}, "earlier": []}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"\x80\x04pickle"),
        ("plan.json", None),
        ("model.safetensors", None),
    ],
)
def test_a_damaged_folder_is_refused_in_one_paragraph(file, content, tmp_path):
    folder = family().save(tmp_path / "student")
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    for verify in (True, False):
        with pytest.raises(CheckpointError, match="student") as caught:
            load(folder, verify=verify)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"form": "pickle"},
        {"builder": {"network": "srresnet", "sizes": {"width": 5, "blocks": 1, "scale": 2}}},
        {"builder": {"network": "unknown", "sizes": {}}},
        {"builder": {"network": "srresnet", "sizes": {"width": "wide", "blocks": 1}}},
        {"contract": {"channels_in": 3}},
        {"adapter": None},
        {"shared": {"conv3.bias": "nowhere"}},
    ],
)
def test_a_config_that_was_changed_is_refused(changes, tmp_path):
    folder = family().save(tmp_path / "student")
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError):
        load(folder)


def test_a_plan_that_was_changed_is_refused(tmp_path):
    result = family()
    folder = result.save(tmp_path / "student")
    edit(folder / "plan.json", plan={name: [*kept, 99] for name, kept in result.plan.items()})
    with pytest.raises(CheckpointError):
        load(folder)


def test_weights_of_another_student_are_refused_by_name(tmp_path):
    folder = family().save(tmp_path / "student")
    other = family(lambda: SRResNet(replace(SIZES, width=8))).save(tmp_path / "other")
    os.replace(other / "model.safetensors", folder / "model.safetensors")
    seal(folder)
    with pytest.raises(CheckpointError, match=r"has other shapes for conv1\.0\.bias"):
        load(folder)


def test_weights_with_more_or_less_than_the_network_are_refused(tmp_path):
    folder = family().save(tmp_path / "student")
    weights = load_file(folder / "model.safetensors")
    weights["more"] = weights.pop("conv3.bias")
    save_file(weights, folder / "model.safetensors")
    seal(folder)
    with pytest.raises(CheckpointError, match=r"lacks conv3\.bias"):
        load(folder)


def test_a_newer_layout_asks_for_a_newer_version(tmp_path):
    folder = family().save(tmp_path / "student")
    edit(folder / "config.json", schema_version=99, gansdk="9.0")
    with pytest.raises(CheckpointError, match=r"gansdk 9\.0"):
        load(folder)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_folder_without_a_student_is_named(name, tmp_path):
    with pytest.raises(CheckpointError, match="not the folder of a saved student"):
        load(tmp_path / name)


def in_config(*path: str | int, value: object):
    """Puts a value into config.json, or leaves it out if it is `...`."""

    def change(folder: Path) -> None:
        put_at(folder / "config.json", path, value)

    return change


def in_plan(*path: str | int, value: object):
    def change(folder: Path) -> None:
        put_at(folder / "plan.json", path, value)

    return change


def put_at(file: Path, path: tuple[str | int, ...], value: object) -> None:
    data = json.loads(file.read_text())
    part = data
    for key in path[:-1]:
        part = part[key]
    if value is ...:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    file.write_text(json.dumps(data))


AXIS = ("space", "groups", 0, "axes", 0)
HUGE = {"width": 4, "blocks": 10**8, "scale": 2, "per_channel_slopes": True}
STRANGE = {
    r"contract\.size\[0\] is '4'": in_config("contract", "size", value=["4", 4]),
    r"an image of that size": in_config("contract", "size", value=[2**15, 2**15]),
    r"contract\.size\[1\]": in_config("contract", "size", value=[4, 2**40]),
    r"contract\.channels_in": in_config("contract", "channels_in", value=True),
    r"contract\.input_range\[1\]": in_config("contract", "input_range", value=[0, None]),
    r"contract\.strange is unknown": in_config("contract", "strange", value=1),
    r"contract\.labels\.classes": in_config("contract", "labels", value={"classes": "x"}),
    r"contract: input_range": in_config("contract", "input_range", value=[2, 1]),
    r"way is 'sideways'": in_config("way", value="sideways"),
    r"form is 3": in_config("form", value=3),
    r"adapter\.name": in_config("adapter", "name", value=["sr"]),
    r"adapter\.options": in_config("adapter", "options", value=[1]),
    r"taps is \['stem'\]": in_config("taps", value=["stem"]),
    r"taps\.stem": in_config("taps", "stem", value={}),
    r"taps\.stem is 'elsewhere'": in_config("taps", "stem", value="elsewhere"),
    r"shared is 'x'": in_config("shared", value="x"),
    r"schema_version is 0": in_config("schema_version", value=0),
    r"schema_version is '1'": in_config("schema_version", value="1"),
    r"schema_version is missing": in_config("schema_version", value=...),
    r"described has more parts than the \d+ tensors of plan\.json": in_config(
        "builder", value={"network": "srresnet", "sizes": HUGE}
    ),
    r"builder is \[\], but an object": in_config("builder", value=[]),
    r"64 deep": in_config("builder", "sizes", value=[[[]]] and json.loads("[" * 100 + "]" * 100)),
    r"a list of at most 16": in_plan("earlier", value=[{}] * 1000),
    r"earlier is 3": in_plan("earlier", value=3),
    r"space\.groups\[0\]\.size": in_plan("space", "groups", 0, "size", value=2**60),
    r"reaches to": in_plan("space", "groups", 0, "size", value=2**20),
    r"axes\[0\]\.start is -5": in_plan(*AXIS, "start", value=-5),
    r"axes\[0\]\.dim": in_plan(*AXIS, "dim", value=1.0),
    r"axes\[0\]\.tensor": in_plan(*AXIS, "tensor", value="x" * 10**6),
    r"space\.shapes\.x\[0\]": in_plan("space", "shapes", "x", value=["1"]),
    r"space\.fixed_macs is missing": in_plan("space", "fixed_macs", value=...),
    r"space\.knobs\[0\]": in_plan("space", "knobs", value=[{"name": "a", "choices": [], "widths": []}]),
    r"no number '__class__'": in_plan(
        "space", "attributes", value=[{"module": "conv1.0", "name": "__class__", "constant": 1, "widths": []}]
    ),
    r"plan\.strange\[0\]": in_plan("plan", "strange", value=[-1]),
    r"names the group 'strange'": in_plan("plan", "strange", value=[0]),
}


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    return family().save(tmp_path_factory.mktemp("saved") / "student")


@pytest.fixture
def copied(student, tmp_path) -> Path:
    shutil.copytree(student, tmp_path / "student")
    return tmp_path / "student"


@pytest.mark.parametrize(("words", "change"), STRANGE.items(), ids=STRANGE)
def test_every_strange_value_is_refused_by_the_name_of_its_field(words, change, copied):
    change(copied)
    seal(copied)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_generator(copied)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ['{"a": 1e400}', '{"a": ' + "9" * 5000 + "}", "[" * 10**6, '{"a": 1, "a": 2}', "NaN"])
@pytest.mark.parametrize("name", ["config.json", "plan.json"])
def test_numbers_and_nesting_that_json_allows_are_refused(name, text, copied):
    (copied / name).write_text(text)
    with pytest.raises(CheckpointError):
        load(copied, verify=False)


def test_files_that_are_mostly_holes_are_refused_before_they_are_read(copied):
    with (copied / "model.safetensors").open("r+b") as file:
        file.truncate(12 * 2**30)
    with pytest.raises(CheckpointError, match=r"model\.safetensors|bytes"):
        load(copied, verify=False)
    with pytest.raises(CheckpointError, match="bytes"):
        load(copied)


def test_a_damaged_discriminator_is_named(copied):
    (copied / "discriminator.safetensors").write_bytes(b"\xff" * 100)
    seal(copied)
    with pytest.raises(CheckpointError, match=r"discriminator\.safetensors"):
        load_generator(copied)


# Held-out images, for exports.


PICTURES = {f"\x1b[31m{name}\ud800.png": noise(1, 3, 70, 20 + number) for number, name in enumerate("abcdef")}


@pytest.fixture
def with_inputs(tmp_path) -> Path:
    return replace(family(), inputs=PICTURES).save(tmp_path / "with inputs")


def test_a_few_small_crops_of_the_runs_images_are_kept_and_read_back(with_inputs):
    found = load_generator(with_inputs).inputs
    assert len(found) == artifact.MOST_INPUTS
    assert all(name.isprintable() for name in found)
    for number, (image, original) in enumerate(zip(found.values(), PICTURES.values(), strict=False)):
        assert image.shape == (1, 3, artifact.INPUT_SIDE, 20 + number)
        assert image.dtype == torch.float32
        torch.testing.assert_close(image, original[:, :, 3:67], rtol=0, atol=1e-3)
    assert (with_inputs / "inputs.safetensors").stat().st_size < 150_000
    assert load_generator(replace(family(), inputs={"x": torch.full((1, 3, 4, 4), 1e6)}).save(with_inputs)).inputs == {}


def test_folders_without_images_and_of_the_layout_before_still_load(with_inputs, copied):
    assert load_generator(copied).inputs == {}
    (with_inputs / "inputs.safetensors").unlink()
    with pytest.warns(GansdkWarning, match=r"inputs\.safetensors is missing or not as saved\. The student itself is"):
        assert load_generator(with_inputs).inputs == {}
    with pytest.warns(GansdkWarning, match=r"inputs\.safetensors"):
        load(with_inputs)
    edit(copied / "config.json", schema_version=2)
    seal(copied)
    assert load_generator(copied).inputs == {}


def test_images_that_are_not_as_saved_are_refused_where_they_are_read(with_inputs):
    content = bytearray((with_inputs / "inputs.safetensors").read_bytes())
    content[-1] ^= 1
    (with_inputs / "inputs.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"inputs\.safetensors"):
        load_generator(with_inputs)
    assert load_generator(with_inputs, verify=False).inputs


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({str(number): torch.zeros(1, 3, 4, 4).half() for number in range(5)}, "holds 5 images, more than 4"),
        ({"x": torch.zeros(1, 3, 65, 4).half()}, r"at most 64 pixels a side"),
        ({"x": torch.zeros(1, 4, 4, 4).half()}, r"expected were float16 images \(1, 3, H, W\)"),
        ({"x": torch.zeros(2, 3, 4, 4).half()}, r"\(1, 3, H, W\)"),
        ({"x": torch.zeros(1, 3, 0, 4).half()}, r"\(1, 3, H, W\)"),
        ({"x": torch.zeros(3, 4, 4).half()}, r"\(1, 3, H, W\)"),
        ({"x": torch.zeros(1, 3, 4, 4)}, r"holds torch\.float32"),
        ({"x": torch.full((1, 3, 4, 4), torch.nan).half()}, "not finite as 'x'"),
        ({"x": torch.zeros(1, 3, 1000, 1000).half()}, "bytes, more than the"),
        ({"\x1b": torch.zeros(1, 3, 4, 4).half()}, "printable"),
    ],
)
def test_images_of_strangers_are_bounded(with_inputs, inputs, words):
    save_file(inputs, with_inputs / "inputs.safetensors")
    seal(with_inputs)
    with pytest.raises(CheckpointError, match=words):
        load_generator(with_inputs)


def test_a_student_that_is_not_finite_is_saved_and_read_back(tmp_path):
    result = family()
    with torch.no_grad():
        result.student.conv3.bias.fill_(torch.nan)
    result.save(tmp_path / "student")
    assert result.checks["saved -> loaded"] == 0


# Checksums.


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_file_with_a_flipped_bit_loads_in_silence(name, copied):
    original = (copied / name).read_bytes()
    rng = random.Random(name)
    expected = load(copied)
    for _ in range(40):
        changed = bytearray(original)
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        (copied / name).write_bytes(changed)
        if name in ("README.md", "report.json", "report.html"):
            with pytest.warns(GansdkWarning, match=name):
                assert same(load(copied), expected)
        else:
            try:
                loaded = load(copied)
            except CheckpointError:
                continue
            else:  # a space became another
                assert name == "config.json"
                assert same(loaded, expected)


def test_a_file_that_differs_is_named_with_the_way_to_skip_the_check(copied, monkeypatch):
    weights = load_file(copied / "model.safetensors")
    weights["conv3.bias"] += 1
    save_file(weights, copied / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"model\.safetensors.*verify=False.*GANSDK_VERIFY=0"):
        load(copied)
    with pytest.raises(IntegrityError):
        load_generator(copied)
    assert torch.equal(load(copied, verify=False).conv3.bias, weights["conv3.bias"])
    monkeypatch.setenv("GANSDK_VERIFY", "0")
    assert torch.equal(open_generator(copied).module.conv3.bias, weights["conv3.bias"])


@pytest.mark.parametrize("name", ["model.safetensors", "plan.json"])
def test_a_missing_file_is_named(name, copied):
    (copied / name).unlink()
    with pytest.raises(IntegrityError, match=rf"{name}' is missing"):
        load(copied)


def test_a_file_that_was_added_is_not_taken_for_the_students(copied):
    save_file({"x": torch.zeros(1)}, copied / "discriminator.safetensors")
    with pytest.raises(IntegrityError, match=r"discriminator\.safetensors' was not saved with"):
        load_generator(copied)


def test_missing_texts_cause_a_warning_alone(copied):
    (copied / "README.md").unlink()
    (copied / "report.html").write_text("changed")
    with pytest.warns(GansdkWarning, match=r"README\.md and report\.html are missing or not as saved"):
        load(copied)


def test_a_recipe_belongs_to_the_files_that_are_compared_and_the_student_is_whole_without_it(tmp_path):
    folder = replace(family(), recipe=Recipe("x.pth", budgets=["2x"])).save(tmp_path / "student")
    assert {path.name for path in folder.iterdir()} == FILES | {"recipe.toml"}
    for page in ("README.md", "report.html"):
        assert "gansdk compress --recipe recipe.toml" in (folder / page).read_text()
    load(folder)
    (folder / "recipe.toml").write_text("import os")
    with pytest.warns(
        GansdkWarning, match=r"recipe\.toml is missing or not as saved\. The student itself is unchanged"
    ):
        load(folder)
    with pytest.raises(InvalidOption, match=r"recipe\.toml' cannot be read"):
        gansdk.compress(recipe=folder / "recipe.toml")


def test_a_student_of_the_layout_without_a_recipe_loads(copied):
    edit(copied / "config.json", schema_version=3)
    seal(copied)
    load(copied)


def test_folders_of_the_first_layout_have_no_checksums_and_load(copied):
    config = json.loads((copied / "config.json").read_text())
    del config["files"], config["checksum"]
    (copied / "config.json").write_text(json.dumps({**config, "schema_version": 1}))
    (copied / "README.md").unlink()
    load(copied)


def test_a_second_layout_without_checksums_is_refused(copied):
    config = json.loads((copied / "config.json").read_text())
    del config["checksum"]
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="checksum is missing"):
        load(copied)

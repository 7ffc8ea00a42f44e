"""Runs whose plugins, parts or networks fail: an error that says whose it is, and what was made is kept."""

from __future__ import annotations

import json
import sys
import warnings
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gansdk
from gansdk import hooks
from gansdk.cli.app import main
from gansdk.contracts import MAIN, Pairing
from gansdk.errors import GansdkWarning, NetworkError, PluginFailed, PluginWarning, ResumeMismatch
from gansdk.interfaces import Distiller, Term
from gansdk.pipeline.opening import open_generator
from gansdk.registry.discovery import registry
from gansdk.specs import AdapterSpec, DistillerSpec, MetricSpec, PrunerSpec
from gansdk.training.offline_regime import OfflineRegime

CODE = """
import torch
import gansdk
from gansdk.interfaces import Distiller, Term
from gansdk.interfaces import Metric
from gansdk.contracts import Pairing
from gansdk_pruners.uniform import Uniform

WHERE, ERROR = "", SystemExit(0)

def fail(here):
    if here == WHERE:
        raise ERROR

class Slim(Uniform):
    def __init__(self, strength=1, **options):
        fail("factory")
        super().__init__(**options)
    def prepare(self, *args):
        fail("prepare")
    def search(self, *args):
        fail("search")
        return super().search(*args)
    def recover(self, *args):
        fail("recover")

class Bright(Term):
    name = "bright"
    needs_image = anchors_low_frequencies = True
    def __init__(self, gain):
        self._inner = gain
    def taps(self, available):
        fail("taps")
        return ()
    def bind(self, stage):
        fail("bind")
    def __call__(self, student, teacher):
        fail("call")
        return (student.image - teacher.image).abs().mean() * self._inner

def bright(strength=1.0):
    return Distiller((Bright(2 * strength),))

class Counted(Metric):
    name = "counted"
    def start(self, contract, device):
        fail("start")
    def update(self, who, images, batch):
        fail("update")
    def result(self):
        fail("result")

class Adapting(gansdk.Adapter):
    name = "acme-colour"
    def __init__(self, depth=1):
        fail("adapter factory")
    def accepts(self, module):
        fail("accepts")
        return WHERE in ("bind", "contract", "tap paths")
    def variants(self, state):
        fail("variants")
        if WHERE == "variants half way":
            raise ERROR
        while WHERE == "endless variants":
            yield gansdk.Variant(name="x", build=lambda: torch.nn.Conv2d(1, 1, 1))
        def build():
            fail("build")
            return torch.nn.Conv2d(1, 1, 1)
        def rename(key):
            fail("rename")
            return key
        yield gansdk.Variant(name="one", build=build, rename=rename)
        fail("second variant")
    def bind(self, module):
        fail("bind")
        return self
    def contract(self, module):
        fail("contract")
    def taps(self, module):
        fail("tap paths")
    def task(self, module, *, discriminator=None):
        fail("task")
"""


@pytest.fixture
def acme(monkeypatch):
    """A plugin of one distribution with a part of most kinds, which fail where they are told to."""
    tools = ModuleType("acme_tools")
    exec(CODE, tools.__dict__)
    for name, value in list(vars(tools).items()):
        if isinstance(value, type) and value.__module__ == "acme_tools":
            setattr(tools, name, value)
    monkeypatch.setitem(sys.modules, "acme_tools", tools)
    plugin = ModuleType("acme_tools.plugin")
    about = {"summary": "Of a test"}
    offered = {
        "gansdk_pruners": [PrunerSpec(name="acme-slim", factory="acme_tools:Slim", **about)],
        "gansdk_distillers": [DistillerSpec(name="acme-bright", factory="acme_tools:bright", **about)],
        "gansdk_metrics": [MetricSpec(name="acme-counted", factory="acme_tools:Counted", **about)],
        "gansdk_adapters": [AdapterSpec(name="acme-colour", factory="acme_tools:Adapting", before=("sr",), **about)],
    }
    for hook, specs in offered.items():
        setattr(plugin, hook, hooks.hookimpl(lambda specs=specs: specs))
    registry()._discover()
    registry()._add(plugin, plugin="acme:main", version="1.5")
    yield tools
    registry()._drop("acme:main")


class Pairs(gansdk.DataSource):
    """Two images with targets."""

    pairing = Pairing.PAIRED

    def train_batch(self, size, *, seed, step):
        x = torch.rand(size, 3, 24, 24, generator=torch.Generator().manual_seed(step))
        return gansdk.Batch({MAIN: x}, {MAIN: x}, paired=True)

    def images(self, split):
        return (self.train_batch(1, seed=0, step=step) for step in range(2))


ASKED: dict[str, Any] = {
    "factory": ("pruner 'acme-slim'", {"pruner": "acme-slim"}),
    "prepare": ("pruner 'acme-slim'", {"pruner": "acme-slim"}),
    "search": ("pruner 'acme-slim'", {"pruner": "acme-slim"}),
    "recover": ("pruner 'acme-slim'", {"pruner": "acme-slim"}),
    "taps": ("distiller 'acme-bright'", {"distiller": "acme-bright"}),
    "bind": ("distiller 'acme-bright'", {"distiller": "acme-bright"}),
    "call": ("distiller 'acme-bright'", {"distiller": "acme-bright"}),
    "start": ("metric 'acme-counted'", {"metrics": "acme-counted"}),
    "update": ("metric 'acme-counted'", {"metrics": "acme-counted"}),
    "result": ("metric 'acme-counted'", {"metrics": "acme-counted"}),
}


@pytest.fixture
def settings(quick):
    return {**quick, "pruner": "uniform", "distiller": "pixel", "steps": 2}


@pytest.mark.parametrize("where", ASKED)
def test_a_part_that_exits_in_a_run_is_named_with_its_distribution_and_version(acme, where, given, settings, tmp_path):
    who, change = ASKED[where]
    acme.WHERE = where
    change = {**change, "eval_data": Pairs()} if "metrics" in change else change
    with pytest.raises(PluginFailed) as refused:
        gansdk.compress(given("wrapped"), **{**settings, **change}, out_dir=tmp_path / "out")
    for words in (who, "acme 1.5", "SystemExit: 0"):
        assert words in str(refused.value)
    assert isinstance(refused.value.__cause__, SystemExit)
    if where in ("start", "update", "result"):
        assert (tmp_path / "out" / "run" / "distil-0.pt").exists()
    acme.WHERE = ""
    if "metrics" not in change:
        result = gansdk.compress(given("wrapped"), **{**settings, **change}, out_dir=tmp_path / "out")
        assert result.after.macs < result.before.macs


def test_the_command_line_exits_with_6_and_keeps_what_was_made(acme, photos, tmp_path, monkeypatch, capsys):
    acme.WHERE = "recover"
    command = ["compress", "demo", "-b", "4x", "--pruner", "acme-slim", "--distiller", "pixel", "--data", str(photos)]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--steps", "1", "--device", "cpu", "-o", str(tmp_path / "out")])
    assert ended.value.code == 6
    assert "PluginFailed: The pruner 'acme-slim' (acme 1.5) failed in recover" in capsys.readouterr().err
    assert (tmp_path / "out" / "run" / "search.pt").exists()


ADAPTER_FAULTS = (
    "adapter factory",
    "accepts",
    "variants",
    "variants half way",
    "endless variants",
    "build",
    "rename",
    "second variant",
    "bind",
    "contract",
    "tap paths",
)


@pytest.mark.parametrize("error", [SystemExit(0), ValueError("of its own")])
@pytest.mark.parametrize("where", ADAPTER_FAULTS)
def test_an_adapter_that_fails_is_left_out_of_auto_and_named(acme, where, error, build, tmp_path):
    acme.WHERE, acme.ERROR = where, error
    module = build()
    torch.save(module.state_dict(), tmp_path / "net.pth")
    asked = where in ("bind", "contract", "tap paths")
    for model in (module,) if asked or where == "accepts" else (tmp_path / "net.pth",):
        with pytest.warns(PluginWarning, match=r"'acme-colour' is skipped \(acme 1\.5\)"):
            assert open_generator(model).adapter.name == "sr"
        if where != "endless variants":
            with pytest.raises(PluginFailed, match=r"'acme-colour' \(acme 1\.5\)"):
                open_generator(model, "acme-colour")


def test_an_installed_observer_that_exits_is_told_and_not_asked_again(given, settings):
    asked = []

    def exits(event):
        asked.append(event)
        raise SystemExit(0)

    observer = ModuleType("watching")
    observer.gansdk_event = hooks.hookimpl(exits)
    registry().register(observer, "watching")
    try:
        with pytest.warns(PluginWarning, match="watching failed and is not called again: SystemExit: 0"):
            result = gansdk.compress(given(), **settings)
    finally:
        registry().unregister("watching")
    assert len(asked) == 1
    assert result.student is not None


def test_an_observer_of_the_caller_never_ends_the_program_as_if_all_were_done(given, settings):
    def exits(event):
        sys.exit()

    def stops(event):
        raise LookupError("enough")

    with pytest.raises(PluginFailed, match=r"observer .*exits ended the run with SystemExit"):
        gansdk.compress(given(), **settings, observers=[exits])
    with pytest.raises(LookupError, match="enough"):
        gansdk.compress(given(), **settings, observers=[stops])


class Odd(Pairs):
    """Gives or raises something else from one of its calls, once a run is under way."""

    def __init__(self, call: str, what: Any) -> None:
        self.call, self.what = call, what

    def train_batch(self, size, *, seed, step):
        return self.odd("train_batch") if step == 1 else super().train_batch(size, seed=seed, step=step)

    def examples(self, *, seed):
        yield self.odd("examples") or super().train_batch(2, seed=seed, step=0)

    def images(self, split):
        yield super().train_batch(1, seed=0, step=7)
        yield self.odd("images") or super().train_batch(1, seed=0, step=8)

    def odd(self, call):
        if call != self.call:
            return super().train_batch(2, seed=0, step=0) if call == "train_batch" else None
        if isinstance(self.what, BaseException):
            raise self.what
        return self.what


@pytest.mark.parametrize("what", [3, "text", {"x": 1}, LookupError("none"), SystemExit(0)])
@pytest.mark.parametrize("call", ["train_batch", "examples", "images"])
def test_a_source_that_gives_something_else_is_named(call, what, settings, tmp_path):
    net = gansdk.wrap(Net(""), contract=gansdk.Contract(channels_in=3, channels_out=3, size=(16, 16)))
    with pytest.raises(PluginFailed, match=r"Odd of the module .*(images|train_batch|examples|LookupError|SystemExit)"):
        gansdk.compress(net, **{**settings, "data": Odd(call, what)}, out_dir=tmp_path)


class Number(Term):
    """A term that gives no tensor."""

    name = "number"
    anchors_low_frequencies = True

    def taps(self, available):
        return ()

    def __call__(self, student, teacher):
        return 0.5


class Telling(OfflineRegime):
    """A regime that tells numbers instead of tensors."""

    def step(self, batch):
        return {name: float(value) for name, value in super().step(batch).items()}


def test_terms_and_regimes_that_give_no_tensors_are_named(given, settings):
    for distiller, who in (
        (Distiller(terms=(Number(),)), "Number"),
        (Distiller(terms=(), regime=Telling()), "Telling"),
    ):
        with pytest.raises(PluginFailed, match=rf"class {who} of the module .* returned a float"):
            gansdk.compress(given(), **{**settings, "distiller": distiller})


class Net(nn.Module):
    """Fails where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.where, self.trained = where, False

    def forward(self, x: Tensor) -> Tensor:
        if self.where == "eval" and not self.training and x.shape[0] == 1 and self.trained:
            raise LookupError("too large")
        self.trained |= self.training
        if self.where == "checkpoint":
            return checkpoint(self.plain, x, use_reentrant=True)
        if self.where == "training" and torch.is_grad_enabled():
            raise ValueError("not in\ntraining")
        features = self.inner(x)
        if self.where == "in place" and torch.is_grad_enabled():
            image = torch.tanh(self.tail(features))
            return image * 1 + image.mul_(1.0)
        return torch.tanh(self.tail(features))

    def plain(self, x: Tensor) -> Tensor:
        return torch.tanh(self.tail(self.inner(x)))

    def inner(self, x: Tensor) -> Tensor:
        return self.head(x).relu()


@pytest.mark.parametrize(
    ("where", "stage", "size"),
    [
        ("training", "distil-0", "2x3x8x8"),
        ("in place", "the backward pass of distil-0", "2x3x8x8"),
        ("eval", "check", "1x3x16x16"),
    ],
)
def test_a_network_that_fails_is_named_with_stage_and_size(where, stage, size, settings, tmp_path):
    net = gansdk.wrap(Net(where), contract=gansdk.Contract(channels_in=3, channels_out=3, size=(16, 16)))
    with pytest.raises(NetworkError) as refused:
        gansdk.compress(net, **settings, out_dir=tmp_path)
    assert f"network Net failed in {stage} on an input of {size}" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is not None


def test_a_reentrant_checkpoint_whose_gradient_is_lost_is_a_fault_of_the_network(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = gansdk.wrap(Net("checkpoint"), contract=gansdk.Contract(channels_in=3, channels_out=3, size=(16, 16)))
        with pytest.raises(NetworkError, match="Net failed in the backward pass of distil-0 on an input of 2x3x8x8"):
            gansdk.compress(net, **settings)


def test_an_option_that_its_factory_turns_into_something_else_makes_another_run(acme, given, settings, tmp_path):
    asked = {**settings, "distiller": {"name": "acme-bright", "strength": 1.0}, "out_dir": tmp_path}
    first = gansdk.compress(given(), **asked)
    told = first.settings["given"]["distiller"]
    assert told == [{"name": "acme-bright", "plugin": "acme", "version": "1.5", "options": {"strength": 1.0}}]
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["settings"]["given"]["distiller"] == told
    with pytest.raises(ResumeMismatch, match=r"given\.distiller\[0\]\.options\.strength: 1\.0 there, 3\.0 now"):
        gansdk.compress(given(), **{**asked, "distiller": {"name": "acme-bright", "strength": 3.0}})
    assert gansdk.compress(given(), **{**asked, "distiller": "acme-bright"}).settings["given"]["distiller"] == told


@pytest.mark.parametrize("part", [{"pruner": "acme-slim"}, {"distiller": "acme-bright"}])
def test_a_run_is_not_continued_with_another_version_of_a_plugin(acme, part, given, settings, tmp_path):
    gansdk.compress(given(), **{**settings, **part}, out_dir=tmp_path)
    for entry in [entry for entry in registry()._entries if entry.plugin == "acme:main"]:
        object.__setattr__(entry, "version", "1.6")
    with pytest.raises(ResumeMismatch, match=r"version: '1\.5' there, '1\.6' now"):
        gansdk.compress(given(), **{**settings, **part}, out_dir=tmp_path)


class Tinted(Pairs):
    def __init__(self, tint):
        self._tint = tint


def test_a_source_that_was_passed_is_another_one_with_other_settings(given, settings, tmp_path):
    asked = {**settings, "out_dir": tmp_path}
    gansdk.compress(given("wrapped"), **{**asked, "data": Tinted(1)})
    gansdk.compress(given("wrapped"), **{**asked, "data": Tinted(1)})
    with pytest.raises(ResumeMismatch, match=r"given\.data\.tint: 1 there, 2 now"):
        gansdk.compress(given("wrapped"), **{**asked, "data": Tinted(2)})


def test_every_kind_of_part_is_recorded_with_its_plugin(acme, given, settings):
    result = gansdk.compress(given(), **settings, eval_data=settings["data"], metrics=[])
    told = result.settings["given"]
    assert told["adapter"]["name"] == "sr"
    assert told["data"]["options"]["path"] == settings["data"]
    assert {told[kind]["version"] for kind in ("adapter", "pruner", "data", "eval_data")} == {gansdk.__version__}


def test_a_student_of_another_version_of_its_adapter_says_so(given, settings, tmp_path):
    gansdk.compress(given(), **{**settings, "distiller": None}).save(tmp_path / "student")
    config = tmp_path / "student" / "config.json"

    facts = json.loads(config.read_text())
    facts["adapter"]["version"] = "0.0.9"
    config.write_text(json.dumps(facts))
    with pytest.warns(GansdkWarning, match=rf"gansdk 0\.0\.9, and {gansdk.__version__} is installed"):
        gansdk.load(tmp_path / "student", verify=False)

"""The registry on real distributions, written to a folder: good ones, clashing ones and broken ones."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

import gansdk
from gansdk import hooks
from gansdk.errors import (
    AmbiguousPlugin,
    IncompatibleParts,
    InvalidSpec,
    PluginLoadError,
    PluginNotFound,
    PluginWarning,
)
from gansdk.events import Event, Finished, Warned
from gansdk.registry import compatibility
from gansdk.registry.discovery import KINDS, Registry, check_api
from gansdk.specs import AdapterSpec, DistillerSpec, PrunerSpec, SourceSpec

Install = Callable[..., None]

SLIM = """
import gansdk
from gansdk.specs import PrunerSpec

@gansdk.hookimpl
def gansdk_pruners():
    yield PrunerSpec(name="{name}", factory="{factory}", summary="From {origin}", install="{install}")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Write a distribution with one plugin module where Python finds it, as an installer would."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(dist: str, code: str, *, point: str = "main", version: str = "1.0") -> None:
        module = f"{dist}_{point}_plugin".replace("-", "_").replace(".", "_")
        (tmp_path / f"{module}.py").write_text(dedent(code))
        monkeypatch.delitem(sys.modules, module, raising=False)
        info = tmp_path / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        points = info / "entry_points.txt"
        header = points.read_text() if points.exists() else "[gansdk]\n"
        points.write_text(f"{header}{point} = {module}\n")

    return write


def pruner(origin: str, name: str = "slim", factory: str = "json:loads", install: str = "") -> str:
    return SLIM.format(name=name, factory=factory, origin=origin, install=install)


def plugin(**functions: Callable[..., object]) -> ModuleType:
    """A plugin module with one hook per keyword."""
    made = ModuleType("written_plugin")
    for name, function in functions.items():
        setattr(made, name, hooks.hookimpl(function))
    return made


def module(code: str) -> ModuleType:
    made = ModuleType("written_plugin")
    exec(dedent(code), made.__dict__)
    return made


def statuses(registry: Registry) -> dict[str, str]:
    return {f"{row.origin}:{row.name}": row.status for row in registry.listing()}


def test_the_built_in_parts_are_found_through_their_entry_points() -> None:
    registry = Registry(only=())
    assert {"one-step", "uniform"} <= set(registry.names("pruner"))
    assert {"pixel", "gka", "wavelet"} <= set(registry.names("distiller"))
    assert "sr" in registry.names("adapter")
    assert {"folder", "photos"} <= set(registry.names("source"))
    assert all(row.status == "ok" for row in registry.listing() if row.origin == "gansdk")


def test_a_part_has_the_identity_of_its_distribution_and_its_plugin(install: Install) -> None:
    install("Acme_GAN", pruner("acme"), point="tools", version="2.5")
    entry = Registry().find("pruner", "slim")
    assert (entry.identity, entry.plugin, entry.version) == ("acme-gan:slim", "acme-gan:tools", "2.5")


def test_built_in_parts_come_first_and_installation_order_never_matters(install: Install) -> None:
    install("zeta", pruner("zeta", "last"))
    install("alpha", pruner("alpha", "second"), point="b")
    install("alpha", pruner("alpha", "first"), point="a")
    names = Registry(only=("alpha", "zeta")).names("pruner")
    assert names[-3:] == ("first", "second", "last")
    assert names[0] == "one-step"


def test_discovery_waits_for_the_first_use(install: Install) -> None:
    registry = Registry()
    install("late", pruner("late", "late"))
    assert "late" in registry.names("pruner")


def test_a_bare_name_works_where_it_is_unique_and_the_qualified_name_always(install: Install) -> None:
    install("acme", pruner("acme"))
    registry = Registry()
    found = {registry.find("pruner", name).identity for name in ("slim", "acme:slim", "Acme:slim")}
    assert found == {"acme:slim"}


def test_a_clash_with_a_built_in_part_leaves_it_the_bare_name(install: Install) -> None:
    install("acme", pruner("acme", "uniform"))
    registry = Registry()
    assert registry.find("pruner", "uniform").origin == "gansdk"
    assert registry.find("pruner", "acme:uniform").origin == "acme"
    assert statuses(registry)["acme:uniform"] == "shadowed by gansdk: use acme:uniform"
    assert {"uniform", "acme:uniform"} <= set(registry.names("pruner"))
    assert registry.specs("pruner")["acme:uniform"].summary == "From acme"


def test_a_clash_between_third_parties_asks_which_is_meant(install: Install) -> None:
    install("acme", pruner("acme"))
    install("bcme", pruner("bcme"))
    registry = Registry()
    with pytest.raises(AmbiguousPlugin, match="pick one of: acme:slim, bcme:slim"):
        registry.find("pruner", "slim")
    assert registry.spec("pruner", "bcme:slim").summary == "From bcme"
    assert statuses(registry)["acme:slim"] == "ambiguous: use acme:slim"
    assert {"acme:slim", "bcme:slim"} <= set(registry.names("pruner"))


BROKEN = {
    "an import that raises": ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "an import that exits": ("import sys; sys.exit('bye')", "SystemExit: bye"),
    "an import of what is not installed": ("import einops_that_is_not_here", "einops_that_is_not_here"),
    "a hook of another name": (pruner("x").replace("gansdk_pruners", "gansdk_prunners"), "gansdk_prunners"),
    "a hook with an unknown argument": (pruner("x").replace("gansdk_pruners()", "gansdk_pruners(colour)"), "colour"),
    "no hook at all": ("def gansdk_pruners(): return []", "decorate its functions with @gansdk.hookimpl"),
    "a generator that fails half way": (pruner("x") + "    raise ValueError('half')\n", "ValueError: half"),
    "the same name twice": (
        pruner("x") + "    yield PrunerSpec(name='slim', factory='json:loads', summary='again')\n",
        "twice",
    ),
    "a spec of another kind": (pruner("x").replace("gansdk_pruners", "gansdk_metrics"), "only MetricSpec is allowed"),
    "a malformed name": (pruner("x", name="Slim_1"), "lower-case words"),
    "a spec for a newer API": (pruner("x").replace("summary", "api=99, summary"), "Upgrade gansdk"),
    "a spec instead of specs": (pruner("x").replace("yield", "return"), "not iterable"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_reported_once_and_the_others_go_on(install: Install, case: str) -> None:
    code, reason = BROKEN[case]
    install("acme", code)
    install("bcme", pruner("bcme", "fine"))
    registry = Registry()
    with pytest.warns(PluginWarning, match=r"acme:main is skipped") as caught:
        names = registry.names("pruner")
    assert len(caught) == 1
    assert "fine" in names
    assert "slim" not in names
    assert [skipped.plugin for skipped in registry.broken] == ["acme:main"]
    assert registry.broken[0].error is not None
    assert reason in registry.broken[0].reason
    assert statuses(registry)["acme:main"] == f"broken: {registry.broken[0].reason}"


def test_a_plugin_with_one_wrong_part_offers_none(install: Install) -> None:
    metrics = "\n@gansdk.hookimpl\ndef gansdk_metrics():\n    raise ValueError('broken')\n"
    install("acme", pruner("acme") + metrics)
    with pytest.warns(PluginWarning):
        assert "slim" not in Registry().names("pruner")


def test_a_warning_made_an_error_leaves_the_rest_found(install: Install) -> None:
    install("acme", "raise RuntimeError")
    install("bcme", pruner("bcme", "fine"))
    registry = Registry()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PluginWarning):
            registry.names("pruner")
    assert "fine" in registry.names("pruner")


def test_two_plugins_of_one_distribution_cannot_share_a_part_name(install: Install) -> None:
    install("acme", pruner("acme"), point="a")
    install("acme", pruner("acme"), point="b")
    registry = Registry()
    with pytest.warns(PluginWarning, match=r"acme:b is skipped: acme offers the pruner 'slim' twice"):
        assert registry.find("pruner", "slim").plugin == "acme:a"


def test_an_unknown_name_gets_the_nearest_the_available_and_every_skipped_plugin(install: Install) -> None:
    install("acme", "raise RuntimeError('no licence')")
    registry = Registry(block=("bcme",))
    install("bcme", pruner("bcme"))
    with pytest.warns(PluginWarning), pytest.raises(PluginNotFound) as caught:
        registry.find("pruner", "unifrom")
    message = str(caught.value)
    assert "Did you mean 'uniform'?" in message
    assert "Available: one-step, uniform, once-for-all" in message
    assert "acme:main (RuntimeError: no licence)" in message
    assert "bcme:main (blocked)" in message


def test_a_blocked_plugin_is_never_imported(install: Install) -> None:
    install("acme", "raise RuntimeError")
    install("bcme", "raise RuntimeError", point="risky")
    registry = Registry(block=("Acme", "bcme:risky"))
    assert statuses(registry)["acme:main"] == statuses(registry)["bcme:risky"] == "blocked"
    assert not registry.broken


def test_a_single_part_can_be_blocked(install: Install) -> None:
    install("acme", pruner("acme"))
    install("bcme", pruner("bcme"))
    install("acme", pruner("acme", "wide"), point="other")
    registry = Registry(block=("acme:slim",))
    assert registry.find("pruner", "wide").origin == "acme"
    assert registry.find("pruner", "slim").origin == "bcme"
    assert statuses(registry)["acme:slim"] == "blocked"


def test_an_allow_list_limits_third_parties_only(install: Install) -> None:
    install("acme", "raise RuntimeError")
    install("bcme", pruner("bcme"))
    assert "slim" in Registry(only=("bcme",)).names("pruner")
    assert "slim" in Registry(only=("bcme:slim",)).names("pruner")
    assert "slim" not in Registry(only=("bcme:other",)).names("pruner")
    assert set(Registry(only=()).names("pruner")) == {"one-step", "uniform", "once-for-all"}


def test_the_environment_blocks_allows_and_makes_strict(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("acme", "raise RuntimeError")
    install("bcme", pruner("bcme"))
    monkeypatch.setenv("GANSDK_BLOCK_PLUGINS", " acme , other:slim")
    assert "slim" in Registry.from_environment().names("pruner")
    monkeypatch.setenv("GANSDK_PLUGINS", "")
    assert "slim" not in Registry.from_environment().names("pruner")
    monkeypatch.delenv("GANSDK_BLOCK_PLUGINS")
    monkeypatch.delenv("GANSDK_PLUGINS")
    monkeypatch.setenv("GANSDK_STRICT_PLUGINS", "1")
    with pytest.raises(PluginLoadError, match="acme:main is skipped"):
        Registry.from_environment().names("pruner")


def test_a_strict_registry_raises_with_the_cause(install: Install) -> None:
    install("acme", "raise RuntimeError('no licence')")
    with pytest.raises(PluginLoadError, match="no licence") as caught:
        Registry(strict=True).listing()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_loading_imports_the_factory_and_nothing_else(install: Install) -> None:
    install("acme", pruner("acme", factory="json:loads"))
    install("bcme", pruner("bcme", "other", factory="acme_that_is_not_here:Missing"))
    assert Registry().load("pruner", "slim")("[1]") == [1]


def test_a_factory_that_misses_a_dependency_says_what_to_install(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme_slim.py").write_text("import einops_that_is_not_here")
    install("acme", pruner("acme", factory="acme_slim:Slim", install="acme[ofa]"))
    with pytest.raises(PluginLoadError, match=r"'einops_that_is_not_here', .* pip install acme\[ofa\]") as caught:
        Registry().load("pruner", "slim")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nowhere_at_all.slim:Slim", "'nowhere_at_all.slim' does not exist"),
        ("json:Slim", "has no attribute 'Slim'"),
        ("math:pi", "is a float, which is not callable"),
    ],
)
def test_a_failing_factory_is_an_error_of_that_lookup_only(factory: str, message: str) -> None:
    registry = Registry.isolated()
    good = PrunerSpec(name="good", factory="json:loads", summary="Works")
    bad = PrunerSpec(name="slim", factory=factory, summary="Does not")
    registry.register(plugin(gansdk_pruners=lambda: [bad, good]))
    with pytest.raises(PluginLoadError, match=message):
        registry.load("pruner", "slim")
    assert callable(registry.load("pruner", "good"))


def test_an_isolated_registry_never_discovers(install: Install) -> None:
    install("acme", "raise RuntimeError")
    assert Registry.isolated().listing() == ()


def test_what_is_registered_in_code_is_found_and_can_be_forgotten() -> None:
    registry = Registry(only=())
    registry.register(plugin(gansdk_pruners=lambda: [PrunerSpec(name="slim", factory="json:loads", summary="Mine")]))
    assert registry.find("pruner", "local:slim").identity == "local:slim"
    assert registry.names("pruner")[-1] == "slim"
    registry.unregister("local")
    registry.unregister("local")
    assert "slim" not in registry.names("pruner")


def test_registering_in_code_refuses_what_discovery_would_skip() -> None:
    registry = Registry.isolated()
    with pytest.raises(PluginLoadError, match="'mine' cannot be registered: it has no hook"):
        registry.register(plugin(), "mine")
    registry.register(plugin(gansdk_pruners=lambda: []), "mine")
    with pytest.raises(PluginLoadError, match="already registered"):
        registry.register(plugin(gansdk_pruners=lambda: []), "mine")


def test_adapters_are_asked_in_the_order_they_state() -> None:
    def adapter(name: str, *before: str) -> AdapterSpec:
        return AdapterSpec(name=name, factory="json:loads", summary="A family", before=before)

    registry = Registry.isolated()
    registry.register(plugin(gansdk_adapters=lambda: [adapter("a"), adapter("b", "unknown"), adapter("c", "a")]))
    assert registry.names("adapter") == ("b", "c", "a")
    circle = Registry.isolated()
    circle.register(plugin(gansdk_adapters=lambda: [adapter("a", "b"), adapter("b", "a"), adapter("c")]))
    assert sorted(circle.names("adapter")) == ["a", "b", "c"]


def test_observers_see_events_and_a_failing_one_is_silenced() -> None:
    seen: list[Event] = []
    registry = Registry.isolated()

    def failing() -> None:
        raise ValueError("tired")

    registry.register(plugin(gansdk_event=failing), "first")
    registry.register(plugin(gansdk_event=lambda event: seen.append(event)), "second")
    with pytest.warns(PluginWarning, match="first failed and is not called again: ValueError: tired"):
        registry.emit(Warned(message="one"))
    registry.emit(Finished(seconds=1.0))
    assert seen == [Warned(message="one"), Finished(seconds=1.0)]


def test_a_strict_registry_stops_at_a_failing_observer() -> None:
    registry = Registry.isolated(strict=True)

    def failing(event: Event) -> None:
        raise ValueError(event)

    registry.register(plugin(gansdk_event=failing))
    with pytest.raises(PluginLoadError, match="The observer local failed"):
        registry.emit(Finished(seconds=1.0))


def test_the_version_before_is_accepted_with_a_warning() -> None:
    spec = PrunerSpec(name="slim", factory="json:loads", summary="Older", api=2)
    assert check_api(spec, offered=2) == ""
    assert "the next gansdk will refuse it" in check_api(spec, offered=3)
    with pytest.raises(InvalidSpec, match="Upgrade the plugin"):
        check_api(spec, offered=4)
    with pytest.raises(InvalidSpec, match="Upgrade gansdk"):
        check_api(spec, offered=1)


@pytest.mark.parametrize("hook", [name for name in vars(hooks) if name.startswith("gansdk_")])
def test_the_plugin_in_a_hook_docstring_works(hook: str) -> None:
    text = dedent(getattr(hooks, hook).__doc__.partition("Example::")[2])
    registry = Registry.isolated(strict=True)
    registry.register(module(text))
    assert hook == "gansdk_event" or [row.kind for row in registry.listing()]
    registry.emit(Finished(seconds=0.0))


def test_every_kind_has_its_hook() -> None:
    assert {f"gansdk_{kind}s" for kind in KINDS} | {"gansdk_event"} == {
        name for name in vars(hooks) if name.startswith("gansdk_")
    }


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (PrunerSpec, {"name": "Slim"}),
        (PrunerSpec, {"factory": "acme.slim.Slim"}),
        (PrunerSpec, {"factory": None}),
        (PrunerSpec, {"summary": "two\nlines"}),
        (PrunerSpec, {"summary": " "}),
        (PrunerSpec, {"needs": {"taps"}}),
        (PrunerSpec, {"needs": frozenset({"Taps!"})}),
        (PrunerSpec, {"api": 0}),
        (PrunerSpec, {"api": "1"}),
        (AdapterSpec, {"provides": ["taps"]}),
        (AdapterSpec, {"before": "sr"}),
        (AdapterSpec, {"before": ("S R",)}),
        (DistillerSpec, {"kind": "loss"}),
        (SourceSpec, {"provides": {"images"}}),
    ],
)
def test_a_malformed_spec_is_refused(make: type[PrunerSpec], fields: dict[str, object]) -> None:
    whole = {"name": "slim", "factory": "acme.slim:Slim", "summary": "Slim", **fields}
    with pytest.raises(InvalidSpec, match="write"):
        make(**whole)  # type: ignore[arg-type]


def distiller(name: str, **fields: object) -> DistillerSpec:
    return DistillerSpec(name=name, factory="json:loads", summary="A distiller", **fields)  # type: ignore[arg-type]


SLIM_SPEC = PrunerSpec(name="slim", factory="json:loads", summary="Slim", needs=frozenset({"channel-groups"}))
BARE = AdapterSpec(name="bare", factory="json:loads", summary="Nothing", provides=frozenset({"taps"}))


def test_what_is_missing_is_needs_without_what_adapter_and_data_provide() -> None:
    gka = distiller("gka", needs=frozenset({"taps", "paired"}))
    assert compatibility.missing(BARE, SLIM_SPEC, [gka]) == ("channel-groups", "images", "paired")
    assert compatibility.missing(BARE, None, [gka], {"images", "paired"}) == ()
    assert compatibility.missing(compatibility.WRAPPED, SLIM_SPEC, []) == ()
    assert compatibility.missing(BARE, None, [distiller("free", data=False)]) == ()


def test_parts_that_do_not_fit_are_refused_with_what_is_missing() -> None:
    with pytest.raises(IncompatibleParts, match=r"'bare' .* pruner 'slim'.*channels that can be removed") as caught:
        compatibility.check(BARE, SLIM_SPEC, [])
    assert caught.value.missing == ("channel-groups",)
    compatibility.check(compatibility.WRAPPED, SLIM_SPEC, [distiller("pixel")], {"images"})


def test_a_refusal_ends_in_the_advice_of_those_whose_needs_are_missing() -> None:
    free = distiller("free", needs=frozenset({"degrade"}), advice="Give a way back.")
    other = distiller("other", advice="Never said.")
    with pytest.raises(IncompatibleParts, match=r"Give a way back\. Choose other parts") as caught:
        compatibility.check(BARE, None, [free, other], {"images"})
    assert "Never said" not in str(caught.value)


def test_a_refusal_names_the_parts_whose_needs_are_missing_and_no_others() -> None:
    free, other = distiller("free", needs=frozenset({"degrade"})), distiller("other")
    with pytest.raises(IncompatibleParts, match="cannot be used with distiller 'free': missing"):
        compatibility.check(compatibility.WRAPPED, SLIM_SPEC, [free, other], {"images"})


def test_the_matrix_has_every_combination_and_what_each_lacks() -> None:
    registry = Registry.isolated()
    registry.register(
        plugin(
            gansdk_adapters=lambda: [BARE],
            gansdk_pruners=lambda: [SLIM_SPEC],
            gansdk_distillers=lambda: [distiller("pixel"), distiller("gan", needs=frozenset({"discriminator"}))],
        )
    )
    rows = {(row.adapter, row.pruner, row.distiller): row.missing for row in compatibility.matrix(registry)}
    assert rows == {
        ("bare", "slim", "pixel"): ("channel-groups",),
        ("bare", "slim", "gan"): ("channel-groups", "discriminator"),
        ("wrapped", "slim", "pixel"): (),
        ("wrapped", "slim", "gan"): ("discriminator",),
    }
    verdicts = {(row.adapter, row.distiller): row.verdict for row in compatibility.matrix(registry)}
    assert verdicts["wrapped", "pixel"] == "runs"
    assert verdicts["wrapped", "gan"] == "needs discriminator (a discriminator of the family)"


def test_hookimpl_is_public() -> None:
    assert gansdk.hookimpl is hooks.hookimpl

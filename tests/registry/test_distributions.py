"""Installed distributions of every damaged kind: each is told with its reason, and the others are found."""

from __future__ import annotations

import json
import re
import sys
import time
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gansdk
from gansdk.cli.app import app
from gansdk.errors import PluginWarning
from gansdk.registry import origins
from gansdk.registry.discovery import MOST_PARTS, Registry, registry
from gansdk.registry.distributions import Offer, offers

GOOD = """
import gansdk
from gansdk.specs import PrunerSpec

@gansdk.hookimpl
def gansdk_pruners():
    yield PrunerSpec(name="fine", factory="json:loads", summary="A fine one")
"""
METADATA = b"Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n"
POINTS = b"[gansdk]\nmain = acme_plugin\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write the folder of a distribution beside a good one, as it may lie on sys.path."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(folder: str, metadata: bytes | None = METADATA, points: bytes | None = POINTS, code: str = GOOD) -> Path:
        info = tmp_path / f"{folder}.dist-info"
        info.mkdir()
        if metadata is not None:
            (info / "METADATA").write_bytes(metadata)
        if points is not None:
            (info / "entry_points.txt").write_bytes(points)
        (tmp_path / "acme_plugin.py").write_text(code)
        monkeypatch.delitem(sys.modules, "acme_plugin", raising=False)
        return info

    (tmp_path / "good_plugin.py").write_text(GOOD.replace('"fine"', '"good"'))
    good = tmp_path / "good-1.0.dist-info"
    good.mkdir()
    (good / "METADATA").write_text("Metadata-Version: 2.1\nName: good\nVersion: 1.0\n")
    (good / "entry_points.txt").write_text("[gansdk]\nmain = good_plugin\n")
    monkeypatch.delitem(sys.modules, "good_plugin", raising=False)
    return write


BROKEN = {
    "no name": (METADATA.replace(b"Name: acme\n", b""), POINTS, "METADATA cannot be read.*name 'None'"),
    "an odd name": (METADATA.replace(b"acme", b"ac me\x1b[31m"), POINTS, "METADATA cannot be read"),
    "no version": (METADATA.replace(b"Version: 1.0\n", b""), POINTS, "METADATA cannot be read"),
    "no metadata at all": (None, POINTS, "METADATA cannot be read"),
    "metadata that is no text": (b"\xff\xfe\x00", POINTS, "METADATA cannot be read"),
    "entry points that are no text": (METADATA, POINTS + b"b = \xff\xfe\n", "entry_points.txt cannot be read"),
    "a line without a value": (METADATA, b"[gansdk]\nmain\n", "write name = package.module"),
    "an empty value": (METADATA, b"[gansdk]\nmain =\n", "write name = package.module"),
    "a value with spaces": (METADATA, b"[gansdk]\nmain = a b\n", "write name = package.module"),
    "a value of dots": (METADATA, b"[gansdk]\nmain = .a..b\n", "write name = package.module"),
    "a module that is missing": (METADATA, b"[gansdk]\nmain = a_b_c_d [extra]\n", "ModuleNotFoundError"),
    "an attribute that is missing": (METADATA, b"[gansdk]\nmain = json:nothing [extra]\n", "AttributeError"),
    "a name with markup": (
        METADATA,
        b"[gansdk]\nx[/red] = acme_plugin\n",
        "write name = package.module",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_distribution_is_listed_with_its_reason_and_the_others_are_found(write: Write, case: str) -> None:
    metadata, points, reason = BROKEN[case]
    write("acme-1.0", metadata, points)
    known = Registry()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert {"one-step", "good"} <= set(known.names("pruner"))
    rows = [row for row in known.listing() if row.origin.startswith("acme")]
    assert [row.status.split(":")[0] for row in rows] == ["broken"]
    assert re.search(reason, rows[0].status)
    assert [warning.category for warning in caught] == [PluginWarning]
    assert all(row.status.isprintable() and row.origin.isprintable() for row in rows)


def test_other_peoples_unreadable_metadata_is_listed_but_not_warned_of(write: Write) -> None:
    write("acme-1.0", METADATA, b"[console_scripts]\n\xff = x\n")
    known = Registry()
    assert "good" in known.names("pruner")
    assert [row.status.split(":")[0] for row in known.listing() if row.origin == "acme-1.0.dist-info"] == ["broken"]


def test_a_dist_info_that_is_a_file_and_a_folder_without_anything_break_nothing(write: Write, tmp_path: Path) -> None:
    (tmp_path / "filed-1.0.dist-info").write_bytes(b"\xff")
    (tmp_path / "bare-1.0.dist-info").mkdir()
    (tmp_path / ".dist-info").mkdir()
    (tmp_path / "points-1.0.dist-info" / "entry_points.txt").mkdir(parents=True)
    assert "good" in Registry().names("pruner")


def test_a_finder_that_raises_ends_nobody_elses_list(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        @staticmethod
        def find_spec(*_: object) -> None:
            return None

        @staticmethod
        def find_distributions(context: object) -> object:
            raise OSError("no such share")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    known = Registry()
    assert "good" in known.names("pruner")
    assert "no such share" in " ".join(row.status for row in known.listing())


def test_of_two_distributions_of_one_name_the_first_on_the_path_counts(write: Write, tmp_path: Path) -> None:
    write("acme-1.0")
    later = tmp_path / "later"
    (later / "acme-2.0.dist-info").mkdir(parents=True)
    (later / "acme-2.0.dist-info" / "METADATA").write_bytes(METADATA.replace(b"1.0", b"2.0"))
    (later / "acme-2.0.dist-info" / "entry_points.txt").write_bytes(POINTS + b"more = acme_plugin\n")
    sys.path.append(str(later))
    try:
        found = [item for item in offers("gansdk") if item.plugin.startswith("acme")]
    finally:
        sys.path.remove(str(later))
    assert [(item.plugin, item.version) for item in found] == [("acme:main", "1.0")]


@pytest.mark.parametrize("name", ["gansdk", "GanSDK", "gan.sdk"])
@pytest.mark.parametrize("point", ["pruners", "more"])
def test_a_distribution_that_calls_itself_gansdk_displaces_and_adds_nothing(
    write: Write, name: str, point: str
) -> None:
    built_in = [row for row in Registry(only=()).listing() if row.status == "ok"]
    metadata = METADATA.replace(b"acme", name.encode()).replace(b"1.0", b"99.0")
    write(f"{name}-99.0", metadata, f"[gansdk]\n{point} = acme_plugin\n".encode())
    known = Registry()
    if name == "gan.sdk":  # another name
        assert known.find("pruner", "fine").origin == "gan-sdk"
        return
    with pytest.warns(PluginWarning, match="claims to be part of gansdk"):
        assert "fine" not in known.names("pruner")
    assert [row for row in known.listing() if row.origin == "gansdk" and row.status == "ok"] == built_in
    assert known.find("pruner", "one-step").version == gansdk.__version__ != "99.0"


def test_another_distribution_cannot_offer_the_built_in_modules_as_its_own(write: Write) -> None:
    write("acme-1.0", METADATA, b"[gansdk]\nmain = gansdk_pruners.plugin\n")
    known = Registry()
    with pytest.warns(PluginWarning, match="claims to be part"):
        assert known.find("pruner", "one-step").origin == "gansdk"


def test_what_is_built_in_is_what_the_project_declares() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["gansdk"] == origins.BUILT_IN
    assert [item.plugin for item in offers("gansdk") if isinstance(item, Offer) and item.origin == "gansdk"] == [
        f"gansdk:{name}" for name in sorted(origins.BUILT_IN)
    ]


ENDLESS = {
    "an endless list of specs": (
        GOOD.replace("    yield", "    n = 0\n    while True:\n        n += 1\n        yield").replace(
            '"fine"', 'f"fine-{n}"'
        ),
        f"more than {MOST_PARTS} parts",
    ),
    "thousands of specs": (
        GOOD.replace("    yield", "    for n in range(5000):\n        yield").replace('"fine"', 'f"fine-{n}"'),
        f"more than {MOST_PARTS} parts",
    ),
    "a hook that never ends": (GOOD.replace("    yield", "    while True: pass\n    yield"), "longer than"),
    "an import that never ends": ("import time\ntime.sleep(1000)", "longer than"),
    "a loop that catches all exceptions": (
        "while True:\n    try:\n        while True: pass\n    except Exception: pass",
        "longer than",
    ),
    "a hook that exits": (GOOD.replace("    yield", "    raise SystemExit(0)\n    yield"), "SystemExit: 0"),
    "an exception of no usual class": ("class Odd(BaseException): pass\nraise Odd('odd')", "Odd: odd"),
    "an exception that cannot be told": (
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
        "Odd",
    ),
    "an endless message": ("raise ValueError('\\x1b[31m' + 'x' * 10**6)", r"ValueError: \[31mx+\.\.\.$"),
    "an endless summary": (GOOD.replace("A fine one", "x" * 10**5), "at most 200 characters"),
    "terminal codes in a summary": (GOOD.replace("A fine one", "\\x1b[2J"), "one line of text"),
    "an endless name": (GOOD.replace("fine", "x" * 10**5), "at most 64 characters"),
    "a field of another type": (GOOD.replace("summary=", "advice=3, summary="), "advice=3; write"),
    "a spec that was never initialised": (
        GOOD.replace("yield PrunerSpec(name", "yield PrunerSpec.__new__(PrunerSpec); dict(name"),
        "AttributeError",
    ),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_a_plugin_that_does_not_come_to_an_end_is_skipped(
    write: Write, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gansdk.registry.discovery.DISCOVERY_S", 0.3)
    code, reason = ENDLESS[case]
    write("acme-1.0", code=code)
    began = time.monotonic()
    known = Registry()
    with pytest.warns(PluginWarning, match=reason):
        assert "good" in known.names("pruner")
    assert time.monotonic() - began < 10
    assert max(len(row.status) for row in known.listing()) < 1000


def test_ctrl_c_interrupts_discovery_and_the_next_use_finds_everything(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("acme-1.0", code="raise KeyboardInterrupt")
    known = Registry()
    with pytest.raises(KeyboardInterrupt):
        known.names("pruner")
    write("bcme-1.0", METADATA, None)
    assert {"fine", "good"} <= set(known.names("pruner"))


@pytest.fixture
def fresh() -> object:
    registry.cache_clear()
    yield
    registry.cache_clear()


@pytest.mark.parametrize("options", [[], ["--json"], ["--check"], ["--compat"], ["--compat", "--json"]])
def test_markup_in_what_plugins_say_is_shown_as_it_is(write: Write, fresh: object, options: list[str]) -> None:
    code = GOOD.replace("A fine one", "[/red] [link=x]").replace(
        "yield", "yield PrunerSpec(name='exits',factory='acme_exits:Exits', summary='[bold')\n    yield"
    )
    info = write("acme-1.0", code=code)
    (info.parent / "acme_exits.py").write_text("raise SystemExit(0)")
    done = CliRunner().invoke(app, ["plugins", *options])
    assert done.exit_code == (5 if options == ["--check"] else 0), done.output
    assert "fine" in done.stdout
    if options == ["--json"]:
        assert "[/red] [link=x]" in [row["summary"] for row in json.loads(done.stdout)]
    if options == ["--check"]:
        assert "SystemExit" in done.stdout.replace("\n", "")

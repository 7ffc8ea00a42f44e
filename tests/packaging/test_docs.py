"""README and docs: what they say to type works, and what they link to exists."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import gansdk
from gansdk.cli.app import app
from gansdk.errors import IncompatibleParts, InvalidOption
from gansdk.registry.discovery import registry

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
EXAMPLES = ("README.md", "docs/budgets.md", "docs/ladder.md", "docs/wrap-your-generator.md")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[list[str]]:
    """Every line of a code block, marked or indented, that starts with gansdk; its arguments."""
    text = "\n".join([*blocks(page, "sh"), *re.findall(r"^    (.*)$", page.read_text(), flags=re.MULTILINE)])
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("gansdk "):
            yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_python_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / name, "python")
    assert found
    for block in found:
        exec(compile(re.sub(r"steps=\d+", "steps=2", block), name, "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_are_understood(page: Path) -> None:
    known = typer.main.get_command(app)
    for arguments in commands(page):
        known.make_context("gansdk", list(arguments))
        known.commands[arguments[0]].make_context(arguments[0], arguments[1:])  # type: ignore[attr-defined]


def test_the_readme_shows_commands() -> None:
    assert {arguments[0] for arguments in commands(ROOT / "README.md")} == {"inspect", "compress", "eval", "export"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The plugin that the page spells out, put into the files that it names."""
    for block in blocks(ROOT / "docs" / "write-a-plugin.md", "python"):
        path = tmp_path / block.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    registry().register(importlib.import_module("acme_gan.plugin"), name="acme-gan")
    yield "acme-gan:brightness"
    registry().unregister("acme-gan")
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme_gan"]:
        del sys.modules[name]


def test_the_plugin_of_the_docs_distils(acme: str) -> None:
    result = gansdk.compress(
        "demo", budget="4x", data="photos", distiller=["pixel", acme], steps=1, batch_size=1, patch=8
    )
    assert "brightness" in result.history[0]
    with pytest.raises(InvalidOption, match="'acme-gan:brightness': weight='x' must be a finite number above zero"):
        gansdk.compress("demo", budget="4x", data="photos", distiller=["pixel", {"name": acme, "weight": "x"}])


def test_the_regime_of_the_docs_distils_and_is_refused_without_an_anchor(acme: str) -> None:
    settings = {"budget": "4x", "data": "photos", "steps": 2, "batch_size": 1, "patch": 8}
    result = gansdk.compress("demo", distiller=["imitation", "pixel"], **settings)
    assert set(result.history[0]) == {"step", "stage", "loss", "pixel"}
    with pytest.raises(IncompatibleParts, match="imitation has no loss of its own"):
        gansdk.compress("demo", distiller=["imitation", "wavelet"], **settings)

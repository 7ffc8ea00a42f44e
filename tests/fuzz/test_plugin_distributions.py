"""Installed distributions of every quality: none takes a command, or another plugin, down with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gansdk.registry.discovery import KINDS, Registry
from gansdk.testing.fuzzing import CANARY, HOSTILE_TEXTS, bounded, contained

pytestmark = pytest.mark.filterwarnings("ignore")

SOUND = """
import gansdk
from gansdk.specs import PrunerSpec

@gansdk.hookimpl
def gansdk_pruners():
    yield PrunerSpec(name="sound", factory="json:loads", summary="Works")
"""
HOOK = "import gansdk, sys, os\nfrom gansdk.specs import *\n@gansdk.hookimpl\ndef gansdk_{kind}s():\n    "
BODIES = (
    "raise ValueError('no')",
    "sys.exit(0)",
    "raise SystemExit",
    "raise BaseException('base')",
    "return None",
    "return 3",
    "return [3]",
    "return 'text'",
    "yield PrunerSpec(name='[/red]', factory='a:b', summary='x')",
    "raise MemoryError",
    "yield PrunerSpec(name='one-step', factory='a:b', summary='[bold]takes a name[/bold]')",
    "raise RecursionError",
    "yield from (PrunerSpec(name=f'n{i}', factory='a:b', summary='x') for i in range(100_000))",
    "raise StopIteration",
    "yield AdapterSpec(name='ill', factory='json:loads', summary='\\x1b[31m')",
    "raise GeneratorExit",
    "return {1: 2}",
    "yield MetricSpec(name='x' * 10_000, factory='a:b', summary='x' * 10_000)",
    "class E(Exception):\n        def __str__(self): 1/0\n    raise E",
    "raise UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad')",
    "raise KeyError(('a', 1))",
    "import nowhere",
    "1 / 0",
)
MODULES = (
    "",
    "raise SystemExit(0)",
    "import sys; sys.exit()",
    "syntax error",
    "\0",
    "raise BaseException",
    "import nowhere",
    "raise ImportError",
    "x = 1",
)
METADATA = (
    b"",
    b"Name: acme\n",
    b"Metadata-Version: 2.1\nName: acme\nVersion: 1\n",
    b"\xff\xfe\0",
    b"Name:\nVersion:\n",
    b"Name: gansdk\nVersion: 9\n",
    b"Name: GAN_SDK\n",
    b"Name: gan.sdk\n",
    b"Name: [/red]\nVersion: \x1b[31m\n",
    b"Name: a\nName: b\nVersion: 1\nVersion: 2\n",
    b"\n\n\nName: acme\n",
    b"Version: " + b"9" * 10_000 + b"\nName: acme\n",
)


def points(module: str) -> tuple[bytes, ...]:
    name = module.encode()
    return (
        b"[gansdk]\nmain = " + name + b"\n",
        b"[gansdk]\nmain\n",
        b"[gansdk\nmain = x\n",
        b"\xff\xfe",
        b"[gansdk]\n= " + name,
        b"[gansdk]\nmain = " + name + b":missing\n",
        b"[gansdk]\nmain = " + name + b" [extra\n",
        b"[gansdk]\nmain = \n",
        b"[gansdk]\nmain = 3 4 5\n",
        b"main = x\n",
        b"",
        b"[gansdk]\nmain = " + name + b"\nmain = " + name + b"\n",
        b"[gansdk]\n\x1b[31m = " + name + b"\n",
        b"[gansdk]\n" + b"a" * 10_000 + b" = " + name + b"\n",
        b"[[[]]]\n",
        b"[gansdk]\nmain = os:system\n",
        b"[gansdk]\nmain = ..relative\n",
        b"[other]\nmain = " + name + b"\n\0\n",
    )


Write = Callable[[Path, str, str, bytes, bytes], None]


def install(folder: Path, label: str, code: str, metadata: bytes, listed: bytes) -> None:
    (folder / f"{label}_plugin.py").write_text(code, encoding="utf-8")
    info = folder / f"{label}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_bytes(metadata)
    (info / "entry_points.txt").write_bytes(listed)


@pytest.fixture(scope="module")
def usual_parts() -> dict[str, tuple[str, ...]]:
    return {kind: Registry().names(kind) for kind in KINDS}


@bounded(60)
@given(data=st.data())
def test_no_distribution_takes_the_others_down(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, usual_parts: dict[str, tuple[str, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("site")
    install(folder, "sound", dedent(SOUND), b"Name: sound\nVersion: 1.0\n", b"[gansdk]\nmain = sound_plugin\n")
    kind = data.draw(st.sampled_from(KINDS))
    code = data.draw(st.sampled_from(MODULES) | st.sampled_from(BODIES).map(lambda body: HOOK.format(kind=kind) + body))
    install(folder, "ill", code, data.draw(st.sampled_from(METADATA)), data.draw(st.sampled_from(points("ill_plugin"))))
    if data.draw(st.booleans()):
        (folder / "broken-2.0.dist-info").write_text("a file, not a folder")
    sys.path.insert(0, str(folder))
    try:
        known = Registry()
        with contained(expected=()):
            names = {kind: known.names(kind) for kind in KINDS}
            known.listing()
        assert "sound" in names["pruner"]
        for kind, usual in usual_parts.items():
            assert set(usual) <= set(names[kind])
        for built_in in ("one-step", "uniform"):
            assert known.find("pruner", built_in).plugin == "gansdk:pruners"
    finally:
        sys.path.remove(str(folder))
        for name in ("ill_plugin", "sound_plugin"):
            sys.modules.pop(name, None)


@bounded(20)
@given(
    text=st.sampled_from([text for text in HOSTILE_TEXTS if text.isprintable()]) | st.text(max_size=12),
    field=st.sampled_from(("summary", "source", "advice", "install")),
)
def test_texts_of_specs_are_shown_as_they_are(
    text: str, field: str, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    from gansdk.cli.printing import print_rows

    folder = tmp_path_factory.mktemp("site")
    body = f"yield PrunerSpec(**{{'name': 'acme', 'factory': 'a:b', 'summary': 'x', {field!r}: {text!r}}})"
    install(
        folder, "acme", HOOK.format(kind="pruner") + body, b"Name: acme\nVersion: 1\n", b"[gansdk]\nm = acme_plugin\n"
    )
    sys.path.insert(0, str(folder))
    try:
        from dataclasses import asdict

        with contained(expected=()):
            print_rows([asdict(row) for row in Registry().listing()])
        assert "\x1b" not in capsys.readouterr().out
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("acme_plugin", None)


def test_the_canary_is_never_imported() -> None:
    assert CANARY not in sys.modules

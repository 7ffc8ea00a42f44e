"""The walks of CONTRIBUTING.md, made on a copy of the packages: a new part is the files and lines it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def file_of(text: str) -> str:
    """Where a block of the page goes, which its first line says in a comment."""
    return text.split("\n")[0].removeprefix("# ").removeprefix("<!-- ").removesuffix(" -->")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages with everything that the page adds to them."""
    if shutil.which("git") is None:
        pytest.skip("git applies the diffs")
    folder = tmp_path_factory.mktemp("copy")
    for name in ("gansdk", "plugins", "adapters"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for text in (*blocks("python"), *blocks("html")):
        (folder / file_of(text)).write_text(text)
    for text in blocks("diff"):
        subprocess.run(["git", "apply", "-"], cwd=folder, input=text, text=True, check=True, timeout=60)
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(folder / name) for name in ("", "plugins", "adapters"))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


def test_the_page_adds_one_file_and_one_line_for_a_part() -> None:
    assert [Path(file_of(text)).stem for text in (*blocks("python"), *blocks("html"))] == [
        "charbonnier",
        "random_order",
        "espcn",
        "effort",
    ]
    assert len(blocks("diff")) == 5  # an operator needs no file
    for text in blocks("diff"):
        assert sum(line.startswith("+") and not line.startswith("+++") for line in text.splitlines()) == 1


def commands(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.startswith("gansdk ")]


@pytest.mark.parametrize("block", list(filter(commands, blocks("sh"))), ids=lambda block: commands(block)[-1])
def test_the_commands_of_the_walks_run(block: str, copy: Path) -> None:
    for line in commands(block):
        done = run(copy, "-m", "gansdk", *shlex.split(line)[1:])
        assert done.returncode == 0, done.stderr


def test_the_section_of_the_walk_is_in_the_report(copy: Path) -> None:
    command = next(line for block in blocks("sh") for line in commands(block) if line.endswith("--out effort"))
    done = run(copy, "-m", "gansdk", *shlex.split(command)[1:-1], "shown")
    assert done.returncode == 0, done.stderr
    report = (copy / "shown" / "student" / "report.html").read_text()
    assert report.index("<h2>Channel groups</h2>") > report.index("<h2>Effort</h2>")
    assert "0 steps of 8 images" in report


def test_the_python_of_the_walks_is_of_the_style_that_is_checked(copy: Path) -> None:
    files = [str(copy / file_of(text)) for text in blocks("python")]
    for command in (["check"], ["format", "--check"]):
        done = run(ROOT, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), *files)
        assert done.returncode == 0, done.stdout


def test_the_operator_of_the_walk_no_longer_freezes_channels(copy: Path) -> None:
    code = """
import torch
from torch import nn
from gansdk.channels.tracing.trace import trace
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3)
    def forward(self, x):
        return self.b(torch.erfc(self.a(x)))
print(len(trace(Net(), torch.rand(1, 3, 16, 16)).prunable))
"""
    assert run(copy, "-c", code).stdout.strip() == "1"
    assert run(ROOT, "-c", code).stdout.strip() == "0"


def test_the_changes_of_the_next_release_are_assembled_into_the_changelog(copy: Path) -> None:
    fragments = list((ROOT / "changelog.d").glob("*.md"))
    assert all(re.fullmatch(r"\+[a-z0-9-]+\.change\.md", file.name) for file in fragments)
    pytest.importorskip("towncrier")
    shutil.copytree(ROOT / "changelog.d", copy / "changelog.d")
    (copy / "changelog.d" / "+charbonnier.change.md").write_text("A distiller `charbonnier`")
    shutil.copytree(ROOT / "docs", copy / "docs")
    shutil.copy(ROOT / "pyproject.toml", copy)
    done = run(copy, "-m", "towncrier", "build", "--version", "9.9.9", "--keep")
    assert done.returncode == 0, done.stderr
    changelog = (copy / "docs" / "changelog.md").read_text()
    assert (
        changelog.index("## 9.9.9") < changelog.index("\n- A distiller `charbonnier`\n") < changelog.index("## 0.1.0")
    )

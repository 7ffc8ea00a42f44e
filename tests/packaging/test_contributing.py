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


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages with everything that the page adds to them."""
    if shutil.which("git") is None:
        pytest.skip("git applies the diffs")
    folder = tmp_path_factory.mktemp("copy")
    for name in ("gansdk", "plugins", "adapters"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for text in blocks("python"):
        (folder / text.split("\n")[0].removeprefix("# ")).write_text(text)
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
    assert len(blocks("python")) == 2
    for text in blocks("diff"):
        assert sum(line.startswith("+") and not line.startswith("+++") for line in text.splitlines()) == 1


@pytest.mark.parametrize(
    "line", [line for block in blocks("sh") for line in block.splitlines() if line.startswith("gansdk ")]
)
def test_the_commands_of_the_walks_run(line: str, copy: Path) -> None:
    done = run(copy, "-m", "gansdk", *shlex.split(line)[1:])
    assert done.returncode == 0, done.stderr


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

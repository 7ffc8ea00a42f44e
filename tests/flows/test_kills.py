"""Kills of whole commands by the harness of benchmarks/kills.py, which has many more."""

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).parents[2] / "benchmarks" / "kills.py"


def kill(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(KILLS), "--fresh", "0", "--moment", "operation", "--out", str(tmp_path / "out")]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["compress", "train-teacher", "save"])
def test_a_command_killed_right_before_a_file_changes_goes_on_to_the_same_files(scenario, tmp_path):
    done = kill(tmp_path, "--scenario", scenario, "--kills", "4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all" in done.stdout.splitlines()[-1]

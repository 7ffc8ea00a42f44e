"""Kills of whole commands by the harness of benchmarks/kills.py, which has many more; and what the harness sees."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CARELESS = """
import os
os.makedirs("out", exist_ok=True)
with open("out/student", "w") as file:
    file.write("one half, ")
    file.flush()
    open("out/log", "a").close()
    file.write("and the other")
"""
CAREFUL = """
import os
os.makedirs("out", exist_ok=True)
for name in ("log", "student"):
    with open("out/unfinished", "w") as file:
        file.write("all of it")
    os.replace("out/unfinished", f"out/{name}")
"""
LITTERING = """
import os, tempfile
with tempfile.TemporaryDirectory() as folder:
    open("student", "w").close() if not os.path.exists("student") else None
"""
CASES = """
import json, sys
from pathlib import Path
from commands import Scenario
from kills import laid, run_case, run_straight
from starting import Command

code, lasting, root = sys.argv[1], sys.argv[2], Path(sys.argv[3])
scenario = Scenario("tried", Command(code=code), (lasting,))
straight, differs = run_straight(scenario, root, root, fresh=False)
outcomes = [
    run_case(scenario, straight, laid(scenario, root, root / "case"), f"{number}", ["operation"], fresh=False)
    for number in range(12)
]
print(json.dumps([differs, [case.failures for case in outcomes], [case.left_over for case in outcomes]]))
"""


def tried(code: str, lasting: str, root: Path) -> tuple[set[str], set[str]]:
    """What the harness says of a command's kills: failures and what was left over."""
    command = [sys.executable, "-c", CASES, code, lasting, str(root)]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    differs, failures, left_over = json.loads(done.stdout)
    assert not differs
    return {text for case in failures for text in case}, {name for case in left_over for name in case}


def test_a_file_that_a_kill_leaves_half_written_is_found(tmp_path):
    failures, _ = tried(CARELESS, "out/student", tmp_path)
    assert any("out/student is neither the old one nor the new one" in text for text in failures)


def test_a_temporary_folder_that_a_kill_leaves_behind_is_found(tmp_path):
    _, left_over = tried(LITTERING, "student", tmp_path)
    assert any(name.startswith("TMPDIR/tmp") for name in left_over)


def test_a_command_that_replaces_whole_files_passes(tmp_path):
    assert tried(CAREFUL, "out/student", tmp_path) == (set(), set())


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["compress", "train-teacher", "save"])
def test_a_command_killed_right_before_a_file_changes_goes_on_to_the_same_files(scenario, tmp_path):
    options = ["--scenario", scenario, "--kills", "4", "--fresh", "0", "--moment", "operation"]
    command = [sys.executable, str(BENCHMARKS / "kills.py"), *options, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1].split()[1]) >= 4

"""Signals to the command line."""

import io
import shlex
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from gansdk.cli.progress import ProgressObserver
from gansdk.events import Finished, StageSaved, StageStarted
from gansdk.runtime.signals import Stopped, stoppable

CODES = {signal.SIGINT: (130, "Ctrl-C"), signal.SIGTERM: (143, "SIGTERM")}


def begin(inside: str, *, grace_s: float = 60) -> subprocess.Popen[str]:
    """A process that runs `inside` as a command."""
    code = (
        f"import sys, time\nfrom gansdk.runtime import signals\nsignals.GRACE_S = {grace_s}\n"
        f"with signals.stoppable(['inspect', 'my net.pth'], for_good=True):\n{inside}\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


BUSY = "    print('ready', flush=True); time.sleep(600)"
STUBBORN = f"    try:\n    {BUSY}\n    except BaseException:\n    {BUSY}"


@pytest.mark.parametrize("number", CODES)
def test_a_signal_ends_a_command_with_one_line_and_its_exit_code(number):
    code, name = CODES[number]
    running = begin(BUSY)
    assert running.stdout.readline() == "ready\n"
    running.send_signal(number)
    out, err = running.communicate()
    assert (running.returncode, out) == (code, "")
    assert err == (f"Stopped by {name}. Nothing has been saved yet. To continue: gansdk inspect 'my net.pth'\n")


@pytest.mark.parametrize("number", CODES)
def test_a_second_signal_ends_it_at_once_whatever_it_does(number):
    running = begin(STUBBORN)
    for _ in range(2):
        assert running.stdout.readline() == "ready\n"
        running.send_signal(number)
    _, err = running.communicate()
    assert (running.returncode, err) == (CODES[number][0], "")


def test_a_command_that_swallows_a_signal_is_ended_after_a_while():
    running = begin(STUBBORN, grace_s=0.1)
    running.stdout.readline()
    running.send_signal(signal.SIGTERM)
    _, err = running.communicate()
    assert running.returncode == 143
    assert err.startswith("Stopped by SIGTERM. ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("module", ["typer", "torch"])
@pytest.mark.parametrize("number", CODES)
def test_signals_are_taken_care_of_while_modules_are_imported(module, number):
    code = f"""
import signal, sys

class AtImport:
    def find_spec(self, name, *rest):
        if name == {module!r}:
            signal.raise_signal({int(number)})

sys.meta_path.insert(0, AtImport())
sys.argv = ["gansdk", "inspect", "demo"]
from gansdk.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (CODES[number][0], "")
    assert done.stderr.startswith("Stopped by ")
    assert done.stderr.count("\n") == 1


def test_handlers_are_as_before_once_a_command_that_others_called_is_over():
    before = [signal.getsignal(number) for number in CODES]
    with pytest.raises(SystemExit), stoppable([], for_good=False):
        signal.raise_signal(signal.SIGTERM)
    with stoppable([], for_good=False):
        assert [signal.getsignal(number) for number in CODES] != before
    assert [signal.getsignal(number) for number in CODES] == before


def said(*events, arguments=("compress", "demo", "--no-resume"), capsys) -> str:
    """What is said when a signal comes after these events."""

    def command() -> None:
        with stoppable(arguments, for_good=False), ProgressObserver(Console(file=io.StringIO())) as progress:
            for event in events:
                progress(event)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit, match="130"):
        command()
    return capsys.readouterr().err


def test_the_line_says_what_is_kept_and_the_command_does_not_begin_anew(capsys):
    begun = StageStarted(stage="4x/distil-0", steps=400)
    saved = StageSaved(stage="4x/distil-0", step=120, folder="out/run")
    assert said(begun, saved, capsys=capsys) == (
        "Stopped by Ctrl-C. Kept: everything up to '4x: distil', step 120 of 400, in out/run. "
        "To continue: gansdk compress demo\n"
    )
    searched = StageSaved(stage="search", folder="out/run")
    assert "Kept: everything up to 'search', in out/run." in said(searched, capsys=capsys)
    assert "Kept: all, in out." in said(begun, saved, Finished(seconds=1, output="out"), capsys=capsys)


def test_before_anything_is_saved_the_command_stays_as_it_was(capsys):
    line = said(StageStarted(stage="search", steps=0), capsys=capsys)
    assert line.endswith("Nothing has been saved yet. To continue: gansdk compress demo --no-resume\n")


def test_the_command_can_be_typed_whatever_its_arguments_hold(capsys):
    arguments = ["compress", "my net's (2).pth", "--data", '{"name": "folder", "path": "a b"}', "--budget", "macs<=60%"]
    line = said(arguments=arguments, capsys=capsys)
    assert shlex.split(line.split("To continue: ")[1]) == ["gansdk", *arguments]
    assert "\x1b" not in said(arguments=["inspect", "\x1b[2J"], capsys=capsys)


def test_a_continued_stage_says_from_which_step():
    console = Console(file=io.StringIO(), width=120)
    with ProgressObserver(console) as progress:
        progress(StageStarted(stage="distil-0", steps=400, done=120))
    assert console.file.getvalue() == "continues 'distil' from step 120 of 400\n"


def test_stopped_is_no_error_that_anybody_handles():
    assert not issubclass(Stopped, Exception)

"""The command line, as a user or a script meets it."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

import gansdk
from gansdk.budget.cost import Cost
from gansdk.cli.app import main
from gansdk.cli.printing import print_json, print_rows
from gansdk.cli.progress import ProgressObserver
from gansdk.errors import QualityFloorMissed
from gansdk.events import Carved, Event, Finished, PlanFound, SearchStep, StageStarted, StepDone
from gansdk.pipeline.demo import check_against_bicubic
from gansdk.pipeline.opening import demo_checkpoint, open_generator
from gansdk.registry.discovery import registry
from gansdk.registry.parts import open_adapter
from gansdk.specs import PrunerSpec

SIZES = {"network": "msrresnet", "sizes": {"width": 4, "blocks": 1, "channels": 3, "scale": 2}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny generator that has learned nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = registry().load("adapter", "sr")().build(SIZES)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_file(network.state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four images of 32x32 pixels."""
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for number in range(4):
        pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(folder)


def call(*arguments: str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What --json prints: stdout must hold nothing else."""
    capsys.readouterr()
    assert call(*arguments, "--json") == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def short_run(checkpoint: str, images: str, out: Path) -> list[str]:
    return [
        *("compress", checkpoint, "--budget", "macs<=60%", "--data", images, "--eval-data", images),
        *("--pruner-option", "multiple-of=1", "--distiller", "pixel", "--steps", "2", "--batch-size", "2"),
        *("--patch", "8", "--out", str(out)),
    ]


@pytest.mark.parametrize(
    "command", [["--help"], ["compress", "--help"], ["plugins"], ["plugins", "--compat", "--json"]]
)
def test_help_and_listing_import_no_torch(command: list[str]) -> None:
    code = (
        "import sys\nfrom gansdk.cli.app import main\n"
        f"try:\n    main({command})\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'onnx'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=sys.prefix)
    assert done.returncode == 0, done.stderr


def test_the_installed_command_says_its_version() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from gansdk.cli.app import main; main()", "--version"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip()) == (0, gansdk.__version__)


def test_a_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compress", "net.pth") == 2
    assert call("plan", "demo", "-b", "2x", "--pruner-option", "keep") == 2
    assert "KEY=VALUE" in capsys.readouterr().err
    assert call("plugins", "--compat", "--check") == 2


def test_an_error_is_one_paragraph_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", "nowhere.pth") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("CheckpointError: ")
    assert shown.err.count("\n") == 1


def test_plugins_lists_every_part_with_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    rows = answer(capsys, "plugins")
    assert {(row["kind"], row["name"]) for row in rows if row["origin"] == "gansdk"} >= {
        ("pruner", "one-step"),
        ("distiller", "gka"),
        ("adapter", "sr"),
    }
    assert call("plugins") == 0
    assert "one-step" in capsys.readouterr().out


def test_compat_says_for_every_combination_whether_it_works(capsys: pytest.CaptureFixture[str]) -> None:
    rows = answer(capsys, "plugins", "--compat")
    cell = {"adapter": "sr", "pruner": "one-step", "distiller": "gka"}
    assert {**cell, "missing": [], "works": True, "verdict": "runs", "advice": ""} in rows
    assert call("plugins", "--compat") == 0
    text = capsys.readouterr().out
    shown = [line.split() for line in text.splitlines()]
    assert ["sr", "one-step", "gka", "runs"] in shown
    assert len(shown) >= 1 + len(rows)
    assert text.count("opt in to cycle=REVERSE_GENERATOR") == 1


@pytest.fixture
def broken_plugin() -> Iterator[None]:
    class Broken:
        @gansdk.hookimpl
        def gansdk_pruners(self) -> list[PrunerSpec]:
            return [PrunerSpec(name="broken", factory="nowhere_at_all:Pruner", summary="Cannot be imported")]

    registry().register(Broken(), name="broken-plugin")
    yield
    registry().unregister("broken-plugin")


@pytest.mark.usefixtures("broken_plugin")
def test_check_names_the_part_that_cannot_be_imported_and_exits_with_5(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plugins", "--check", "--json") == 5
    failures = {row["name"]: row["failure"] for row in json.loads(capsys.readouterr().out) if row["failure"]}
    assert list(failures) == ["broken"]
    assert "nowhere_at_all" in failures["broken"]


def test_check_passes_for_what_is_built_in(capsys: pytest.CaptureFixture[str]) -> None:
    rows = answer(capsys, "plugins", "--check")
    assert not any(row["failure"] for row in rows if row["origin"] == "gansdk")


def test_inspect_says_what_can_shrink(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "inspect", checkpoint, "--budget", "macs<=90%")
    assert found["cost"]["macs"] > found["floor"]["macs"] > 0
    assert any(group["frozen"] for group in found["groups"])
    assert "can be met" in found["verdict"]
    assert call("inspect", checkpoint) == 0
    assert "frozen because" in capsys.readouterr().out


@pytest.mark.filterwarnings("default::gansdk.errors.GansdkWarning")
def test_options_without_an_adapter_are_for_the_family_that_is_recognised(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = open_adapter("gaugan").create("spade", width=2, labels=5, hidden=4)
    torch.save(module.state_dict(), path := tmp_path / "S.pth")
    asked = ("--adapter-option", "upsampling=more")
    deeper = answer(capsys, "inspect", str(path), *asked)["cost"]["macs"]
    assert deeper != answer(capsys, "inspect", str(path))["cost"]["macs"]
    assert answer(capsys, "plan", str(path), "--budget", "macs<=80%", *asked)["before"]["macs"] == deeper
    named = answer(capsys, "inspect", str(path), "--adapter", "gaugan", *asked)
    assert named["cost"]["macs"] == deeper
    assert call("inspect", checkpoint, *asked) == 2
    assert "'sr' has no option 'upsampling'. Its options: pre_upsampled" in capsys.readouterr().err
    run = short_run(checkpoint, "photos", tmp_path / "out")
    assert call(*run, "--adapter-option", "pre_upsampled=2", "--dry-run") == 0


@pytest.mark.filterwarnings("default::gansdk.errors.GansdkWarning")
def test_inspect_and_plan_take_the_options_of_an_adapter(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--adapter", "sr", "--adapter-option", "pre_upsampled=2")
    plain = answer(capsys, "inspect", checkpoint, "--adapter", "sr")
    assert answer(capsys, "inspect", checkpoint, *asked) == plain  # only a VDSR is pre-upsampled
    assert call("inspect", checkpoint, "--adapter", "sr", "--adapter-option", "size=3") == 2
    assert "Its options: pre_upsampled" in capsys.readouterr().err
    assert answer(capsys, "plan", checkpoint, "--budget", "macs<=60%", *asked)["after"]["macs"]
    assert call("plan", checkpoint, "--budget", "macs<=60%", "--transform", "mobile") == 2
    assert "no transform 'mobile'" in capsys.readouterr().err


def test_a_budget_out_of_reach_exits_with_3(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("inspect", checkpoint, "--budget", "1000000x") == 3
    assert capsys.readouterr().err.startswith("BudgetUnreachable: ")


@pytest.mark.filterwarnings("default::gansdk.errors.GansdkWarning")
def test_a_plan_keeps_to_the_budget_and_warnings_stay_off_stdout(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, "plan", checkpoint, "--budget", "macs<=60%", "--pruner-option", "multiple_of=1")
    assert 0.5 < found["used"] <= 1
    assert found["after"]["macs"] <= 0.6 * found["before"]["macs"]
    assert call("plan", checkpoint, "--budget", "macs<=60%", "--pruner", "uniform") == 0
    assert "of the budget" in capsys.readouterr().out


def test_a_student_is_made_scored_and_exported(
    checkpoint: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = answer(capsys, *short_run(checkpoint, images, tmp_path / "out"))
    student = made["student"]
    assert made["after"]["macs"] <= 0.6 * made["before"]["macs"]
    assert made["settings"]["pruner"]["multiple_of"] == 1
    assert (Path(student) / "report.html").is_file()
    scores = answer(capsys, "eval", student, "--reference", checkpoint, "--data", images)
    assert {item["reference"] for item in scores["quality"]} == {"ground-truth", "teacher"}
    assert len(scores["per_image"]) == 4
    record = answer(capsys, "export", student, "pt2")
    assert Path(record["path"]) == tmp_path / "out" / "student.pt2"
    assert Path(record["path"]).is_file()
    assert answer(capsys, "inspect", student)["cost"] == made["after"]


def test_tables_are_for_people(
    checkpoint: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*short_run(checkpoint, images, tmp_path / "out")) == 0
    shown = capsys.readouterr()
    assert "MACs (M)" in shown.out
    assert "psnr-y" in shown.out
    assert "finished in" in shown.err
    assert call("eval", str(tmp_path / "out" / "student"), "--data", images) == 0
    assert "bicubic" in capsys.readouterr().out


def test_a_missed_quality_floor_exits_with_4_and_the_student_is_saved(
    checkpoint: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*short_run(checkpoint, images, tmp_path / "out"), "--quality", "psnr-y>=99") == 4
    assert "QualityFloorMissed" in capsys.readouterr().err
    assert (tmp_path / "out" / "student" / "config.json").is_file()


def test_a_missed_quality_floor_prints_the_result_as_json_too(
    checkpoint: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert call(*short_run(checkpoint, images, tmp_path / "out"), "--quality", "psnr-y>=99", "--json") == 4
    shown = capsys.readouterr()
    assert json.loads(shown.out)["student"] == str(tmp_path / "out" / "student")
    assert "QualityFloorMissed" in shown.err


@pytest.mark.parametrize("budgets", [["1.2x,1.5x"], ["macs<=90%", "1.5x"], ["1.2x", "macs<=70%,params<=80%"]], ids=str)
def test_several_budgets_make_a_ladder(
    budgets: list[str], checkpoint: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = short_run(checkpoint, images, tmp_path / "out")
    asked = [text for budget in budgets for text in ("--budget", budget)]
    made = answer(capsys, *run[:2], *run[4:], *asked)
    teacher, first, second = made["curve"]
    assert teacher["macs"] > first["macs"] > second["macs"]
    assert list(made["students"]) == [first["name"], second["name"]]
    for name, student in made["students"].items():
        assert student["student"] == str(tmp_path / "out" / name / "student")
        assert (Path(student["student"]) / "model.safetensors").is_file()
        assert student["widths"]


def test_a_ladder_is_one_table_for_people_also_where_its_floor_is_missed(
    checkpoint: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = short_run(checkpoint, images, tmp_path / "out")
    assert call(*run[:2], *run[4:], "--budget", "1.2x,1.5x", "--quality", "ssim-y>=2") == 4
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines() if line.startswith(("teacher", "1."))] == [
        "teacher",
        "1.2x",
        "1.5x",
    ]
    assert f"Report: {tmp_path / 'out' / 'ladder.html'}\n" in shown.out
    assert "QualityFloorMissed" in shown.err
    assert "1.2x: distil" in shown.err


def test_two_ratios_with_another_limit_are_refused_in_words(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("compress", checkpoint, "--budget", "2x,4x,params<=25%") == 2
    assert "--budget several times" in capsys.readouterr().err
    assert call("plan", checkpoint, "--budget", "2x,4x") == 2


def test_a_dry_run_writes_nothing(
    checkpoint: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, *short_run(checkpoint, images, tmp_path / "out"), "--dry-run")
    assert found["student"] is None
    assert found["widths"]
    assert not (tmp_path / "out").exists()


def test_a_run_with_other_settings_is_refused_or_moved_aside(
    checkpoint: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = short_run(checkpoint, images, tmp_path / "out")
    assert call(*first) == 0
    capsys.readouterr()
    assert call(*first, "--seed", "1") == 2
    message = capsys.readouterr().err
    assert "another --out, or --no-resume to move it aside" in message
    assert "resume='never'" not in message
    assert call(*first, "--seed", "1", "--no-resume") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"run", "run.old-1", "student", "student.old-1"}


def test_options_of_distillers_reach_them(
    checkpoint: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = short_run(checkpoint, images, tmp_path / "out")
    options = ["--distiller", "gka", "--distiller-option", "gka.weight=0.5", "--distiller-option", "pixel.norm=l2"]
    made = answer(capsys, *run, *options, "--dry-run")
    pixel, gka = made["settings"]["distiller"]
    assert (pixel["norm"], gka["weight"]) == ("l2", 0.5)
    assert call(*run, "--distiller-option", "wavelet.levels=2") == 2


def test_a_student_need_not_be_trained_after_it_was_pruned(
    checkpoint: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = short_run(checkpoint, images, tmp_path / "out")
    run[run.index("--steps") + 1] = "0"
    assert answer(capsys, *run)["settings"]["steps"] == 0
    assert [path.stem for path in (tmp_path / "out" / "run").glob("*.pt")].count("distil-0") == 0
    run[run.index("--steps") + 1] = "-1"
    assert call(*run) == 2


EVENTS = (
    StageStarted(stage="search", steps=0),
    SearchStep(
        generation=1,
        generations=11,
        scored=100,
        best=0.0125,
        cost=Cost(macs=10**6, paper_macs=10**6, params=100, bytes=400),
        front=((10**6, 0.0125),),
    ),
    SearchStep(
        generation=2,
        generations=11,
        left=30,
        scored=170,
        best=0.01,
        cost=Cost(macs=2 * 10**6, paper_macs=10**6, params=100, bytes=400),
        front=((5 * 10**5, 0.5), (10**6, 0.0125), (2 * 10**6, 0.01)),
    ),
    PlanFound(widths={"body": 2}, cost=Cost(macs=10**6, paper_macs=10**6, params=100, bytes=400)),
    Carved(
        cost=Cost(macs=10**6, paper_macs=10**6, params=100, bytes=400),
        full=Cost(macs=4 * 10**6, paper_macs=4 * 10**6, params=1000, bytes=4000),
        max_error=1e-7,
    ),
    StageStarted(stage="distil-0", steps=100),
    *(
        StepDone(stage="distil-0", step=step, steps=100, metrics={"loss": 1 / step}, rate=10.0)
        for step in range(2, 101, 2)
    ),
    Finished(seconds=12.0),
    Event(),
)


def test_progress_in_a_log_is_a_line_for_every_tenth() -> None:
    console = Console(file=io.StringIO(), width=120)
    with ProgressObserver(console) as progress:
        for event in EVENTS:
            progress(event)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert sum("steps/s" in line for line in lines) == 10
    assert "generation 1/11: 100 subnets scored, best 0.0125 at 1.0 M MACs, 100 parameters" in lines
    assert "distil: 50/100 steps, loss 0.0200, 10.0 steps/s, 5 s left" in lines
    found = "generation 2/11 (30 to go): 170 subnets scored, best 0.01 at 2.0 M MACs, 100 parameters"
    assert f"{found}; front of 3: 0.5 at 0.5 M to 0.01 at 2.0 M" in lines
    assert "carved: 4.0 M MACs, 1,000 parameters -> 1.0 M MACs, 100 parameters, largest error 1.0e-07" in lines
    assert lines[-1] == "finished in 12 s"


def test_progress_on_a_terminal_is_a_bar() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with ProgressObserver(console) as progress:
        for event in EVENTS:
            progress(event)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "100/100 steps" in shown
    assert "distil: 50/100" not in shown


@pytest.mark.parametrize(
    ("stage", "shown"),
    [
        ("prepare-0", "training before the search"),
        ("4x/search-1", "4x: search, part 2"),
        ("evaluate", "evaluate"),
        ("warm-up", "warm-up"),
        ("macs-at-most-70%/distil-0", "macs-at-most-70%: distil"),
    ],
)
def test_stages_are_told_in_words(stage: str, shown: str) -> None:
    console = Console(file=io.StringIO(), width=120)
    with ProgressObserver(console) as progress:
        progress(StageStarted(stage=stage, steps=10))
        progress(StepDone(stage=stage, step=10, steps=10, metrics={}, rate=0.0))
    assert console.file.getvalue().splitlines()[0] == shown  # type: ignore[attr-defined]


def test_the_teacher_of_the_demo_is_recognised_like_any_checkpoint() -> None:
    generator = open_generator(demo_checkpoint())
    assert generator.adapter.name == "sr"
    assert (generator.contract.scale, generator.contract.output_range) == (2, (0.0, 1.0))
    assert demo_checkpoint().stat().st_size < 2 * 2**20


def test_a_student_worse_than_bicubic_fails_the_demo(checkpoint: str, images: str) -> None:
    result = gansdk.compress(
        checkpoint, budget="macs<=60%", distiller="pixel", data=images, eval_data=images, steps=1, batch_size=1, patch=8
    )
    with pytest.raises(QualityFloorMissed, match="bicubic enlargement"):
        check_against_bicubic(result)


@pytest.mark.slow
def test_the_demo_makes_a_student_four_times_smaller_and_better_than_bicubic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = answer(capsys, "demo", "--out", str(tmp_path / "demo"))
    quality = next(item for item in made["quality"] if item["metric"] == "psnr-y")
    assert made["ratios"]["macs"] >= 4
    assert quality["student"] > quality["extra"]["bicubic"] + 1
    assert quality["student"] > quality["teacher"] - 0.5
    assert gansdk.load(made["student"])(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 32, 32)


def test_a_stopped_run_says_how_to_go_on_and_goes_on_from_there_to_the_same_student(
    checkpoint: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = [*short_run(checkpoint, images, tmp_path / "out"), "--no-resume", "--steps", "4"]
    assert call(*short_run(checkpoint, images, tmp_path / "straight"), "--steps", "4") == 0
    advance = ProgressObserver._advance

    def stop(observer: ProgressObserver, event: StepDone) -> None:
        advance(observer, event)
        if event.step == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressObserver, "_advance", stop)
        capsys.readouterr()
        assert call(*run) == 143
    stopped = capsys.readouterr().err.splitlines()[-1]
    assert f"Kept: everything up to 'distil', step 2 of 4, in {tmp_path / 'out' / 'run'}." in stopped
    program, *again = shlex.split(stopped.split("To continue: ")[1])
    assert program == "gansdk"
    assert "--no-resume" not in again
    assert call(*again) == 0
    assert "continues 'distil' from step 2 of 4" in capsys.readouterr().err
    first, second = (tmp_path / name / "student" / "model.safetensors" for name in ("straight", "out"))
    assert first.read_bytes() == second.read_bytes()
    assert not list(tmp_path.glob("out.old-*"))


def test_in_python_an_interrupt_stays_an_interrupt(checkpoint: str, images: str) -> None:
    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gansdk.compress(checkpoint, budget="macs<=60%", distiller="pixel", data=images, steps=1, observers=[interrupt])


@pytest.mark.parametrize("command", [["plugins"], ["plugins", "--json"], ["--help"]])
def test_a_reader_that_goes_away_gets_no_traceback(command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "gansdk", *command], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_what_was_typed_is_quoted_without_its_terminal_codes_and_not_at_length(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for text in ("a\x1b[31mb\nc", "k" * 10**6):
        assert call("plan", "demo", "-b", "2x", "--pruner-option", text) == 2
        assert call("inspect", text) == 2
        shown = capsys.readouterr().err
        assert "\x1b" not in shown
        assert len(shown) < 20_000


def test_texts_of_plugins_and_files_are_shown_as_they_are_but_for_terminal_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_rows([{"name": "[bold]odd[/nothing]", "summary": "\x1b[2J\n\u202etxt :smile:"}])
    shown = capsys.readouterr().out
    assert "[bold]odd[/nothing]" in shown
    assert "\\x1b[2J\\n\\u202etxt :smile:" in shown
    print_json({"name": "\x9b2J\u202e"})
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"name": "\x9b2J\u202e"}
    assert "\x9b" not in shown
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with ProgressObserver(console) as progress:
        progress(StageStarted(stage="[b]odd\x1b[2J", steps=2))
        progress(StepDone(stage="[b]odd\x1b[2J", step=2, steps=2, metrics={"[/i]\x07": 1.0}, rate=0.0))
    assert "[b]odd\\x1b[2J" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "[/i]\\x07 1.0000" in console.file.getvalue()  # type: ignore[attr-defined]


DEEP = "[" * 50_000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--pruner-option", f"floor_share={DEEP}"), "nested too deeply"),
        (("--pruner-option", "floor_share=NaN"), "floor_share='NaN' must be a number from 0 to 1"),
        (("--pruner-option", "floor_share=" + "1" * 5000), "must be a number"),
        (("--pruner-option", "floor_share=0.1", "--pruner-option", "floor-share=0.2"), "a second value"),
        (("--pruner-option", "name=uniform"), "a second value"),
        (("--pruner-option", '={"a": 1}'), "KEY=VALUE"),
        (("--distiller", "gka", "--distiller", "gka"), "given twice"),
        (("--data", '{"name": ' + DEEP), "nested too deeply"),
        (("--data", '{"name": "photos", "name": "folder"}'), "'name' twice"),
        (("--data", '{"name": "photos", "holdout": "half"}'), "holdout='half' must be a number"),
        (("--discriminator", '{"main": ' + DEEP), "nested too deeply"),
        (("--seed", str(2**64)), "from 0 to 18446744073709551615"),
        (("--steps", "9" * 30), "integer from 0"),
        (("--learning-rate", "1e999"), "number > 0"),
        (("--quality", "psnr-y>=" + "9" * 400), "cannot be read"),
        (("--transform", "\x1b[31m"), "has no transform"),
    ],
)
def test_arguments_that_say_nothing_or_two_things_are_wrong_input(arguments, says, checkpoint, images, capsys):
    given = ("compress", checkpoint, "-b", "1.5x", "--data", images, "--device", "cpu", "--dry-run")
    assert call(*given, *arguments) == 2
    told = capsys.readouterr()
    assert says in " ".join(told.err.replace("\u2502", " ").split())
    assert "Traceback" not in told.err
    assert len(told.err) < 2500
    assert told.out == ""


@pytest.mark.parametrize("format", ["a/b", "", ".", "onnx2", "\x1b[31m"])
@pytest.mark.parametrize("student", [".", "..", "none"])
def test_a_format_that_there_is_not_is_refused_first(format, student, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("export", student, format) == 2
    assert "format=" in capsys.readouterr().err


def test_a_part_is_described_by_its_options_its_paper_and_its_needs(capsys):
    assert call("plugins", "gka", "--json") == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["needs"]) == ("distiller", ["taps"])
    assert "CVPR 2021" in found["source"]
    assert {"name": "weight", "type": "float > 0", "default": "1.0"} in found["options"]
    assert call("plugins", "once-for-all") == 0
    shown = capsys.readouterr().out
    assert "sampling" in shown
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "population int >= 2 100" in lines
    assert "parent_ratio float >= 0 and <= 1 0.25" in lines
    assert "max_minutes float > 0 | None None" in lines
    assert "'sandwich'" in shown
    assert "Li et al., CVPR 2020" in shown


def test_what_a_run_fills_in_is_no_option_of_a_source(capsys):
    assert call("plugins", "photos", "--json") == 0
    [found] = json.loads(capsys.readouterr().out)
    assert {option["name"] for option in found["options"]} == {"patch", "holdout", "seed"}


def test_lists_of_parts_can_be_narrowed_to_one(capsys):
    assert call("plugins", "gka", "--compat", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert {row["distiller"] for row in rows} == {"gka"}
    assert call("plugins", "nonsense") == 2
    assert "No part is called 'nonsense'" in capsys.readouterr().err


def test_errors_about_data_name_options(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compress", checkpoint, "--budget", "2x", "--out", str(tmp_path), "--distiller", "pixel") == 2
    assert "but no --data. Pass --data" in capsys.readouterr().err

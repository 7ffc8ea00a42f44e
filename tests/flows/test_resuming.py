import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import gansdk
from gansdk.errors import CheckpointError, GansdkWarning, OutputError, ResumeMismatch, RunInUse
from gansdk.events import StepDone, Warned
from gansdk.files import remove
from gansdk.interfaces import Pruner
from gansdk.testing.perceptual import made_up_vgg16
from gansdk.training.sealing import seal, settings_key

STEPS = 6

KILLED = f"""
import os, signal, sys, torch, gansdk
from gansdk.events import StepDone
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

photos, out_dir, state, last = sys.argv[1:]

def die(event):
    if isinstance(event, StepDone) and event.step == int(last):
        os.kill(os.getpid(), signal.SIGKILL)

net = SRResNet(SRResNetSizes(width=6, blocks=1, scale=2))
net.load_state_dict(torch.load(state))
gansdk.compress(
    net.eval(), budget="macs<=60%", distiller=["gka", "wavelet", "pixel"], data=photos, steps={STEPS}, batch_size=2,
    patch=8, device="cpu", out_dir=out_dir, observers=[die],
)
"""


class Interrupted(Exception):
    """Raised by an observer in place of a kill, where the process must go on."""


@pytest.fixture
def settings(quick):
    return {**quick, "steps": STEPS, "distiller": ["gka", "wavelet", "pixel"]}


@pytest.fixture
def straight(settings, given):
    return gansdk.compress(given(), **settings)


def interrupt(at: int, stage: str = "distil-0"):
    def observer(event):
        if isinstance(event, StepDone) and event.stage == stage and event.step == at:
            raise Interrupted

    return observer


@pytest.mark.parametrize("killed_at", [1, 4])
def test_a_run_killed_at_any_step_continues_to_the_same_bytes(
    killed_at, photos, build, given, settings, straight, content, tmp_path
):
    torch.save(build().state_dict(), tmp_path / "net.pth")
    arguments = [str(photos), str(tmp_path / "out"), str(tmp_path / "net.pth"), str(killed_at)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "out" / "student").exists()

    seen = []
    resumed = gansdk.compress(given(), **settings, out_dir=tmp_path / "out", observers=[seen.append])
    # The step that was told last had not been saved yet.
    assert [event.step for event in seen if isinstance(event, StepDone)] == list(range(killed_at, STEPS + 1))
    assert resumed.plan == straight.plan
    assert content(resumed.student) == content(straight.student)
    assert resumed.history == straight.history


def test_a_run_interrupted_again_and_again_ends_as_the_straight_one(given, settings, straight, content, tmp_path):
    for step in range(2, STEPS + 1):
        with pytest.raises(Interrupted):
            gansdk.compress(given(), **settings, out_dir=tmp_path, observers=[interrupt(step)])
    resumed = gansdk.compress(given(), **settings, out_dir=tmp_path)
    assert content(resumed.student) == content(straight.student)
    assert resumed.history == straight.history


def test_a_finished_run_is_not_trained_again_and_leaves_one_and_the_same_student(
    given, settings, straight, content, tmp_path
):
    gansdk.compress(given(), **settings, out_dir=tmp_path)
    first = (tmp_path / "student" / "model.safetensors").read_bytes()
    seen = []
    again = gansdk.compress(given(), **settings, out_dir=tmp_path, observers=[seen.append])
    assert not any(isinstance(event, StepDone) for event in seen)
    assert content(again.student) == content(straight.student)
    assert (tmp_path / "student" / "model.safetensors").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "student"]


def test_what_was_exported_beside_a_finished_run_is_kept_when_it_is_run_again(given, settings, tmp_path):
    gansdk.compress(given(), **settings, out_dir=tmp_path)
    (tmp_path / "student" / "mine.txt").write_text("not to be lost")
    gansdk.compress(given(), **settings, out_dir=tmp_path)
    assert (tmp_path / "student.old-1" / "mine.txt").read_text() == "not to be lost"


def test_other_images_in_the_same_folder_are_noticed_but_new_dates_are_not(given, settings, photos, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    changed = {**settings, "data": str(data), "out_dir": tmp_path / "out"}
    gansdk.compress(given(), **changed)
    for file in data.iterdir():
        os.utime(file, (1, 1))
    gansdk.compress(given(), **changed)
    shutil.copy(data / "1.png", data / "2.png")
    with pytest.raises(ResumeMismatch, match="files"):
        gansdk.compress(given(), **changed)


def test_what_was_said_while_the_data_was_opened_is_in_the_result(given, settings, photos, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    (data / "broken.png").write_bytes(b"no image")
    seen = []
    with pytest.warns(GansdkWarning, match="broken"):
        result = gansdk.compress(given(), **{**settings, "data": str(data)}, observers=[seen.append], dry_run=True)
    assert [message for message in result.warnings if "broken.png" in message]
    assert [event.message for event in seen if isinstance(event, Warned)] == result.warnings


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"seed": 7}, "seed: 0 there, 7 now"),
        ({"steps": 9}, "steps: 6 there, 9 now"),
        ({"budget": "macs<=70%"}, "budget"),
        ({"distiller": {"name": "pixel", "weight": 2.0}}, "distiller"),
        (
            {"distiller": [{"name": "gka", "taps": ["stem"]}, "wavelet", "pixel"]},
            "distiller[0].taps: None there, ['stem'] now",
        ),
        ({"pruner": "uniform"}, "pruner"),
        ({"learning_rate": 0.5}, ", 0.5 now"),
        ({"patch": 12}, "patch: 8 there, 12 now"),
        ({"batch_size": 3}, "batch_size: 2 there, 3 now"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_setting_is_refused_and_the_difference_shown(change, shown, given, settings, tmp_path):
    with pytest.raises(Interrupted):
        gansdk.compress(given(), **settings, out_dir=tmp_path, observers=[interrupt(1)])
    before = bytes_below(tmp_path)
    with pytest.raises(ResumeMismatch) as refused:
        gansdk.compress(given(), **{**settings, **change}, out_dir=tmp_path)
    assert shown in str(refused.value)
    assert "resume='never'" in str(refused.value)
    assert bytes_below(tmp_path) == before


def test_other_weights_of_the_same_network_are_another_run(build, settings, tmp_path):
    with pytest.raises(Interrupted):
        gansdk.compress(build(), **settings, out_dir=tmp_path, observers=[interrupt(1)])
    with pytest.raises(ResumeMismatch, match="weights"):
        gansdk.compress(build(seed=1), **settings, out_dir=tmp_path)


def test_other_weights_of_a_network_that_a_term_looks_with_are_another_run(given, settings, tmp_path):
    vgg = made_up_vgg16()
    for factor in (1.0, 0.5):
        torch.save({name: factor * tensor for name, tensor in vgg.items()}, tmp_path / "vgg16.pth")
        perceptual = {"name": "perceptual", "weights": str(tmp_path / "vgg16.pth"), "style_weight": 0}
        asked = {**settings, "distiller": perceptual, "steps": 1, "out_dir": tmp_path / "out"}
        if factor == 1:
            gansdk.compress(given(), **asked)
    with pytest.raises(ResumeMismatch, match="network"):
        gansdk.compress(given(), **asked)


def test_images_to_score_on_are_told_and_others_do_not_make_another_run(given, settings, photos, tmp_path):
    """They do not decide what the student is."""
    for count in (5, 3):
        data = tmp_path / str(count)
        data.mkdir()
        for number in range(count):
            shutil.copy(photos / f"{number}.png", data)
        result = gansdk.compress(given(), **settings, eval_data=str(data), out_dir=tmp_path / "out")
        assert result.settings["eval_data"]["path"] == str(data)
        assert {quality.images for quality in result.quality} == {count}
    assert gansdk.compress(given(), **settings, out_dir=tmp_path / "out").settings["eval_data"] is None


@pytest.mark.parametrize("place", ["folder", "here", "link", "mount"])
def test_never_resuming_keeps_the_old_run_beside_the_new_one(place, given, settings, content, tmp_path, monkeypatch):
    """Wherever it is: a container's volume cannot be renamed, nor can the folder that one is in."""
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    if place == "link":
        (tmp_path / "link").symlink_to(out_dir)
        out_dir = tmp_path / "link"
    elif place == "here":
        monkeypatch.chdir(out_dir)
        out_dir = Path()
    with mounted(out_dir) if place == "mount" else nullcontext():
        with pytest.raises(Interrupted):
            gansdk.compress(given(), **settings, out_dir=out_dir, observers=[interrupt(3)])
        old = bytes_below(out_dir / "run")
        seen = []
        other = {**settings, "seed": 1}
        result = gansdk.compress(given(), **other, out_dir=out_dir, resume="never", observers=[seen.append])
        assert bytes_below(out_dir / "run.old-1") == old
        assert {path.name for path in out_dir.iterdir()} == {"run", "run.old-1", "student"}
    assert sum(isinstance(event, StepDone) for event in seen) == STEPS
    assert content(result.student) == content(gansdk.compress(given(), **other).student)


@contextmanager
def mounted(folder):
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("resume", ["auto", "never"])
@pytest.mark.parametrize("gone", [None, "run", "run/settings.json"])
def test_a_run_that_begins_during_another_is_refused_whatever_is_deleted(
    gone, resume, given, settings, straight, content, tmp_path
):
    refused = []

    def begin_another(event):
        if isinstance(event, StepDone) and event.step == 3:
            if gone is not None:
                remove(tmp_path / gone)
            try:
                gansdk.compress(given(), **{**settings, "seed": 1}, out_dir=tmp_path, resume=resume)
            except RunInUse as error:
                refused.append(error)

    result = gansdk.compress(given(), **settings, out_dir=tmp_path, observers=[begin_another])
    assert len(refused) == 1
    assert content(result.student) == content(straight.student)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "student"}
    assert content(gansdk.compress(given(), **settings, out_dir=tmp_path).student) == content(straight.student)


def test_a_run_whose_folder_is_deleted_ends_before_it_writes_into_the_next_ones(given, settings, content, tmp_path):
    made = []

    def begin_another(event):
        if isinstance(event, StepDone) and event.step == 3:
            shutil.rmtree(tmp_path / "out")
            made.append(gansdk.compress(given(), **{**settings, "seed": 1}, out_dir=tmp_path / "out"))

    with pytest.raises(OutputError, match="deleted or moved"):
        gansdk.compress(given(), **settings, out_dir=tmp_path / "out", observers=[begin_another])
    kept = gansdk.compress(given(), **{**settings, "seed": 1}, out_dir=tmp_path / "out")
    assert content(kept.student) == content(made[0].student)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"run", "student"}


KILLED_ANYWHERE = f"""
import os, sys, torch, gansdk
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

photos, folder, state, first, stride = sys.argv[1:]
CHANGES = {{"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}}

def compress(out_dir):
    net = SRResNet(SRResNetSizes(width=6, blocks=1, scale=2))
    net.load_state_dict(torch.load(state))
    gansdk.compress(
        net.eval(), budget="macs<=60%", distiller=["gka", "wavelet", "pixel"], data=photos, steps={STEPS},
        batch_size=2, patch=8, device="cpu", out_dir=out_dir,
    )

def child(out_dir, die_at=None):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = [die_at]
    def watch(event, args):
        if event in CHANGES and args and out_dir in str(args[0]):
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
    if die_at is not None:
        sys.addaudithook(watch)
    try:
        compress(out_dir)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)

for at in range(int(first), 10**6, int(stride)):
    out_dir = f"{{folder}}/{{at}}"
    code = child(out_dir, at)
    assert code in (0, 9), code
    assert child(out_dir) == 0
    if code == 0:
        break
"""


def test_a_run_killed_between_any_two_changes_of_its_folder_continues_to_the_same_files(
    photos, build, straight, content, tmp_path
):
    torch.save(build().state_dict(), tmp_path / "net.pth")
    stride = os.environ.get("GANSDK_KILL_STRIDE", "45")  # 1 for every change, which takes an hour
    arguments = [str(photos), str(tmp_path), str(tmp_path / "net.pth"), "1", stride]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_ANYWHERE, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folders = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(folders) > 2
    for folder in folders:
        assert content(gansdk.load(folder / "student")) == content(straight.student), folder.name
        assert {path.name for path in folder.iterdir()} == {"run", "student"}
        assert {path.name for path in (folder / "run").iterdir()} == {
            "distil-0.pt",
            "plans.jsonl",
            "recover.pt",
            "search.pt",
            "settings.json",
        }


@pytest.mark.parametrize("file", ["distil-0.pt", "recover.pt", "search.pt", "settings.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "foreign"])
def test_a_damaged_run_says_so_and_what_to_do(file, damage, given, settings, tmp_path):
    with pytest.raises(Interrupted):
        gansdk.compress(given(), **settings, out_dir=tmp_path, observers=[interrupt(3)])
    path = tmp_path / "run" / file
    whole = path.read_bytes()
    if damage == "foreign":
        torch.save({"something": "else"}, path) if file.endswith(".pt") else path.write_text("[1, 2]")
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    with pytest.raises(CheckpointError, match="damaged") as refused:
        gansdk.compress(given(), **settings, out_dir=tmp_path)
    assert "resume='never'" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_a_kill_leaves_half_written_is_ignored(given, settings, straight, content, tmp_path):
    with pytest.raises(Interrupted):
        gansdk.compress(given(), **settings, out_dir=tmp_path, observers=[interrupt(4)])
    state = (tmp_path / "run" / "distil-0.pt").read_bytes()
    (tmp_path / "run" / "distil-0.partial").write_bytes(state[:100])
    (tmp_path / "student").mkdir()
    resumed = gansdk.compress(given(), **settings, out_dir=tmp_path)
    assert content(resumed.student) == content(straight.student)


def test_a_state_that_would_run_code_is_refused_and_not_run(given, settings, tmp_path):
    with pytest.raises(Interrupted):
        gansdk.compress(given(), **settings, out_dir=tmp_path, observers=[interrupt(3)])
    key = settings_key(json.loads((tmp_path / "run" / "settings.json").read_text()))
    evil = io.BytesIO()
    torch.save(Evil(tmp_path / "executed"), evil)
    content = evil.getvalue()
    (tmp_path / "run" / "search.pt").write_bytes(content + seal(content, name="search", settings=key))
    with pytest.raises(CheckpointError, match="could run any code"):
        gansdk.compress(given(), **settings, out_dir=tmp_path)
    assert not (tmp_path / "executed").exists()


def test_an_output_folder_below_a_file_is_refused_before_any_work(given, settings, tmp_path):
    (tmp_path / "file").write_text("mine")
    seen = []
    with pytest.raises(OutputError, match=r"is a file, but .* would be inside it"):
        gansdk.compress(given(), **settings, out_dir=tmp_path / "file" / "out", observers=[seen.append])
    assert seen == []
    assert (tmp_path / "file").read_text() == "mine"


def test_somebody_elses_files_where_the_student_would_go_are_refused_before_any_work(given, settings, tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "thesis.txt").write_text("mine")
    seen = []
    with pytest.raises(OutputError, match="not a student"):
        gansdk.compress(given(), **settings, out_dir=tmp_path, observers=[seen.append])
    assert seen == []
    assert (tmp_path / "student" / "thesis.txt").read_text() == "mine"


@dataclass
class SelfTraining(Pruner):
    """Trains all widths together before it chooses, and the carved student once more, as supernet methods do."""

    steps: int = 4

    def search(self, student, limits, run):
        space = student.space

        def shrink(step):
            drawn = int(torch.randint(1, 3, (), generator=run.rng))
            student.activate(narrower(space, drawn))

        run.distil(self.steps, before_step=shrink)
        student.activate(space.full_plan())
        plans = [narrower(space, cut) for cut in range(1, 5)]
        return min((plan for plan in plans if limits.fits(student.cost(plan))), key=run.score)

    def recover(self, full, carved, plan, run):
        run.distil(2)


def narrower(space, cut):
    keep = dict(space.full_plan())
    keep |= {group.name: tuple(range(max(group.floor, group.size - cut))) for group in space.prunable}
    return gansdk.Plan(keep)


@pytest.mark.filterwarnings("ignore:Subnets are compared on images:gansdk.errors.GansdkWarning")
def test_a_pruner_that_trains_has_its_training_inherited(given, settings, content):
    trained = gansdk.compress(given(), **settings, pruner=SelfTraining())
    assert sorted({row["stage"] for row in trained.history}) == [0.0, 1.0, 2.0]
    assert len(trained.history) == 4 + 2 + STEPS
    longer = gansdk.compress(given(), **settings, pruner=SelfTraining(steps=6))
    assert content(longer.student) != content(trained.student)


@pytest.mark.filterwarnings("ignore:Subnets are compared on images:gansdk.errors.GansdkWarning")
@pytest.mark.parametrize(("stage", "step"), [("search-0", 3), ("recover-0", 1), ("distil-0", 1), ("distil-0", 4)])
def test_a_pruner_that_trains_resumes_exactly_wherever_it_was_stopped(stage, step, given, settings, content, tmp_path):
    straight = gansdk.compress(given(), **settings, pruner=SelfTraining())
    with pytest.raises(Interrupted):
        gansdk.compress(
            given(), **settings, pruner=SelfTraining(), out_dir=tmp_path, observers=[interrupt(step, stage)]
        )
    resumed = gansdk.compress(given(), **settings, pruner=SelfTraining(), out_dir=tmp_path)
    assert resumed.plan == straight.plan
    assert resumed.history == straight.history
    assert content(resumed.student) == content(straight.student)


def test_the_settings_of_a_run_are_readable_json(given, settings, tmp_path):
    gansdk.compress(given(), **settings, out_dir=tmp_path)
    told = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert told["budget"] == "macs<=60%"
    assert told["steps"] == STEPS
    assert [part["part"].rpartition(".")[2] for part in told["distiller"]] == ["KernelAlignment", "Wavelet", "Pixel"]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

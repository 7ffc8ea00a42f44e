"""Two processes on one machine, over gloo."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gansdk

pytestmark = pytest.mark.slow

SCRIPT = """
import os, sys, torch, gansdk
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

photos, out_dir, state, told = sys.argv[1:5]
net = SRResNet(SRResNetSizes(width=6, blocks=1, scale=2))
net.load_state_dict(torch.load(state))
result = gansdk.compress(
    net.eval(), budget="macs<=60%", distiller=["gka", "pixel"], data=photos, steps=4, batch_size=4, patch=8,
    device="cpu", out_dir=out_dir, resume=sys.argv[5],
)
rank = os.environ.get("RANK", "0")
torch.save({"plan": result.plan.to_dict(), "weights": result.student.state_dict()}, f"{told}-{rank}.pt")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def launch(
    count: int, folder: Path, photos: Path, resume: str = "auto", *, script: str = SCRIPT, out: str = "out"
) -> subprocess.CompletedProcess[str]:
    file = folder / "script.py"
    file.write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = torchrun if count > 1 else [sys.executable]
    arguments = [str(photos), str(folder / f"{out}-{count}"), str(folder / "net.pth"), str(folder / f"told-{count}")]
    return subprocess.run([*command, str(file), *arguments, resume], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photos, build):
    """Where one process and two processes compressed the same network."""
    folder = tmp_path_factory.mktemp("runs")
    torch.save(build().state_dict(), folder / "net.pth")
    for count in (1, 2):
        done = launch(count, folder, photos)
        assert done.returncode == 0, done.stderr
    return folder


def told(folder: Path, count: int, rank: int) -> dict:
    return torch.load(folder / f"told-{count}-{rank}.pt", weights_only=True)


def test_all_processes_find_one_plan_and_it_is_that_of_a_single_process(folder):
    assert told(folder, 2, 0)["plan"] == told(folder, 2, 1)["plan"] == told(folder, 1, 0)["plan"]


def test_all_processes_end_with_the_same_weights_to_the_bit(folder):
    first, second = (told(folder, 2, rank)["weights"] for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_train_on_as_many_images_as_one_but_take_their_own(folder):
    one, two = told(folder, 1, 0)["weights"], told(folder, 2, 0)["weights"]
    assert any(not torch.equal(one[name], two[name]) for name in one)
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=0.05) for name in one)


def test_the_output_is_written_once(folder):
    assert sorted(path.name for path in (folder / "out-2").iterdir()) == ["run", "student"]
    assert json.loads((folder / "out-2" / "run" / "settings.json").read_text())["processes"] == 2
    student = gansdk.load(folder / "out-2" / "student")
    weights = told(folder, 2, 0)["weights"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in student.state_dict().items())


def test_a_run_of_two_processes_is_continued_by_two_and_refused_by_one(folder, photos):
    weights = told(folder, 2, 0)["weights"]
    again = launch(2, folder, photos)
    assert again.returncode == 0, again.stderr
    assert all(torch.equal(told(folder, 2, 1)["weights"][name], weights[name]) for name in weights)
    (folder / "out-1").rename(folder / "aside")
    (folder / "out-2").rename(folder / "out-1")
    refused = launch(1, folder, photos)
    (folder / "out-1").rename(folder / "out-2")
    (folder / "aside").rename(folder / "out-1")
    assert refused.returncode != 0
    assert "ResumeMismatch" in refused.stderr
    assert "processes: 2 there, 1 now" in refused.stderr


def test_a_batch_that_processes_cannot_share_equally_is_refused_before_anything_is_written(folder, photos):
    script = SCRIPT.replace("batch_size=4", "batch_size=5")
    done = launch(2, folder, photos, script=script, out="uneven")
    assert done.returncode != 0
    assert "batch_size=4 or 6" in done.stderr
    assert not (folder / "uneven-2").exists()


def test_never_resuming_moves_the_old_run_aside_once(folder, photos):
    done = launch(2, folder, photos, resume="never")
    assert done.returncode == 0, done.stderr
    assert (folder / "out-2" / "run.old-1" / "settings.json").exists()
    assert not (folder / "out-2" / "run.old-2").exists()
    assert (folder / "out-2" / "student" / "config.json").exists()


TEACHING = """
import os, sys, torch, gansdk
from gansdk.contracts import MAIN, Batch, Pairing

class Colours(gansdk.DataSource):
    pairing = Pairing.PAIRED

    def train_batch(self, size, *, seed, step):
        rng = torch.Generator().manual_seed(step % 997)
        x = torch.rand(size, 3, 32, 32, generator=rng) * 2 - 1
        return Batch({MAIN: x}, {MAIN: x.flip(1)})

    def images(self, split):
        yield self.train_batch(1, seed=0, step=1)

out_dir, told = sys.argv[2], sys.argv[4]
trained = gansdk.train_teacher(
    {"name": "pix2pix", "size": [32, 32], "discriminator_width": 4}, Colours(), sizes={"width": 4, "blocks": 1},
    steps=3, batch_size=4, device="cpu", out_dir=out_dir,
)
rank = os.environ.get("RANK", "0")
weights = {**trained.generator.module.state_dict(), **{f"d.{k}": v for k, v in trained.generator.discriminator.items()}}
torch.save(weights, f"{told}-{rank}.pt")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def test_generator_and_discriminator_of_all_processes_stay_the_same_to_the_bit(tmp_path, photos):
    done = launch(2, tmp_path, photos, script=TEACHING)
    assert done.returncode == 0, done.stderr
    first, second = (told(tmp_path, 2, rank) for rank in (0, 1))
    assert any(name.startswith("d.") for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "out-2" / "teacher" / "discriminator.safetensors").is_file()


BOTH = """
import os, sys, torch, gansdk
from gansdk.contracts import MAIN, Batch, Pairing
from gansdk.pipeline.opening import open_generator

class Domains(gansdk.DataSource):
    pairing = Pairing.UNPAIRED

    def train_batch(self, size, *, seed, step):
        rng = torch.Generator().manual_seed(step % 997)
        x, y = (torch.rand(size, 3, 32, 32, generator=rng) * 2 - 1 for _ in range(2))
        return Batch({MAIN: x}, {MAIN: y}, paired=False)

    def images(self, split):
        yield self.train_batch(1, seed=0, step=1)

    def references(self, split):
        yield self.train_batch(1, seed=0, step=2)

out_dir, told = sys.argv[2], sys.argv[4]
family = {"name": "cyclegan", "size": [32, 32], "discriminator_width": 4}
trained = gansdk.train_teacher(
    family, Domains(), sizes={"width": 4, "blocks": 1}, steps=1, batch_size=2, device="cpu",
    out_dir=out_dir + "-teacher",
)
result = gansdk.compress(
    out_dir + "-teacher/teacher", budget="1.5x", adapter=family, data=Domains(), distiller=["gka", "wavelet"],
    pruner={"name": "one-step", "recovery": "none"}, steps=3, batch_size=4, device="cpu", out_dir=out_dir,
)
rank = os.environ.get("RANK", "0")
weights = {f"s.{k}": v for k, v in result.student.state_dict().items()}
for route, part in result.routes.items():
    weights |= {f"{route}.{k}": v for k, v in part.discriminator.items()}
torch.save(weights, f"{told}-{rank}.pt")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def test_both_directions_of_a_cyclegan_stay_the_same_in_all_processes(tmp_path, photos):
    done = launch(2, tmp_path, photos, script=BOTH)
    assert done.returncode == 0, done.stderr
    first, second = (told(tmp_path, 2, rank) for rank in (0, 1))
    assert {name.split(".")[0] for name in first} == {"s", "A2B", "B2A"}
    assert all(torch.equal(first[name], second[name]) for name in first)
    for route in ("A2B", "B2A"):
        assert (tmp_path / "out-2" / "student" / route / "discriminator.safetensors").is_file()


FRESH = (
    TEACHING.replace('"width": 4,', '"width": 4, "norm": "batch",')
    .replace(
        "rank = os.environ",
        """
small = gansdk.compress(
    trained.generator, budget="1.5x", data=Colours(), distiller="pixel", steps=3, batch_size=4, device="cpu",
    pruner={"name": "one-step", "importance": "consumer-norm", "inherit": "none"},
)
rank = os.environ""",
    )
    .replace(
        "**trained.generator.module.state_dict(), **",
        "**trained.generator.module.state_dict(), **{f's.{k}': v for k, v in small.student.state_dict().items()}, **",
    )
)


def test_processes_agree_on_the_running_statistics_of_what_trains_from_scratch(tmp_path, photos):
    done = launch(2, tmp_path, photos, script=FRESH)
    assert done.returncode == 0, done.stderr
    first, second = (told(tmp_path, 2, rank) for rank in (0, 1))
    # A discriminator judges by the statistics of its batch, and nobody reads its running ones.
    first = {name: tensor for name, tensor in first.items() if not name.startswith("d.")}
    gathered = [name for name in first if name.endswith(("running_mean", "running_var"))]
    assert any(name.startswith("s.") for name in gathered)
    assert not any(torch.equal(first[name], torch.zeros_like(first[name])) for name in gathered)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    saved = gansdk.load(tmp_path / "out-2" / "teacher").state_dict()
    assert all(torch.equal(saved[name], first[name]) for name in saved)


SEARCH = """
import os, pathlib, sys, torch, gansdk
from gansdk.training.run import CompressionRun
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

photos, out_dir, state, told = sys.argv[1:5]
rank = os.environ.get("RANK", "0")
score, scored = CompressionRun.score, []
CompressionRun.score = lambda run, plan: scored.append(plan) or score(run, plan)
net = SRResNet(SRResNetSizes(width=6, blocks=1, scale=2))
net.load_state_dict(torch.load(state))

def search(out_dir, **options):
    # Untrained, so that one process and two search in the same weights.
    small = {"steps": 0, "shares": (0.84, 0.67, 0.5, 0.34), "multiple_of": 1, "population": 7, "iterations": 2}
    return gansdk.compress(
        net.eval(), budget="macs<=60%", pruner={"name": "once-for-all", **small, **options}, distiller="pixel",
        data={"name": "folder", "path": photos, "holdout": 0.3}, steps=2, batch_size=2, patch=8, device="cpu",
        out_dir=out_dir,
    )

def counted(out_dir, **options):
    before = len(scored)
    return {"plan": search(out_dir, **options).plan.to_dict(), "scored": len(scored) - before}

straight = counted(out_dir)
if rank == "0":
    killed = pathlib.Path(out_dir + "-killed") / "run"
    killed.mkdir(parents=True)
    for name in ("settings.json", "candidates.jsonl"):
        lines = (pathlib.Path(out_dir) / "run" / name).read_text().splitlines(keepends=True)
        (killed / name).write_text("".join(lines[:3] if name == "candidates.jsonl" else lines))
if torch.distributed.is_initialized():
    torch.distributed.barrier()
again = counted(out_dir + "-killed")
counted(out_dir + "-limited", max_minutes=1e-9)
torch.save({"straight": straight, "again": again}, f"{told}-{rank}.pt")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory, photos, build):
    """Where one process and two processes searched among the subnets of the same network."""
    folder = tmp_path_factory.mktemp("searches")
    torch.save(build().state_dict(), folder / "net.pth")
    for count in (1, 2):
        done = launch(count, folder, photos, script=SEARCH)
        assert done.returncode == 0, done.stderr
    return folder


def candidates(out_dir: Path) -> list[tuple]:
    """Without the seconds, which are the machine's."""
    rows = [json.loads(line) for line in (out_dir / "run" / "candidates.jsonl").read_text().splitlines()]
    return [(row["config"], row["macs"], row["score"]) for row in rows]


def test_a_search_by_two_processes_writes_the_same_file_and_finds_the_same_plan(searched):
    rows = candidates(searched / "out-1")
    assert len(rows) > 7
    assert candidates(searched / "out-2") == rows
    plans = [told(searched, count, rank)["straight"]["plan"] for count, rank in ((1, 0), (2, 0), (2, 1))]
    assert plans[0] == plans[1] == plans[2]


def test_each_of_two_processes_scores_its_half_of_the_candidates(searched):
    first, second = (told(searched, 2, rank)["straight"]["scored"] for rank in (0, 1))
    assert first + second == told(searched, 1, 0)["straight"]["scored"] == len(candidates(searched / "out-1"))
    generations = 3
    assert 0 <= first - second <= generations


def test_the_main_process_decides_for_all_when_the_time_is_over(searched):
    assert candidates(searched / "out-2-limited") == candidates(searched / "out-1-limited")
    assert len(candidates(searched / "out-2-limited")) == 1


def test_two_processes_go_on_within_a_generation_and_score_only_what_is_missing(searched):
    whole = candidates(searched / "out-2")
    assert candidates(searched / "out-2-killed") == whole
    again = [told(searched, 2, rank)["again"] for rank in (0, 1)]
    assert sum(row["scored"] for row in again) == len(whole) - 3
    assert all(row["plan"] == told(searched, 1, 0)["straight"]["plan"] for row in again)


FREE = """
import os, sys, torch, gansdk
from gansdk_adapters.networks.sizes import Sizes
from gansdk_adapters.networks.vdsr import VDSR

photos, out_dir, state, told = sys.argv[1:5]
torch.manual_seed(0)
result = gansdk.compress(
    VDSR(Sizes(width=4, blocks=3, channels=1)).eval(), budget="macs<=60%", steps=8, batch_size=4, patch=32,
    pruner={"name": "uniform", "inherit": "none"}, distiller={"name": "data-free", "student_steps": 2, "latent": 8},
    eval_data=photos, out_dir=out_dir, resume=sys.argv[5], device="cpu",
)
torch.save({"weights": result.student.state_dict()}, f"{told}-{os.environ['RANK']}.pt")
torch.distributed.destroy_process_group()
"""


def test_processes_agree_on_one_student_without_data(photos, tmp_path):
    (tmp_path / "net.pth").touch()
    done = launch(2, tmp_path, photos, script=FREE)
    assert done.returncode == 0, done.stderr
    first, second = told(tmp_path, 2, 0)["weights"], told(tmp_path, 2, 1)["weights"]
    assert all(torch.equal(first[key], second[key]) for key in first)


LADDER = """
import os, sys, torch, gansdk
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

photos, out_dir, state, told = sys.argv[1:5]
net = SRResNet(SRResNetSizes(width=6, blocks=1, scale=2))
net.load_state_dict(torch.load(state))
kept = {} if sys.argv[5] == "never" else {"out_dir": out_dir}
made = gansdk.ladder(
    net.eval(), budgets=["1.3x", "2x"], distiller="pixel", steps=2, batch_size=4, patch=8, device="cpu", **kept,
    data={"name": "folder", "path": photos, "holdout": 0.4},
    pruner={"name": "once-for-all", "steps": 2, "population": 4, "iterations": 1, "multiple_of": 1},
)
rank = os.environ.get("RANK", "0")
weights = {f"{i}.{name}": w for i, r in enumerate(made.results) for name, w in r.student.state_dict().items()}
torch.save(weights, f"{told}-{rank}.pt")
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def test_a_ladder_is_the_same_in_all_processes_with_a_folder_and_without(tmp_path, photos, build):
    torch.save(build().state_dict(), tmp_path / "net.pth")
    found = []
    for resume in ("auto", "never"):
        done = launch(2, tmp_path, photos, script=LADDER, resume=resume)
        assert done.returncode == 0, done.stderr
        found += [told(tmp_path, 2, rank) for rank in (0, 1)]
    assert all(torch.equal(value, other[name]) for other in found for name, value in found[0].items())
    assert sorted(path.name for path in (tmp_path / "out-2").iterdir()) == [
        "1.3x",
        "2x",
        "ladder.html",
        "ladder.json",
        "run",
    ]


ONE_FAILS = """
import os, sys, torch, gansdk
from gansdk.contracts import MAIN, Batch, Pairing
from gansdk.errors import DataError, GansdkError
from gansdk_adapters.networks.srresnet import SRResNet, SRResNetSizes

photos, out_dir, state, told = sys.argv[1:5]
how, rank = sys.argv[5], int(os.environ["RANK"])

class Colours(gansdk.DataSource):
    pairing = Pairing.PAIRED

    def train_batch(self, size, *, seed, step):
        if how == "data" and step == 3:
            raise DataError("photo 3 is gone")
        x = torch.rand(size, 3, 8, 8, generator=torch.Generator().manual_seed(step % 997))
        if how == "nan" and step == 3:
            x = x + float("nan")
        if how == "plugin" and step == 3:
            raise ZeroDivisionError("a plugin's fault")
        if how == "killed" and step == 3:
            os._exit(9)
        return Batch({MAIN: x}, {MAIN: x.repeat_interleave(2, 2).repeat_interleave(2, 3)})

    def images(self, split):
        yield self.train_batch(1, seed=0, step=1)

def watch(event):
    if how == "observer" and type(event).__name__ == "StepDone":
        raise OSError("the log's disk is full")

def run(source, **kept):
    net = SRResNet(SRResNetSizes(width=6, blocks=1, scale=2))
    net.load_state_dict(torch.load(state))
    settings = dict(budget="macs<=60%", distiller="pixel", steps=4, batch_size=2, data=source, observers=[watch])
    return gansdk.compress(net.eval(), **settings, **kept)

if how == "file":  # each sees it before they meet
    open(out_dir, "w").close()
try:
    run(Colours(), out_dir=out_dir)
except Exception as error:
    said = f"{type(error).__name__}: {error}"
else:
    said = "nothing"
open(f"{told}-{rank}.txt", "w").write(said)
if how != "killed":  # all are free to go on together
    how = ""
    run(Colours())
    torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("how", "own", "other"),
    [
        (
            "data",
            "DataError: photo 3 is gone",
            "ProcessError: Process 1 of 2 failed, so all processes stop. DataError: photo 3",
        ),
        (
            "plugin",
            "PluginFailed: The data source",
            "ProcessError: Process 1 of 2 failed, so all processes stop. PluginFailed",
        ),
        ("nan", "TrainingDiverged: task and pixel is no longer", "TrainingDiverged: task and pixel is no longer"),
        ("file", "OutputError: ", "OutputError: "),
        (
            "observer",
            "ProcessError: Process 0 of 2 failed, so all processes stop. OSError: the log",
            "OSError: the log's disk",
        ),
    ],
)
def test_where_one_process_fails_both_end_and_say_why_and_can_go_on(how, own, other, tmp_path, photos, build):
    torch.save(build().state_dict(), tmp_path / "net.pth")
    done = launch(2, tmp_path, photos, script=ONE_FAILS, resume=how)
    assert done.returncode == 0, done.stderr
    said = [(tmp_path / f"told-2-{rank}.txt").read_text() for rank in (0, 1)]
    assert said[1].startswith(own)
    assert said[0].startswith(other)


def test_a_process_that_vanishes_leaves_an_error_in_words(tmp_path, photos, build):
    torch.save(build().state_dict(), tmp_path / "net.pth")
    done = launch(2, tmp_path, photos, script=ONE_FAILS, resume="killed")
    assert done.returncode != 0
    told = tmp_path / "told-2-0.txt"  # torchrun may be faster and end the other process too
    assert not told.exists() or told.read_text().startswith("ProcessError: Another process of this run ended")


def start(photos: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line, as one of several processes that a launcher started."""
    run = [
        "compress",
        "demo",
        "-b",
        "4x",
        "--data",
        str(photos),
        "--steps",
        "1",
        "--batch-size",
        "2",
        "--out",
        str(out),
    ]
    code = f"import gansdk.training.processes as p; p.JOIN_S = 2; from gansdk.cli.app import main; main({run})"
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_a_process_whose_others_never_come_says_so_after_the_stated_time(tmp_path, photos):
    others = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = start(photos, tmp_path / "out", RANK="0", **others)
    assert done.returncode == 2
    assert "ProcessError: Process 0 of 2 could not be set up within 2 s" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_port_of_another_program_is_refused_in_words(tmp_path, photos):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = start(photos, tmp_path / "out", WORLD_SIZE="2", RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert done.returncode == 2
    assert "ProcessError: Process 0 of 2 could not be set up" in done.stderr
    assert "Traceback" not in done.stderr


def test_numbers_of_a_launcher_that_make_no_sense_are_refused_in_words(tmp_path, photos):
    done = start(photos, tmp_path / "out", WORLD_SIZE="two", RANK="0")
    assert done.returncode == 2
    assert done.stderr.startswith("ProcessError: WORLD_SIZE='two'")
    assert done.stderr.count("\n") == 1


def torchrun(*arguments: str) -> list[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*torchrun, "-m", "gansdk", *arguments]


def test_the_command_line_uses_all_processes_and_prints_one_result(tmp_path, photos):
    """With device="auto", which without GPUs was two runs in one folder."""
    run = ("compress", "demo", "-b", "4x", "--data", str(photos), "--steps", "2", "--batch-size", "2", "--patch", "8")
    done = subprocess.run(
        torchrun(*run, "--out", str(tmp_path / "out"), "--json"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["settings"]["processes"] == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_is_one_line_with_the_command_that_goes_on(number, tmp_path, photos):
    run = ["compress", "demo", "-b", "4x", "--data", str(photos), "--steps", "80", "--batch-size", "2", "--patch", "8"]
    asked = torchrun(*run, "--out", str(tmp_path / "out"))
    with subprocess.Popen(asked, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        for line in running.stderr:
            if "16/80 steps" in line:
                running.send_signal(number)
                break
        said = running.stderr.read()
    assert running.returncode != 0
    assert said.count("Stopped by") == 1
    assert "Kept: everything up to 'distil', step " in said
    assert f"To continue, with 2 processes again: gansdk compress demo -b 4x --data {photos}" in said

"""What the regime, the taps and the terms cost beside the same training step written by hand.

Prints JSON: for every combination of distillers the median over rounds of (time of `OfflineRegime.step`) /
(time of the hand-written step), both taken in each round in alternating order on one thread, the ratio of the
peak of allocated tensor bytes, and how much of the teacher's time an observation without its image saves.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/distillation_step.py --rounds 15
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from haar import haar_distance
from timing import ratio_of_times, versions
from torch import Tensor, nn

from gansdk.contracts import MAIN, Batch, Contract
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.generators.wrapping import ReconstructionTask, WrappedAdapter
from gansdk.interfaces import Generator, Stage
from gansdk.training.offline_regime import OfflineRegime
from gansdk_distillers.kernel_alignment import gka
from gansdk_distillers.pixel import pixel
from gansdk_distillers.wavelet import wavelet

SIZE = 128
BLOCKS = 4
TAPS = {"stem": "stem", **{f"body{i + 1}": f"blocks.{i}" for i in range(BLOCKS)}}
COMPARED = ("stem", "body1", "body3", "body4")
DISTILLERS = {"gka": gka, "pixel": pixel, "wavelet": wavelet}
COMBINATIONS = (("gka",), ("gka", "pixel"), ("gka", "pixel", "wavelet"))


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.InstanceNorm2d(width, affine=True),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.InstanceNorm2d(width, affine=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class ResNet(nn.Module):
    """An image-to-image generator that works at a quarter of the side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, padding=3),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.blocks = nn.ModuleList(Block(4 * width) for _ in range(BLOCKS))
        self.up = nn.Sequential(
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(width, 3, 7, padding=3),
            nn.Tanh(),
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """Of the stem and every block."""
        seen = [self.stem(x)]
        for block in self.blocks:
            seen.append(block(seen[-1]))
        return seen

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.features(x)[-1])


@dataclass
class OneProcess:
    """One process on the CPU."""

    device = torch.device("cpu")

    def backward(self, loss: Tensor) -> None:
        """Backpropagate."""
        loss.backward()

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Nothing to do."""


def network(width: int) -> ResNet:
    """With weights that every call makes alike."""
    torch.manual_seed(width)
    return ResNet(width)


def sdk_step(names: Sequence[str], widths: tuple[int, int], batch: Batch) -> Callable[[], object]:
    """The step of the SDK."""
    contract = Contract(channels_in=3, channels_out=3, size=(SIZE, SIZE))
    adapter = WrappedAdapter(contract, TAPS)
    student = ElasticStudent.of(Generator(module=network(widths[1]), contract=contract, adapter=adapter, taps=TAPS))
    options = {"gka": {"taps": COMPARED}}
    regime = OfflineRegime()
    regime.bind(
        Stage(
            student=student,
            teachers=(FrozenTeacher(network(widths[0]), contract, TAPS),),
            task=ReconstructionTask(),
            steps=10**6,
            rng=torch.Generator(),
            processes=OneProcess(),
            terms=tuple(term for name in names for term in DISTILLERS[name](**options.get(name, {})).terms),
        )
    )
    return lambda: regime.step(batch)


def hand_step(names: Sequence[str], widths: tuple[int, int], batch: Batch) -> Callable[[], object]:
    """The same step, written for these networks alone: no hooks, no copies, no layer too many."""
    teacher, student = network(widths[0]).eval().requires_grad_(False), network(widths[1])
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3, fused=True)
    compared = [list(TAPS).index(tap) for tap in COMPARED]
    x, target = batch.inputs[MAIN], batch.targets[MAIN]

    def step() -> Tensor:
        with torch.no_grad():
            theirs = teacher.features(x)
            image = teacher.up(theirs[-1]) if len(names) > 1 else None
            theirs = [theirs[i] for i in compared]
        ours = student.features(x)
        fake = student.up(ours[-1])
        loss = (fake - target).abs().mean()
        loss = loss - sum(alignment(ours[i], t) for i, t in zip(compared, theirs, strict=True))
        if "pixel" in names:
            loss = loss + (fake - image).abs().mean()
        if "wavelet" in names:
            loss = loss + 0.4 * haar_distance(fake, image)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def alignment(s: Tensor, t: Tensor) -> Tensor:
    """Global kernel alignment, as one would write it down."""
    x, y = (f.permute(0, 2, 3, 1).reshape(-1, f.shape[1]) for f in (s, t))
    return (y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def peak_bytes(call: Callable[[], object]) -> int:
    """Largest sum of tensor bytes that one call held at a time and had allocated itself."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--widths", type=int, nargs=2, default=(16, 8), metavar=("TEACHER", "STUDENT"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.rand(options.batch, 3, SIZE, SIZE, generator=rng) * 2 - 1 for _ in range(2))
    batch = Batch({MAIN: x}, {MAIN: y})
    widths = tuple(options.widths)
    steps = {}
    for names in COMBINATIONS:
        ours, theirs = sdk_step(names, widths, batch), hand_step(names, widths, batch)
        first = ours()["loss"].item(), theirs().item()
        if abs(first[0] - first[1]) > 1e-4 * abs(first[1]):
            raise SystemExit(f"The two steps of {names} do not compute the same loss: {first}.")
        row = ratio_of_times(ours, theirs, options.rounds)
        row["memory_ratio"] = round(peak_bytes(ours) / peak_bytes(theirs), 3)
        steps["+".join(names)] = row
    teacher = FrozenTeacher(network(widths[0]), Contract(channels_in=3, channels_out=3, size=(SIZE, SIZE)), TAPS)
    with torch.no_grad():
        early = ratio_of_times(
            lambda: teacher.observe(x, COMPARED, image=False), lambda: teacher.observe(x, COMPARED), options.rounds
        )
    print(
        json.dumps(
            {
                "steps": steps,
                "teacher_without_image": {"ratio": early["ratio"]},
                "settings": {
                    "size": SIZE,
                    "batch": options.batch,
                    "widths": widths,
                    "rounds": options.rounds,
                    "threads": 1,
                },
                "versions": versions("torch", "gansdk"),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()

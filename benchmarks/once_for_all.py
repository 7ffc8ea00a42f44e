"""What sharing weights costs a once-for-all search: its steps, its cost queries, its carving and its scores.

Prints JSON, all in GAN Compression's space of a ResNet-9 (eight numbers), medians of rounds on one thread:

- step: a training step at sampled widths (`pixel` on a frozen teacher), the widths new in every step, over the same
  step of a network carved to these widths;
- queries: `--queries` candidates costed, plan and all, over one forward pass of the full network;
- carving: making a candidate's own network, over one forward pass of the full network;
- score: `Run.score` of a candidate new to the run, over the bare forward passes of its carved network on the held-out
  images.

Networks with tracked norms are calibrated before they are scored; that is the method's own work and stands apart,
as `calibration`: images looked at, over the forward passes of as many images.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/once_for_all.py --rounds 9
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Literal

import torch
from timing import seconds, versions

from gansdk.channels.groups import Plan
from gansdk.contracts import MAIN, Batch, Pairing
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.interfaces import DataSource, Generator, Stage
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter
from gansdk.toolkit.calibration import calibrated
from gansdk.training.loop import Loop
from gansdk.training.offline_regime import OfflineRegime
from gansdk.training.processes import Processes
from gansdk.training.run import CompressionRun
from gansdk.training.run_folder import RunFolder
from gansdk_distillers.pixel import pixel
from gansdk_pruners.subnets import Subnets, positions_of


class Noise(DataSource):
    """Random images and what they should become."""

    pairing = Pairing.PAIRED

    def __init__(self, size: int, held_out: int) -> None:
        self._size = size
        self._held_out = held_out

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        rng = torch.Generator().manual_seed(1000 * seed + step)
        x, y = (torch.rand(size, 3, self._size, self._size, generator=rng) * 2 - 1 for _ in range(2))
        return Batch({MAIN: x}, {MAIN: y})

    def images(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        return (self.train_batch(1, seed=1, step=i) for i in range(self._held_out))


def open_network(width: int, size: int, norm: str) -> Generator:
    """A ResNet-9 of the family pix2pix."""
    adapter = open_adapter({"name": "pix2pix", "size": [size, size], "discriminator_width": 8})
    torch.manual_seed(0)
    return open_generator(adapter.create(width=width, norm=norm), adapter)


def start(generator: Generator, student: ElasticStudent, source: DataSource) -> CompressionRun:
    """A run without a folder."""
    teacher = FrozenTeacher(generator.module, generator.contract, generator.taps)
    loop = Loop(
        source=source, processes=Processes("cpu"), folder=RunFolder(None, {}, resume="auto"), seed=0, batch_size=1
    )
    return CompressionRun(
        loop,
        generator=generator,
        student=student,
        teacher=teacher,
        teachers=(teacher,),
        task=generator.adapter.task(generator.module),
        regime=OfflineRegime(),
        terms=(),
        learning_rate=2e-4,
    )


def stepping(run: CompressionRun, student: ElasticStudent, batch: Batch) -> Callable[[], object]:
    """A step of `pixel` alone, without the family's losses: the least there is around the student's own work."""
    regime = OfflineRegime(task_weight=0)
    regime.bind(
        Stage(
            student=student,
            teachers=(run.teacher,),
            task=run.task,
            steps=10**6,
            rng=torch.Generator(),
            processes=run.loop.processes,
            terms=pixel().terms,
        )
    )
    student.train()
    return lambda: regime.step(batch)


def forward(part: torch.nn.Module, images: Sequence[torch.Tensor]) -> None:
    """Nothing but the forward passes."""
    with torch.no_grad():
        for image in images:
            part(image)


def compared(pairs: Sequence[tuple[Callable[[], object], Callable[[], object]]]) -> dict[str, Any]:
    """Medians over pairs of calls of one time over the other, after a first pair that warms up."""
    times = []
    for i, (ours, theirs) in enumerate(pairs):
        first, second = (ours, theirs) if i % 2 else (theirs, ours)
        pair = seconds(first), seconds(second)
        times.append(pair if i % 2 else pair[::-1])
    ratios = sorted(a / b for a, b in times[1:])
    return {
        "ratio": round(statistics.median(ratios), 3),
        "quartiles": [round(ratios[len(ratios) // 4], 3), round(ratios[-1 - len(ratios) // 4], 3)],
        "seconds": [round(statistics.median(column), 4) for column in zip(*times[1:], strict=True)],
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--held-out", type=int, default=8)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--norm", default="instance", choices=("instance", "batch"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = open_network(options.width, options.size, options.norm)
    student = ElasticStudent.of(generator)
    source = Noise(options.size, options.held_out)
    run = start(generator, student, source)
    subnets = Subnets(student.space, positions_of(student.space))
    rng = Random(0)
    drawn = [subnets.plan(subnets.draw(rng)) for _ in range(options.rounds + 1)]
    batch = source.train_batch(1, seed=0, step=0)
    x = batch.inputs[MAIN]

    def queries() -> None:
        for _ in range(options.queries):
            student.cost(subnets.plan(subnets.draw(rng)))

    shared = stepping(run, student, batch)

    def supernet_step(plan: Plan) -> None:
        student.activate(plan)
        shared()

    found: dict[str, Any] = {}
    pairs = [(lambda plan=plan: supernet_step(plan), stepping(run, student.carve(plan), batch)) for plan in drawn]
    found["step"] = compared(pairs)
    student.activate(student.space.full_plan())
    student.train(False)

    def whole() -> None:
        forward(student.module, [x])

    found["queries"] = compared([(queries, whole)] * (options.rounds + 1))
    found["carving"] = compared([(lambda plan=plan: student.carve(plan), whole) for plan in drawn])
    held_out = [image.inputs[MAIN] for image in source.images("search")]
    student = ElasticStudent.of(generator)  # which remembers none of the candidates
    run = start(generator, student, source)
    assert run.scored_images == options.held_out  # read now, once for all candidates
    pairs = []
    for plan in drawn:
        carved = student.carve(plan)
        carved.train(False)
        pairs.append((lambda plan=plan: run.score(plan), lambda carved=carved: forward(carved.module, held_out)))
    found["score"] = compared(pairs)
    if options.norm == "batch":
        images = torch.cat(held_out)

        def calibration(plan: Plan) -> None:
            with calibrated(student, plan, [images]):
                pass

        pairs = [(lambda plan=plan: calibration(plan), theirs) for plan, (_, theirs) in zip(drawn, pairs, strict=True)]
        found["calibration"] = compared(pairs)
    print(json.dumps({**found, "settings": vars(options), "versions": versions("torch", "gansdk")}, indent=2))


if __name__ == "__main__":
    main()

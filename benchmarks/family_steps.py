"""A training step of each translation family beside the same step written by hand, and CAT's planning.

Prints JSON: for the teacher's and the student's step of pix2pix, CycleGAN and GauGAN, and for the step of both students
of a CycleGAN by wavelets, the median over rounds of
(time of the SDK's step) / (time of the hand-written step of `family_floors.py`), both taken in each round in
alternating order on one thread; and the time of planning CAT's inception teacher over one forward pass of it.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/family_steps.py --rounds 11
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import family_floors as floors
import torch
from timing import ratio_of_times, seconds, versions
from torch import Tensor

import gansdk
from gansdk.contracts import MAIN, Batch
from gansdk.generators.elastic_student import ElasticStudent
from gansdk.generators.frozen_teacher import FrozenTeacher
from gansdk.generators.joint import student_of, task_of, teacher_of, together
from gansdk.interfaces import Generator, Stage, Training
from gansdk.pipeline.opening import open_generator
from gansdk.registry.parts import open_adapter
from gansdk.training.offline_regime import OfflineRegime
from gansdk.training.processes import Processes
from gansdk_distillers.kernel_alignment import gka
from gansdk_distillers.wavelet import wavelet

LABELS = 12
FAMILIES: dict[str, dict[str, Any]] = {
    "pix2pix": {"name": "pix2pix", "discriminator_width": 32},
    "cyclegan": {"name": "cyclegan", "discriminator_width": 32},
    "gaugan": {"name": "gaugan", "discriminator_width": 16, "perceptual": None, "upsampling": "more"},
}
CAT = {"name": "one-step", "importance": "norm-scale", "selection": "threshold", "floor_width": 16, "inherit": "none"}


def network(family: str, width: int) -> Generator:
    """A generator of the family with weights that every call makes alike."""
    adapter = open_adapter(FAMILIES[family])
    torch.manual_seed(width)
    sizes = {"width": width, **({"labels": LABELS, "hidden": 4 * width} if family == "gaugan" else {})}
    return open_generator(adapter.create(**sizes), adapter)


def images(family: str, size: int, count: int) -> Batch:
    """Random images of both domains, or label maps and images."""
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.rand(count, 3, size, size, generator=rng) * 2 - 1 for _ in range(2))
    if family == "gaugan":
        ids = torch.randint(LABELS, (count, 8, 8), generator=rng).repeat_interleave(size // 8, 1)
        x = torch.nn.functional.one_hot(ids.repeat_interleave(size // 8, 2), LABELS).movedim(3, 1).float().contiguous()
    return Batch({MAIN: x}, {MAIN: y}, paired=family != "cyclegan")


def training(generator: Generator) -> dict[str, Any]:
    """The settings of a stage, at the constant part of the schedule."""
    rate = generator.adapter.task(generator.module).optimisation.learning_rate
    return {"steps": 10**6, "rng": torch.Generator(), "processes": Processes("cpu"), "learning_rate": rate}


def told(losses: Mapping[str, Tensor]) -> floors.Losses:
    """The generator's loss and the sum of the discriminator's out of the SDK's metrics."""
    return losses["loss"], torch.stack([value for name, value in losses.items() if name.startswith("d/")]).sum()


def teacher_steps(family: str, width: int, batch: Batch) -> tuple[floors.Step, floors.Step]:
    """A step of `train-teacher`, and the same by hand."""
    generator = network(family, width)
    learner: Any = generator.adapter.learner(copy.deepcopy(generator.module))
    learner.bind(Training(**training(generator)))
    x, y = batch.inputs[MAIN], batch.targets[MAIN]
    nets = [copy.deepcopy(net) for net in learner.networks().values()]
    by_hand: floors.Step
    if family == "cyclegan":
        by_hand = floors.cyclegan(nets, [copy.deepcopy(critic) for critic in learner.task.critics.values()], x, y)
    else:
        floor = floors.gaugan if family == "gaugan" else floors.pix2pix
        by_hand = floor(nets[0], copy.deepcopy(learner.task.network), x, y, teacher=None, taps=())
    return lambda: told(learner.learn(batch)), by_hand


def student_steps(family: str, widths: tuple[int, int], batch: Batch) -> tuple[floors.Step, floors.Step]:
    """A step of `compress` with fresh weights and kernel alignment, and the same by hand."""
    teacher, small = (network(family, width) for width in widths)
    whole = ElasticStudent.of(small)
    student = whole.carve(whole.space.full_plan(), inherit="none")
    task: Any = small.adapter.task(small.module)
    mine, critic = copy.deepcopy(student.module).train(), copy.deepcopy(task.network)
    regime = OfflineRegime()
    regime.bind(
        Stage(
            student=student,
            teachers=(FrozenTeacher(teacher.module, teacher.contract, teacher.taps),),
            task=task,
            terms=gka().terms,
            **training(small),
        )
    )
    x, y = batch.inputs[MAIN], batch.targets[MAIN]
    frozen = teacher.module.eval().requires_grad_(False)
    floor: Callable[..., floors.Step] = {
        "pix2pix": floors.pix2pix,
        "cyclegan": floors.one_direction,
        "gaugan": floors.gaugan,
    }[family]
    taps = list(teacher.taps.values())
    places = taps if family == "gaugan" else [int(path.removeprefix("model.")) for path in taps]
    by_hand = floor(mine, critic, x, y, teacher=frozen, taps=places)
    return lambda: told(regime.step(batch)), by_hand


def wavelet_steps(widths: tuple[int, int], batch: Batch) -> tuple[floors.Step, floors.Step]:
    """A step of WKD on both directions of a CycleGAN, and the same by hand."""
    adapter = open_adapter(FAMILIES["cyclegan"])
    large, small = (together({route: network("cyclegan", width) for route in adapter.routes}) for width in widths)
    whole = student_of(small)
    student = whole.carve(whole.space.full_plan(), inherit="none")
    task: Any = task_of(small, {})
    mine = [copy.deepcopy(net).train() for net in student.networks().values()]
    critics = [copy.deepcopy(critic) for critic in task.critics.values()]
    regime = OfflineRegime()
    rate = training(next(iter(small.parts.values())))
    regime.bind(Stage(student=student, teachers=(teacher_of(large),), task=task, terms=wavelet().terms, **rate))
    a, b = batch.inputs[MAIN], batch.targets[MAIN]
    both = Batch({"A2B": a, "B2A": b}, {"A2B": b, "B2A": a}, paired=False)
    frozen = [part.module.eval().requires_grad_(False) for part in large.parts.values()]
    return lambda: told(regime.step(both)), floors.wavelet_cyclegan(mine, frozen, critics, a, b)


def compare(name: str, ours: floors.Step, theirs: floors.Step, rounds: int) -> dict[str, float]:
    """The ratio of times, once two steps of both have given the same losses."""
    for number in (1, 2):  # the second is behind an update of both networks
        found, wanted = ours(), theirs()
        for a, b in zip(found, wanted, strict=True):
            if abs(a.item() - b.item()) > 1e-3 * abs(b.item()):
                raise SystemExit(f"Step {number} of {name} gives {found}, but by hand it gives {wanted}.")
    return ratio_of_times(ours, theirs, rounds)


def planning(width: int, size: int, rounds: int) -> dict[str, float]:
    """Tracing and planning CAT's inception teacher by its threshold, over one forward pass of it."""
    adapter = open_adapter({"name": "pix2pix", "size": (size, size)})
    torch.manual_seed(0)
    module = adapter.create("inception", width=width).eval()
    with torch.no_grad():
        for part in module.modules():  # fresh scales are all 1, and equal scores leave nothing to choose
            if isinstance(part, torch.nn.InstanceNorm2d) and part.weight is not None:
                part.weight.uniform_(0.0, 1.0)
    generator, x = open_generator(module, adapter), torch.zeros(1, 3, size, size)

    def plan() -> object:
        return gansdk.plan(generator, "10x", CAT)

    def forward() -> object:
        with torch.no_grad():
            return module(x)

    first = seconds(plan)
    row = ratio_of_times(plan, forward, rounds)
    return {
        "ratio": row["ratio"],
        "first_plan_ratio": round(1e3 * first / row["hand_ms"], 3),
        "plan_ms": row["sdk_ms"],
        "forward_ms": row["hand_ms"],
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--widths", type=int, nargs=2, default=(16, 8), metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 4))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--inception", type=int, nargs=2, default=(64, 256), metavar=("WIDTH", "SIZE"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = planning(*options.inception, rounds=max(1, options.rounds // 2))
    steps = {}
    for family in options.families:
        for count in options.batches:
            batch = images(family, options.size, count)
            for role, made in (
                ("teacher", teacher_steps(family, options.widths[0], batch)),
                ("student", student_steps(family, tuple(options.widths), batch)),
            ):
                name = f"{family}, {role}, batch {count}"
                steps[name] = compare(name, *made, options.rounds)
            if family == "cyclegan":
                name = f"cyclegan, both students by wavelets, batch {count}"
                steps[name] = compare(name, *wavelet_steps(tuple(options.widths), batch), options.rounds)
    settings = {"size": options.size, "widths": options.widths, "rounds": options.rounds, "threads": 1}
    print(
        json.dumps(
            {"steps": steps, "planning": plan, "settings": settings, "versions": versions("torch", "gansdk")}, indent=2
        )
    )


if __name__ == "__main__":
    main()

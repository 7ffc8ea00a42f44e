"""Ways to cut and repair a network, tried out on images: which comes nearest to the teacher is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from gansdk.budget.cost import Cost, Limits
from gansdk.channels.groups import Plan
from gansdk.channels.recover import RIDGE, SOLUTIONS, least_squares, recovery_macs
from gansdk.channels.select import Compare, Scores, select
from gansdk.contracts import Batch, Route
from gansdk.events import PlansCompared, Trial
from gansdk.interfaces import Run, Student
from gansdk_pruners.importance import torch_pruning_magnitude
from gansdk_pruners.uniform import Uniform

REPAIR, GUARD, COMPARE = 16, 4, 8
"""Probes that layers are refitted on, that guard the refit, and that plans are compared on."""
MOST_PIXELS = 2**16
"""Of the inputs that pass through a network at once."""
NARROW = 1.5
"""What a multiplication takes in the narrow layers of a student, in those of a teacher: measured on RFDN."""
STEP_IMAGES = 8
"""Images of the training step that the time for trials is counted in: the default batch."""

Allocation = Literal["cost", "global", "per-layer", "uniform", "magnitude"]
Recovery = Literal["none", "least-squares", "cross-validated", "guarded"]

_COMPARE: dict[Allocation, Compare] = {
    "cost": "cost", "global": "unequal", "per-layer": "layers", "magnitude": "layers",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to cut a network to a budget and to repair it."""

    allocation: Allocation
    recovery: Recovery
    rounds: int = 1
    """2: cut half the way by the ratio, repair, rank again, and cut the rest."""

    def __str__(self) -> str:
        rounds = " in two rounds" if self.rounds == 2 else ""
        repaired = {
            "none": "not refitted",
            "least-squares": "refitted",
            "cross-validated": "refitted with cross-validation",
            "guarded": "refitted where images gain",
        }
        return f"{self.allocation}{rounds}, {repaired[self.recovery]}"


@dataclass(frozen=True, slots=True)
class Cut:
    """What an attempt takes away: the plan, and of two rounds what the first one keeps."""

    plan: Plan
    first: Plan | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutter:
    """How plans are found: what both rounds of an attempt have in common."""

    rank: Callable[[Student], Scores]
    multiple_of: int
    floor_share: float

    def plan(self, student: Student, scores: Scores, limits: Limits, allocation: Allocation) -> Plan:
        """The plan of one ranking."""
        return select(
            student.space,
            scores,
            limits,
            cost=student.cost,
            multiple_of=self.multiple_of,
            compare=_COMPARE[allocation],
            floor_share=self.floor_share,
        )


class Bench:
    """A student at full size, probes for it, and what comes of an attempt."""

    def __init__(self, student: Student, run: Run) -> None:
        count = REPAIR + GUARD + COMPARE
        found = run.probe_batches(count)
        self.is_synthetic = found is None
        batches = run.synthetic_batches(count) if found is None else found
        self.is_flat = bool(batches) and all(_is_flat(x) for batch in batches for x in batch.inputs.values())
        """Whether no input has any structure."""
        self.sees = bool(batches)
        """Whether there is anything to look at."""
        self.student = student
        self._pixels = _pixels(batches[0]) if batches else {}
        alone = any(contract.inference == "batch-statistics" for contract in student.contracts.values())
        parts = batches[:REPAIR], batches[REPAIR : REPAIR + GUARD], batches[REPAIR + GUARD :]
        self._repairing, self._guarding, self._comparing = (part if alone else together(part) for part in parts)
        student.activate(student.space.full_plan())
        student.train(False)

    @cached_property
    def _guarded_by(self) -> list[Mapping[Route, Tensor]]:
        return images_of(self.student, self._guarding)

    @cached_property
    def _compared_with(self) -> list[Mapping[Route, Tensor]]:
        return images_of(self.student, self._comparing)

    @property
    def measure(self) -> str:
        """What `errors` are of, in words."""
        kind = "synthetic images" if self.is_synthetic else "training patches"
        return (
            "PSNR of the student's images to the teacher's over the peak-to-peak of the output's range, before any "
            f"training, on {COMPARE} {kind} that no layer was refitted on"
        )

    def errors(self, carved: Student) -> list[float]:
        """Mean squared error to the teacher of every image that plans are compared on, in units of the range."""
        return errors(carved, self._comparing, self._compared_with)

    def cut(self, attempt: Attempt, cutter: Cutter, scores: Scores, limits: Limits, run: Run) -> Cut:
        """What the attempt takes away."""
        student = self.student
        if attempt.allocation == "uniform":
            return Cut(Uniform().search(student, limits, run))
        if attempt.allocation == "magnitude":
            return Cut(cutter.plan(student, torch_pruning_magnitude(student, run), limits, "magnitude"))
        if attempt.rounds == 1:
            return Cut(cutter.plan(student, scores, limits, attempt.allocation))
        halfway = limits.halfway(student.cost(student.space.full_plan()))
        first = cutter.plan(student, scores, halfway, attempt.allocation)
        half = self.repaired(student.carve(first), Cut(first), attempt.recovery)
        rest = cutter.plan(half, cutter.rank(half), limits, attempt.allocation)
        return Cut(first.then(rest), first)

    def made(self, cut: Cut, recovery: Recovery) -> Student:
        """The carved and repaired student."""
        return self.repaired(self.student.carve(cut.plan), cut, recovery)

    def repaired(self, carved: Student, cut: Cut, recovery: Recovery) -> Student:
        """Repair a student that was carved by the plan of the cut, in place."""
        carved.train(False)
        if cut.first is not None:
            half = self.repaired(self.student.carve(cut.first), Cut(cut.first), recovery)
            carved.load_state_dict(half.carve(relative(cut.first, cut.plan)).state_dict())
        if recovery == "none":
            return carved
        plans, small = self.student.split(cut.plan), carved.parts()

        def error() -> float:
            return fmean(errors(carved, self._guarding, self._guarded_by))

        for route, full in self.student.parts().items():
            own = small[route]
            least_squares(
                full.module,
                own.module,
                full.space,
                plans[route],
                [batch.inputs[route] for batch in self._repairing],
                run_full=partial(full.observe, route=next(iter(full.contracts))),
                run_carved=partial(own.observe, route=next(iter(own.contracts))),
                error=error if recovery == "guarded" else None,
                ridge=RIDGE if recovery == "least-squares" else None,
            )
        return carved

    def macs(self, cut: Cut, recovery: Recovery) -> float:
        """About what making and measuring such a student in one round costs, in MACs."""
        student = self.student
        full, small = (student.cost(plan).macs * self._ratio for plan in (student.space.full_plan(), cut.plan))
        total = COMPARE * small
        if recovery != "none":
            plans = student.split(cut.plan)
            for route, part in student.parts().items():
                side = self._ratio_of(route)
                solutions = 1 if recovery == "least-squares" else SOLUTIONS
                layers, solving = recovery_macs(
                    part.module, part.space, plans[route], REPAIR, side, solutions=solutions
                )
                passes = REPAIR / 2 + (GUARD if recovery == "guarded" else 0)
                total += REPAIR * full + layers * passes * NARROW * small + solving
        return total

    def step_macs(self, plan: Plan) -> float:
        """Of a training step: a pass of the teacher, and a pass forward and back of the student."""
        student = self.student
        full, small = (student.cost(one).macs * self._ratio for one in (student.space.full_plan(), plan))
        return STEP_IMAGES * (full + 3 * NARROW * small)

    @cached_property
    def _ratio(self) -> float:
        """Pixels of a probe over pixels at which costs are quoted."""
        return fmean(self._ratio_of(route) for route in self.student.contracts)

    def _ratio_of(self, route: Route) -> float:
        height, width = self.student.contracts[route].size
        return self._pixels[route] / (height * width)


def compare(
    bench: Bench, attempts: Sequence[Attempt], cutter: Cutter, scores: Scores, limits: Limits, run: Run, steps: int
) -> dict[str, Any]:
    """Make the students of the attempts and measure them, at most `steps` training steps' worth of MACs.

    Returns JSON: "plan", "first" and "recovery" of the best, "measure" (in words) and "trials".

    The first attempt is made whatever it costs; of the others those that are too dear are passed over.
    """
    cuts: dict[tuple[Allocation, int], Cut] = {}
    tried: list[tuple[Trial, float, Attempt, Cut]] = []
    left = math.inf

    for attempt in attempts:
        key = (attempt.allocation, attempt.rounds)
        if key not in cuts:
            # Two rounds refit a student of twice the size besides, once to find the plan and once to make the student.
            if attempt.rounds == 2 and 5 * bench.macs(cuts[attempt.allocation, 1], attempt.recovery) > left:
                continue
            cuts[key] = bench.cut(attempt, cutter, scores, limits, run)
        cut = cuts[key]
        price = bench.macs(cut, attempt.recovery) * (5 if attempt.rounds == 2 else 1)
        if not tried:
            left = steps * bench.step_macs(cut.plan)
        elif price > left:
            continue
        left -= price
        found = bench.errors(bench.made(cut, attempt.recovery))
        trial = Trial(
            name=str(attempt),
            cost=bench.student.cost(cut.plan),
            psnr=decibels(fmean(found)),
            worst=decibels(max(found)),
        )
        tried.append((trial, fmean(found), attempt, cut))
        run.emit(PlansCompared(trials=tuple(row[0] for row in tried), measure=bench.measure))
    best = min(range(len(tried)), key=lambda i: tried[i][1])
    _, _, attempt, cut = tried[best]
    return {
        "plan": cut.plan.to_dict(),
        "first": None if cut.first is None else cut.first.to_dict(),
        "recovery": attempt.recovery,
        "measure": bench.measure,
        "trials": [_as_json(replace(row[0], chosen=i == best)) for i, row in enumerate(tried)],
    }


def told(row: Mapping[str, Any]) -> PlansCompared:
    """The last word on a comparison, of the JSON that `compare` gave."""
    trials = tuple(
        Trial(
            name=one["name"],
            cost=Cost(**one["cost"]),
            psnr=-math.inf if one["psnr"] is None else one["psnr"],
            worst=-math.inf if one["worst"] is None else one["worst"],
            chosen=one["chosen"],
        )
        for one in row["trials"]
    )
    return PlansCompared(trials=trials, measure=row["measure"], done=True)


def _as_json(trial: Trial) -> dict[str, Any]:
    """JSON has no infinity."""
    return {name: None if value == -math.inf else value for name, value in asdict(trial).items()}


def images_of(student: Student, batches: Sequence[Batch]) -> list[Mapping[Route, Tensor]]:
    """The student's images, by batch and route, without gradient."""
    found: list[Mapping[Route, Tensor]] = []
    with torch.no_grad():
        for batch in batches:
            images = {route: student.observe(x, route=route).image for route, x in batch.inputs.items()}
            found.append({route: image for route, image in images.items() if image is not None})
    return found


def errors(student: Student, batches: Sequence[Batch], wanted: Sequence[Mapping[Route, Tensor]]) -> list[float]:
    """Mean squared error of every image, in units of the output's range; infinite where one is not finite."""
    found: list[float] = []
    for images, theirs in zip(images_of(student, batches), wanted, strict=True):
        for route, image in images.items():
            low, high = student.contracts[route].output_range
            squares = ((image - theirs[route]) / (high - low)).double().square().flatten(1).mean(1)
            found += [error if math.isfinite(error) else math.inf for error in squares.tolist()]
    return found


def together(batches: Sequence[Batch]) -> list[Batch]:
    """The same inputs in batches of equal sizes, as many at a time as have `MOST_PIXELS` together."""
    found: list[list[Batch]] = []
    for batch in batches:
        pixels = _pixels(batch)
        last = found[-1] if found else []
        fits = last and _pixels(last[0]) == pixels and (len(last) + 1) * max(pixels.values()) <= MOST_PIXELS
        if fits and all(last[0].inputs[route].shape == x.shape for route, x in batch.inputs.items()):
            last.append(batch)
        else:
            found.append([batch])
    return [Batch({route: torch.cat([one.inputs[route] for one in row]) for route in row[0].inputs}) for row in found]


def _is_flat(x: Tensor) -> bool:
    """Whether a map of more than one pixel has one value in each channel."""
    return x[0, 0].numel() > 1 and bool((x == x[..., :1, :1]).all())


def _pixels(batch: Batch) -> dict[Route, int]:
    return {route: x.shape[2] * x.shape[3] for route, x in batch.inputs.items()}


def relative(first: Plan, plan: Plan) -> Plan:
    """The plan that makes `plan` of what `first` left: `first.then` of it is `plan`."""
    return Plan({name: tuple(kept.index(i) for i in plan[name]) for name, kept in first.items()})


def decibels(error: float) -> float:
    """PSNR of a mean squared error in units of the range, 120 at most; -inf where it is not finite."""
    return -10 * math.log10(max(error, 1e-12)) if math.isfinite(error) else -math.inf

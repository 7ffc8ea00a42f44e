"""The run a pruner and a regime work in: its phases, its student, and what pruners may ask of it."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gansdk.channels.configs import spelled
from gansdk.channels.groups import Plan
from gansdk.contracts import Batch, Route
from gansdk.errors import GansdkWarning
from gansdk.events import Event, PlansCompared, SearchStep, StageStarted, Trial
from gansdk.generators.patches import fitting_patch
from gansdk.interfaces import DataSource, Generator, Pruner, Regime, Stage, State, Student, Task, Teacher, Term
from gansdk.interfaces.pruner import Item, Result
from gansdk.registry.isolation import guarded, returned
from gansdk.toolkit.synthetic import synthetic_input
from gansdk.training.loop import Loop, continuing


class CompressionRun:
    """Implements `gansdk.interfaces.pruner.Run` over one training loop.

    Every phase ("prepare", "search", "recover", "distil") keeps its state under its name, with `rung` in front of it:
    "4x/" for one of several students, whose runs have only the phase "prepare" and the notes in common.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        generator: Generator,
        student: Student,
        teacher: Teacher,
        teachers: Sequence[Teacher],
        task: Task,
        regime: Regime,
        terms: Sequence[Term],
        learning_rate: float,
        rung: str = "",
        scored_on: Sequence[DataSource] = (),
        scored_images: int = Pruner.scored_images,
    ) -> None:
        self.loop = loop
        self.seed = loop.seed
        self.rng = loop.rng
        self.teacher = teacher
        self.task = task
        self.contract = generator.contract
        self._generator = generator
        self.student = student
        self.searched: list[dict[str, Any]] = []
        """JSON rows of what the pruner told of its search, one per generation; the last one has the Pareto front."""
        self.compared: dict[str, Any] = {}
        """JSON of the plans that the pruner tried out: "measure" and "trials"; empty where it tried none."""
        self._teachers = teachers
        self._regime = regime
        self._terms = tuple(terms)
        self._learning_rate = learning_rate
        self._rung = rung
        self._scored_on = scored_on
        self._most_scored = scored_images
        self._phase = "prepare"
        self._stages = 0

    def enter(self, phase: str, student: Student) -> None:
        """Begin a phase: its training stages belong to it, and train `student`."""
        self.student = student
        self._phase = phase if phase == "prepare" else self._rung + phase
        self._stages = 0

    def begin(self, stage: str) -> None:
        """Tell that a stage without steps begins."""
        self.emit(StageStarted(stage=self._rung + stage, steps=0))

    def save(self, phase: str, state: State) -> None:
        """Keep what a phase came to, once it is over."""
        self.loop.save(self._rung + phase, {**state, "stages": self._stages})

    def load(self, phase: str) -> State | None:
        """What an earlier start saved of the phase that was entered, with everything its training stages changed."""
        state = self.loop.load(self._rung + phase)
        if state is None:
            return None
        with continuing(self._rung + phase):
            if state["stages"]:
                self._bring_back(f"{self._phase}-{state['stages'] - 1}")
            self.loop.restore(state)
        return state

    def probe_batches(self, count: int) -> list[Batch] | None:
        source = self.loop.source
        if source is None:
            return None
        batches = (source.probe(i, seed=self.seed) for i in range(count))
        return [self.loop.processes.to_device(batch) for batch in batches]

    def synthetic_batches(self, count: int) -> list[Batch]:
        batches: list[Batch] = []
        for index in range(count):
            inputs = {
                route: synthetic_input(contract, self._patch, seed=self.seed + index)
                for route, contract in self.student.contracts.items()
            }
            batches.append(self.loop.processes.to_device(Batch(inputs)))
        return batches

    @cached_property
    def _patch(self) -> int:
        return fitting_patch(self._generator)

    def score(self, plan: Plan) -> float:
        """Mean absolute error of the subnet on the "search" split, to the ground truth or else to the teacher."""
        if self.loop.source is None:
            return math.nan
        active = self.student.plan
        self.student.activate(plan)
        self.student.train(False)
        errors: list[Tensor] = []
        with torch.no_grad():
            for route, x, target in self._held_out:
                image = self.student.observe(x, route=route).image
                assert image is not None
                errors.append((image - target).abs().mean())
        self.student.activate(active)
        return float(torch.stack(errors).mean()) if errors else math.nan

    @property
    def scored_images(self) -> int:
        counts = Counter(route for route, _, _ in self._held_out)
        return min(counts[route] for route in self.student.contracts)

    @cached_property
    def _held_out(self) -> list[tuple[Route, Tensor, Tensor]]:
        """Route, input and what it should become, read once: a search scores thousands of subnets on them."""
        if self.loop.source is None:
            return []
        rows: list[tuple[Route, Tensor, Tensor]] = []
        with torch.no_grad():
            for item in islice(self.loop.source.images("search"), self._most_scored * len(self.student.contracts)):
                batch = self.loop.processes.to_device(returned(item, Batch, self.loop.source, "images"))
                for route, x in batch.inputs.items():
                    target = batch.targets.get(route)
                    if target is None:
                        target = self.teacher.observe(x, route=route).image
                    assert target is not None
                    rows.append((route, x, target))
        self._warn_if_scored_on([x for _, x, _ in rows])
        return rows

    def _warn_if_scored_on(self, searched: Sequence[Tensor]) -> None:
        """Say before any training that what a search looks at is no measure of the student it finds."""
        seen = set(map(_content, searched))
        inputs = (x for source in self._scored_on for batch in source.images("eval") for x in batch.inputs.values())
        if any(_content(x) in seen for x in inputs):
            warnings.warn(
                "Subnets are compared on images that the student is scored on too, so its scores will be too "
                "optimistic. Pass eval_data with other images, or data with a folder of its own to score on (val or "
                "test).",
                GansdkWarning,
                stacklevel=2,
            )

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        return self.loop.processes.map(function, items)

    def note(self, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
        return self.loop.note(name, row)

    def notes(self, name: str) -> list[dict[str, Any]]:
        return self.loop.notes(name)

    def emit(self, event: Event) -> None:
        if isinstance(event, SearchStep):
            self._remember(event)
        if isinstance(event, PlansCompared):
            self.compared = {"measure": event.measure, "trials": [_told(trial) for trial in event.trials]}
        self.loop.emit(event)

    def distil(self, steps: int, *, before_step: Callable[[int], None] | None = None) -> None:
        """Train the student in its present form for `steps`, or for what a killed run left of them.

        Raises:
            TrainingDiverged: the loss is not finite, or grew tenfold and stayed there.
        """
        name = f"{self._phase}-{self._stages}"
        self._stages += 1
        with guarded(name, self._networks):
            self._bind(steps)
            self.loop.train(
                name,
                steps,
                step=self._regime.step,
                state=self._state,
                load_state=self._load_state,
                networks=self._networks,
                before_step=before_step,
                loss_may_grow=self._regime.loss_may_grow,
            )
        self.student.train(False)

    def _bind(self, steps: int) -> None:
        self._regime.bind(
            Stage(
                student=self.student,
                teachers=self._teachers,
                task=self.task,
                steps=steps,
                rng=self.rng,
                processes=self.loop.processes,
                terms=self._terms,
                learning_rate=self._learning_rate,
                score=lambda: self.score(self.student.plan),
            )
        )

    def _bring_back(self, stage: str) -> None:
        """Discriminators and teachers as a finished training stage left them."""
        state = self.loop.load(stage)
        if state is None:
            raise LookupError(f"{stage}.pt is missing")
        self._bind(state["step"])
        self._load_state(state)
        self.student.train(False)

    def _remember(self, event: SearchStep) -> None:
        if self.searched and self.searched[-1]["left"]:
            self.searched.pop()
        for row in self.searched:
            row.pop("front", None)
        self.searched.append(
            {
                "generation": event.generation,
                "generations": event.generations,
                "left": event.left,
                "scored": event.scored,
                "best": event.best,
                "macs": event.cost.macs,
                "config": spelled(event.config),
                "positions": list(event.config),
                "measure": event.measure,
                "front": [list(point) for point in event.front],
            }
        )

    def _networks(self) -> Iterator[nn.Module]:
        yield from self.student.networks().values()
        for teacher in self._teachers:
            yield from teacher.networks().values()

    def _state(self) -> State:
        return {
            "student": self.student.state_dict(),
            "regime": self._regime.state_dict(),
            "task": self.task.state_dict() if self._regime.uses_task else {},
            "teachers": [teacher.state_dict() for teacher in self._teachers],
        }

    def _load_state(self, state: State) -> None:
        self.student.load_state_dict(state["student"])
        self._regime.load_state_dict(state["regime"])
        if self._regime.uses_task:
            self.task.load_state_dict(state["task"])
        for teacher, saved in zip(self._teachers, state["teachers"], strict=True):
            teacher.load_state_dict(saved)


def _told(trial: Trial) -> dict[str, Any]:
    """JSON of a trial: an image that is not finite has no distance."""
    distances = {"psnr": trial.psnr, "worst": trial.worst}
    return {
        "name": trial.name,
        **trial.cost.facts(),
        "chosen": trial.chosen,
        **{name: value if math.isfinite(value) else None for name, value in distances.items()},
    }


def _content(x: Tensor) -> tuple[torch.Size, bytes]:
    """What tells an image from others, whatever its source calls it."""
    return x.shape, sha256(x.detach().cpu().numpy().tobytes()).digest()

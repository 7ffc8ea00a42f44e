"""The only training loop: one for every regime, on one process or many, resumable at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gansdk.adapter import Generator
from gansdk.channels.groups import Plan
from gansdk.contracts import MAIN, Batch
from gansdk.errors import TrainingDiverged
from gansdk.events import Event, StageStarted, StepDone
from gansdk.interfaces import DataSource, Regime, Stage, State, Student, Task, Teacher, Term
from gansdk.processes import Processes
from gansdk.registry import emit
from gansdk.run_folder import RunFolder, damaged

PROBE_STEP = 10**9
"""Probe batches are training batches of steps no training reaches."""
SCORED_IMAGES = 8
DIVERGED_FACTOR = 10.0
"""A loss this many times its first value, three intervals in a row, is not coming back."""


class CompressionRun:
    """The run a pruner and a regime work in. Implements `gansdk.interfaces.Run`."""

    def __init__(
        self,
        *,
        generator: Generator,
        student: Student,
        teacher: Teacher,
        teachers: Sequence[Teacher],
        task: Task,
        regime: Regime | None,
        terms: Sequence[Term],
        source: DataSource | None,
        processes: Processes,
        folder: RunFolder,
        seed: int,
        batch_size: int,
        learning_rate: float,
        observers: Sequence[Callable[[Event], None]] = (),
    ) -> None:
        self.seed = seed
        self.rng = torch.Generator().manual_seed(seed)
        self.teacher = teacher
        self.task = task
        self.contract = generator.contract
        self.student = student
        self.history: list[dict[str, float]] = []
        self._teachers = teachers
        self._regime = regime
        self._terms = tuple(terms)
        self._source = source
        self._processes = processes
        self._folder = folder
        self._batch_size = max(1, batch_size // processes.count)
        self._learning_rate = learning_rate
        self._observers = tuple(observers)
        self._phase = "search"
        self._stages = 0

    def enter(self, phase: str, student: Student) -> None:
        """Begin a phase ("search", "recover", "distil"): its training stages belong to it, and train `student`."""
        self.student = student
        self._phase = phase
        self._stages = 0

    def load(self, stage: str) -> State | None:
        """What an earlier start of this run saved of a stage: the main process's, in every process."""
        state: State | None = self._processes.agree(self._folder.load_stage(stage))
        return state

    def save(self, stage: str, state: State) -> None:
        """Save a stage, with the run's random generator and history; `restore` brings these back."""
        self._folder.save_stage(stage, {**state, "rng": self.rng.get_state(), "history": list(self.history)})

    def restore(self, state: State) -> None:
        """Bring the run's random generator and history back to where they were at `save`."""
        self.rng.set_state(state["rng"])
        self.history = list(state["history"])

    def emit(self, event: Event) -> None:
        """Tell plugins and the caller's observers; only the main process speaks."""
        if self._processes.is_main:
            emit(event)
            for observer in self._observers:
                observer(event)

    def probe_batches(self, count: int) -> list[Batch] | None:
        if self._source is None:
            return None
        batches = (self._source.train_batch(1, seed=self.seed, step=PROBE_STEP + i) for i in range(count))
        return [self._processes.to_device(batch) for batch in batches]

    def score(self, plan: Plan) -> float:
        """Mean absolute error of the subnet on the "search" split, to the ground truth or else to the teacher."""
        if self._source is None:
            return math.nan
        active = self.student.plan
        self.student.activate(plan)
        self.student.train(False)
        errors: list[Tensor] = []
        with torch.no_grad():
            for number, found in enumerate(self._source.images("search")):
                if number == SCORED_IMAGES:
                    break
                batch = self._processes.to_device(found)
                x = batch.inputs[MAIN]
                target = batch.targets.get(MAIN)
                if target is None:
                    target = self.teacher.observe(x).image
                image = self.student.observe(x).image
                assert image is not None
                assert target is not None
                errors.append((image - target).abs().mean())
        self.student.activate(active)
        return float(torch.stack(errors).mean()) if errors else math.nan

    def distil(self, steps: int, *, before_step: Callable[[int], None] | None = None) -> None:
        """Train the student in its present form for `steps`, or for what a killed run left of them.

        Raises:
            TrainingDiverged: the loss is not finite, or grew tenfold and stayed there.
        """
        assert self._regime is not None
        assert self._source is not None
        name = f"{self._phase}-{self._stages}"
        self._stages += 1
        self._regime.bind(
            Stage(
                student=self.student,
                teachers=self._teachers,
                task=self.task,
                steps=steps,
                rng=self.rng,
                processes=self._processes,
                terms=self._terms,
                learning_rate=self._learning_rate,
                score=lambda: self.score(self.student.plan),
            )
        )
        start = self._resume(name)
        self.emit(StageStarted(stage=name, steps=steps))
        interval = _Interval(self, name, steps)
        number = self.history[-1]["stage"] + (start == 0) if self.history else 0.0
        keep_every = interval.length * max(1, math.ceil(steps / 20 / interval.length))
        for step in range(start, steps):
            if before_step is not None:
                before_step(step)
            interval.add(self._step(step, interval))
            done = step + 1
            if done % interval.length == 0 or done == steps:
                self.history.append({"stage": number, **interval.close(done)})
            if done % keep_every == 0 or done == steps:
                self._check_weights(done, steps)
                self.save(name, self._state(done))
        self.student.train(False)

    def _step(self, step: int, interval: _Interval) -> dict[str, Tensor]:
        assert self._regime is not None
        assert self._source is not None
        before = time.perf_counter()
        # Every process draws its own images; the same run on one process would draw them one after the other.
        position = step * self._processes.count + self._processes.rank
        batch = self._source.train_batch(self._batch_size, seed=self.seed, step=position)
        interval.wait_s += time.perf_counter() - before
        return dict(self._regime.step(self._processes.to_device(batch)))

    def _check_weights(self, step: int, steps: int) -> None:
        """The last update of an interval is not seen by its losses; what it broke must not replace a good state."""
        if not all(bool(p.isfinite().all()) for p in self.student.parameters()):
            raise TrainingDiverged(
                f"A weight of the student is no longer finite at step {step} of {steps}. {self.advice}"
            )

    @property
    def advice(self) -> str:
        """What to do about a training that diverged."""
        kept = "" if self._folder.path is None else "The last good state is kept in the run's folder. "
        return f"{kept}Try a smaller learning_rate, or another seed."

    def _state(self, step: int) -> State:
        assert self._regime is not None
        return {
            "step": step,
            "student": self.student.state_dict(),
            "regime": self._regime.state_dict(),
            "task": self.task.state_dict(),
            "teachers": [teacher.state_dict() for teacher in self._teachers],
        }

    def _resume(self, stage: str) -> int:
        """Continue a stage where it was left; returns the steps already done."""
        state = self.load(stage)
        if state is None:
            return 0
        assert self._regime is not None
        with continuing(stage):
            self.student.load_state_dict(state["student"])
            self._regime.load_state_dict(state["regime"])
            self.task.load_state_dict(state["task"])
            for teacher, saved in zip(self._teachers, state["teachers"], strict=True):
                teacher.load_state_dict(saved)
            self.restore(state)
            return int(state["step"])


@contextmanager
def continuing(stage: str) -> Iterator[None]:
    """Say what to do where a saved state does not fit the run it was saved by.

    Raises:
        CheckpointError: instead of the error inside.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise damaged(f"{stage}.pt", error) from error


class _Interval:
    """Metrics between two log lines: summed on the device, read once."""

    def __init__(self, run: CompressionRun, stage: str, steps: int) -> None:
        self.length = max(1, min(50, steps // 40))
        self.wait_s = 0.0
        self._run = run
        self._stage = stage
        self._steps = steps
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._began = time.perf_counter()
        self._first: float | None = None
        self._worse = 0

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._count += 1

    def close(self, step: int) -> dict[str, float]:
        """Read the means, check them, tell them, and begin anew."""
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        seconds = time.perf_counter() - self._began
        rate = self._count / seconds if seconds else 0.0
        self._check(step, means)
        self._run.emit(
            StepDone(stage=self._stage, step=step, steps=self._steps, metrics=means, wait_s=self.wait_s, rate=rate)
        )
        self._sums, self._count, self.wait_s, self._began = {}, 0, 0.0, time.perf_counter()
        return {"step": float(step), **means}

    def _check(self, step: int, means: dict[str, float]) -> None:
        advice = self._run.advice
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            raise TrainingDiverged(f"{broken[0]} is no longer finite at step {step} of {self._steps}. {advice}")
        loss = means.get("loss", 0.0)
        self._first = loss if self._first is None else self._first
        self._worse = self._worse + 1 if self._first > 0 and loss > DIVERGED_FACTOR * self._first else 0
        if self._worse == 3:
            raise TrainingDiverged(
                f"The loss grew from {self._first:.4g} to {loss:.4g} by step {step} of {self._steps}. {advice}"
            )

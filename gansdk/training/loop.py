"""The only training loop: resumable at any step, on one process or many, for students and teachers alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gansdk.contracts import Batch, Metrics
from gansdk.errors import TrainingDiverged
from gansdk.events import Event, StageSaved, StageStarted, StepDone
from gansdk.interfaces import DataSource, State
from gansdk.registry.discovery import emit
from gansdk.registry.isolation import explained, observing, returned
from gansdk.training.processes import Processes
from gansdk.training.run_folder import RunFolder, damaged

DIVERGED_FACTOR = 10.0
"""A loss this many times what it was at first, for three whole intervals, is not coming back."""
FEWEST_STEPS = 8
"""Losses of fewer steps say more about their images than about the network."""
SAVES = 20
"""Times a stage is saved, at least; a kill costs at most the steps since the last."""


class Loop:
    """Steps of training over a source's batches, with a folder to continue from and observers to tell.

    Every stage has a name, under which its state is kept: what `state` returns, the random generator and the
    history of metrics.
    """

    def __init__(
        self,
        *,
        source: DataSource | None,
        processes: Processes,
        folder: RunFolder,
        seed: int,
        batch_size: int,
        observers: Sequence[Callable[[Event], None]] = (),
    ) -> None:
        self.seed = seed
        self.rng = torch.Generator().manual_seed(seed)
        self.history: list[dict[str, float]] = []
        self.source = source
        self.processes = processes
        self._folder = folder
        self.share = processes.share(batch_size)
        """Images of a step in this process."""
        self._observers = tuple(observers)

    def emit(self, event: Event) -> None:
        """Tell plugins and the caller's observers; only the main process speaks."""
        if self.processes.is_main:
            emit(event)
            for observer in self._observers:
                with observing(observer):
                    observer(event)

    def load(self, stage: str) -> State | None:
        """What an earlier start of this run saved of a stage: the main process's, in every process."""
        state: State | None = self.processes.agree(self._folder.load_stage(stage))
        return state

    def save(self, stage: str, state: State, *, step: int = 0) -> None:
        """Save a stage, with the random generator and history; `restore` brings these back.

        `step` is what the stage came to, where it trains.
        """
        self._folder.save_stage(stage, {**state, "rng": self.rng.get_state(), "history": list(self.history)})
        if self._folder.path is not None:
            self.emit(StageSaved(stage=stage, step=step, folder=str(self._folder.path)))

    def restore(self, state: State) -> None:
        """Bring the random generator and history back to where they were at `save`."""
        self.rng.set_state(state["rng"])
        self.history = list(state["history"])

    def note(self, name: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Append a row to the notes of a name; returns the main process's row in every process."""
        if self.processes.is_main:
            self._folder.append_row(name, row)
        agreed: dict[str, Any] = self.processes.agree(dict(row))
        return agreed

    def notes(self, name: str) -> list[dict[str, Any]]:
        """Rows noted so far, by earlier starts of this run too: the main process's, in every process."""
        agreed: list[dict[str, Any]] = self.processes.agree(self._folder.rows(name))
        return agreed

    def train(
        self,
        stage: str,
        steps: int,
        *,
        step: Callable[[Batch], Metrics],
        state: Callable[[], State],
        load_state: Callable[[State], None],
        networks: Callable[[], Iterable[nn.Module]],
        before_step: Callable[[int], None] | None = None,
        saved: Callable[[int], None] | None = None,
        loss_may_grow: bool = False,
    ) -> None:
        """Take `steps` steps, or what a killed run left of them.

        `saved` is called after each save, and once more where a run goes on: the kill may have come in between.

        `networks` are those that train. At every save all processes agree on the running statistics of their norms,
        which each of them has gathered from its own images.

        What networks draw from torch's global generator (dropout) follows the seed and the number of the step, so a
        resumed run repeats it; afterwards the generator is as it was.

        Raises:
            TrainingDiverged: the loss or a weight is not finite, or the loss grew tenfold and stayed there, unless
                `loss_may_grow`. All processes raise it alike.
        """
        start = self._resume(stage, load_state)
        if start and saved is not None:
            saved(start)
        if start < steps:
            self.emit(StageStarted(stage=stage, steps=steps, done=start))
        number = self.history[-1]["stage"] + (start == 0) if self.history else 0.0
        begun = [row for row in self.history if row["stage"] == number]
        interval = _Interval(self, stage, steps, begun, loss_may_grow=loss_may_grow)
        keep_every = interval.length * max(1, math.ceil(steps / SAVES / interval.length))
        device = self.processes.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            for position in range(start, steps):
                torch.manual_seed(hash((self.seed, position, self.processes.rank)))
                if before_step is not None:
                    before_step(position)
                interval.add(_taken(step, self._batch(position, interval)))
                done = position + 1
                if done % interval.length == 0 or done == steps:
                    self.history.append({"stage": number, **interval.close(done)})
                if done % keep_every == 0 or done == steps:
                    self._check_weights(networks(), done, steps)
                    self.processes.average_statistics(networks())
                    self.save(stage, {**state(), "step": done}, step=done)
                    if saved is not None:
                        saved(done)

    @property
    def advice(self) -> str:
        """What to do about a training that diverged."""
        state = "" if self._folder.path is None else "The last good state is kept in the run's folder. "
        return f"{state}Try a smaller learning_rate, or another seed."

    def _batch(self, step: int, interval: _Interval) -> Batch:
        assert self.source is not None
        before = time.perf_counter()
        # Every process draws its own images; the same run on one process would draw them one after the other.
        position = step * self.processes.count + self.processes.rank
        batch = self.source.train_batch(self.share, seed=self.seed, step=position)
        batch = returned(batch, Batch, self.source, "train_batch")
        interval.wait_s += time.perf_counter() - before
        return self.processes.to_device(batch)

    def _check_weights(self, networks: Iterable[nn.Module], step: int, steps: int) -> None:
        """The last update of an interval is not seen by its losses; what it broke must not replace a good state."""
        finite = all(bool(p.isfinite().all()) for network in networks for p in network.parameters())
        if not self.processes.all(finite):
            raise TrainingDiverged(f"A weight is no longer finite at step {step} of {steps}. {self.advice}")

    def _resume(self, stage: str, load_state: Callable[[State], None]) -> int:
        """Continue a stage where it was left; returns the steps already done."""
        state = self.load(stage)
        if state is None:
            return 0
        with continuing(stage):
            load_state(state)
            self.restore(state)
            return int(state["step"])


@contextmanager
def continuing(stage: str) -> Iterator[None]:
    """Say what to do where a saved state does not fit the run it was saved by.

    Raises:
        CheckpointError: instead of the error inside.
        PluginFailed: it is a plugin's.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise explained(error, f"continuing {stage}") or damaged(f"{stage}.pt", error) from error


def _taken(step: Callable[[Batch], Metrics], batch: Batch) -> Metrics:
    """Take a step; returns what it tells of itself."""
    owner = getattr(step, "__self__", step)
    metrics: Metrics = returned(step(batch), Mapping, owner, "a step")  # type: ignore[type-abstract]
    for name, value in metrics.items():
        returned(value, Tensor, owner, f"a step, as {name!r}")
    return metrics


class _Interval:
    """Metrics between two log lines: summed on the device, read once, and the same in every process.

    `begun` are the rows that an earlier start of the run has logged of the stage.
    """

    def __init__(
        self, loop: Loop, stage: str, steps: int, begun: Sequence[Mapping[str, float]], *, loss_may_grow: bool
    ) -> None:
        self.length = max(1, min(50, steps // 40))
        self.wait_s = 0.0
        self._loop = loop
        self._stage = stage
        self._steps = steps
        self._loss_may_grow = loss_may_grow
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._steps_taken = 0
        self._began = time.perf_counter()
        self._losses = [row["loss"] for row in begun if "loss" in row]
        self._told = bool(begun)

    def add(self, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1  # not every step has every metric
        self._steps_taken += 1

    def close(self, step: int) -> dict[str, float]:
        """Read the means, over all processes, check them, tell them, and begin anew."""
        means = self._loop.processes.mean(
            {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        )
        seconds = time.perf_counter() - self._began
        rate = self._steps_taken / seconds if seconds else 0.0
        self._check(step, means)
        self._loop.emit(
            StepDone(
                stage=self._stage, step=step, steps=self._steps, metrics=dict(means), wait_s=self.wait_s, rate=rate
            )
        )
        self._sums, self._counts, self._steps_taken = {}, {}, 0
        self.wait_s, self._began = 0.0, time.perf_counter()
        return {"step": float(step), **means}

    def _check(self, step: int, means: Mapping[str, float]) -> None:
        advice = self._loop.advice
        if broken := [name for name, value in means.items() if not math.isfinite(value)]:
            summands = [name for name in broken if name != "loss"]  # which say more than the sum
            named = " and ".join(summands or broken)
            never = "" if self._told else " If it never was, check the weights and images that it is computed from."
            raise TrainingDiverged(f"{named} is no longer finite at step {step} of {self._steps}.{never} {advice}")
        self._told = True
        if "loss" not in means or self._loss_may_grow:
            return
        self._losses.append(means["loss"])
        first = self._first_loss()
        if first is not None and self._has_grown(first):
            raise TrainingDiverged(
                f"The loss grew from {first:.4g} to {means['loss']:.4g} by step {step} of {self._steps}. {advice}"
            )

    def _first_loss(self) -> float | None:
        """Mean over the first intervals, as many as have enough steps; None before these are over."""
        count = math.ceil(FEWEST_STEPS / self.length)
        return None if len(self._losses) < count else sum(self._losses[:count]) / count

    def _has_grown(self, first: float) -> bool:
        """Whether every loss of the last three times as many intervals is far above the first one."""
        count = 3 * math.ceil(FEWEST_STEPS / self.length)
        return 0 < DIVERGED_FACTOR * first < min(self._losses[-count:])

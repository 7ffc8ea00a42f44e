"""Scoring the candidates of a search within one budget: every score noted, none taken twice, progress told."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gansdk.budget.cost import Limits
from gansdk.errors import GansdkWarning
from gansdk.events import SearchStep
from gansdk.interfaces import Run, Student
from gansdk.training.run_folder import damaged
from gansdk_pruners.evolution import pareto
from gansdk_pruners.subnets import Config, Subnets

CANDIDATES = "candidates"
"""Name of the notes on every subnet that was scored."""
TELL_S = 10.0
"""Seconds of scoring between two reports of progress within a generation."""


@dataclass(frozen=True, slots=True)
class Row:
    """A note on one candidate."""

    config: Config
    macs: int
    score: float
    """Infinity where it was not finite."""
    budget: tuple[int | None, ...]
    seconds: float
    """That the search for the budget had taken by then, over all starts of the run."""

    @classmethod
    def read(cls, row: Mapping[str, Any], subnets: Subnets) -> Row:
        """The note as it was written.

        Raises:
            CheckpointError: it is no note of this search.
        """
        try:
            score = math.inf if row["score"] is None else float(row["score"])
            result = cls(tuple(row["config"]), int(row["macs"]), score, tuple(row["budget"]), float(row["seconds"]))
            if not subnets.has(result.config):
                raise ValueError(f"{list(result.config)} is no configuration of this space")
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(f"{CANDIDATES}.jsonl", error) from error
        return result


class Scoring:
    """The candidates of one budget, of earlier starts too; what other budgets' searches noted is not scored again.

    Args:
        student: at full size; gives costs.
        subnets: the configurations.
        limits: the budget.
        run: keeps the notes and is told the progress.
        score: of a configuration; lower is better.
        measure: what the score is, in words.
        max_minutes: for this budget, over all starts; None for no limit.
    """

    def __init__(
        self,
        student: Student,
        subnets: Subnets,
        limits: Limits,
        run: Run,
        *,
        score: Callable[[Config], float],
        measure: str,
        max_minutes: float | None,
    ) -> None:
        self._student = student
        self._subnets = subnets
        self._limits = limits
        self._run = run
        self._score = score
        self._measure = measure
        self._max_minutes = max_minutes
        self._budget = (limits.macs, limits.params, limits.bytes)
        self._fitting: dict[Config, bool] = {}
        rows = [Row.read(row, subnets) for row in run.notes(CANDIDATES)]
        self._known = {row.config: row for row in rows}
        self.scores = {
            row.config: self._known[row.config].score
            for row in rows
            if row.budget != self._budget and self.fits(row.config)
        }
        """Of every candidate that was asked for, and of those that another budget's search asked for."""
        self._spent = max((row.seconds for row in rows if row.budget == self._budget), default=0.0)
        self._started = time.monotonic() - self._spent
        self._told = time.monotonic()

    def fits(self, config: Config) -> bool:
        """Whether it is within the budget."""
        if config not in self._fitting:
            self._fitting[config] = self._limits.fits(self._student.cost(self._subnets.plan(config)))
        return self._fitting[config]

    def best(self) -> Config:
        """The one of the lowest score; equal scores by configuration."""
        return min(self.scores, key=lambda config: (self.scores[config], config))

    def go_through(self, generations: Iterable[list[Config]], total: int) -> None:
        """Score the generations, `total` of them, one after the other, until the time is over."""
        for number, population in enumerate(generations, start=1):
            missing = list(dict.fromkeys(config for config in population if config not in self._known))
            self.scores.update((config, self._known[config].score) for config in population if config in self._known)
            results = self._run.map(self._score, missing)
            for done, config in enumerate(missing):
                if self._is_over():
                    self._warn(number, total)
                    self._tell(number, total, len(missing) - done)
                    return
                if time.monotonic() - self._told > TELL_S and self.scores:
                    self._tell(number, total, len(missing) - done)
                self._note(config, next(results))
            self._tell(number, total, 0)

    def _is_over(self) -> bool:
        return self._max_minutes is not None and bool(self.scores) and self._spent > 60 * self._max_minutes

    def _note(self, config: Config, score: float) -> None:
        row = self._run.note(
            CANDIDATES,
            {
                "config": config,
                "macs": self._student.cost(self._subnets.plan(config)).macs,
                "score": score if math.isfinite(score) else None,
                "budget": self._budget,
                "seconds": round(time.monotonic() - self._started, 3),
            },
        )
        # The main process's numbers, its clock too, so that all processes go on alike.
        scored = Row.read(row, self._subnets)
        self._known[config], self._spent = scored, scored.seconds
        self.scores[config] = scored.score

    def _tell(self, number: int, total: int, left: int) -> None:
        best = self.best()
        self._told = time.monotonic()
        self._run.emit(
            SearchStep(
                generation=number,
                generations=total,
                left=left,
                scored=len(self.scores),
                best=self.scores[best],
                cost=self._student.cost(self._subnets.plan(best)),
                config=self._subnets.named(best),
                measure=self._measure,
                front=pareto([(self._known[config].macs, score) for config, score in self.scores.items()]),
            )
        )

    def _warn(self, number: int, total: int) -> None:
        warnings.warn(
            f"The search stopped at max_minutes={self._max_minutes:g} in generation {number} of {total}, with "
            f"{len(self.scores)} subnets scored; the best of them is used.",
            GansdkWarning,
            stacklevel=2,
        )

"""Pruners: what stays of a student."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch

from gansdk.budget.cost import Limits
from gansdk.channels.groups import Plan
from gansdk.contracts import Batch, Contract
from gansdk.events import Event
from gansdk.interfaces.student import Inherit, Student
from gansdk.interfaces.task import Task
from gansdk.interfaces.teacher import Teacher

Item = TypeVar("Item")
Result = TypeVar("Result")


class Run(Protocol):
    """What a pruner sees of the run it is called in."""

    seed: int
    rng: torch.Generator
    contract: Contract

    @property
    def teacher(self) -> Teacher:
        """The generator to imitate."""

    @property
    def task(self) -> Task:
        """The family's own losses."""

    def probe_batches(self, count: int) -> list[Batch] | None:
        """A few fixed training batches for importance and calibration; None if there is no data."""

    def synthetic_batches(self, count: int) -> list[Batch]:
        """A few fixed inputs within the contracts' ranges that are made without any data; without targets.

        See `gansdk.toolkit.synthetic`. They rank and repair less well than real images. None where only a plan is asked
        for, at once: then the weights alone must do.
        """

    def distil(self, steps: int, *, before_step: Callable[[int], None] | None = None) -> None:
        """Train the student of the run in its present form."""

    def score(self, plan: Plan) -> float:
        """Mean absolute error of a subnet on the "search" split, to the ground truth or else to the teacher."""

    @property
    def scored_images(self) -> int:
        """Images of the "search" split that `score` looks at, 0 if there is no data; the fewest of several routes."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """The function's results, in the order of the items: each process works out its share, and all see all.

        Every process must ask for the same items. Work begins when a result is asked for, on one item per process at
        a time, so that little is lost where a search ends, or is killed, on the way. Results travel pickled.
        """

    def note(self, name: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Append a row of JSON data to the run's notes of that name, for a continued run to read.

        Returns the main process's row in every process, so that all of them go on with the same numbers.
        """

    def notes(self, name: str) -> Sequence[Mapping[str, Any]]:
        """All rows of that name so far: of this start, of earlier ones, and of the searches for other budgets.

        Several students of one run share their notes, so a row says what it holds for.
        """

    def emit(self, event: Event) -> None:
        """Tell plugins and observers."""


class Pruner(ABC):
    """Chooses what to keep. Never edits the student's structure; training it through the run is allowed."""

    inherit: Inherit = "all"
    """Which weights the carved student takes along."""
    trains: bool = False
    """Whether it trains the student through the run before the plan is known, so that a distiller must say on what."""
    scored_images: int = 8
    """Images of the "search" split that `Run.score` looks at, at most; of each route."""
    changeable: frozenset[str] = frozenset()
    """Options that a run under way may be continued with other values of, such as a limit of time."""

    def prepare(self, student: Student, limits: Sequence[Limits], run: Run) -> None:
        """Do once what the searches for all these limits share, such as training shared weights.

        `limits` are those of all students of the run, the tightest last. Every one of them is searched in, and carved
        from, the weights this leaves in `student`. A continued run calls it again: what was trained through the run
        or noted is found as it was. The default does nothing. Raises BudgetUnreachable(floor=...) before any work.
        """

    @abstractmethod
    def search(self, student: Student, limits: Limits, run: Run) -> Plan:
        """A plan within the limits. Raises BudgetUnreachable(floor=...) before any work if none is.

        Called after `prepare`; of several students the tightest comes first.
        """

    def recover(self, full: Student, carved: Student, plan: Plan, run: Run) -> None:
        """Repair the carved student's weights before distillation; the default leaves them as they are."""

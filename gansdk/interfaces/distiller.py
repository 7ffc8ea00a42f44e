"""Distillers: terms of the student's loss, and regimes, which own the step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from gansdk.contracts import Batch, Metrics, Observation, Route
from gansdk.errors import MissingData
from gansdk.interfaces.source import DataSource
from gansdk.interfaces.student import Student
from gansdk.interfaces.task import Task
from gansdk.interfaces.teacher import Teacher
from gansdk.interfaces.training import State, Training
from gansdk.text import quoted

if TYPE_CHECKING:
    from gansdk.interfaces.adapter import Adapter, Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Training):
    """One training stage of a student: the supernet, or the carved student."""

    student: Student
    teachers: Sequence[Teacher]
    task: Task
    terms: Sequence[Term] = ()
    """Summands that the regime adds to the student's loss."""
    score: Callable[[], float] | None = None
    """Lower is better, on the "search" split."""


class Term(ABC):
    """One summand of the student's loss. Pure in what it is given; owns at most its connectors."""

    name: str
    """Key of its metric, e.g. "gka"."""
    weight: float = 1.0
    needs_image: bool = False
    """Whether it reads `Observation.image` of the teacher; if no term does, the teacher stops early."""
    routes: tuple[Route, ...] | None = None
    """Of several routes that are trained together only these; None for all."""
    anchors_low_frequencies: bool = False
    """Whether the term alone fixes colours and brightness; if no term does, the task's loss must have weight."""

    def holds_for(self, route: Route) -> bool:
        """Whether it is summed into the loss of that route."""
        return self.routes is None or route in self.routes

    def taps(self, available: Sequence[str]) -> tuple[str, ...]:
        """Which of the taps that both sides offer it wants observed; () for images only."""
        return ()

    def prepare(self) -> None:
        """Load what the term needs, such as another network, or say what is missing; called before any compute."""

    def check(self, images: Sequence[int]) -> None:
        """Refuse images that it is not defined for; called before any compute.

        `images`: (N, C, H, W) of what the student makes in a training step.

        Raises:
            IncompatibleParts: why, and what to change.
        """

    def bind(self, stage: Stage) -> None:
        """Called once per stage, before its first step: size connectors by `stage.student.width(tap)`.

        `stage.teachers` are then those that the term is compared with: one, if it reads feature maps.
        """

    def encode(self, seen: Observation) -> Observation:
        """What the term reads off one side alone, by default what was seen.

        Called once a step for the student, however many teachers it is compared with, and once for each of them.
        """
        return seen

    @abstractmethod
    def __call__(self, student: Observation, teacher: Observation) -> Tensor:
        """Compare both sides, as `encode` gave them: (), unweighted, with gradient to the student only."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Connectors, trained with the student."""
        return iter(())

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None: ...


class Regime(ABC):
    """Which networks exist, who supplies inputs, and who is updated when. One per run."""

    uses_task: bool = True
    """Whether the student learns by the family's task too, so that its discriminator is saved with it."""
    joint: bool = False
    """Whether it trains generators of several routes together, by the routes of its batches."""
    trains_teachers: bool = False
    """Whether its teachers learn in the run, which a pruner that trains too makes dear."""
    loss_may_grow: bool = False
    """Whether the metric "loss" may grow tenfold though nothing is wrong, because its targets or inputs change; if not,
    such a run is stopped as diverged."""
    tells: frozenset[str] = frozenset({"loss"})
    """The metrics of its own, besides those of terms, whose names no term may have, and those with a "/" in them."""

    def teachers(self, reference: Teacher, adapter: Adapter) -> Sequence[Teacher]:
        """The teachers of the run; the default is the given generator, frozen.

        What is drawn from torch's global generator follows the run's seed.
        """
        return (reference,)

    def source(self, data: DataSource | None, generator: Generator, *, patch: int | None = None) -> DataSource:
        """Where inputs come from; a data-free regime returns its own, and may refuse the generator.

        `data` is what the user gave, opened. `patch`: the side of training inputs that was asked for.
        """
        if data is None:
            raise MissingData(
                "This distiller needs images, but data=None. Pass data='folder/' or data='photos' (the embedded "
                "photographs), or use distiller=None to prune only."
            )
        return data

    def check(self, terms: Sequence[Term], routes: Collection[Route]) -> None:
        """Refuse terms that do not go with it, where these routes are trained; called before any compute.

        A regime whose own losses say nothing of colours and brightness wants a term that does, or the task's loss:
        `gansdk.toolkit.terms.check_anchored`.

        Raises:
            IncompatibleParts: a term is missing, or one too many.
        """

    @abstractmethod
    def bind(self, stage: Stage) -> None:
        """Prepare for one stage: make optimisers over `stage.student` and the terms' connectors anew."""

    @abstractmethod
    def step(self, batch: Batch) -> Metrics:
        """One update of the student. Detached 0-d tensors, no host synchronisation."""

    def learned(self) -> Mapping[str, nn.Module]:
        """Generators that learned in the run beside the student of one route, by name, to be scored with it."""
        return {}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None: ...


@dataclass(frozen=True)
class Distiller:
    """What a distiller plugin's factory returns: terms, or a regime, or both."""

    terms: tuple[Term, ...] = ()
    regime: Regime | None = None
    needs: frozenset[str] | None = None
    """The capabilities it needs with these options, where they differ from those that its spec names."""

    def __post_init__(self) -> None:
        """Raise TypeError for terms that are none, and for a regime that is none."""
        terms = self.terms if isinstance(self.terms, Sequence) else (self.terms,)
        if strange := [term for term in terms if not isinstance(term, Term)]:
            raise TypeError(f"The terms of a Distiller contain {quoted(strange[0])}, which is not a gansdk.Term.")
        if self.regime is not None and not isinstance(self.regime, Regime):
            raise TypeError(f"The regime of a Distiller is {quoted(self.regime)}, which is not a gansdk.Regime.")
        if self.needs is not None and not isinstance(self.needs, frozenset):
            raise TypeError(f"The needs of a Distiller are {quoted(self.needs)}; write a frozenset of capabilities.")

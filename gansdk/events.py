"""What a run tells its observers. Observers see; they cannot change anything. Torch-free."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gansdk.budget.cost import Cost
from gansdk.errors import GansdkWarning


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of everything a run tells; later versions add kinds and fields, never remove them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillerChosen(Event):
    """What distiller="auto" came to; told once, before the first stage."""

    distillers: tuple[str, ...]
    """Their names."""
    task_weight: float
    """Of the family's own loss beside them; 0 if the teacher alone is imitated."""
    reason: str
    """Why, in a sentence or two, with what was measured of the teacher."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted(Event):
    """A stage ("search", "distil", "evaluate") begins."""

    stage: str
    steps: int
    """Steps it will take; 0 if that is not known."""
    done: int = 0
    """Those that an earlier start of the run has taken: the stage continues from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSaved(Event):
    """What a stage came to is in the run's folder; a kill from now on costs at most what comes after it."""

    stage: str
    folder: str
    """Where the run is kept."""
    step: int = 0
    """Training steps that are saved; 0 if the stage does not train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone(Event):
    """Training came to `step`; told once per logging interval, not once per step."""

    stage: str
    step: int
    """Steps done, from 1 to `steps`."""
    steps: int
    metrics: Mapping[str, float]
    """Means over the interval, under the stable names of the terms."""
    wait_s: float = 0.0
    """Seconds of the interval spent waiting for images."""
    rate: float = 0.0
    """Steps per second over the interval; 0 if it was not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStep(Event):
    """A pruner that searches scored one more generation of subnets, or a part of one that takes long."""

    generation: int
    """From 1 to `generations`."""
    generations: int
    scored: int
    """Subnets scored so far."""
    best: float
    """The lowest score so far, of a subnet that costs `cost`."""
    cost: Cost
    front: tuple[tuple[int, float], ...]
    """(MACs, score) of the subnets that none is both cheaper and better than, cheapest first."""
    left: int = 0
    """Subnets of the generation that are not scored yet; 0 if it is done."""
    config: Mapping[str, int] = field(default_factory=dict)
    """The best subnet as a configuration: knob or group -> its number."""
    measure: str = ""
    """What the scores are and what on, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One way to cut and repair the network, carved and measured before any training."""

    name: str
    """How it was made: "cost, refitted"."""
    cost: Cost
    psnr: float
    """Of its images to the teacher's, mean over images, in dB; -inf where one is not finite."""
    worst: float
    """The same of the image that is furthest."""
    chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlansCompared(Event):
    """A pruner tried out several plans, so far these."""

    trials: tuple[Trial, ...]
    measure: str
    """What was measured and what on, in words."""
    done: bool = False
    """Whether these are all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFound(Event):
    """The pruner chose."""

    widths: Mapping[str, int]
    """Channels kept, by group."""
    cost: Cost
    """In closed form, before anything was carved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carved(Event):
    """The student is now physically small, and was compared with the plan it came from."""

    cost: Cost
    full: Cost
    """Of the generator before pruning."""
    max_error: float
    """Largest difference, in output units, between the carved student and the view of the same plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """Something a user should know that does not stop the run."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The run ended well."""

    seconds: float
    """Wall time of the whole run."""
    output: str = ""
    """The folder the student was saved to; empty if it was not saved."""


@contextmanager
def collected(told: list[str], tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Add every warning of ours to `told`, once, and call `tell` with it."""
    show = warnings.showwarning

    def note(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, GansdkWarning):
            if str(message) not in told:
                told.append(str(message))
            if tell is not None:
                tell(str(message))
        show(message, category, *rest, **more)

    with warnings.catch_warnings():
        warnings.showwarning = note
        yield

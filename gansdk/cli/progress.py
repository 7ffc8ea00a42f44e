"""A run's events, drawn on a terminal: what was found, how far training is, how long it will take. Torch-free."""

from __future__ import annotations

from math import isfinite
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from gansdk.budget.cost import Cost
from gansdk.cli.printing import say
from gansdk.events import (
    Carved,
    DistillerChosen,
    Event,
    Finished,
    PlanFound,
    PlansCompared,
    SearchStep,
    StageSaved,
    StageStarted,
    StepDone,
    Trial,
)
from gansdk.runtime.signals import Stopped
from gansdk.text import readable


class ProgressObserver:
    """Shows events on `console`, as a bar on a terminal and as a line for every tenth of a stage elsewhere.

    Use as a context manager, and pass it in `observers`. Warnings are not repeated: Python shows them.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TextColumn("{task.fields[details]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._stage: TaskID | None = None
        self._steps: dict[str, int] = {}
        self._kept = ""

    def __enter__(self) -> ProgressObserver:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if isinstance(error, Stopped):
            error.kept = self._kept

    def __call__(self, event: Event) -> None:
        """Show one event; kinds that are not known are passed over."""
        match event:
            case DistillerChosen(distillers=names, task_weight=weight, reason=reason):
                self._say(f"distiller 'auto' is {', '.join(names)}, task_weight {weight:g}: {reason}")
            case StageStarted():
                self._begin(event)
            case StageSaved():
                self._kept = self._saved(event)
            case StepDone():
                self._advance(event)
            case SearchStep():
                self._say(_searched(event))
            case PlansCompared(trials=trials, done=done):
                self._say(f"best: {next(one.name for one in trials if one.chosen)}" if done else _tried(trials[-1]))
            case PlanFound(cost=cost):
                self._say(f"plan found: {_costs(cost)}")
            case Carved(cost=cost, full=full, max_error=error):
                self._say(f"carved: {_costs(full)} -> {_costs(cost)}, largest error {error:.1e}")
            case Finished(seconds=seconds, output=output):
                self._kept = f"all, in {output}" if output else ""
                self._say(f"finished in {seconds:.0f} s")

    def _begin(self, event: StageStarted) -> None:
        title, steps, done = _title(event.stage), event.steps, event.done
        self._steps[event.stage] = steps
        self._stage = self._bar.add_task(title, total=steps, completed=done, details="") if steps else None
        if done:
            self._say(f"continues {title!r} from step {done} of {steps}")
        elif self._stage is None or not self._console.is_terminal:
            self._say(title)

    def _saved(self, event: StageSaved) -> str:
        steps = self._steps.get(event.stage, event.step)
        reached = f", step {event.step} of {steps}" if event.step else ""
        return f"everything up to {_title(event.stage)!r}{reached}, in {event.folder}"

    def _advance(self, event: StepDone) -> None:
        if self._stage is None:
            # A resumed or foreign loop may tell steps without a start.
            self._stage = self._bar.add_task(_title(event.stage), total=event.steps, details="")
        details = _details(event)
        before = self._bar.tasks[self._stage].completed
        self._bar.update(self._stage, completed=event.step, details=details)
        if not self._console.is_terminal and 10 * event.step // event.steps > 10 * before // event.steps:
            self._say(f"{_title(event.stage)}: {event.step}/{event.steps} steps, {details}")

    def _say(self, text: str) -> None:
        say(self._console, text)


def _title(stage: str) -> str:
    """The name of a stage in words: "4x: distil" for "4x/distil-0", and "part 2" for what a number 1 says."""
    rung, _, name = stage.rpartition("/")
    phase, _, number = name.rpartition("-")
    if not number.isdecimal():  # a name of a plugin's own
        phase, number = name, "0"
    part = f", part {int(number) + 1}" if int(number) else ""
    return readable(f"{rung}: {_PHASES.get(phase, phase)}{part}".removeprefix(": "))


_PHASES = {"prepare": "training before the search"}


def _costs(cost: Cost) -> str:
    return f"{cost.macs / 1e6:,.1f} M MACs, {cost.params:,} parameters"


def _searched(event: SearchStep) -> str:
    """What was found so far, and the front by its two ends."""
    remaining = f" ({event.left} to go)" if event.left else ""
    done = f"generation {event.generation}/{event.generations}{remaining}: {event.scored} subnets scored"
    text = f"{done}, best {event.best:.4g} at {_costs(event.cost)}"
    if len(event.front) < 2:
        return text
    ends = " to ".join(f"{score:.4g} at {macs / 1e6:,.1f} M" for macs, score in (event.front[0], event.front[-1]))
    return f"{text}; front of {len(event.front)}: {ends}"


def _tried(trial: Trial) -> str:
    """A plan that was tried out, by what it came to."""
    distances = f"{trial.psnr:.2f} dB to the teacher, worst image {trial.worst:.2f} dB"
    return f"tried {trial.name}: {distances if isfinite(trial.worst) else 'an image is not finite'}"


def _details(event: StepDone) -> str:
    """The loss (or the first metric), steps per second and seconds to go; what was not measured is left out."""
    metric = "loss" if "loss" in event.metrics else next(iter(event.metrics), None)
    facts = [] if metric is None else [f"{metric} {event.metrics[metric]:.4f}"]
    if event.rate:
        facts += [f"{event.rate:.1f} steps/s", f"{(event.steps - event.step) / event.rate:.0f} s left"]
    return readable(", ".join(facts))

"""The interfaces every part implements: Teacher, Student, Pruner, Term, Regime, DataSource, Task.

Adapters are in `gansdk.adapter`. Every optional method has a default, so a plugin of today keeps working.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from gansdk.budget.cost import Cost, Limits
from gansdk.channels.groups import Plan, Space
from gansdk.contracts import MAIN, Batch, Contract, Metrics, Observation, Pairing, Route
from gansdk.errors import MissingData
from gansdk.events import Event
from gansdk.text import quoted

if TYPE_CHECKING:
    from gansdk.adapter import Adapter, Generator

Item = TypeVar("Item")
Result = TypeVar("Result")
Inherit = Literal["none", "norms", "all"]
State = dict[str, Any]
"""Tensors, numbers, strings and containers of them: what `torch.load(weights_only=True)` reads back."""
PROBE_STEP = 10**9
"""Probe batches are training batches of steps no training reaches."""


class TrainingProcesses(Protocol):
    """What training needs to know of the processes it runs in."""

    @property
    def device(self) -> torch.device: ...

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    def backward(self, loss: Tensor) -> None:
        """Backpropagate, with mixed precision scaling where it is on."""

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make every process hold the mean of all gradients; nothing to do for one process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How something is trained: for how long, how fast, in which processes. Grows by fields with defaults."""

    steps: int
    rng: torch.Generator
    """For whatever is random; the global generator is never touched."""
    processes: TrainingProcesses
    learning_rate: float = 3e-4
    """Of the generator, the largest of the schedule."""

    @property
    def device(self) -> torch.device:
        return self.processes.device


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimisation:
    """How a family trains its generators: Adam's settings and the schedule of its learning rate."""

    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["cosine", "constant-linear"] = "cosine"
    """ "cosine": 2 % warm-up, then a cosine to 1 %; "constant-linear": constant for a part of the steps, then
    linearly to zero (pix2pix, Isola et al., CVPR 2017)."""
    constant: float = 0.5
    """That part, from 0 to 1: 0.4 for the 100 + 150 epochs of Cityscapes (Li et al., CVPR 2020)."""


class Teacher(ABC):
    """A generator to imitate. Frozen by default; an online one also learns."""

    contracts: Mapping[Route, Contract]
    taps: tuple[str, ...]
    """Names of feature maps by meaning ("stem", "body3"), in execution order; the student uses the same."""
    optimisation: Optimisation = Optimisation()
    """How an online teacher learns."""
    needs_pairs: bool = False
    """Whether an online teacher learns from paired data only."""

    @abstractmethod
    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        """Run on `x`: (N, channels_in, H, W). Differentiable in `x`, never in the teacher's weights.

        With `image=False` the forward pass may stop once every asked tap was seen.
        """

    def widths(self, taps: Sequence[str], device: torch.device) -> Mapping[str, int]:
        """Channels of each tap: what connectors map to. `device` is the one it runs on.

        The default looks at one black image of the contract's size; a teacher whose observations leave traces in it
        must say it otherwise.
        """
        route, contract = next(iter(self.contracts.items()))
        with torch.no_grad():
            seen = self.observe(torch.zeros(contract.example_shape, device=device), taps, image=False, route=route)
        return {tap: seen.features[tap].shape[1] for tap in taps}

    def check(self, batch: Batch) -> None:
        """Refuse images that an online teacher cannot learn from, as `Task.check`; called before any compute."""

    def bind(self, training: Training) -> None:
        """Prepare an online teacher to learn: make its optimisers anew."""

    def learn(self, batch: Batch) -> Metrics:
        """Take one optimiser step of an online teacher; a frozen one has nothing to learn."""
        return {}

    def teach(self, batch: Batch, taps: Sequence[str] = ()) -> tuple[Mapping[Route, Observation], Metrics]:
        """Learn from a batch, and give what was shown of it before that step, detached, by the batch's routes.

        The default observes and learns; a teacher that can share the forward pass between both does so here.
        """
        with torch.no_grad():
            shown = {route: self.observe(x, taps, route=route) for route, x in batch.inputs.items()}
        return shown, self.learn(batch)

    def parts(self) -> Mapping[Route, Teacher]:
        """One teacher for each of several routes; itself where there is one."""
        return {next(iter(self.contracts)): self}

    def networks(self) -> Mapping[Route, nn.Module]:
        """Plain modules, for scoring and reports."""
        return {}

    def discriminators(self) -> Mapping[Route, Mapping[str, Tensor]]:
        """Weights of the discriminators an online teacher learns against; that of a route judges its images."""
        return {}

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None: ...


class Student(ABC):
    """The generator being made small, seen through whichever subnet is active."""

    contracts: Mapping[Route, Contract]
    taps: tuple[str, ...]
    space: Space
    module: nn.Module
    """Holds every tensor that the space names, under that name."""
    plan: Plan
    """Active now; starts full."""
    fresh: bool = False
    """Whether its weights are new, rather than inherited from the teacher."""
    blocks: tuple[str, ...] = ()
    """Paths of the blocks that can be left out, in execution order: depth, which is independent of width."""

    def at_depth(self, depth: int) -> AbstractContextManager[None]:
        """Leave out all but the first `depth` of `blocks` while this lasts; those give what they are given."""
        return nullcontext()

    def parts(self) -> Mapping[Route, Student]:
        """One student for each of several routes, with their shares of the plan; itself where there is one."""
        return {next(iter(self.contracts)): self}

    def split(self, plan: Plan) -> Mapping[Route, Plan]:
        """What a plan means for each of `parts`."""
        return dict.fromkeys(self.parts(), plan)

    @abstractmethod
    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        """Run the active subnet on `x`: (N, channels_in, H, W), with gradients to the shared weights."""

    @abstractmethod
    def activate(self, plan: Plan) -> None:
        """Make `plan` the active subnet."""

    @abstractmethod
    def channels(self, tap: str) -> Tensor:
        """int64 (C_active,): ids of the tap's active channels, each below `width(tap)`."""

    @abstractmethod
    def width(self, tap: str) -> int:
        """Channels of the tap when nothing is pruned: the size of a connector."""

    @abstractmethod
    def cost(self, plan: Plan) -> Cost:
        """Cost of one image at the contract's size, in closed form: no forward pass."""

    @abstractmethod
    def carve(self, plan: Plan, *, inherit: Inherit = "all") -> Student:
        """A new, physically smaller student. `inherit`: which weights it takes along (CAT: "none")."""

    @abstractmethod
    def parameters(self) -> Iterator[nn.Parameter]:
        """What an optimiser trains."""

    @abstractmethod
    def networks(self) -> Mapping[Route, nn.Module]:
        """Plain torch modules for export and saving."""

    @abstractmethod
    def train(self, mode: bool = True) -> None:
        """Switch between training and inference behaviour as the contract's `inference` says."""

    def state_dict(self) -> State:
        return {
            f"{route}/{name}": value
            for route, network in self.networks().items()
            for name, value in network.state_dict().items()
        }

    def load_state_dict(self, state: State) -> None:
        for route, network in self.networks().items():
            prefix = f"{route}/"
            network.load_state_dict(
                {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            )


class Task(ABC):
    """The family's own training losses: what a generator of this kind is trained for without a teacher.

    Scalars are means over the batch; `fakes[route]`: (N, channels_out, sH, sW), the generator's images.
    """

    optimisation: Optimisation = Optimisation()
    needs_pairs: bool = False
    """Whether a target must show what its input should become; samples of the other domain do not serve."""
    generator_first: bool = False
    """Whether the generator's step precedes the discriminator's."""
    judges_fresh: bool = True
    """Whether a discriminator whose step comes second judges fresh images (SPADE), or those of the first step
    (CycleGAN)."""
    needs_references: bool = True
    """Whether `generator_loss` reads its references; if not, no teacher's image is made for it."""

    @property
    def discriminator(self) -> Mapping[str, Tensor] | None:
        """Weights of the discriminator as they are now; None for families without one."""
        return None

    def discriminators(self) -> Mapping[Route, Mapping[str, Tensor]]:
        """Weights of all discriminators as they are now, each by the route whose images it judges."""
        return {} if self.discriminator is None else {MAIN: self.discriminator}

    def describe(self) -> dict[str, Any]:
        """JSON facts for the report: the size of the discriminator, and what else decides the training."""
        return {}

    def prepare(self) -> None:
        """Load what training needs beside the discriminator, or say what is missing; called before any compute."""

    def check(self, batch: Batch) -> None:
        """Refuse images that it cannot train on, such as ones too small for its discriminator; before any compute.

        `batch` has the shapes of a training step.

        Raises:
            DataError: why, and what to change.
        """

    def bind(self, training: Training) -> None:
        """Called once per stage: move discriminators to its device and make their optimisers anew."""

    def discriminate(self, batch: Batch, fakes: Mapping[Route, Tensor]) -> Metrics:
        """One discriminator step on detached `fakes`; families without one do nothing."""
        return {}

    @abstractmethod
    def generator_loss(
        self, batch: Batch, fakes: Mapping[Route, Tensor], references: Mapping[Route, Tensor]
    ) -> tuple[Tensor, Metrics]:
        """(), with gradient to the fakes, and its detached parts by name.

        `references[route]`: (N, channels_out, sH, sW), what each fake should look like: the ground truth of a
        paired batch, else the teacher's image; routes that have neither are left out.
        """

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None: ...


class DataSource(ABC):
    """Images in the contract's channels and ranges.

    No image that `train_batch` draws from is in "search" (what subnets are compared on) or "eval" (what the student is
    scored on). These two may be the same images, where only one part is held out; a run that searches warns of it.
    """

    pairing: Pairing

    @abstractmethod
    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        """The batch of one training step: a pure function of its arguments, so a resumed run sees the same."""

    def probe(self, index: int, *, seed: int) -> Batch:
        """One image for importance, recovery and calibration: the same before, while and after anything is trained."""
        return self.train_batch(1, seed=seed, step=PROBE_STEP + index)

    def examples(self, *, seed: int) -> Iterator[Batch]:
        """A batch of one image for every size that training inputs may have; the default takes the first step's."""
        yield self.train_batch(1, seed=seed, step=0)

    @abstractmethod
    def images(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        """One pass over whole images in fixed order, one image a batch."""

    def references(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        """Real images to compare sets of images with (FID), as targets; inputs where they are known.

        The default gives those of `images(split)` that have a target. Unpaired data gives the other domain's.
        """
        return (batch for batch in self.images(split) if batch.targets)

    def describe(self) -> dict[str, Any]:
        """JSON facts for the report: where the images are from, how many, which were skipped and why."""
        return {}


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
                "This distiller needs images and data=None was given. Pass data='folder/' or "
                "data='photos' (the embedded photographs), or use distiller=None to prune only."
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
            raise TypeError(f"The terms of a Distiller hold {quoted(strange[0])}, which is no gansdk.Term.")
        if self.regime is not None and not isinstance(self.regime, Regime):
            raise TypeError(f"The regime of a Distiller is {quoted(self.regime)}, which is no gansdk.Regime.")
        if self.needs is not None and not isinstance(self.needs, frozenset):
            raise TypeError(f"The needs of a Distiller are {quoted(self.needs)}; write a frozenset of capabilities.")


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


@dataclass(frozen=True, slots=True)
class Quality:
    """One metric of teacher and student on the same images, and how it was measured."""

    metric: str
    """"psnr-y", "kid(efficientnet-lite0)": the name says the protocol and the network behind it."""
    reference: str
    """"ground-truth" or "teacher"."""
    teacher: float | None
    student: float
    images: int
    protocol: str
    extra: Mapping[str, float] = field(default_factory=dict)
    """The same metric for baselines, e.g. {"bicubic": 28.43}."""
    worst: float | None = None
    """The student's value on its worst image, where images are measured one by one."""
    worst_image: str = ""
    """The name of that image."""

"""Adapters: families of generators, the seam where somebody's network meets the SDK."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from gansdk.channels.groups import Knob
from gansdk.contracts import MAIN, Contract, Route, Way
from gansdk.errors import InvalidOption, Unsupported
from gansdk.interfaces.task import Task
from gansdk.interfaces.teacher import Teacher
from gansdk.interfaces.teaching import TeacherFacts, Teaching, by_images
from gansdk.modules.weights import reset_parameters
from gansdk.text import quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A network that a state dict might belong to, with its sizes read from the weights themselves."""

    name: str
    """For messages: "SRResNet x4, 64 channels, 5 blocks"."""
    build: Callable[[], nn.Module]
    """Makes the network with fresh weights; called under the meta device, so it must not look at values."""
    rename: Callable[[str], str] = lambda key: key
    """Checkpoint key -> key of the built network, for official layouts that name things otherwise."""
    ignore: frozenset[str] = frozenset()
    """Checkpoint keys that carry nothing (num_batches_tracked, a constant mean shift)."""


class Adapter(ABC):
    """A family of generators. Nothing here changes the module it is given."""

    name: str = ""
    capabilities: frozenset[str] = frozenset()
    """What it provides beyond its spec, for some of its networks."""
    transforms: tuple[str, ...] = ()
    """Names that `transform` takes."""
    routes: Mapping[Route, Way] = {}
    """The routes that generators of this family can be trained on together; empty where each stands alone."""
    patch: int | None = None
    """Side in pixels of training inputs, as the family's papers have it; None for what fits the network."""

    @abstractmethod
    def accepts(self, module: nn.Module) -> bool:
        """Whether the module is of this family; no false negatives for its own networks."""

    @abstractmethod
    def contract(self, module: nn.Module) -> Contract:
        """Channels, value ranges, scale and the size at which costs are quoted."""

    @abstractmethod
    def taps(self, module: nn.Module) -> Mapping[str, str]:
        """Meaning -> path of the submodule whose output is the feature map, in execution order."""

    def branches(self, module: nn.Module) -> Mapping[str, Sequence[str]]:
        """Submodules that can leave as a whole: path -> layers whose output channels must all be gone for that.

        In their place the parent then holds None (`parent._modules[name]`), and its forward must do without: CAT's
        inception branches, and the norm behind them once all branches of a block are gone.
        """
        return {}

    def blocks(self, module: nn.Module) -> Sequence[str]:
        """Paths of the blocks that the network still makes images without, in execution order.

        Their output may be replaced by their (first) input. Those that change its shape, as some do in a carved
        network, are kept. They are the depth along which data-free distillation grows a student.
        """
        return ()

    def knobs(self, module: nn.Module) -> Sequence[Knob]:
        """Widths that the family's papers set together, by the path of the layer that makes the channels.

        They are the family's search space. Pruners that rank channels obey only those that are `tied`. A group
        belongs to one knob at most; groups of none are free.
        """
        return ()

    @abstractmethod
    def task(self, module: nn.Module, *, discriminator: Mapping[str, Tensor] | None = None) -> Task:
        """The family's own losses and discriminators.

        `discriminator`: the weights of the one that the generator was trained against, to go on from; without
        them it starts fresh. Families without a discriminator take no notice.

        Raises:
            CheckpointError: the weights fit no discriminator of this family.
        """

    def teaching(self, facts: TeacherFacts) -> Teaching:
        """What a student of this family learns from where distiller="auto", given what was measured of its teacher.

        A pure function of the facts, so that a continued run is the same run. The default is for families whose own
        loss is a distance to the truth, and for wrapped generators.
        """
        return by_images(facts)

    def options(self) -> dict[str, Any]:
        """JSON options from which its factory makes it again: a saved generator's folder remembers them."""
        return {}

    def joint_task(
        self, modules: Mapping[Route, nn.Module], *, discriminators: Mapping[Route, Mapping[str, Tensor]]
    ) -> Task:
        """The losses of generators of all `routes` that are trained together; batches have the routes as keys.

        `discriminators`: weights to go on from; that of a route judges its images, and routes left out start fresh.

        Raises:
            CheckpointError: the weights fit no discriminator of this family.
        """
        raise Unsupported(f"The adapter {self.name!r} has no losses for several generators that are trained together.")

    def bind(self, module: nn.Module) -> Adapter:
        """The adapter to put into that network's Generator, where methods depend on it (the scale of `degrade`)."""
        return self

    def variants(self, state: Mapping[str, Tensor]) -> Iterable[Variant]:
        """Networks of this family that `state` could belong to, best guess first; never raises."""
        return ()

    def describe(self, module: nn.Module) -> dict[str, Any]:
        """JSON from which `build` makes the same network again: sizes and options, no weights."""
        raise Unsupported(f"The adapter {self.name!r} cannot describe its networks, so only exports are saved.")

    def build(self, description: Mapping[str, Any]) -> nn.Module:
        """The network of a description, with fresh weights."""
        raise Unsupported(f"The adapter {self.name!r} cannot build networks from a description.")

    def create(self, architecture: str = "", **sizes: Any) -> nn.Module:
        """A fresh network of the family, initialised as its papers do; "" is the family's usual one.

        Draws from torch's global generator.

        Raises:
            InvalidOption: the family has no such architecture or size; the message names those it has.
        """
        raise Unsupported(f"The adapter {self.name!r} does not create networks to train.")

    def initialise(self, module: nn.Module) -> None:
        """Give every layer fresh weights in place, as the family's papers do, from torch's global generator."""
        reset_parameters(module)

    def learner(self, module: nn.Module, *, discriminator: Mapping[str, Tensor] | None = None) -> Teacher:
        """A teacher that learns by the family's own task, from the module's weights on."""
        from gansdk.generators.online_teacher import OnlineTeacher  # which implements interfaces itself

        return OnlineTeacher(
            module, self.contract(module), self.taps(module), self.task(module, discriminator=discriminator)
        )

    def joint_learner(
        self, modules: Mapping[Route, nn.Module], *, discriminators: Mapping[Route, Mapping[str, Tensor]]
    ) -> Teacher:
        """A teacher of all `routes`, from the modules' weights on; routes left out start fresh, as do discriminators.

        A family with routes offers it. Its batches are those of the source: inputs and targets, under "main".
        """
        raise Unsupported(f"The adapter {self.name!r} does not train several generators together.")

    def learners(self, modules: Sequence[nn.Module], *, shared: int | None = None) -> Sequence[Teacher]:
        """Teachers that learn side by side, from the modules' weights on: each on its own, or with a common critic.

        `shared`: how many of the discriminator's first stages judge all of them, before each has stages of its own;
        the family's usual number if left out. Such a discriminator takes its step when all teachers have taken theirs.
        The default is for families that share nothing.

        Raises:
            InvalidOption: the family's discriminator cannot be shared so.
        """
        if shared:
            raise InvalidOption(
                f"Teachers of the family {self.name!r} have no discriminators, so they cannot share {shared!r} stages. "
                "Omit the option, or pass 0."
            )
        return [self.learner(module) for module in modules]

    def rebuild(self, module: nn.Module, *, width: float = 1.0, deeper: bool = False) -> nn.Module:
        """A fresh network of the same family, wider by `width` and on request deeper (OMGD's teachers)."""
        raise Unsupported(f"The adapter {self.name!r} cannot rebuild its networks wider or deeper.")

    def transform(self, module: nn.Module, name: str) -> nn.Module:
        """A network of the family in another, usually cheaper architecture, for the student to start from.

        It maps the same inputs to the same outputs and has the same taps, perhaps at other paths. What carries over is
        copied; other layers have fresh weights, drawn from torch's global generator.

        Raises:
            Unsupported: the family has no such transform, or this network does not allow it; the message says why.
        """
        raise Unsupported(
            f"The family {self.name!r} has no transform {quoted(name)}; it has {', '.join(self.transforms) or 'none'}."
        )

    def degrade(self, image: Tensor) -> Tensor:
        """(N, channels_out, sH, sW) -> (N, channels_in, H, W): the input an image came from.

        Differentiable and not rounded; needed by data-free distillation, and to make pairs of photographs.
        """
        raise Unsupported(f"The adapter {self.name!r} has no degradation from outputs back to inputs.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """A generator with everything needed to compress it. Made by `gansdk.wrap` or by an adapter."""

    module: nn.Module
    contract: Contract
    adapter: Adapter
    taps: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    """Where the weights came from, for the report."""
    discriminator: Mapping[str, Tensor] | None = None
    """Weights of the discriminator it was trained against, where they are known."""
    way: Way = "forward"
    """Through data of two sides; "backward" makes a source's inputs of its targets, as one way of a CycleGAN does."""
    routes: Mapping[Route, Generator] = field(default_factory=dict)
    """One generator per route, where there are several; `module` then holds theirs, and `contract` is the first's."""

    @property
    def parts(self) -> Mapping[Route, Generator]:
        """The generators by their routes; itself as "main" where it is one."""
        return self.routes or {MAIN: self}

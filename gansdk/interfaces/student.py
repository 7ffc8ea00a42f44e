"""Students: the generator that is made small."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from torch import Tensor, nn

from gansdk.budget.cost import Cost
from gansdk.channels.groups import Plan, Space
from gansdk.contracts import MAIN, Contract, Observation, Route
from gansdk.interfaces.training import State

Inherit = Literal["none", "norms", "all"]


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

"""Teachers: a generator that is imitated and never changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gansdk.contracts import MAIN, Contract, Observation, Route
from gansdk.errors import ContractError
from gansdk.interfaces.teacher import Teacher
from gansdk.modules import taps as tapping
from gansdk.modules.fold import copy_module
from gansdk.modules.norms import input_statistics, tracked_norms


class FrozenTeacher(Teacher):
    """A generator with fixed weights: a function of its input.

    Works on a copy, so the given module keeps its mode, flags and gradients. Runs as the contract's
    `inference` says: with "batch-statistics", norms use those of the batch and leave the running ones alone.
    Dropout is off, since noise is nothing to imitate.

    Raises:
        ContractError: a tap's path (`taps`: name -> submodule path) does not exist.
    """

    def __init__(
        self, module: nn.Module, contract: Contract, taps: Mapping[str, str], *, device: torch.device | str = "cpu"
    ) -> None:
        self.contracts = {MAIN: contract}
        self.taps = tuple(taps)
        self._paths = dict(taps)
        self._module = copy_module(module).to(device).eval().requires_grad_(False)
        for tap, path in taps.items():
            tapping.submodule(self._module, path, tap)
        batch_statistics = contract.inference == "batch-statistics"
        self._norms = tracked_norms(self._module) if batch_statistics else ()
        self._calls: dict[torch.Size, dict[str, int]] = {}

    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        """As the interface says; without `image`, layers behind the last tap do not run.

        Which call of a submodule is its last is found by one whole pass for every new input shape.

        Raises:
            ContractError: the input, a tap or the route is not of this generator.
        """
        if route not in self.contracts:
            raise ContractError(f"The route {route!r} does not exist; this teacher offers {', '.join(self.contracts)}.")
        self.contracts[route].check_input(x)
        paths = tapping.select(self._paths, taps)
        calls = self._calls_for(x) if paths and not image else None
        with input_statistics(self._norms):
            return tapping.observe(self._module, self._module, x, paths, image=image, calls=calls)

    def networks(self) -> Mapping[Route, nn.Module]:
        return {MAIN: self._module}

    def _calls_for(self, x: Tensor) -> dict[str, int]:
        if x.shape not in self._calls:
            with torch.no_grad(), input_statistics(self._norms):
                self._calls[x.shape] = tapping.count_calls(self._module, self._module, x, self._paths)
        return self._calls[x.shape]

"""The student: one module seen through whichever subnet is active."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from gansdk.budget.cost import Cost
from gansdk.channels.carve import carve, carve_space, kept_entries
from gansdk.channels.cost import CostModel
from gansdk.channels.elastic import Elastic
from gansdk.channels.groups import Plan, Space
from gansdk.channels.tracing.trace import trace
from gansdk.contracts import MAIN, Contract, Observation, Route
from gansdk.interfaces import Generator, Inherit, Student
from gansdk.modules import taps as tapping
from gansdk.modules.fold import fold
from gansdk.modules.norms import input_statistics, tracked_norms
from gansdk.modules.programs.graph import Program
from gansdk.modules.randomness import seeded
from gansdk.modules.weights import reset_parameters

REOPENED = (
    "It was loaded as a traced program, which has no channel groups or taps. It can be run, scored and exported, but "
    "not compressed further. To compress it, wrap the module that gansdk.load(directory, network=net) returns."
)


class ElasticStudent(Student):
    """A generator and its channel groups. Subnets share the module's weights; `carve` makes one of them real.

    Norms with tracked statistics keep them fixed while a student that inherits all weights is trained: it
    then trains exactly as it will run, at any batch size and on any number of processes. A student with
    fresh weights tracks statistics as usual. Dropout is always off: the student imitates a function, without noise.
    """

    def __init__(
        self,
        module: nn.Module,
        space: Space,
        contract: Contract,
        taps: Mapping[str, str],
        *,
        tap_ids: Mapping[str, Tensor] | None = None,
        tap_widths: Mapping[str, int] | None = None,
        fresh: bool = False,
        blocks: Sequence[str] = (),
        initialise: Callable[[nn.Module], None] | None = None,
    ) -> None:
        self.module = module
        self.space = space
        self.contract = contract
        self.contracts = {MAIN: contract}
        self.taps = tuple(taps)
        self.plan = space.full_plan()
        self._paths = dict(taps)
        self._elastic = Elastic(module, space)
        self._costs = CostModel(space)
        self._tap_ids = dict(tap_ids) if tap_ids is not None else {tap: self._own_ids(tap) for tap in taps}
        self._tap_widths = dict(tap_widths or {tap: len(ids) for tap, ids in self._tap_ids.items()})
        self.fresh = fresh
        self._candidates = tuple(blocks)
        self._initialise = initialise or reset_parameters
        self._norms = tracked_norms(module)
        self._dropouts = [part for part in module.modules() if isinstance(part, _DropoutNd)]
        module.requires_grad_(True)

    @classmethod
    def of(cls, generator: Generator, *, fresh: bool = False) -> ElasticStudent:
        """The full-size student of a generator; the generator's module is copied, never touched.

        `fresh`: its weights, or some of them, were never trained.
        """
        module, notes = fold(generator.module)
        module.eval()
        contract = generator.contract
        adapter = generator.adapter
        example = torch.zeros(contract.example_shape)
        space = trace(module, example, generator.taps, adapter.branches(module), adapter.knobs(module))
        if isinstance(generator.module, Program):
            notes = (*notes, REOPENED)
        name = generator.source or type(generator.module).__name__
        space = replace(space, name=name, notes=(*notes, *space.notes))
        return cls(
            module,
            space,
            contract,
            generator.taps,
            blocks=adapter.blocks(module),
            fresh=fresh,
            initialise=adapter.initialise,
        )

    def observe(self, x: Tensor, taps: Sequence[str] = (), *, image: bool = True, route: Route = MAIN) -> Observation:
        paths = tapping.select(self._paths, taps)
        batch_statistics = self.contract.inference == "batch-statistics" and not self.module.training
        with input_statistics(self._norms) if batch_statistics else nullcontext():
            return tapping.observe(lambda y: self._elastic.call(self.plan, y), self.module, x, paths, image=image)

    @cached_property
    def blocks(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the adapter's whose output has the shape of their input, at this student's widths."""
        paths: list[str] = []
        with ExitStack() as hooks:
            for path in self._candidates:

                def note(part: nn.Module, args: tuple[Tensor, ...], output: Tensor, path: str = path) -> None:
                    if output.shape == args[0].shape:
                        paths.append(path)

                hooks.enter_context(self.module.get_submodule(path).register_forward_hook(note))
            if self._candidates:
                self._elastic.dry_run(self.space.full_plan(), torch.zeros(self.contract.example_shape))
        return tuple(path for path in self._candidates if path in paths)

    @contextmanager
    def at_depth(self, depth: int) -> Iterator[None]:
        # Only what the blocks do is replaced, so that names of weights and hooks on taps stay as they are.
        left_out = [self.module.get_submodule(path) for path in self.blocks[depth:]]
        try:
            for block in left_out:
                block.forward = _given_back
            yield
        finally:
            for block in left_out:
                vars(block).pop("forward", None)

    def activate(self, plan: Plan) -> None:
        self.plan = plan

    def channels(self, tap: str) -> Tensor:
        ids = self._tap_ids[tap]
        name = f"tap:{tap}"
        for dim in self.space.axes_of.get(name, {}):
            entries = kept_entries(self.space, self.plan, name, dim)
            ids = ids if entries is None else ids[entries]
        return ids

    def width(self, tap: str) -> int:
        return self._tap_widths[tap]

    def cost(self, plan: Plan) -> Cost:
        return self._costs.cost(plan)

    def carve(self, plan: Plan, *, inherit: Inherit = "all") -> ElasticStudent:
        active, self.plan = self.plan, plan
        tap_ids = {tap: self.channels(tap) for tap in self.taps}
        self.plan = active
        module = carve(self.module, self.space, plan)
        if inherit != "all":
            _afresh(module, self._initialise, keep_norms=inherit == "norms")
        return ElasticStudent(
            module,
            carve_space(self.space, plan),
            self.contract,
            self._paths,
            tap_ids=tap_ids,
            tap_widths=self._tap_widths,
            fresh=self.fresh or inherit != "all",
            blocks=self._candidates,
            initialise=self._initialise,
        )

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.module.parameters()

    def networks(self) -> Mapping[Route, nn.Module]:
        return {MAIN: self.module}

    def train(self, mode: bool = True) -> None:
        self.module.train(mode)
        for dropout in self._dropouts:
            dropout.eval()
        if mode and not self.fresh and self.contract.inference == "eval":
            for norm in self._norms:
                norm.eval()

    def _own_ids(self, tap: str) -> Tensor:
        dims = self.space.axes_of.get(f"tap:{tap}", {1: ()})
        return torch.arange(self.space.shapes[f"tap:{tap}"][next(iter(dims))])


def _given_back(x: Tensor, *_: object) -> Tensor:
    return x


def _afresh(module: nn.Module, initialise: Callable[[nn.Module], None], *, keep_norms: bool) -> None:
    """Give every layer its fresh weights, from a fixed seed and without moving the global generator."""
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
    states = {part: copy.deepcopy(part.state_dict()) for part in module.modules() if isinstance(part, norms)}
    with seeded(0):
        initialise(module)
    if keep_norms:
        for part, state in states.items():
            part.load_state_dict(state)

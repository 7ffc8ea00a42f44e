"""What is in a student's folder: the names of its files and what its config.json holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from gansdk.channels.groups import Plan, Space
from gansdk.errors import ContractError
from gansdk.interfaces import Generator
from gansdk.validation.json_fields import Field

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PLAN = "plan.json"
DISCRIMINATOR = "discriminator.safetensors"
PROGRAM = "model.pt2"
INPUTS = "inputs.safetensors"
RECIPE = "recipe.toml"
CARD = "README.md"
REPORTS = ("report.json", "report.html")
TEXTS = (CARD, *REPORTS)
"""Files for people, which decide nothing."""
DECISIVE = (WEIGHTS, PLAN, DISCRIMINATOR, PROGRAM)
"""Files that decide what the student is."""
SPARE = (INPUTS, RECIPE, *TEXTS)
"""Files that the student is whole without."""
FOLDER_VERSION = 4
"""Of the folder's layout; version 1 had no checksums, version 2 no inputs, and version 3 no recipe."""
Form = Literal["builder", "program", "weights"]
"""What a student is loaded from: its adapter's builder, its traced program, or only with the network at hand."""


@dataclass(frozen=True, slots=True)
class Carving:
    """One removal of channels: the groups of the network before it, and what of them was kept."""

    space: Space
    plan: Plan

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"plan": self.plan.to_dict(), "space": self.space.to_dict()}

    @classmethod
    def from_field(cls, data: Field) -> Carving:
        """The inverse of `to_dict`.

        Raises:
            ValueError: the data describe no removal of channels; the message names the field.
        """
        carving = cls(Space.from_dict(data["space"]), Plan.from_dict(data["plan"]))
        try:
            carving.plan.check(carving.space)
        except ContractError as error:
            raise ValueError(f"{data['plan'].name}: {error}") from error
        return carving


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedStudent(Generator):
    """A student that was read back, as a generator that can be compressed again."""

    carvings: tuple[Carving, ...] = ()
    """How the adapter's network became the module, in order."""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """Crops of held-out images by name, (1, channels_in, H, W), for exports to be compared on."""


def named_slots(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every place that holds a parameter or a buffer, under its name."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)

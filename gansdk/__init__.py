"""Plugin-based compression SDK for image generators.

`import gansdk` costs milliseconds: every public name is imported from its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gansdk import moved

if TYPE_CHECKING:
    from gansdk.budget.budget import Budget as Budget
    from gansdk.budget.cost import Cost as Cost
    from gansdk.channels.groups import Plan as Plan
    from gansdk.channels.groups import Space as Space
    from gansdk.contracts import Batch as Batch
    from gansdk.contracts import Contract as Contract
    from gansdk.contracts import Labels as Labels
    from gansdk.contracts import Observation as Observation
    from gansdk.contracts import Pairing as Pairing
    from gansdk.generators.wrapping import wrap as wrap
    from gansdk.hooks import hookimpl as hookimpl
    from gansdk.interfaces import Adapter as Adapter
    from gansdk.interfaces import DataSource as DataSource
    from gansdk.interfaces import Distiller as Distiller
    from gansdk.interfaces import Generator as Generator
    from gansdk.interfaces import Metric as Metric
    from gansdk.interfaces import Pruner as Pruner
    from gansdk.interfaces import Regime as Regime
    from gansdk.interfaces import Student as Student
    from gansdk.interfaces import Task as Task
    from gansdk.interfaces import Teacher as Teacher
    from gansdk.interfaces import Term as Term
    from gansdk.interfaces import Variant as Variant
    from gansdk.pipeline.compress import compress as compress
    from gansdk.pipeline.compress import ladder as ladder
    from gansdk.pipeline.inspection import inspect as inspect
    from gansdk.pipeline.inspection import plan as plan
    from gansdk.pipeline.result import CompressionResult as CompressionResult
    from gansdk.pipeline.result import Ladder as Ladder
    from gansdk.pipeline.train_teacher import TrainedTeacher as TrainedTeacher
    from gansdk.pipeline.train_teacher import train_teacher as train_teacher
    from gansdk.recipe import Recipe as Recipe
    from gansdk.saving.reading import load as load
    from gansdk.specs import PLUGIN_API as PLUGIN_API

__version__ = "0.1.0"
"""Written here, because a distribution of any origin may call itself gansdk; pyproject.toml reads it."""

# No submodule may have a public name: importing it would put the module in the name's place.
_HOMES = {
    "gansdk.budget": ("Budget", "Cost"),
    "gansdk.channels.groups": ("Plan", "Space"),
    "gansdk.contracts": ("Batch", "Contract", "Labels", "Observation", "Pairing"),
    "gansdk.generators.wrapping": ("wrap",),
    "gansdk.hooks": ("hookimpl",),
    "gansdk.interfaces": (
        "Adapter",
        "DataSource",
        "Distiller",
        "Generator",
        "Metric",
        "Pruner",
        "Regime",
        "Student",
        "Task",
        "Teacher",
        "Term",
        "Variant",
    ),
    "gansdk.pipeline.compress": ("compress", "ladder"),
    "gansdk.pipeline.inspection": ("inspect", "plan"),
    "gansdk.pipeline.result": ("CompressionResult", "Ladder"),
    "gansdk.pipeline.train_teacher": ("TrainedTeacher", "train_teacher"),
    "gansdk.recipe": ("Recipe",),
    "gansdk.saving.reading": ("load",),
    "gansdk.specs": ("PLUGIN_API",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

moved.install()


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})

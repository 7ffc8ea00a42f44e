"""Modules that have moved: the import paths that authors of plugins used still work, and warn. Torch-free."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

PLACES: dict[str, tuple[str, ...]] = {
    "gansdk.adapter": ("gansdk.interfaces.adapter", "gansdk.generators.wrapping", "gansdk.modules.weights"),
    "gansdk.artifact": ("gansdk.saving.reading", "gansdk.saving.layout"),
    "gansdk.budgets": ("gansdk.budget.order",),
    "gansdk.channels.fold": ("gansdk.modules.fold",),
    "gansdk.channels.products": ("gansdk.modules.meta_device",),
    "gansdk.channels.slots": ("gansdk.modules.slots",),
    "gansdk.checks": ("gansdk.evaluation.self_checks", "gansdk.evaluation.findings"),
    "gansdk.checkpoints": ("gansdk.modules.weights", "gansdk.generators.recognition"),
    "gansdk.compatibility": ("gansdk.registry.compatibility",),
    "gansdk.demo": ("gansdk.pipeline.demo", "gansdk.pipeline.opening"),
    "gansdk.evaluate": ("gansdk.evaluation.evaluate", "gansdk.modules.inference"),
    "gansdk.export": ("gansdk.saving.export",),
    "gansdk.foreign": ("gansdk.registry.isolation",),
    "gansdk.images": ("gansdk.toolkit.images",),
    "gansdk.inspection": ("gansdk.pipeline.inspection",),
    "gansdk.loop": ("gansdk.training.loop",),
    "gansdk.meta": ("gansdk.modules.skeletons",),
    "gansdk.metrics": ("gansdk.interfaces.metric", "gansdk.evaluation.metrics"),
    "gansdk.offline": ("gansdk.training.offline_regime",),
    "gansdk.online": ("gansdk.generators.online_teacher",),
    "gansdk.opening": ("gansdk.pipeline.opening", "gansdk.registry.parts", "gansdk.pipeline.checks"),
    "gansdk.patches": ("gansdk.generators.patches",),
    "gansdk.paths": ("gansdk.validation.paths",),
    "gansdk.processes": ("gansdk.training.processes",),
    "gansdk.programs": ("gansdk.modules.programs.program", "gansdk.modules.inference"),
    "gansdk.quality": ("gansdk.evaluation.quality",),
    "gansdk.report": ("gansdk.reporting.report",),
    "gansdk.result": ("gansdk.pipeline.result",),
    "gansdk.routes": ("gansdk.generators.joint",),
    "gansdk.signatures": ("gansdk.validation.signatures",),
    "gansdk.student": ("gansdk.generators.elastic_student",),
    "gansdk.teachers": ("gansdk.generators.frozen_teacher",),
    "gansdk.teaching": ("gansdk.interfaces.teaching",),
    "gansdk.toolkit.norms": ("gansdk.modules.norms",),
    "gansdk.toolkit.taps": ("gansdk.modules.taps",),
    "gansdk.words": ("gansdk.text",),
    "gansdk.wrapping": ("gansdk.generators.wrapping",),
}
"""Old module -> the modules that its names are in now."""


class Moved(MetaPathFinder, Loader):
    """Makes a module of an old name that looks everything up in its new places."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in PLACES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        places = PLACES[module.__name__]
        advice = f"{module.__name__} has moved: import from {' or '.join(places)} instead."
        warnings.warn(advice, DeprecationWarning, stacklevel=2)

        def look_up(name: str) -> Any:
            for place in places:
                new = import_module(place)
                if hasattr(new, name):
                    return getattr(new, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = look_up  # type: ignore[method-assign]


def install() -> None:
    """Let old import paths be found, once."""
    if not any(isinstance(finder, Moved) for finder in sys.meta_path):
        sys.meta_path.append(Moved())

"""A folder of images, whatever its layout."""

from __future__ import annotations

import inspect
import os.path
from pathlib import Path
from typing import Any, Literal

from gansdk.contracts import Contract
from gansdk.errors import InvalidOption
from gansdk.interfaces import DataSource
from gansdk.toolkit.options import Count
from gansdk.validation.signatures import fitting
from gansdk_adapters.sources.folder import ImageFolder
from gansdk_adapters.sources.reading import Degrade
from gansdk_adapters.sources.translation import Translation

_BESIDE = (("LR", "HR"), ("lr", "hr"), ("input", "target"))
"""Pairs that are never resized, whatever the generator does."""


def open_folder(
    path: str | Path,
    *,
    contract: Contract,
    degrade: Degrade | None = None,
    patch: Count | None = None,
    default_patch: Count = 24,
    seed: int = 0,
    split: Literal["train", "all"] = "train",
    **options: Any,
) -> DataSource:
    """Open a folder for any generator.

    `ImageFolder` for a generator that enlarges, whose inputs are enlarged before it, or whose family makes inputs of
    images (super-resolution), and for pairs in LR/HR or input/target; `Translation` for all others, which tells the
    layout. `options` are those of the one that is chosen. `default_patch` is the side of an `ImageFolder`'s patches
    where `patch` does not say it; `Translation` crops to the contract's size.

    Raises:
        DataError: as they do.
        InvalidOption: it has no such option.
    """
    makes_inputs = contract.scale > 1 or contract.pre_upsampled > 1 or degrade is not None
    beside = any(all(os.path.isdir(Path(path) / role) for role in roles) for roles in _BESIDE)
    common: dict[str, Any] = {"contract": contract, "seed": seed, "split": split, **options}
    if patch is not None:
        common["patch"] = patch
    kind: type[DataSource] = ImageFolder if makes_inputs or beside else Translation
    if kind is ImageFolder:
        common = {"degrade": degrade, "patch": default_patch, **common}
    options_of_kind = [
        name for name in inspect.signature(kind).parameters if name not in ("path", "contract", "degrade")
    ]
    for option in options:
        if option not in options_of_kind:
            raise InvalidOption(
                f"The folder {str(path)!r} is opened as {kind.__name__}, which has no option {option!r}. Its options: "
                f"{', '.join(options_of_kind)}."
            )
    common = fitting(kind, common, whose=f"The folder {str(path)!r}")
    return kind(path, **common)  # type: ignore[call-arg]  # both take these

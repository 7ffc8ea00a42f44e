"""The photographs inside scikit-image and scikit-learn: real images without a download."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any, Literal

from gansdk.contracts import Batch, Contract
from gansdk.errors import DataError
from gansdk.interfaces import DataSource
from gansdk.toolkit.options import Count
from gansdk_adapters.sources.folder import check_holdout
from gansdk_adapters.sources.paired import PairedImages
from gansdk_adapters.sources.reading import Degrade, Entry, Reader, usable

_CC_BY = "CC BY 2.0, https://creativecommons.org/licenses/by/2.0/"

PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png", "NASA, public domain"),
    "chelsea": ("skimage", "data/chelsea.png", "Stefan van der Walt, CC0"),
    "china": ("sklearn", "datasets/images/china.jpg", f"danielbuechele on Flickr, {_CC_BY}"),
    "coffee": ("skimage", "data/coffee.png", "Rachel Michetti, CC0"),
    "flower": ("sklearn", "datasets/images/flower.jpg", f"vultilion on Flickr, {_CC_BY}"),
    "rocket": ("skimage", "data/rocket.jpg", "SpaceX, public domain"),
}
"""Name -> (package, file in it, who made it and under which licence)."""

HELD_OUT = ("flower", "chelsea")


class Photographs(DataSource):
    """Six photographs of about 500x400 pixels; flower and chelsea are held out for "search" and "eval" alike.

    Inputs and targets are made as by `ImageFolder` for images without pairs. Patches have `patch` pixels along a side,
    or else `default_patch`. `holdout` is a share as there, of which this source can give none, a sixth (flower) or a
    third; it is rounded up. Which photographs these are never changes, so `seed` has no effect.

    Raises:
        DataError: the packages lack the files; or the generator has neither 1 nor 3 channels.
    """

    def __init__(
        self,
        *,
        contract: Contract,
        degrade: Degrade | None = None,
        patch: Count | None = None,
        default_patch: Count = 24,
        holdout: float = 1 / 3,
        seed: int = 0,
    ) -> None:
        check_holdout(holdout)
        patch = default_patch if patch is None else patch
        kept_back = HELD_OUT[: ceil(holdout * len(PHOTOGRAPHS))]
        self._skipped: dict[str, str] = {}
        reader = Reader(contract=contract, degrade=degrade)
        entries = usable((Entry(name, _path_of(name)) for name in PHOTOGRAPHS), reader, skipped=self._skipped)
        self.pairing = reader.pairing(entries)
        self._train = PairedImages([entry for entry in entries if entry.name not in kept_back], reader, patch=patch)
        self._held_out = PairedImages([entry for entry in entries if entry.name in kept_back], reader, patch=patch)

    def train_batch(self, size: int, *, seed: int, step: int) -> Batch:
        return self._train.patches(size, seed=seed, step=step)

    def images(self, split: Literal["search", "eval"]) -> Iterator[Batch]:
        return self._held_out.whole()

    def describe(self) -> dict[str, Any]:
        return {
            "source": "photos",
            "pairing": self.pairing.value,
            "train": len(self._train.names),
            "held_out": list(self._held_out.names),
            "skipped": {**self._skipped, **self._train.skipped, **self._held_out.skipped},
            "attribution": {name: credit for name, (_, _, credit) in PHOTOGRAPHS.items()},
        }


def _path_of(name: str) -> Path:
    """The file, found without importing its package."""
    package, file, _ = PHOTOGRAPHS[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(f"The photograph {name!r} is part of {package}. Run: pip install scikit-image scikit-learn")
    return Path(spec.origin).parent / file

"""Entries decoded when they are needed: a cache of limited size, and what cannot be read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from gansdk.errors import DataError, GansdkWarning
from gansdk_adapters.sources.ordering import turns

CACHE_BYTES = 256 * 2**20


class Named(Protocol):
    """Something to be read, with a name of its own."""

    @property
    def name(self) -> str: ...


class Sized(Protocol):
    """Something read, with its memory in bytes."""

    @property
    def bytes(self) -> int: ...


E = TypeVar("E", bound=Named)
P = TypeVar("P", bound=Sized)


class Store(Generic[E, P]):
    """What `read` makes of the entries, the first 256 MiB of it kept.

    An entry that `read` refuses with a DataError is replaced by the next one in order, warned about once and kept in
    `skipped` (name -> reason).
    """

    def __init__(self, entries: Sequence[E], read: Callable[[E], P]) -> None:
        self.entries = tuple(entries)
        self.skipped: dict[str, str] = {}
        self.cache: dict[str, P] = {}
        self._read = read
        self._bytes = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Of all entries, in order."""
        return tuple(entry.name for entry in self.entries)

    def draw(self, size: int, *, seed: int, step: int, domain: int = 0) -> list[tuple[E, P, np.random.Generator]]:
        """The entries whose turn it is (`gansdk_adapters.sources.ordering.turns`), with random numbers for each.

        Raises:
            DataError: there is no entry, or none can be read.
        """
        if not self.entries:
            raise DataError("There is no image to train on. Add images, or lower holdout.")
        drawn = turns(len(self.entries), size, seed=seed, step=step, domain=domain)
        return [(*self._readable(turn.index), turn.draw) for turn in drawn]

    def each(self) -> Iterator[tuple[E, P]]:
        """Give every entry that can be read once, in order.

        Raises:
            DataError: there are entries, but none can be read.
        """
        for entry in self.entries:
            if (picture := self._get(entry)) is not None:
                yield entry, picture
        if self.entries and len(self.skipped) == len(self.entries):
            raise self._nothing_readable()

    def _readable(self, index: int) -> tuple[E, P]:
        """The entry at `index`, or the next one that can be read."""
        for entry in self.entries[index:] + self.entries[:index]:
            if (picture := self._get(entry)) is not None:
                return entry, picture
        raise self._nothing_readable()

    def _nothing_readable(self) -> DataError:
        return DataError(f"None of {len(self.entries)} images can be read. {next(iter(self.skipped.values()), '')}")

    def _get(self, entry: E) -> P | None:
        """The decoded entry; None if it is damaged."""
        if entry.name in self.cache:
            return self.cache[entry.name]
        if entry.name in self.skipped:
            return None
        try:
            picture = self._read(entry)
        except DataError as error:
            self.skipped[entry.name] = str(error)
            warnings.warn(f"An image is skipped. {error}", GansdkWarning, stacklevel=4)
            return None
        self._remember(entry.name, picture)
        return picture

    def _remember(self, name: str, picture: P) -> None:
        # Never replaced: every image comes once in an epoch, so that the one used last would be needed last.
        if not self.cache or self._bytes + picture.bytes <= CACHE_BYTES:
            self.cache[name] = picture
            self._bytes += picture.bytes

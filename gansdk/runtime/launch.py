"""How this process was started: alone, or as one of several by torchrun, accelerate or mpirun. Torch-free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from gansdk.errors import ProcessError

_COUNT = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_LOCAL_RANK = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")
_LOCAL_COUNT = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
_PORT = "MASTER_PORT"
_ADVICE = "Start the processes by torchrun, which sets these variables, or unset them for a run of one process."


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Numbers that a launcher gave this process."""

    count: int = 1
    """Processes of the run."""
    rank: int = 0
    local_count: int = 1
    """Those of them on this machine."""
    local_rank: int = 0

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Launch:
        """What the environment variables of torchrun, accelerate or mpirun say; one process where there are none.

        Raises:
            ProcessError: they contradict each other, or one is no number.
        """
        count_name, count = _number(environment, _COUNT, least=1)
        rank_name, rank = _number(environment, _RANK)
        local_name, local_rank = _number(environment, _LOCAL_RANK)
        local_count_name, local_count = _number(environment, _LOCAL_COUNT, least=1)
        if count is None:
            if rank:
                raise ProcessError(f"{rank_name}={rank} is set, but {_COUNT[0]} is not. {_ADVICE}")
            return cls()
        if rank is None:
            if count > 1:
                raise ProcessError(f"{count_name}={count} is set, but {_RANK[0]} is not. {_ADVICE}")
            rank = 0
        if rank >= count:
            raise ProcessError(
                f"{rank_name}={rank} does not match {count_name}={count}: ranks go from 0 to {count - 1}. {_ADVICE}"
            )
        if local_count is not None and local_count > count:
            raise ProcessError(f"{local_count_name}={local_count} is more than {count_name}={count}. {_ADVICE}")
        local_rank = min(rank, (local_count or count) - 1) if local_rank is None else local_rank
        if local_rank >= (local_count or count):
            raise ProcessError(
                f"{local_name}={local_rank} does not match {local_count_name or count_name}={local_count or count}: it "
                f"must be from 0 to {(local_count or count) - 1}. {_ADVICE}"
            )
        if count > 1:
            _number(environment, (_PORT,), least=1, most=65535)
        return cls(count=count, rank=rank, local_count=local_count or local_rank + 1, local_rank=local_rank)


def is_main() -> bool:
    """Whether this process is the one that speaks, as far as its environment can be read."""
    return _read_or_alone().rank == 0


def process_count() -> int:
    """The processes of the run, as far as the environment can be read."""
    return _read_or_alone().count


def _read_or_alone() -> Launch:
    try:
        return Launch.read(os.environ)
    except ProcessError:
        return Launch()


def _number(
    environment: Mapping[str, str], names: tuple[str, ...], *, least: int = 0, most: int = 2**31 - 1
) -> tuple[str, int | None]:
    """The first variable that is set, and its value."""
    for name in names:
        text = environment.get(name, "").strip()
        if not text:
            continue
        if not (text.isascii() and text.isdecimal() and len(text) <= 10 and least <= int(text) <= most):
            raise ProcessError(f"{name}={text!r} must be an integer from {least} to {most}. {_ADVICE}")
        return name, int(text)
    return "", None

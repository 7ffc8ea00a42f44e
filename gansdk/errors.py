"""Every exception a user can meet. Each message says what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from gansdk.text import readable


class GansdkError(Exception):
    """Base of all errors raised on purpose; the command line prints it without a traceback.

    Messages hold what a user or a file gave, so they are made `readable`.
    """

    exit_code = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*(readable(arg) if isinstance(arg, str) else arg for arg in args))


class BudgetSyntaxError(GansdkError):
    """The text of a budget could not be read."""


class BudgetUnreachable(GansdkError):
    """Even the smallest student exceeds the budget.

    `floor` maps a metric ("macs", "params", "size") to its smallest reachable value.
    """

    exit_code = 3

    def __init__(self, message: str, *, floor: Mapping[str, int]) -> None:
        super().__init__(message)
        self.floor = dict(floor)


class NothingPruned(GansdkError):
    """No channel can be removed; `reasons` says why, group by group."""

    exit_code = 3

    def __init__(self, message: str, *, reasons: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)


class ContractError(GansdkError):
    """A tensor or a module does not keep the generator's contract (channels, size, value range)."""


class NeedsContract(GansdkError):
    """A bare module of no known family was given; `gansdk.wrap` and a contract say how to call it."""


class CheckpointError(GansdkError):
    """A file is not a checkpoint that can be read without executing it."""


class IntegrityError(CheckpointError):
    """A file differs from the checksum that was recorded when it was written."""


class CheckpointMismatch(CheckpointError):
    """A state dict fits no family; the message names the nearest and the first differing keys."""


class DataError(GansdkError):
    """Images are missing, unreadable, too small or of the wrong kind."""


class MissingData(DataError):
    """The distiller needs images and none were given."""


class IncompatibleParts(GansdkError):
    """Adapter, pruner, distiller and data cannot work together; `missing` names the capabilities."""

    def __init__(self, message: str, *, missing: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.missing = tuple(missing)


class PluginNotFound(GansdkError):
    """No plugin offers that name."""


class AmbiguousPlugin(GansdkError):
    """Several third-party plugins offer that name; the qualified names are in the message."""


class PluginLoadError(GansdkError):
    """A plugin was found but its factory could not be imported or makes something else."""

    exit_code = 6


class PluginFailed(GansdkError):
    """A plugin's own code failed while it was called; the message names kind, plugin, distribution and version."""

    exit_code = 6


class NetworkError(GansdkError):
    """The generator itself failed while it was run; the message names the stage and the size of its input."""


class OutOfMemory(GansdkError):
    """There is too little memory for what was asked for; the message names the stage."""


class InvalidSpec(GansdkError):
    """A plugin describes itself in a way that cannot be read."""


class InvalidOption(GansdkError):
    """A part was configured with a value it does not know; the message names those it does."""


class Unsupported(GansdkError):
    """An optional ability was asked of a part that does not have it."""


class ProcessError(GansdkError):
    """The processes of a run cannot work together: they were started wrongly, or one of them failed."""


class TrainingDiverged(GansdkError):
    """The loss became NaN or infinite, or stayed without progress; the last good state is kept."""


class ResumeMismatch(GansdkError):
    """A run folder was made with other settings; the message shows the difference."""


class OutputError(GansdkError):
    """The output folder cannot be written."""


class RunInUse(OutputError):
    """Another run works in the output folder; the message says which and since when."""


class QualityFloorMissed(GansdkError):
    """A student is worse than asked for. It is saved all the same.

    `result` is what the call would have returned.
    """

    exit_code = 4

    def __init__(self, message: str, *, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class VerificationError(GansdkError):
    """Two forms of the same student give different images (carved, saved, loaded, exported)."""

    exit_code = 5

    def __init__(self, message: str, *, stage: str, max_error: float) -> None:
        super().__init__(message)
        self.stage = stage
        self.max_error = max_error


class GansdkWarning(UserWarning):
    """Something a user should know that does not stop the work. Its message is made `readable`."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(readable(arg) if isinstance(arg, str) else arg for arg in args))


class StudentWarning(GansdkWarning):
    """What a finished student was found to be out of line in, with what to try."""


class PluginWarning(GansdkWarning):
    """A plugin was skipped."""


def suggestion(given: str, names: Sequence[str]) -> str:
    """What a message that refuses a name ends with: the most similar of `names`, or "" if none is."""
    nearest = difflib.get_close_matches(given, names, n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""

"""Code that is not ours: whose it is, and what becomes of what it raises. Torch-free."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from gansdk.errors import GansdkError, NetworkError, OutOfMemory, PluginFailed, PluginWarning
from gansdk.registry.discovery import registry
from gansdk.registry.origins import MARK, PASSES, Origin, in_words, is_interruption, is_own, origin_of, passes, text_of
from gansdk.text import one_line

Returned = TypeVar("Returned")

_in_play: dict[str, None] = {}
"""Strangers' parts in the call that is under way, in words."""
_depth = 0
"""Doors that are inside one another."""


def mark(part: object, origin: Origin | None) -> None:
    """Remember where a part came from, if that is known, and that it takes part in the call that is under way.

    One that cannot be written to is known by its class alone.
    """
    if not is_own(type(part).__module__):
        _in_play.setdefault(_called(part, origin))
    if origin is None:
        return
    try:
        object.__setattr__(part, MARK, origin)
    except (AttributeError, TypeError):
        return


def _called(part: object, origin: Origin | None) -> str:
    return str(origin or f"the {_kind(part) or 'part'} {type(part).__qualname__} (module {type(part).__module__})")


@contextmanager
def guarded(stage: str, networks: Callable[[], Iterable[object]] | None = None) -> Iterator[None]:
    """Turn what somebody else's code raises while this lasts into an error that says whose it is.

    Whose it is is told by the frames between here and the exception, from the innermost outwards: the first that
    belongs to a plugin's package, to a part that was passed, or to a network's forward. `networks` are those that
    run, to be named where autograd fails without any frame of theirs. What is nobody's goes on as it is.

    Raises:
        PluginFailed: a plugin, or a part that was passed, raised anything but an error of ours, SystemExit too.
        NetworkError: a network did, forwards or backwards.
        OutOfMemory: there was too little memory, whoever asked for it.
    """
    global _depth
    if not _depth:
        _in_play.clear()
    _depth += 1
    try:
        yield
    except BaseException as error:
        if passes(error) or (explanation := explained(error, stage, networks)) is None:
            raise
        raise explanation from error
    finally:
        _depth -= 1


@contextmanager
def observing(observer: object) -> Iterator[None]:
    """Let a caller's observer end a run by an exception of its own, but never without one.

    Raises:
        PluginFailed: it raised SystemExit, which would end the program as if all were done.
    """
    try:
        yield
    except SystemExit as error:
        if passes(error):
            raise
        name = getattr(observer, "__qualname__", type(observer).__qualname__)
        raise PluginFailed(
            f"The observer {one_line(name)} ended the run with {in_words(error)}, so there is no student. To stop a "
            "run, raise KeyboardInterrupt or your own exception."
        ) from error
    except Exception as error:
        setattr(error, PASSES, True)  # it is the caller's own, so no part is blamed for it
        raise


@contextmanager
def left_out(who: str, of: str, *, is_ours: bool) -> Iterator[None]:
    """Warn of one of several parts that fails while all are asked, and go on without it; ours do not fail.

    `of` says where it is from: distribution and version, or module.
    """
    try:
        yield
    except BaseException as error:
        if is_ours or is_interruption(error):
            raise
        warnings.warn(f"The {who} is skipped ({of.strip()}): {in_words(error)}", PluginWarning, stacklevel=4)


def failed(origin: Origin, stage: str, error: BaseException) -> PluginFailed:
    """The error for a plugin's own failure, in one paragraph."""
    return PluginFailed(
        f"The {origin} failed in {stage}: {in_words(error)}. Results so far are kept. This is a bug in the plugin: "
        f"install another version of {origin.plugin}, or choose another {origin.kind}."
    )


def returned(value: Any, kind: type[Returned], part: object, call: str) -> Returned:
    """What a part's own call gave back, if it is what the part's interface says.

    Raises:
        PluginFailed: it is something else.
    """
    if isinstance(value, kind):
        return value
    who = str(origin_of(part) or f"class {type(part).__qualname__} of the module {type(part).__module__}")
    raise PluginFailed(
        f"The {who} returned a {type(value).__name__} from {call}, where a {kind.__name__} was expected. Results so "
        "far are kept. This is a bug in that part: fix it, or choose another."
    )


def explained(
    error: BaseException, stage: str, networks: Callable[[], Iterable[object]] | None = None
) -> GansdkError | None:
    """The error that says whose fault an exception is; None if it is nobody's but ours."""
    if _is_memory(error):
        return OutOfMemory(
            f"There is too little memory in {stage}: {in_words(error)}. Use a smaller batch_size or patch, or a "
            "smaller contract size."
        )
    frames = _frames(error)
    plugin: Origin | None = None
    running: FrameType | None = None
    for frame in reversed(frames):
        subject, module = _subject(frame), _module(frame)
        if (origin := origin_of(subject)) and origin.plugin != "gansdk":
            return failed(origin, stage, error)
        if _is_a(subject, "torch.nn", "Module"):
            running = frame
        elif is_own(module):
            if plugin is not None or running is not None:
                break
            continue
        if not is_own(module) and (kind := _kind(subject)) and not _owner(module):
            return _passed_part_failed(kind, type(subject), stage, error)
        # Perhaps a helper of several parts: a frame further out may be of the very part.
        plugin = plugin or _owner(module)
    if plugin is not None:
        return failed(plugin, stage, error)
    if running is not None:
        return _network_failed(type(_subject(running)).__name__, _size(frames, running), stage, error)
    if networks is not None and any(_module(frame).startswith("torch.autograd") for frame in frames):
        names = " and ".join(dict.fromkeys(type(network).__name__ for network in networks()))
        return _network_failed(names, _size(frames, None), f"the backward pass of {stage}", error)
    if _in_play and isinstance(error, Exception):
        return PluginFailed(
            f"gansdk cannot continue in {stage}: {in_words(error)}. External parts in use: {', '.join(_in_play)}. One "
            "of them may have returned a value that its interface does not allow: fix it, or choose another. Results "
            "so far are kept."
        )
    return None


def _owner(module: str) -> Origin | None:
    """The plugin that a module is part of, as one of its parts."""
    entry = registry().owner(module)
    if entry is None:
        return None
    return Origin(kind=entry.kind, name=entry.spec.name, plugin=entry.origin, version=entry.version, options={})


def _passed_part_failed(kind: str, part: type, stage: str, error: BaseException) -> PluginFailed:
    return PluginFailed(
        f"The {kind} {part.__qualname__} of the module {part.__module__}, which was passed as an instance, failed in "
        f"{stage}: {in_words(error)}. Results so far are kept. Fix it, or choose another."
    )


_PARTS = (
    ("pruner", "gansdk.interfaces", "Pruner"),
    ("term", "gansdk.interfaces", "Term"),
    ("regime", "gansdk.interfaces", "Regime"),
    ("data source", "gansdk.interfaces", "DataSource"),
    ("task", "gansdk.interfaces", "Task"),
    ("teacher", "gansdk.interfaces", "Teacher"),
    ("adapter", "gansdk.interfaces", "Adapter"),
    ("metric", "gansdk.interfaces", "Metric"),
)
"""What a part is called, and where its interface is."""


def _kind(subject: object) -> str:
    """What a part of a class that is not ours is called; "" for anything else."""
    if is_own(type(subject).__module__):
        return ""
    return next((word for word, home, base in _PARTS if _is_a(subject, home, base)), "")


def _is_a(subject: object, home: str, base: str) -> bool:
    """Whether it has that interface; a module that nobody imported has no instances."""
    kind = getattr(sys.modules.get(home), base, None)
    return isinstance(kind, type) and issubclass(type(subject), kind)


def _network_failed(names: str, size: str, stage: str, error: BaseException) -> NetworkError:
    on_input = f" on an input of {size}" if size else ""
    return NetworkError(
        f"The network {names} failed in {stage}{on_input}: {in_words(error)}. Run it by itself on an input of that "
        "size, in training mode and with gradients if it is trained, and fix the error."
    )


def _size(frames: list[FrameType], running: FrameType | None) -> str:
    """Shape of what the network was called with, else of the batch that was trained on; "" if nothing tells."""
    for value in () if running is None else running.f_locals.values():
        for item in value if isinstance(value, tuple) else (value,):
            if _is_a(item, "torch", "Tensor"):
                return _shape(item)
    for frame in reversed(frames):
        for value in frame.f_locals.values():
            if _is_a(value, "gansdk.contracts", "Batch"):
                return " and ".join(map(_shape, value.inputs.values()))
    return ""


def _shape(tensor: Any) -> str:
    return "x".join(str(int(side)) for side in tensor.shape)


def _is_memory(error: BaseException) -> bool:
    is_stated = isinstance(error, RuntimeError) and any(
        text in text_of(error) for text in ("out of memory", "can't allocate memory")
    )
    return is_stated or isinstance(error, MemoryError)


def _frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _module(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""


def _subject(frame: FrameType) -> object:
    """What a method was called on."""
    return frame.f_locals.get("self") if "self" in frame.f_code.co_varnames[:1] else None

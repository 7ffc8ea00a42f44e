"""One process or many: what accelerate knows about devices, how processes agree, and how they end together."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed import ProcessGroup
from torch.distributed.rendezvous import rendezvous

from gansdk.contracts import Batch
from gansdk.errors import InvalidOption, ProcessError
from gansdk.modules.norms import tracked_norms
from gansdk.modules.weights import first_line
from gansdk.registry.origins import is_interruption, text_of
from gansdk.runtime.launch import Launch

Item = TypeVar("Item")
Result = TypeVar("Result")

JOIN_S = 300.0
"""How long processes wait for all of them to have started."""
PATIENCE_S = 1800.0
"""How long a process waits for the others at an exchange."""


class Processes:
    """The processes of a run. `python script.py` is one; `torchrun --nproc-per-node 2 script.py` is two.

    Gradients are averaged by hand instead of by a wrapped module: every regime, supernet and connector then
    works the same way, and a student stays a plain module.

    Every exchange begins with the question whether all of them are still at work, so that nobody waits for one that
    failed.

    Raises:
        ProcessError: they were started wrongly, or do not find one another within `JOIN_S`.
    """

    def __init__(self, device: str = "auto") -> None:
        from accelerate import Accelerator

        launch = _launched()
        # accelerate sees several processes without GPUs only if the CPU is asked for.
        on_cpu = device == "cpu" or not torch.accelerator.is_available()
        try:
            if launch.count > 1:
                _join(launch, on_cpu=on_cpu)
            self._accelerator = Accelerator(cpu=on_cpu)
        except (RuntimeError, ValueError, OSError, LookupError, ImportError) as error:
            raise ProcessError(
                f"Process {launch.rank} of {launch.count} could not be set up within {JOIN_S:.0f} s: "
                f"{type(error).__name__}: {first_line(error)} Check that all processes were started, MASTER_ADDR and "
                "MASTER_PORT, and that no other program uses the port."
            ) from error
        if self.count != launch.count:
            raise ProcessError(
                f"{launch.count} processes were started, but accelerate sees {self.count} on {self.device.type!r}, so "
                "each would start its own run. Pass device='cpu', or start one process."
            )
        self._check_gpus()

    @property
    def device(self) -> torch.device:
        device: torch.device = self._accelerator.device
        return device

    @property
    def count(self) -> int:
        return int(self._accelerator.num_processes)

    @property
    def rank(self) -> int:
        return int(self._accelerator.process_index)

    @property
    def is_main(self) -> bool:
        return bool(self._accelerator.is_main_process)

    def share(self, batch_size: int) -> int:
        """This process's images of a step.

        Raises:
            InvalidOption: the processes cannot have equally many.
        """
        share, rest = divmod(batch_size, self.count)
        if rest:
            near = f"{batch_size - rest} or {batch_size - rest + self.count}" if share else f"{self.count}"
            raise InvalidOption(
                f"batch_size={batch_size} counts the images of a step over all processes, but {self.count} processes "
                f"cannot share them equally. Pass batch_size={near}, or start another number of processes."
            )
        return share

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        if self.count > 1:
            self._average([p.grad for p in parameters if p.grad is not None])

    def average_statistics(self, networks: Iterable[nn.Module]) -> None:
        """Give every process the mean of all running statistics that norms in training mode have gathered.

        Their variances are means of variances within a process's batches, as one process's are within its own.
        """
        if self.count == 1:
            return
        norms = [norm for network in networks for norm in tracked_norms(network) if norm.training]
        statistics = [s for norm in norms for s in (norm.running_mean, norm.running_var) if s is not None]
        if statistics:
            self._average(statistics)

    def agree(self, value: Any) -> Any:
        """The main process's value, in every process."""
        if self.count == 1:
            return value
        self._meet()
        agreed = [value]
        with _exchanging():
            distributed.broadcast_object_list(agreed, group=_spoken())
        return agreed[0]

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Means over the processes of numbers with names, each over those that have it; the same in every process."""
        if self.count == 1:
            return dict(values)
        gathered: list[Mapping[str, float]] = self._gather(dict(values))
        names = dict.fromkeys(name for each in gathered for name in each)
        shared = {name: [each[name] for each in gathered if name in each] for name in names}
        return {name: sum(numbers) / len(numbers) for name, numbers in shared.items()}

    def all(self, claim: bool) -> bool:
        """Whether something holds in every process."""
        return all(self._gather(claim))

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Results in the order of the items, which are the same in every process, as are the results.

        One round after another: each process works out one item, then all learn what the others found.
        """
        if self.count == 1:
            yield from map(function, items)
            return
        for start in range(0, len(items), self.count):
            mine = items[start + self.rank : start + self.rank + 1]
            for results in self._gather([function(item) for item in mine]):
                yield from results

    def share_weights(self, module: nn.Module) -> None:
        """Give every process the main process's weights and buffers."""
        from accelerate.utils import broadcast

        if self.count > 1:
            self._meet()
            with torch.no_grad(), _exchanging():
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.copy_(broadcast(tensor.detach()))

    def wait(self) -> None:
        """Return once every process is here."""
        self._meet()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What all processes do alike: it ends in all of them once they are through, or once one of them failed.

        Raises:
            ProcessError: another process failed; the message is that process's.
        """
        try:
            yield
            self.wait()
        except ProcessError:  # the others know
            raise
        except BaseException as error:
            if not is_interruption(error):  # which its launcher sends to all
                self._tell(error)
            raise

    def to_device(self, batch: Batch) -> Batch:
        """The batch on this process's device."""
        return replace(
            batch,
            inputs={route: self._moved(x) for route, x in batch.inputs.items()},
            targets={route: self._moved(y) for route, y in batch.targets.items()},
        )

    def _moved(self, x: Tensor) -> Tensor:
        """A copy to a GPU out of pageable memory would wait for all work that was given to it before."""
        if self.device.type != "cuda" or x.device.type != "cpu":
            return x.to(self.device)
        return x.pin_memory().to(self.device, non_blocking=True)

    def _average(self, tensors: Sequence[Tensor]) -> None:
        """Put the mean over the processes into each of the tensors, all in one exchange."""
        self._meet()
        with _exchanging():
            flat = self._accelerator.reduce(torch.cat([tensor.flatten() for tensor in tensors]), reduction="mean")
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def _gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of their ranks."""
        if self.count == 1:
            return [value]
        self._meet()
        return _gathered(value, self.count)

    def _meet(self, failure: BaseException | None = None) -> None:
        """Wait for all processes; the one that failed says so here, where the others would wait for it for ever."""
        if self.count == 1:
            return
        failed = torch.tensor([int(failure is not None)])
        with _exchanging():
            distributed.all_reduce(failed, group=_spoken())
        if not failed.item():
            return
        failures = _gathered(None if failure is None else _Failure.of(failure), self.count)
        if failure is None:
            rank, first = next((rank, each) for rank, each in enumerate(failures) if each is not None)
            raise first.error(rank, self.count)

    def _tell(self, failure: BaseException) -> None:
        """Let the others end too; those that are gone need no telling."""
        with suppress(ProcessError):
            self._meet(failure)

    def _check_gpus(self) -> None:
        """Refuse several processes on one GPU, which NCCL does later and at length."""
        if self.count == 1 or self.device.type != "cuda":
            return
        gpu = torch.cuda.get_device_properties(self.device)
        places = self._gather((socket.gethostname(), str(gpu.uuid)))
        if len(set(places)) < len(places):
            raise ProcessError(
                f"{self.count} processes were started, but they have {len(set(places))} GPUs, and each needs its own. "
                f"Start {len(set(places))}, or pass device='cpu'."
            )


@dataclass(frozen=True)
class _Failure:
    """What a process says of its error."""

    kind: str
    message: str
    exit_code: int

    @classmethod
    def of(cls, error: BaseException) -> _Failure:
        return cls(type(error).__name__, text_of(error), getattr(error, "exit_code", 1))

    def error(self, rank: int, count: int) -> ProcessError:
        """The error of those that did not fail themselves; they exit as the one that did."""
        error = ProcessError(f"Process {rank} of {count} failed, so all processes stop. {self.kind}: {self.message}")
        error.exit_code = self.exit_code
        return error


def _launched() -> Launch:
    """How this process was started; a group that the caller has opened already counts for more."""
    launch = Launch.read(os.environ)
    if not (distributed.is_available() and distributed.is_initialized()):
        return launch
    count, rank = distributed.get_world_size(), distributed.get_rank()
    if (launch.count, launch.rank) == (count, rank):
        return launch
    return Launch(count=count, rank=rank, local_count=count, local_rank=rank)


def _join(launch: Launch, *, on_cpu: bool) -> None:
    """Open the group of all processes, and tell accelerate of it where the launcher has other names for the numbers."""
    os.environ |= {
        "WORLD_SIZE": str(launch.count),
        "RANK": str(launch.rank),
        "LOCAL_WORLD_SIZE": str(launch.local_count),
        "LOCAL_RANK": str(launch.local_rank),
    }
    os.environ.setdefault("MASTER_PORT", "29500")
    if launch.local_count == launch.count:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if distributed.is_initialized():
        return
    accelerator = None if on_cpu else torch.accelerator.current_accelerator()
    kind = "cpu" if accelerator is None else accelerator.type
    store, rank, count = next(rendezvous("env://", launch.rank, launch.count, timeout=timedelta(seconds=JOIN_S)))
    patience = timedelta(seconds=PATIENCE_S)
    backend = distributed.get_default_backend_for_device(kind)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=patience)
    store.set_timeout(patience)


def _spoken() -> ProcessGroup:
    """The group for what is said, on the CPU: asking a GPU would wait for all work that was given to it."""
    world = distributed.group.WORLD
    assert world is not None
    return _on_cpu(world)


@lru_cache(maxsize=1)
def _on_cpu(world: ProcessGroup) -> ProcessGroup:
    if distributed.get_backend(world) == "gloo":
        return world
    group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_S))
    assert isinstance(group, ProcessGroup)  # every process is in it
    return group


def _gathered(value: Any, count: int) -> list[Any]:
    objects: list[Any] = [None] * count
    with _exchanging():
        distributed.all_gather_object(objects, value, group=_spoken())
    return objects


@contextmanager
def _exchanging() -> Iterator[None]:
    """Where another process may be gone.

    Raises:
        ProcessError: instead of the backend's error.
    """
    try:
        yield
    except RuntimeError as error:
        raise ProcessError(
            f"Another process of this run ended without an error message, or did not respond within {PATIENCE_S:.0f} s "
            f"({first_line(error)}). Check its output. The saved state is kept, and the same command continues from it."
        ) from error

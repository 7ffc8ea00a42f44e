"""One process or many: what accelerate knows about devices, and how processes agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gansdk.contracts import Batch
from gansdk.errors import InvalidOption
from gansdk.toolkit.norms import tracked_norms

Item = TypeVar("Item")
Result = TypeVar("Result")


class Processes:
    """The processes of a run. `python script.py` is one; `torchrun --nproc-per-node 2 script.py` is two.

    Gradients are averaged by hand instead of by a wrapped module: every regime, supernet and connector then
    works the same way, and a student stays a plain module.
    """

    def __init__(self, device: str = "auto") -> None:
        from accelerate import Accelerator

        self._accelerator = Accelerator(cpu=device == "cpu")

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
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0] if self.count > 1 else value

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Results in the order of the items, which are the same in every process, as are the results.

        One round after another: each process works out one item, then all learn what the others found.
        """
        from accelerate.utils import gather_object

        if self.count == 1:
            yield from map(function, items)
            return
        for start in range(0, len(items), self.count):
            mine = items[start + self.rank : start + self.rank + 1]
            yield from gather_object([function(item) for item in mine])

    def share_weights(self, module: nn.Module) -> None:
        """Give every process the main process's weights and buffers."""
        from accelerate.utils import broadcast

        if self.count > 1:
            with torch.no_grad():
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.copy_(broadcast(tensor.detach()))

    def wait(self) -> None:
        """Return once every process is here."""
        self._accelerator.wait_for_everyone()

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
        flat = self._accelerator.reduce(torch.cat([tensor.flatten() for tensor in tensors]), reduction="mean")
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

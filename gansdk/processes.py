"""One process or many: what accelerate knows about devices, and how processes agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gansdk.contracts import Batch
from gansdk.errors import InvalidOption

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
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self._accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduction="mean")
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

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
            inputs={route: x.to(self.device) for route, x in batch.inputs.items()},
            targets={route: y.to(self.device) for route, y in batch.targets.items()},
        )

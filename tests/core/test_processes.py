"""Batches on their way to a device."""

import pytest
import torch

from gansdk.contracts import MAIN, Batch
from gansdk.processes import Processes


class Placed:
    """Stands for a tensor on a device that need not be there, and tells what is asked of it."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.asked: list[object] = []

    def pin_memory(self):
        assert self.device.type == "cpu", "only CPU tensors can be pinned"
        self.asked.append("pin")
        return self

    def to(self, device, non_blocking=False):
        self.asked.append((str(device), non_blocking))
        return self


@pytest.mark.parametrize(
    ("process", "tensor", "asked"),
    [
        ("cuda", "cpu", ["pin", ("cuda", True)]),
        ("cuda", "cuda:0", [("cuda", False)]),
        ("cpu", "cpu", [("cpu", False)]),
    ],
)
def test_copies_to_a_gpu_leave_from_pinned_memory_and_what_is_there_is_not_pinned(process, tensor, asked, monkeypatch):
    processes, x = Processes("cpu"), Placed(tensor)
    monkeypatch.setattr(Processes, "device", torch.device(process), raising=False)
    vars(processes).pop("device", None)
    processes.to_device(Batch({MAIN: x}))
    assert x.asked == asked

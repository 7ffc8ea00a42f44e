"""Batches on their way to a device, and processes that were started wrongly."""

from types import SimpleNamespace

import pytest
import torch

from gansdk.contracts import MAIN, Batch
from gansdk.errors import ProcessError
from gansdk.runtime.launch import Launch
from gansdk.training.processes import Processes


class Placed(torch.Tensor):
    """An image on a device that need not be there, which tells what is asked of it."""

    device = property(lambda self: torch.device(self.said))

    def pin_memory(self):
        assert self.device.type == "cpu", "only CPU tensors can be pinned"
        self.asked.append("pin")
        return self

    def to(self, device, non_blocking=False):
        self.asked.append((str(device), non_blocking))
        return self


def placed(device):
    x = torch.zeros(1, 3, 2, 2).as_subclass(Placed)
    x.said, x.asked = device, []
    return x


@pytest.mark.parametrize(
    ("process", "tensor", "asked"),
    [
        ("cuda", "cpu", ["pin", ("cuda", True)]),
        ("cuda", "cuda:0", [("cuda", False)]),
        ("cpu", "cpu", [("cpu", False)]),
    ],
)
def test_copies_to_a_gpu_leave_from_pinned_memory_and_what_is_there_is_not_pinned(process, tensor, asked, monkeypatch):
    processes, x = Processes("cpu"), placed(tensor)
    monkeypatch.setattr(Processes, "device", torch.device(process), raising=False)
    vars(processes).pop("device", None)
    processes.to_device(Batch({MAIN: x}))
    assert x.asked == asked


@pytest.mark.parametrize(("places", "gpus"), [([("a", "1"), ("a", "1")], 1), ([("a", "1"), ("b", "1"), ("a", "1")], 2)])
def test_more_processes_than_gpus_are_refused_with_both_numbers(places, gpus, monkeypatch):
    processes = Processes("cpu")
    monkeypatch.setattr(Processes, "device", torch.device("cuda"))
    monkeypatch.setattr(Processes, "count", len(places))
    monkeypatch.setattr(Processes, "_gather", lambda self, own: places)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1"))
    with pytest.raises(ProcessError, match=rf"{len(places)} processes .* {gpus} GPUs.*Start {gpus}, or pass device="):
        processes._check_gpus()
    places[:] = [(str(host), "1") for host in range(len(places))]
    processes._check_gpus()


def test_processes_that_accelerate_does_not_see_are_refused_with_both_numbers(monkeypatch):
    """Each would be a run of its own, in one folder."""
    monkeypatch.setattr(
        "gansdk.training.processes._launched", lambda: Launch(count=2, rank=1, local_count=2, local_rank=1)
    )
    monkeypatch.setattr("gansdk.training.processes._join", lambda launch, *, on_cpu: None)
    with pytest.raises(ProcessError, match=r"2 processes were started, but accelerate sees 1 .*device='cpu'"):
        Processes("auto")


def test_one_process_after_another_may_ask_for_either_device():
    assert Processes("auto").count == Processes("cpu").count == Processes("auto").count == 1

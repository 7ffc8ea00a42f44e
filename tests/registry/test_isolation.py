"""What becomes of an exception of somebody else's code: whose it is, and what is said of it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import gansdk
from gansdk import hooks
from gansdk.cli.app import main
from gansdk.contracts import MAIN, Batch
from gansdk.errors import ContractError, NetworkError, OutOfMemory, PluginFailed
from gansdk.interfaces import Pruner
from gansdk.registry.discovery import registry
from gansdk.registry.isolation import guarded
from gansdk.registry.origins import in_words, is_interruption
from gansdk.runtime.deadline import Late, within
from gansdk.runtime.signals import Stopped
from gansdk.specs import PrunerSpec
from gansdk.text import one_line


def in_module(name: str, code: str) -> ModuleType:
    made = ModuleType(name)
    exec(code, made.__dict__)
    return made


class Failing(Pruner):
    def search(self, *_: object) -> object:  # type: ignore[override]
        return [1][3]


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x.T


def raised(call: Callable[[], object], stage: str = "search") -> BaseException:
    with pytest.raises(BaseException) as caught, guarded(stage):  # noqa: PT011 - the test looks at the class
        call()
    return caught.value


def test_a_part_that_was_passed_is_named_by_its_class_and_module() -> None:
    error = raised(Failing().search)
    assert isinstance(error, PluginFailed)
    assert error.exit_code == 6
    assert isinstance(error.__cause__, IndexError)
    for words in ("pruner Failing", __name__, "search", "IndexError: list index out of range"):
        assert words in str(error)


@pytest.mark.parametrize(
    "code", ["raise SystemExit(0)", "import sys; sys.exit()", "class O(BaseException): ...\n    raise O"]
)
def test_a_plugin_is_found_by_the_package_of_its_frames(code: str) -> None:
    module = in_module("acme_tools.deep.slim", f"def call():\n    {code}")
    spec = PrunerSpec(name="acme-slim", factory="acme_tools.slim:Slim", summary="Slim")
    offering = ModuleType("acme_tools.plugin")
    offering.gansdk_pruners = hooks.hookimpl(lambda: [spec])  # type: ignore[attr-defined]
    registry().register(offering, "acme-tools")
    try:
        error = raised(module.call)
    finally:
        registry().unregister("acme-tools")
    assert isinstance(error, PluginFailed)
    assert "pruner 'acme-slim' (acme-tools)" in str(error)


def test_what_is_ours_interrupts_or_is_nobodys_goes_on_as_it_is() -> None:
    for ours in (ContractError("no"), KeyboardInterrupt(), gansdk.errors.PluginWarning("told")):  # type: ignore[attr-defined]

        class Raising(Failing):
            def search(self, *_: object, error: BaseException = ours) -> object:  # type: ignore[override]
                raise error

        assert raised(Raising().search) is ours
    assert isinstance(raised(lambda: [][0]), IndexError)


def test_what_our_own_handler_of_a_signal_raises_is_no_failure_of_the_plugin() -> None:
    class Waiting(Failing):
        def search(self, *_: object) -> object:  # type: ignore[override]
            raise Stopped(15)

    error = raised(Waiting().search)
    assert isinstance(error, Stopped)
    assert is_interruption(error)


def test_a_plugin_that_runs_the_command_line_does_not_end_the_program_as_if_all_were_done() -> None:
    class Commanding(Failing):
        def search(self, *_: object) -> object:  # type: ignore[override]
            main(["--version"])
            return None

    assert isinstance(raised(Commanding().search), PluginFailed)


def test_a_network_is_named_with_its_stage_and_the_size_of_its_input() -> None:
    error = raised(lambda: Broken()(torch.zeros(2, 3, 4)), "evaluate")
    assert isinstance(error, NetworkError)
    assert "network Broken failed in evaluate on an input of 2x3x4" in str(error)
    outer = raised(lambda: nn.Sequential(nn.Identity(), Broken())(torch.zeros(2, 3, 4)))
    assert "network Sequential" in str(outer)


def test_a_network_that_a_part_uses_by_itself_is_the_part_s_own_affair() -> None:
    class Looking(Failing):
        def search(self, *_: object) -> object:  # type: ignore[override]
            return Broken()(torch.zeros(2, 3, 4))

    assert isinstance(raised(Looking().search), PluginFailed)


def test_a_backward_pass_without_a_frame_of_the_network_names_the_networks_that_train() -> None:
    weight = torch.ones(3, requires_grad=True)

    def step(batch: Batch) -> None:
        y = weight.exp()
        y.mul_(2)
        y.sum().backward()

    batch = Batch({MAIN: torch.zeros(2, 3, 8, 8)}, {})
    words = "Broken failed in the backward pass of distil-0 on an input of 2x3x8x8"
    with pytest.raises(NetworkError, match=words), guarded("distil-0", lambda: [Broken()]):
        step(batch)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_too_little_memory_is_said_with_what_to_do(error: Exception) -> None:
    def fail() -> None:
        raise error

    assert isinstance(caught := raised(fail), OutOfMemory)
    assert "smaller batch_size" in str(caught)


def test_somebody_elses_text_is_one_short_line() -> None:
    assert one_line("a\x1b[31m\nb\u202e\0c\ud800") == "a [31m b c"
    assert len(one_line("x" * 10**6)) < 400
    assert in_words(ValueError("")) == "ValueError"


def sleep_on() -> None:
    while True:
        try:
            time.sleep(10)
        except Exception:
            continue


def test_a_deadline_interrupts_and_puts_the_alarm_of_others_back() -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    earlier = signal.setitimer(signal.ITIMER_REAL, 0.4)
    try:
        began = time.monotonic()
        with pytest.raises(Late), within(0.1):
            sleep_on()
        assert time.monotonic() - began < 5
        assert not rung
        deadline = time.monotonic() + 5
        while not rung and time.monotonic() < deadline:
            time.sleep(0.01)
        assert rung
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *earlier)


def test_a_block_in_time_leaves_no_alarm_behind_and_other_threads_have_none() -> None:
    earlier = signal.getitimer(signal.ITIMER_REAL)
    handler = signal.getsignal(signal.SIGALRM)
    with within(5):
        pass
    assert signal.getsignal(signal.SIGALRM) is handler
    assert bool(signal.getitimer(signal.ITIMER_REAL)[0]) == bool(earlier[0])
    done: list[bool] = []

    def work() -> None:
        with within(0.01):
            time.sleep(0.05)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def test_the_guard_needs_no_torch() -> None:
    import subprocess

    parts = "gansdk.registry.isolation, gansdk.registry.distributions, gansdk.runtime.deadline"
    code = f"import sys, {parts}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0

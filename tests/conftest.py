"""What holds for every test: the threads of a process, no network, and examples that are the same on every machine."""

import os
import signal
import sys
import threading

from hypothesis import HealthCheck, settings

# Before torch loads its threads, which read these once. Workers and what tests start inherit them: with two threads
# for each of two workers, two cores spend most of their time in waiting threads.
for name, value in {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}.items():
    os.environ.setdefault(name, value)

# A shell starts what runs in the background with SIGINT ignored, and what tests start would inherit that.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "gansdk",
    derandomize=True,
    # How long an example takes says more about what else the machine does than about the code.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("gansdk")


def pytest_configure() -> None:
    if "torch" in sys.modules:  # a plugin of pytest was faster
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

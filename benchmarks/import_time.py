"""`import gansdk` and `gansdk plugins` against bare Python: seconds in fresh interpreters.

`python benchmarks/import_time.py`
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

ROUNDS = 7
CALLS = {
    "bare": "pass",
    "import gansdk": "import gansdk",
    "list plugins": "from gansdk.registry.discovery import registry; registry().listing()",
}


def main() -> None:
    """Interleave the calls and print medians."""
    rows: dict[str, list[float]] = {name: [] for name in CALLS}
    for _ in range(ROUNDS):
        for name, code in CALLS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            rows[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in rows.items()}
    above = {f"{name} - bare": medians[name] - medians["bare"] for name in CALLS if name != "bare"}
    print(json.dumps({"python": sys.version.split()[0], "seconds": medians, **above}, indent=1))


if __name__ == "__main__":
    main()

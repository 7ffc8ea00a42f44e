"""Kills at random moments of every command that writes, and whether it goes on to the same files as if nobody had.

    python benchmarks/kills.py --kills 200 --seed 0 --out runs/kills --json kills.json

Every scenario runs straight through first, twice: forked, and from a fresh interpreter. Then case after case starts
the same command, kills it one to three times in a row, starts it again after each, lets the last start end, and
compares every file with the straight run's: weights, plans, reports without seconds, exports, and the state of the
run, value by value. A kill is SIGKILL to all processes, or now and then SIGTERM or SIGINT, at one of three moments:

- time: anywhere in the time that the straight run took
- change: a moment after a file appears or changes
- operation: right before the command opens, renames or removes a file for the n-th time

After every kill whatever a user would open (a student, an export) has to be absent, the old one or the new one.
A failed case is printed with the options that repeat it: its choices are the same, and a kill before an operation is
so to the file; at other moments the machine decides with. Exits with 1 if any failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from commands import Scenario, make_assets, scenarios
from remains import Facts, differences, facts, snapshot
from starting import Fault, Place, Start, in_child, last_line, prepare, start

POLL_S = 0.002
MOST_CASES = 1000
SIGNALS = (signal.SIGKILL,) * 4 + (signal.SIGTERM, signal.SIGINT)
Kind = Literal["time", "change", "operation"]
KINDS: tuple[Kind, ...] = ("time", "change", "operation")


@dataclass(frozen=True)
class Straight:
    """What is known of a scenario that nobody killed."""

    seconds: float
    fresh_s: float
    changes: int
    operations: int
    files: Facts
    temporary: tuple[str, ...]
    """Names that stay in the folder for temporary files."""
    lasting: dict[str, tuple[Facts, Facts]]
    """Of each lasting thing: before and after."""


@dataclass(frozen=True)
class Moment:
    """When a start is killed, and how."""

    kind: Kind
    share: float
    """Of the straight run's time, changes or operations."""
    delay_s: float
    signal: signal.Signals
    rank: int | None
    """Which one of several processes gets the signal; None for all."""


@dataclass
class Outcome:
    """One case."""

    name: str
    fresh: bool
    kills: Counter[str] = field(default_factory=Counter)
    """By signal."""
    moments: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    aside: int = 0
    """Kills after which the earlier one was whole, but under its name.old-N."""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether anything was not as it should be."""
        return bool(self.failures or self.left_over)


def run_straight(scenario: Scenario, assets: Path, root: Path, *, fresh: bool) -> tuple[Straight, list[str]]:
    """Run a scenario that nobody kills, and say how a second run of it, which may be a fresh start, differs."""
    place = laid(scenario, assets, root / "straight")
    before = {name: _facts(place.work / name) for name in scenario.lasting}
    began = time.monotonic()
    changes, last = 0, snapshot(place.work)
    running = start(scenario.command, place)
    while running.running():
        time.sleep(POLL_S)
        changes += (now := snapshot(place.work)) != last
        last = now
    seconds = time.monotonic() - began
    if running.code:
        raise RuntimeError(f"{scenario.name}: {last_line(place)}")
    again = laid(scenario, assets, root / "again")
    began = time.monotonic()
    second = start(scenario.command, again, fresh=fresh)
    if not second.wait(600) or second.code:
        raise RuntimeError(f"{scenario.name}: {last_line(again)}")
    straight = Straight(
        seconds=seconds,
        fresh_s=time.monotonic() - began,
        changes=changes,
        operations=len(place.operations.read_text().splitlines()),
        files=_facts(place.work),
        temporary=tuple(os.listdir(place.temporary)),
        lasting={name: (before[name], _facts(place.work / name)) for name in scenario.lasting},
    )
    extra, changed = differences(_facts(again.work), straight.files)
    return straight, extra + changed


def run_case(
    scenario: Scenario, straight: Straight, place: Place, name: str, kinds: Sequence[Kind], *, fresh: bool
) -> Outcome:
    """Kill a scenario, let it go on, and compare; all choices follow the name."""
    rng = random.Random(name)
    outcome = Outcome(name, fresh)
    began = time.monotonic()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        moment = draw(rng, kinds, scenario.command.processes)
        if not _killed(scenario, straight, place, moment, outcome):
            break
        _check_whole(scenario, straight, place, outcome)
    if outcome.kills and not outcome.failures:
        _check_continued(scenario, straight, place, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


def draw(rng: random.Random, kinds: Sequence[Kind], processes: int) -> Moment:
    """A moment to kill at."""
    return Moment(
        kind=rng.choice(kinds),
        share=rng.random(),
        delay_s=rng.choice((0.0, 0.0, rng.uniform(0, 0.02))),
        signal=rng.choice(SIGNALS),
        rank=rng.choice((None, *range(processes))) if processes > 1 else None,
    )


def _killed(scenario: Scenario, straight: Straight, place: Place, moment: Moment, outcome: Outcome) -> bool:
    """Start the command and kill it; False if it ended before."""
    fault = None
    if moment.kind == "operation":
        number = 1 + int(moment.share * straight.operations)
        fault = Fault(number, moment.signal, everybody=moment.rank is None)
    running = start(scenario.command, place, fresh=outcome.fresh, fault=fault)
    hit = _wait_for(moment, straight, place, running, fresh=outcome.fresh)
    if hit:
        running.send(moment.signal, rank=moment.rank)
    if not running.wait(_patience(straight)):
        outcome.failures.append(f"hangs after {moment.signal.name}")
    operations = place.operations.read_text().splitlines() if place.operations.exists() else []
    hit = hit or (fault is not None and len(operations) >= fault.number)
    if hit:
        outcome.kills[moment.signal.name] += 1
        who = "" if moment.rank is None else f" of process {0 if fault else moment.rank}"
        where = f"before {operations[fault.number - 1]}" if fault else f"{moment.kind} {moment.share:.3f}"
        outcome.moments.append(f"{moment.signal.name}{who} {where}")
        if scenario.command.is_of_users and "Traceback" in place.log.read_text(errors="replace"):
            outcome.failures.append(f"a traceback after {moment.signal.name}: {_last_frame(place)}, {last_line(place)}")
            place.log.unlink()
    elif running.code:
        outcome.failures.append(f"exit code {running.code}: {last_line(place)}")
    return hit


def _wait_for(moment: Moment, straight: Straight, place: Place, running: Start, *, fresh: bool) -> bool:
    """Return at the moment; False if the command ends before, or if the moment is an operation."""
    if moment.kind == "operation":
        return False
    if moment.kind == "time":
        end = time.monotonic() + moment.share * (straight.fresh_s if fresh else straight.seconds)
        while time.monotonic() < end and running.running():
            time.sleep(POLL_S)
        return running.running()
    wanted, last = 1 + int(moment.share * straight.changes), snapshot(place.work)
    while wanted and running.running():
        time.sleep(POLL_S)
        wanted -= (now := snapshot(place.work)) != last
        last = now
    time.sleep(moment.delay_s)
    return running.running()


def _check_whole(scenario: Scenario, straight: Straight, place: Place, outcome: Outcome) -> None:
    for name in scenario.lasting:
        before, after = straight.lasting[name]
        found = _facts(path := place.work / name)
        if found in (before, after):
            continue
        if not found and any(_facts(aside) == before for aside in path.parent.glob(f"{path.name}.old-*")):
            outcome.aside += 1
            continue
        extra, changed = differences(found, after)
        outcome.failures.append(f"{name} is neither the old one nor the new one: {', '.join(extra + changed)}")


def _check_continued(scenario: Scenario, straight: Straight, place: Place, outcome: Outcome) -> None:
    running = start(scenario.command, place, fresh=outcome.fresh)
    if not running.wait(_patience(straight)):
        outcome.failures.append("hangs when it is continued")
    elif running.code:
        outcome.failures.append(f"exit code {running.code} when it is continued: {last_line(place)}")
    else:
        extra, changed = differences(_facts(place.work), straight.files)
        outcome.failures += [f"not as the straight run: {', '.join(changed)}"] if changed else []
        temporary = set(os.listdir(place.temporary)) - set(straight.temporary)
        outcome.left_over += [
            *extra,
            *(f"TMPDIR/{name}" for name in sorted(temporary) if not _is_of_others(place, name)),
        ]


def _is_of_others(place: Place, name: str) -> bool:
    """Whether torchrun made it for its logs, or Python's `tempfile` to try the folder out."""
    file = place.temporary / name
    return name.startswith("torchelastic_") or (file.is_file() and file.read_bytes() in (b"", b"blat"))


def laid(scenario: Scenario, assets: Path, root: Path) -> Place:
    """A new place for a scenario, with the earlier files that it begins with."""
    shutil.rmtree(root, ignore_errors=True)
    place = Place(root).make()
    for name, where in scenario.earlier.items():
        target = place.work / where
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (assets / name).is_dir() else shutil.copy)(assets / name, target)
    return place


def _facts(path: Path) -> Facts:
    found: Facts = in_child(facts, path)
    return found


def _patience(straight: Straight) -> float:
    return 60 + 10 * max(straight.seconds, straight.fresh_s)


def _last_frame(place: Place) -> str:
    lines = place.log.read_text(errors="replace").splitlines()
    return [line.strip() for line in lines if line.lstrip().startswith("File ")][-1]


def tell(
    name: str, straight: Straight, cases: Sequence[Outcome], differs: Sequence[str], seconds: float
) -> dict[str, Any]:
    """A row of the table."""
    kills = sum((case.kills for case in cases), Counter[str]())
    return {
        "scenario": name,
        "kills": sum(kills.values()),
        **{short: kills[short] for short in ("SIGKILL", "SIGTERM", "SIGINT")},
        "cases": len(cases),
        "equal": sum(not case.failures for case in cases),
        "left_overs": sum(bool(case.left_over) for case in cases),
        "aside": sum(case.aside for case in cases),
        "failed": sum(case.failed for case in cases),
        "repeats_itself": not differs,
        "straight_s": round(straight.seconds, 1),
        "seconds": round(seconds, 1),
    }


def attack(
    scenario: Scenario, assets: Path, root: Path, numbers: Iterable[int], *, kills: int, asked: argparse.Namespace
) -> tuple[dict[str, Any], list[Outcome]]:
    """Run cases of a scenario until they have met `kills`; returns the row of the table and the cases."""
    began = time.monotonic()
    straight, differs = run_straight(scenario, assets, root, fresh=asked.fresh > 0)
    if differs:
        print(f"{scenario.name}: two straight runs differ: {', '.join(differs)}", flush=True)
    cases: list[Outcome] = []
    for number in numbers:
        fresh = number < asked.fresh
        # A fresh start has no operations that could be counted.
        kinds = [kind for kind in asked.moment or KINDS if not (fresh and kind == "operation")]
        seed = f"{asked.seed}/{scenario.name}/{number}"
        case = run_case(scenario, straight, laid(scenario, assets, root / "case"), seed, kinds, fresh=fresh)
        cases.append(case)
        if case.failed:
            what = "; ".join([*case.failures, *(f"left over: {item}" for item in case.left_over)])
            again = f"--case '{scenario.name}:{number}' --seed {asked.seed} --fresh {asked.fresh}"
            again += "".join(f" --moment {kind}" for kind in asked.moment or ())
            print(f"{again}: {'; '.join(case.moments)} | {what}", flush=True)
        if sum(sum(case.kills.values()) for case in cases) >= kills:
            break
    return tell(scenario.name, straight, cases, differs, time.monotonic() - began), cases


def main() -> int:
    """Kill what was asked for; print a line per failure, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="at least, over all scenarios")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a folder of its own; assets are kept in it")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--scenario", action="append", help="only this one; repeatable")
    parser.add_argument("--case", help="SCENARIO:NUMBER, to repeat one case; its folder is kept")
    parser.add_argument("--moment", action="append", choices=KINDS, help="only this kind; repeatable")
    parser.add_argument("--fresh", type=int, default=1, help="cases of a scenario that are started without a fork")
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONDONTWRITEBYTECODE": "1"}
    out = asked.out.resolve()
    if asked.fresh and asked.moment == ["operation"]:
        parser.error("A fresh start has no operations that could be counted: with --moment operation, use --fresh 0.")
    assets = out / "assets"
    only, _, number = (asked.case or "").partition(":")
    names = [only] if only else asked.scenario or list(scenarios(assets))
    if unknown := set(names) - set(scenarios(assets)):
        parser.error(f"No scenario {', '.join(sorted(unknown))}; there are {', '.join(scenarios(assets))}.")
    prepare()
    make_assets(assets, {need for name in names for need in scenarios(assets)[name].needs})
    rows, details = [], []
    for name in names:
        scenario, root = scenarios(assets)[name], out / name.replace(" ", "-")
        numbers = [int(number)] if number else range(MOST_CASES)
        row, cases = attack(scenario, assets, root, numbers, kills=-(-asked.kills // len(names)), asked=asked)
        rows.append(row)
        details += [vars(case) for case in cases]
        print(json.dumps(row), flush=True)
    _print_table(rows)
    if asked.json:
        asked.json.write_text(json.dumps({"seed": asked.seed, "rows": rows, "cases": details}, indent=1))
    return int(any(row["failed"] or not row["repeats_itself"] for row in rows))


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    columns = list(rows[0])
    total = {
        key: round(sum(row[key] for row in rows), 1) for key in columns if key not in ("scenario", "repeats_itself")
    }
    lines = [dict(zip(columns, columns, strict=True)), *rows, {**total, "scenario": "all", "repeats_itself": ""}]
    widths = {key: max(len(str(line[key])) for line in lines) for key in columns}
    for line in lines:
        print("  ".join(str(line[key]).ljust(widths[key]) for key in columns).rstrip())


if __name__ == "__main__":
    sys.exit(main())

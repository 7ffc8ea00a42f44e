"""`compress`: open, check, search, carve, prove, distil, evaluate, save. No method and no family is named here."""

from __future__ import annotations

import hashlib
import time
import warnings as warning_control
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from gansdk.adapter import Adapter, Generator
from gansdk.budget import Budget, Limits
from gansdk.channels.groups import Plan
from gansdk.compatibility import IMAGES, WRAPPED, check
from gansdk.contracts import MAIN
from gansdk.errors import (
    BudgetUnreachable,
    DataError,
    GansdkError,
    GansdkWarning,
    IncompatibleParts,
    QualityFloorMissed,
    VerificationError,
)
from gansdk.evaluate import Evaluation, evaluate
from gansdk.events import Carved, Event, Finished, PlanFound, StageStarted, Warned
from gansdk.inspection import check_feasible
from gansdk.interfaces import DataSource, Distiller, Pruner, Regime, Student
from gansdk.offline import OfflineRegime
from gansdk.opening import open_distillers, open_generator, open_pruner, open_source
from gansdk.processes import Processes
from gansdk.quality import QualityFloor
from gansdk.registry import registry
from gansdk.result import CompressionResult
from gansdk.run import CompressionRun
from gansdk.run_folder import RunFolder
from gansdk.student import ElasticStudent
from gansdk.teachers import FrozenTeacher

DEFAULT_STEPS = 2000
EQUAL = 1e-4
"""Two forms of one student may differ by this share of the output range: float rounding, nothing else."""


def compress(
    model: Any,
    *,
    budget: Any,
    adapter: str | Adapter = "auto",
    pruner: str | Mapping[str, Any] | Pruner = "one-step",
    distiller: str | Mapping[str, Any] | Distiller | Sequence[Any] | None = "gka",
    data: Any = None,
    eval_data: Any = None,
    steps: int | None = None,
    seed: int = 0,
    out_dir: str | Path | None = None,
    resume: Literal["auto", "never"] = "auto",
    device: str = "auto",
    dry_run: bool = False,
    quality: str | None = None,
    batch_size: int = 8,
    patch: int | None = None,
    learning_rate: float = 1e-3,
    observers: Sequence[Callable[[Event], None]] = (),
) -> CompressionResult:
    """Make a small student of a generator that looks like it.

    Args:
        model: a module of a known family, a checkpoint path, a saved student's folder, or `gansdk.wrap(...)`.
        budget: "10x", "macs<=2.6G", "params<=25%, size<=5MB", or a `gansdk.Budget`.
        adapter: the family, or "auto" to recognise it.
        pruner: a name, {"name": ..., option: value}, or an instance.
        distiller: likewise, or a list of them; None prunes only, and then needs neither data nor steps.
        data: a folder of images, "photos" (the embedded photographs), or a DataSource.
        eval_data: what student and teacher are scored on; left out, the held-out part of `data`.
        steps: training steps; 2000 if left out.
        seed: of everything random; the same seed on the same machine gives the same student.
        out_dir: where the run, the student and the report go; left out, nothing is written.
        resume: "auto" continues a run found in `out_dir`; "never" moves it aside.
        device: "auto", or "cpu".
        dry_run: stop once the plan is found and carved; nothing is trained or written.
        quality: a floor for the student, "psnr-y>=29.5"; missed, the student is saved and the error raised.
        batch_size: images a step, over all processes.
        patch: side of the training inputs in pixels; the source's own choice if left out.
        learning_rate: the largest of the schedule.
        observers: called with every event of the run.

    Raises:
        GansdkError: one of its kinds, before any compute is spent wherever that is possible.
    """
    began = time.perf_counter()
    job = _prepare(model, budget, adapter, pruner, distiller, data, steps, seed, patch)
    scored_on = _evaluation_source(eval_data, job)
    floor = QualityFloor.parse(quality)
    processes = Processes(device)
    settings = {**job.settings(), "batch_size": batch_size, "learning_rate": learning_rate}
    settings["processes"] = processes.count
    target = None if out_dir is None or dry_run else Path(out_dir)
    folder = RunFolder(target, settings, resume=resume, writes=processes.is_main)
    processes.wait()
    run = _start(job, processes, folder, batch_size, learning_rate, observers)
    with _told(run) as warnings:
        student = ElasticStudent.of(job.generator)
        student.module.to(processes.device)
        limits = job.budget.resolve(student.cost(student.space.full_plan()))
        check_feasible(student, limits)
        plan = processes.agree(_plan(job, run, student, limits, folder))
        carved, checks = _carve(job, run, student, plan)
        if not dry_run:
            if folder.load_stage(0) is None:
                job.pruner.recover(student, carved, plan, run)
                processes.share_weights(carved.module)
            run.student = carved
            if job.distillers:
                run.distil(job.steps)
        carved.train(False)
        evaluation = None if dry_run else _evaluate(job, run, carved.module, scored_on, processes)
    result = CompressionResult(
        student=carved.module.cpu().eval(),
        teacher=job.generator.module,
        generator=job.generator,
        space=student.space,
        plan=plan,
        budget=str(job.budget),
        before=student.cost(student.space.full_plan()),
        after=carved.cost(carved.space.full_plan()),
        evaluation=evaluation,
        warnings=warnings,
        history=run.history,
        checks=checks,
        settings={**settings, "seconds": round(time.perf_counter() - began, 1), "torch": torch.__version__},
        out_dir=target,
    )
    if target is not None and processes.is_main:
        result.save(target / "student")
    processes.wait()
    run.emit(Finished(seconds=time.perf_counter() - began, output=str(target or "")))
    if floor is not None and not dry_run:
        missed = floor.missed(result.quality)
        if missed:
            raise QualityFloorMissed(f"{missed} The student is in {target or 'no folder: out_dir was not given'}.")
    return result


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Everything that was asked for, opened and checked, before any compute is spent."""

    generator: Generator
    budget: Budget
    pruner: Pruner
    distillers: tuple[Distiller, ...]
    regime: Regime
    source: DataSource | None
    steps: int
    seed: int
    asked: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """JSON facts that decide the result."""
        weights = hashlib.sha256()
        for name, tensor in self.generator.module.state_dict().items():
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return {
            "model": self.generator.source or type(self.generator.module).__name__,
            "weights": weights.hexdigest(),
            "budget": str(self.budget),
            "counting": self.budget.counting,
            "steps": self.steps if self.distillers else 0,
            "seed": self.seed,
            **self.asked,
        }


def _prepare(
    model: Any,
    budget: Any,
    adapter: str | Adapter,
    pruner: Any,
    distiller: Any,
    data: Any,
    steps: int | None,
    seed: int,
    patch: int | None,
) -> _Job:
    parsed = Budget.parse(budget)
    chosen = open_pruner(pruner)
    distillers = open_distillers(distiller)
    if steps is not None and steps < 1:
        raise GansdkError(f"steps={steps} must be at least 1; use distiller=None to prune without training.")
    regimes = [item.regime for item in distillers if item.regime is not None]
    if len(regimes) > 1:
        raise IncompatibleParts("Two of the distillers bring a regime, and a run has one. Keep one of them.")
    generator = open_generator(model, adapter)
    _check_parts(generator, pruner, distiller, has_data=data is not None)
    source = None if data is None else open_source(data, generator, patch=patch, seed=seed)
    regime = regimes[0] if regimes else OfflineRegime()
    if distillers:
        source = regime.source(source, generator.adapter)
    return _Job(
        generator=generator,
        budget=parsed,
        pruner=chosen,
        distillers=tuple(distillers),
        regime=regime,
        source=source,
        steps=DEFAULT_STEPS if steps is None else steps,
        seed=seed,
        asked={
            "pruner": _described(chosen),
            "distiller": [_described(part) for item in distillers for part in (*item.terms, item.regime) if part],
            "data": source.describe() if source is not None else None,
            "patch": patch,
        },
    )


def _check_parts(generator: Generator, pruner: Any, distiller: Any, *, has_data: bool) -> None:
    """Needs against what adapter and data provide, for every part that was asked for by name."""
    known = registry()
    adapters = known.specs("adapter")
    spec = adapters.get(generator.adapter.name, WRAPPED)
    names = [_name(item) for item in (distiller if isinstance(distiller, (list, tuple)) else [distiller])]
    check(
        spec,
        known.specs("pruner").get(_name(pruner)),
        [known.specs("distiller")[name] for name in names if name in known.specs("distiller")],
        frozenset({IMAGES, "paired"}) if has_data else frozenset({IMAGES}),
    )


def _name(asked: Any) -> str:
    name = asked.get("name") if isinstance(asked, Mapping) else asked
    return name if isinstance(name, str) else ""


def _described(part: object) -> dict[str, Any]:
    """A part's class and its plain settings, for the record and for comparing runs."""
    plain = (str, int, float, bool, type(None))
    values = {
        name: value for name, value in vars(part).items() if isinstance(value, plain) and not name.startswith("_")
    }
    return {"part": f"{type(part).__module__}.{type(part).__qualname__}", **values}


def _evaluation_source(eval_data: Any, job: _Job) -> DataSource | None:
    if eval_data is not None:
        return open_source(eval_data, job.generator, split="all")
    return job.source


def _start(
    job: _Job,
    processes: Processes,
    folder: RunFolder,
    batch_size: int,
    learning_rate: float,
    observers: Sequence[Callable[[Event], None]],
) -> CompressionRun:
    generator = job.generator
    reference = FrozenTeacher(generator.module, generator.contract, generator.taps, device=processes.device)
    return CompressionRun(
        generator=generator,
        student=ElasticStudent.of(generator),
        teacher=reference,
        teachers=job.regime.teachers(reference, generator.adapter),
        task=generator.adapter.task(generator.module),
        regime=job.regime,
        terms=[term for item in job.distillers for term in item.terms],
        source=job.source,
        processes=processes,
        folder=folder,
        seed=job.seed,
        batch_size=batch_size,
        learning_rate=learning_rate,
        observers=observers,
    )


@contextmanager
def _told(run: CompressionRun) -> Iterator[list[str]]:
    """Collect our own warnings for the result, and pass every one of them on."""
    told: list[str] = []
    show = warning_control.showwarning

    def note(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, GansdkWarning):
            told.append(str(message))
            run.emit(Warned(message=str(message)))
        show(message, category, *rest, **more)

    with warning_control.catch_warnings():
        warning_control.showwarning = note
        yield told


def _plan(job: _Job, run: CompressionRun, student: Student, limits: Limits, folder: RunFolder) -> Plan:
    """The pruner's plan, or the one an earlier start of this run found; always within the limits."""
    known = folder.load_plan()
    if known is not None:
        return Plan.from_dict(known)
    run.student = student
    run.emit(StageStarted(stage="search", steps=0))
    plan = job.pruner.search(student, limits, run)
    cost = student.cost(plan)
    if not limits.fits(cost):
        raise BudgetUnreachable(
            f"The pruner {type(job.pruner).__name__} returned a plan of {limits.describe(cost)}, over the budget "
            f"{job.budget}. This is a fault of the pruner.",
            floor={"macs": cost.macs, "params": cost.params, "size": cost.bytes},
        )
    run.emit(PlanFound(widths=plan.widths(student.space), cost=cost))
    folder.save_plan(plan.to_dict())
    return plan


def _carve(
    job: _Job, run: CompressionRun, student: ElasticStudent, plan: Plan
) -> tuple[ElasticStudent, dict[str, float]]:
    """The carved student, proved equal to the full network run under the plan, and to its predicted cost."""
    carved = student.carve(plan, inherit=job.pruner.inherit)
    exact = carved if job.pruner.inherit == "all" else student.carve(plan)
    rng = torch.Generator().manual_seed(job.seed)
    low, high = job.generator.contract.input_range
    x = low + (high - low) * torch.rand(job.generator.contract.example_shape, generator=rng)
    x = x.to(next(student.parameters()).device)
    student.train(False)
    exact.train(False)
    with torch.no_grad():
        student.activate(plan)
        expected, found = student.observe(x).image, exact.observe(x).image
        student.activate(student.space.full_plan())
        whole, original = student.observe(x).image, run.teacher.observe(x).image
    assert expected is not None
    assert found is not None
    assert whole is not None
    assert original is not None
    checks = {
        "teacher -> traced copy": float((whole - original).abs().max()),
        "plan -> carved": float((expected - found).abs().max()),
    }
    spread = job.generator.contract.output_range[1] - job.generator.contract.output_range[0]
    for stage, error in checks.items():
        if not error <= EQUAL * spread:
            raise VerificationError(
                f"{stage}: the images differ by {error:.3g}, more than rounding explains. The generator does something "
                "the trace does not see; please report its layers.",
                stage=stage,
                max_error=error,
            )
    after, predicted = carved.cost(carved.space.full_plan()), student.cost(plan)
    real = sum(p.numel() for p in carved.parameters())
    if after != predicted or real != after.params:
        raise VerificationError(
            f"The carved student has {real} parameters, {predicted.params} were predicted.",
            stage="cost",
            max_error=abs(real - predicted.params),
        )
    run.emit(Carved(cost=after, full=student.cost(student.space.full_plan()), max_error=max(checks.values())))
    return carved, checks


def _evaluate(
    job: _Job, run: CompressionRun, student: nn.Module, source: DataSource | None, processes: Processes
) -> Evaluation | None:
    """Student and teacher by one protocol; None, with a warning, where there is nothing to score on."""
    run.emit(StageStarted(stage="evaluate", steps=0))
    if source is None:
        warning_control.warn("No images were given, so the student was not scored.", GansdkWarning, stacklevel=2)
        return None
    teacher = run.teacher.networks()[MAIN]
    try:
        return evaluate(
            student, teacher=teacher, source=source, contract=job.generator.contract, device=processes.device
        )
    except DataError as error:
        warning_control.warn(f"The student was not scored: {error}", GansdkWarning, stacklevel=2)
        return None

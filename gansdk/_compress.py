"""`compress`: open, check, search, carve, prove, distil, evaluate, save. No method and no family is named here."""

from __future__ import annotations

import time
import warnings as warning_control
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gansdk.adapter import Adapter
from gansdk.artifact import check_target
from gansdk.budget import Limits
from gansdk.channels.groups import Plan, Space
from gansdk.contracts import MAIN
from gansdk.errors import (
    BudgetUnreachable,
    ContractError,
    DataError,
    GansdkWarning,
    IncompatibleParts,
    QualityFloorMissed,
    VerificationError,
)
from gansdk.evaluate import Evaluation, evaluate
from gansdk.events import Carved, Event, Finished, PlanFound, StageStarted, Warned
from gansdk.inspection import check_feasible
from gansdk.interfaces import DataSource, Distiller, Pruner, State, Student
from gansdk.job import Job, check_measurable, evaluation_source, prepare
from gansdk.loop import Loop, continuing
from gansdk.metrics import Metric
from gansdk.opening import open_metrics
from gansdk.options import check_choices, check_numbers
from gansdk.processes import Processes
from gansdk.quality import QualityFloor
from gansdk.result import CompressionResult
from gansdk.run import CompressionRun
from gansdk.run_folder import RunFolder, damaged
from gansdk.student import ElasticStudent
from gansdk.teachers import FrozenTeacher

TRACED, CARVED = "teacher -> traced copy", "plan -> carved"
EQUAL = 1e-4
"""Two forms of one student may differ by this share of the output range: float rounding, nothing else."""


def compress(
    model: Any,
    *,
    budget: Any,
    adapter: str | Mapping[str, Any] | Adapter = "auto",
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
    metrics: Any = (),
    batch_size: int = 8,
    patch: int | None = None,
    learning_rate: float | None = None,
    discriminator: str | Path | None = None,
    observers: Sequence[Callable[[Event], None]] = (),
) -> CompressionResult:
    """Make a small student of a generator that looks like it.

    Args:
        model: a module of a known family, a checkpoint path, a saved student's folder, or `gansdk.wrap(...)`.
        budget: "10x", "macs<=2.6G", "params<=25%, size<=5MB", or a `gansdk.Budget`.
        adapter: the family, {"name": ..., option: value}, an instance, or "auto" to recognise it.
        pruner: a name, {"name": ..., option: value}, or an instance.
        distiller: likewise, or a list of them; None prunes only, and then needs neither data nor steps.
        data: a folder of images, "photos" (the embedded photographs), {"name": ..., option: value}, or a DataSource.
        eval_data: what student and teacher are scored on; left out, the held-out part of `data`.
        steps: training steps; 2000 if left out.
        seed: of everything random; the same seed on the same machine gives the same student.
        out_dir: where the run, the student and the report go; left out, nothing is written.
        resume: "auto" continues a run found in `out_dir`; "never" moves it aside.
        device: "auto", or "cpu".
        dry_run: stop once the plan is found and carved; nothing is trained or written.
        quality: a floor for the student, "psnr-y>=29.5"; missed, the student is saved and the error raised.
        metrics: names, {"name": ..., option: value} or instances of what is measured besides: FID, KID, mIoU.
        batch_size: images a step, over all processes.
        patch: side of the training inputs in pixels; the source's own choice if left out.
        learning_rate: the largest of the schedule; the family's own if left out.
        discriminator: checkpoint of the discriminator that the generator was trained against, for the student to go
            on with; a folder saved by `train_teacher` brings its own, and else the student's starts fresh.
        observers: called with every event of the run.

    Raises:
        GansdkError: one of its kinds, before any compute is spent wherever that is possible.
    """
    began = time.perf_counter()
    check_numbers(steps=steps, seed=seed, batch_size=batch_size, patch=patch, learning_rate=learning_rate)
    check_choices(resume=resume, device=device)
    floor = QualityFloor.parse(quality)
    warnings: list[str] = []
    with _told(warnings):
        measures = open_metrics(metrics)
        job = prepare(model, budget, adapter, pruner, distiller, data, steps, seed, patch, discriminator)
        rate = job.task.optimisation.learning_rate if learning_rate is None else learning_rate
        if dry_run and job.pruner.trains:
            raise IncompatibleParts(
                f"The pruner {type(job.pruner).__name__} trains the student while it searches, and dry_run=True trains "
                "nothing. Leave one of them out, or use the pruner 'one-step'."
            )
        scored_on = evaluation_source(eval_data, job)
        if not dry_run:
            check_measurable(floor, measures, job, scored_on)
    processes = Processes(device)
    processes.share(batch_size)
    settings = {**job.settings(), "batch_size": batch_size, "learning_rate": rate}
    settings["processes"] = processes.count
    target = None if out_dir is None or dry_run else Path(out_dir)
    # Only the main process has the folder; the others are told what is in it.
    folder = RunFolder(target if processes.is_main else None, settings, resume=resume)
    if folder.path is not None:
        check_target(folder.path.parent / "student")
    processes.wait()
    loop = Loop(
        source=job.source,
        processes=processes,
        folder=folder,
        seed=seed,
        batch_size=batch_size,
        observers=observers,
    )
    for message in warnings:
        loop.emit(Warned(message=message))
    with _told(warnings, loop):
        student = ElasticStudent.of(job.generator)
        student.module.to(processes.device)
        run = _start(job, loop, student, rate)
        limits = job.budget.resolve(student.cost(student.space.full_plan()))
        check_feasible(student, limits, floor_share=0.0)  # pruners have floors of their own, and check them first
        checks = {TRACED: _check_traced(job, run, student)}
        plan = processes.agree(_plan(job, run, student, limits))
        carved, checks[CARVED] = _carve(job, run, student, plan)
        if not dry_run:
            _recover(job, run, student, carved, plan, processes)
            if job.distillers:
                run.enter("distil", carved)
                run.distil(job.steps)
        carved.train(False)
        evaluation = None if dry_run else _evaluate(job, run, carved.module, scored_on, measures, processes)
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
        history=loop.history,
        checks=checks,
        settings={**settings, "seconds": round(time.perf_counter() - began, 1), "torch": torch.__version__},
        discriminator=job.task.discriminator if job.distillers else job.generator.discriminator,
        out_dir=target,
    )
    if target is not None and processes.is_main:
        result.save(target / "student")
    processes.wait()
    loop.emit(Finished(seconds=time.perf_counter() - began, output=str(target or "")))
    if floor is not None and not dry_run:
        missed = floor.missed(result.quality)
        if missed:
            raise QualityFloorMissed(f"{missed} The student is in {target or 'no folder: out_dir was not given'}.")
    return result


def _start(job: Job, loop: Loop, student: Student, learning_rate: float) -> CompressionRun:
    generator = job.generator
    reference = FrozenTeacher(generator.module, generator.contract, generator.taps, device=loop.processes.device)
    return CompressionRun(
        loop,
        generator=generator,
        student=student,
        teacher=reference,
        teachers=job.regime.teachers(reference, generator.adapter),
        task=job.task,
        regime=job.regime,
        terms=[term for item in job.distillers for term in item.terms],
        learning_rate=learning_rate,
    )


@contextmanager
def _told(told: list[str], loop: Loop | None = None) -> Iterator[None]:
    """Collect our own warnings for the result, and pass every one of them on; those with a loop are events as well."""
    show = warning_control.showwarning

    def note(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, GansdkWarning):
            told.append(str(message))
            if loop is not None:
                loop.emit(Warned(message=str(message)))
        show(message, category, *rest, **more)

    with warning_control.catch_warnings():
        warning_control.showwarning = note
        yield


def _check_traced(job: Job, run: CompressionRun, student: Student) -> float:
    """Largest difference between the teacher's image and that of the student, still at full size."""
    x = _example(job, student)
    student.train(False)
    with torch.no_grad():
        image, original, again = (part.observe(x).image for part in (student, run.teacher, run.teacher))
    assert image is not None
    assert original is not None
    assert again is not None
    if not original.isfinite().all():
        raise ContractError(
            "The generator gives NaN or infinite values for noise within its input range, so there is nothing to "
            "imitate. Check its weights, and the contract's input_range."
        )
    if not torch.equal(original, again):
        raise ContractError(
            f"The generator gives other images for the same input, up to {float((original - again).abs().max()):.3g} "
            "apart: it draws noise or keeps a state. Make it a function of its input, with noise as a further channel "
            "or a fixed buffer."
        )
    return _proved(job, TRACED, image, original)


def _example(job: Job, student: Student) -> Tensor:
    """Noise within the contract's range: (1, channels_in, H, W)."""
    rng = torch.Generator().manual_seed(job.seed)
    low, high = job.generator.contract.input_range
    x = low + (high - low) * torch.rand(job.generator.contract.example_shape, generator=rng)
    return x.to(next(student.parameters()).device)


def _proved(job: Job, stage: str, image: Tensor, expected: Tensor) -> float:
    """Largest difference of two images that should be one.

    Raises:
        VerificationError: it is more than rounding.
    """
    low, high = job.generator.contract.output_range
    error = float((image - expected).abs().max())
    if not error <= EQUAL * (high - low):
        raise VerificationError(
            f"{stage}: the images differ by {error:.3g}, more than rounding explains. The generator does something "
            "the trace does not see; please report its layers.",
            stage=stage,
            max_error=error,
        )
    return error


def _plan(job: Job, run: CompressionRun, student: Student, limits: Limits) -> Plan:
    """The pruner's plan, or the one an earlier start of this run found; always within the limits."""
    run.enter("search", student)
    known = run.loop.load("search")
    if known is not None:
        return _known_plan(known, run, student, limits)
    run.loop.emit(StageStarted(stage="search", steps=0))
    plan = job.pruner.search(student, limits, run)
    _check_plan(plan, student.space, type(job.pruner).__name__)
    plan.check(student.space)
    cost = student.cost(plan)
    if not limits.fits(cost):
        raise BudgetUnreachable(
            f"The pruner {type(job.pruner).__name__} returned a plan of {limits.describe(cost)}, over the budget "
            f"{job.budget}. This is a fault of the pruner.",
            floor={"macs": cost.macs, "params": cost.params, "size": cost.bytes},
        )
    run.loop.emit(PlanFound(widths=plan.widths(student.space), cost=cost))
    # A pruner may have trained the student while it searched, so the weights belong to the plan.
    run.loop.save("search", {"plan": plan.to_dict(), "student": student.state_dict()})
    return plan


def _known_plan(state: State, run: CompressionRun, student: Student, limits: Limits) -> Plan:
    with continuing("search"):
        plan = Plan.from_dict(state["plan"])
        student.load_state_dict(state["student"])
        run.loop.restore(state)
    if not limits.fits(student.cost(plan)):
        raise damaged("search.pt", ValueError("its plan exceeds the budget"))
    return plan


def _check_plan(plan: Plan, space: Space, pruner: str) -> None:
    """Refuse a plan that names no channels of this generator, before it is costed and carved."""
    for name, kept in plan.items():
        group = space.by_name.get(name)
        fault = (
            "which does not exist"
            if group is None
            else f"which is frozen ({group.frozen})"
            if group.frozen and len(kept) != group.size
            else f"with {list(kept)[:8]} instead of ascending ids below {group.size}, {group.floor} or more of them"
            if list(kept) != sorted({i for i in kept if 0 <= i < group.size}) or len(kept) < group.floor
            else ""
        )
        if fault:
            raise ContractError(
                f"The pruner {pruner} returned a plan for group {name!r}, {fault}. This is a fault of the pruner."
            )


def _recover(
    job: Job, run: CompressionRun, full: Student, carved: ElasticStudent, plan: Plan, processes: Processes
) -> None:
    """Let the pruner repair the carved student; a run that is continued has its repaired weights already."""
    run.enter("recover", carved)
    state = run.loop.load("recover")
    if state is not None:
        with continuing("recover"):
            carved.load_state_dict(state["student"])
            run.loop.restore(state)
        return
    job.pruner.recover(full, carved, plan, run)
    processes.share_weights(carved.module)
    run.loop.save("recover", {"student": carved.state_dict()})


def _carve(job: Job, run: CompressionRun, student: ElasticStudent, plan: Plan) -> tuple[ElasticStudent, float]:
    """The carved student, proved equal to the full network run under the plan, and to its predicted cost."""
    carved = student.carve(plan, inherit=job.pruner.inherit)
    exact = carved if job.pruner.inherit == "all" else student.carve(plan)
    x = _example(job, student)
    student.train(False)
    exact.train(False)
    student.activate(plan)
    with torch.no_grad():
        expected, found = student.observe(x).image, exact.observe(x).image
    student.activate(student.space.full_plan())
    assert expected is not None
    assert found is not None
    error = _proved(job, CARVED, found, expected)
    after, predicted = carved.cost(carved.space.full_plan()), student.cost(plan)
    real = sum(p.numel() for p in carved.parameters())
    if after != predicted or real != after.params:
        raise VerificationError(
            f"The carved student has {real} parameters, {predicted.params} were predicted.",
            stage="cost",
            max_error=abs(real - predicted.params),
        )
    run.loop.emit(Carved(cost=after, full=student.cost(student.space.full_plan()), max_error=error))
    return carved, error


def _evaluate(
    job: Job,
    run: CompressionRun,
    student: nn.Module,
    source: DataSource | None,
    metrics: Sequence[Metric],
    processes: Processes,
) -> Evaluation | None:
    """Student and teacher by one protocol; None, with a warning, where there is nothing to score on."""
    run.loop.emit(StageStarted(stage="evaluate", steps=0))
    if source is None:
        warning_control.warn("No images were given, so the student was not scored.", GansdkWarning, stacklevel=2)
        return None
    teacher = run.teacher.networks()[MAIN]
    try:
        return evaluate(
            student,
            teacher=teacher,
            source=source,
            contract=job.generator.contract,
            device=processes.device,
            metrics=metrics,
        )
    except DataError as error:
        warning_control.warn(f"The student was not scored: {error}", GansdkWarning, stacklevel=2)
        return None

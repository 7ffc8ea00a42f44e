"""The command line. Results go to stdout, everything else to stderr; torch is imported by the commands that need it."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gansdk.errors import GansdkError, GansdkWarning, PluginLoadError, QualityFloorMissed

if TYPE_CHECKING:
    from gansdk.budget import Cost
    from gansdk.interfaces import Quality
    from gansdk.registry import Registry, Row
    from gansdk.result import CompressionResult, Ladder

PLUGIN_CHECK_FAILED = 5

app = typer.Typer(
    name="gansdk",
    help="Make image generators small: prune channels to a budget, then distil the generator into what is left.",
    epilog="Exit codes: 0 done, 2 wrong input, 3 budget out of reach, 4 quality floor missed, 5 check failed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[str, typer.Argument(help="A checkpoint, the folder of a saved student, or 'demo'.")]
BudgetOption = Annotated[
    str, typer.Option("--budget", "-b", help='What the student may cost: "4x", "macs<=2.6G", "params<=25%,size<=5MB".')
]
BudgetsOption = Annotated[
    list[str],
    typer.Option(
        "--budget",
        "-b",
        help='What the student may cost: "4x", "macs<=2.6G", "params<=25%,size<=5MB". Several students, from large to '
        'small: repeat it, or "2x,4x,8x".',
    ),
]
PrunerOption = Annotated[str, typer.Option("--pruner", help="A pruner that `gansdk plugins` lists.")]
PrunerOptions = Annotated[
    list[str], typer.Option("--pruner-option", metavar="KEY=VALUE", help="Option of the pruner; repeatable.")
]
MetricNames = Annotated[
    list[str], typer.Option("--metric", help="Measured besides: kid, fid, miou or a plugin's; repeatable.")
]
MetricOptions = Annotated[
    list[str],
    typer.Option("--metric-option", metavar="NAME.KEY=VALUE", help="Option of a metric, kid.weights=FILE; repeatable."),
]
AdapterOptions = Annotated[
    list[str], typer.Option("--adapter-option", metavar="KEY=VALUE", help="Option of the adapter; repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; our own errors become one paragraph on stderr."""
    try:
        app(args=arguments, prog_name="gansdk")
    except GansdkError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _version(asked: bool) -> None:
    if asked:
        from gansdk import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None: ...


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where student and report go.")] = Path("gansdk-demo"),
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compress the teacher that comes with gansdk four times, on photographs that come with its dependencies.

    About two minutes on two CPU cores. Exits with 4 if the student is no better than bicubic enlargement.
    """
    from gansdk.demo import STEPS, run_demo
    from gansdk.progress import ProgressObserver

    with _shown_if_poor(as_json=as_json):
        with _working() as told, ProgressObserver(told) as progress:
            result = run_demo(out, steps=steps or STEPS, observers=(progress,))
        _print_made(result, as_json=as_json)


@app.command()
def inspect(
    model: Model,
    budget: Annotated[str | None, typer.Option("--budget", "-b", help="Check whether it can be met.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a generator costs, what can shrink, what is frozen and why. Trains nothing, needs no data."""
    with _working():
        from gansdk.inspection import inspect as look

        found = look(model, budget)
    if as_json:
        return _print_json(found.to_dict())
    console = Console()
    console.print(f"{found.name}, adapter {found.adapter}", markup=False)
    console.print(_cost_table(found.cost, found.floor, "smallest"))
    table = _table("channel group", "channels", "frozen because")
    for group in found.groups:
        table.add_row(group["name"], str(group["size"]), group["frozen"])
    console.print(table)
    for line in (*found.notes, found.verdict):
        console.print(line, markup=False)


@app.command()
def plan(
    model: Model,
    budget: BudgetOption,
    pruner: PrunerOption = "one-step",
    pruner_option: PrunerOptions = [],  # noqa: B006 - typer copies it
    as_json: AsJson = False,
) -> None:
    """Choose channels for a budget by the weights alone. `compress` with data ranks them better."""
    with _working():
        from gansdk.inspection import plan as choose

        found = choose(model, budget, _part(pruner, pruner_option))
    if as_json:
        return _print_json(found.to_dict())
    console = Console()
    table = _table("channel group", "kept", "of")
    for name, (kept, size) in found.widths.items():
        table.add_row(name, str(kept), str(size))
    console.print(table)
    console.print(_cost_table(found.before, found.after, "after"))
    console.print(f"{found.used:.1%} of the budget {found.budget} is used", markup=False)


@app.command()
def compress(
    model: Model,
    budget: BudgetsOption,
    adapter: Annotated[str, typer.Option(help="The generator's family; 'auto' recognises it.")] = "auto",
    adapter_option: AdapterOptions = [],  # noqa: B006 - typer copies it
    pruner: PrunerOption = "one-step",
    pruner_option: PrunerOptions = [],  # noqa: B006 - typer copies it
    distiller: Annotated[list[str], typer.Option(help="Repeatable; 'none' prunes only.")] = ["gka"],  # noqa: B006
    distiller_option: Annotated[
        list[str],
        typer.Option("--distiller-option", metavar="NAME.KEY=VALUE", help="Option of a distiller; repeatable."),
    ] = [],  # noqa: B006 - typer copies it
    data: Annotated[str | None, typer.Option(help="A folder of images, 'photos', or a source as JSON.")] = None,
    eval_data: Annotated[str | None, typer.Option(help="What to score on; else what --data holds out.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps; 2000 if left out.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 8,
    patch: Annotated[int | None, typer.Option(min=1, help="Side of the training inputs in pixels.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The largest of the schedule; else the family's.")] = None,
    discriminator: Annotated[
        str | None, typer.Option(help="Checkpoint of the teacher's discriminator, or 'fresh' for a new one.")
    ] = None,
    transform: Annotated[str | None, typer.Option(help="The family's, such as 'mobile': what to start from.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where run, student and report go.")] = Path("gansdk-out"),
    resume: Annotated[bool, typer.Option(help="Continue a run found in --out, or move it aside.")] = True,
    device: Annotated[str, typer.Option(help="'auto' or 'cpu'.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop when the plan is carved; write nothing.")] = False,
    quality: Annotated[str | None, typer.Option(help='A floor for the student: "psnr-y>=29.5".')] = None,
    metric: MetricNames = [],  # noqa: B006 - typer copies it
    metric_option: MetricOptions = [],  # noqa: B006 - typer copies it
    as_json: AsJson = False,
) -> None:
    """Make a small student of a generator, or several, and write them with a report."""
    from gansdk.budgets import read_budgets
    from gansdk.progress import ProgressObserver

    budgets = read_budgets(budget)
    with _shown_if_poor(as_json=as_json):
        with _working() as told, ProgressObserver(told) as progress:
            import gansdk

            run: Any = gansdk.ladder if len(budgets) > 1 else gansdk.compress
            made = run(
                model,
                **({"budgets": budgets} if len(budgets) > 1 else {"budget": budgets[0]}),
                adapter=_part(adapter, adapter_option) if adapter_option else adapter,
                pruner=_part(pruner, pruner_option),
                distiller=_distillers(distiller, distiller_option),
                data=data,
                eval_data=eval_data,
                steps=steps,
                seed=seed,
                out_dir=out,
                resume="auto" if resume else "never",
                device=device,
                dry_run=dry_run,
                quality=quality,
                metrics=_parts(metric, metric_option),
                batch_size=batch_size,
                patch=patch,
                learning_rate=learning_rate,
                discriminator=discriminator,
                transform=transform,
                observers=(progress,),
            )
        _print_made(made, as_json=as_json)


@app.command("train-teacher")
def train_teacher(
    family: Annotated[str, typer.Argument(help="The adapter: 'pix2pix', 'cyclegan', 'gaugan', ...")],
    data: Annotated[str, typer.Option(help="A folder of images in one of the family's layouts.")],
    architecture: Annotated[str, typer.Option(help="Of the family's: 'inception' for CAT's; else the usual one.")] = "",
    size: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Another size; repeatable.")] = [],  # noqa: B006
    adapter_option: AdapterOptions = [],  # noqa: B006 - typer copies it
    model: Annotated[str | None, typer.Option(help="A generator to go on from.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 10_000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 1,
    patch: Annotated[int | None, typer.Option(min=1, help="Side of the training images in pixels.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the generator; else the family's.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where run, samples and teacher go.")] = Path("gansdk-out"),
    resume: Annotated[bool, typer.Option(help="Continue a run found in --out, or move it aside.")] = True,
    device: Annotated[str, typer.Option(help="'auto' or 'cpu'.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Train a generator by its family's own losses, as a teacher to compress."""
    from gansdk.progress import ProgressObserver

    with _working() as told, ProgressObserver(told) as progress:
        from gansdk._train import train_teacher as train

        trained = train(
            _part(family, adapter_option),
            data,
            architecture=architecture,
            sizes=dict(_option(text) for text in size),
            model=model,
            steps=steps,
            batch_size=batch_size,
            patch=patch,
            learning_rate=learning_rate,
            seed=seed,
            out_dir=out,
            resume="auto" if resume else "never",
            device=device,
            observers=(progress,),
        )
    qualities = [quality for found in trained.evaluations.values() for quality in found.qualities]
    if as_json:
        return _print_json({"settings": trained.settings, "quality": [asdict(item) for item in qualities]})
    if qualities:
        _print_quality(Console(), qualities)
    print(f"Teacher: {out / 'teacher'}")


@app.command("eval")
def evaluate_student(
    student: Annotated[str, typer.Argument(help="The folder of a saved student, or a checkpoint.")],
    data: Annotated[str, typer.Option(help="A folder of images, 'photos', or a source as JSON.")],
    reference: Annotated[str | None, typer.Option(help="The teacher to score beside it.")] = None,
    metric: MetricNames = [],  # noqa: B006 - typer copies it
    metric_option: MetricOptions = [],  # noqa: B006 - typer copies it
    as_json: AsJson = False,
) -> None:
    """Score a student, and its teacher if given, on images."""
    with _working():
        from gansdk.evaluate import evaluate
        from gansdk.metrics import check_metrics
        from gansdk.opening import open_generator, open_metrics, open_source
        from gansdk.routes import the_only

        metrics = open_metrics(_parts(metric, metric_option))
        generator = the_only(open_generator(student))
        source = open_source(data, generator, split="all")
        check_metrics(metrics, generator.contract, source)
        scores = evaluate(
            generator.module,
            teacher=None if reference is None else the_only(open_generator(reference)).module,
            source=source,
            contract=generator.contract,
            metrics=metrics,
        )
    if as_json:
        return _print_json({"quality": [asdict(item) for item in scores.qualities], "per_image": scores.per_image})
    _print_quality(Console(), scores.qualities)


@app.command()
def export(
    student: Annotated[str, typer.Argument(help="The folder of a saved student, or a checkpoint.")],
    format: Annotated[str, typer.Argument(help="'onnx' or 'pt2'.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The file; else STUDENT.FORMAT beside it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a student for other runtimes, compared with the original on three batches of different sizes."""
    path = out or Path(student).with_suffix(f".{format}")
    with _working():
        from gansdk.export import export as write
        from gansdk.opening import open_generator
        from gansdk.routes import the_only

        generator = the_only(open_generator(student))
        record = write(generator.module, generator.contract, format, path)
    if as_json:
        return _print_json({"path": str(path), **record})
    print(f"{path}: largest error {record['max_error']:.1e}")


@app.command()
def plugins(
    compat: Annotated[bool, typer.Option("--compat", help="Say which parts work together, given images.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Import every part; exits with 5 if one fails.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what is installed: adapters, pruners, distillers, sources and metrics."""
    from gansdk.registry import registry

    if compat and check:
        raise typer.BadParameter("--compat and --check are two lists; ask for one of them.")
    with _working():
        known = registry()
        rows = _combinations() if compat else [_listed(known, row, check=check) for row in known.listing()]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))  # not by _print_json, which costs an import of torch
    elif compat:
        _print_rows([{name: row[name] for name in ("adapter", "pruner", "distiller", "verdict")} for row in rows])
    else:
        _print_rows(rows)
    if check and any(row.get("failure") for row in rows):
        raise typer.Exit(PLUGIN_CHECK_FAILED)


# What was asked.


def _part(name: str, options: Sequence[str]) -> dict[str, Any]:
    """The mapping that the library takes for a part with options."""
    return {"name": name, **dict(_option(text) for text in options)}


def _option(text: str) -> tuple[str, Any]:
    """Read `keep=0.5` as ("keep", 0.5): the value is JSON, or else the text itself."""
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise typer.BadParameter(f"{text!r} is not of the form KEY=VALUE.")
    try:
        return key.replace("-", "_"), json.loads(value)
    except json.JSONDecodeError:
        return key.replace("-", "_"), value


def _distillers(names: Sequence[str], options: Sequence[str]) -> list[dict[str, Any]] | None:
    """Each distiller with its options; None for "none"."""
    return None if list(names) == ["none"] else _parts(names, options)


def _parts(names: Sequence[str], options: Sequence[str]) -> list[dict[str, Any]]:
    """Each part with those options that begin with its name."""
    of = {name: list[str]() for name in names}
    for text in options:
        name, dot, rest = text.partition(".")
        if not dot or name not in of:
            raise typer.BadParameter(
                f"{text!r} is not of the form NAME.KEY=VALUE with NAME one of {', '.join(of) or 'none'}."
            )
        of[name].append(rest)
    return [_part(name, own) for name, own in of.items()]


# Plugins.


def _listed(known: Registry, row: Row, *, check: bool) -> dict[str, Any]:
    """One line of the list; with `check`, "failure" says why the part cannot be imported, or is empty."""
    return {**asdict(row), **({"failure": _failure(known, row)} if check else {})}


def _failure(known: Registry, row: Row) -> str:
    if row.status == "blocked":
        return ""
    if row.kind == "plugin":
        return row.status
    try:
        known.load(row.kind, f"{row.origin}:{row.name}")  # type: ignore[arg-type] # the kinds of parts
    except PluginLoadError as error:
        return str(error)
    return ""


def _combinations() -> list[dict[str, Any]]:
    from gansdk.compatibility import matrix

    return [
        {**asdict(item), "missing": list(item.missing), "works": not item.missing, "verdict": item.verdict}
        for item in matrix()
    ]


# What is shown.


@contextmanager
def _working() -> Iterator[Console]:
    """The console for progress. What anybody prints meanwhile goes to stderr; our warnings are one line each."""
    console = Console(stderr=True)
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, GansdkWarning):
                console.print(f"warning: {message}", markup=False, highlight=False, soft_wrap=True)
            else:
                usual(message, category, *rest, **more)

        warnings.showwarning = show
        yield console


def _print_json(data: Any) -> None:
    """NaN and infinities become null."""
    from gansdk.result import json_text

    print(json_text(data), end="")


def _print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    table = _table(*(rows[0] if rows else ()))
    for row in rows:
        table.add_row(*(", ".join(value) if isinstance(value, list) else str(value) for value in row.values()))
    Console().print(table)


@contextmanager
def _shown_if_poor(*, as_json: bool) -> Iterator[None]:
    """Print what was made also where it misses the floor under its quality."""
    try:
        yield
    except QualityFloorMissed as missed:
        _print_made(missed.result, as_json=as_json)
        raise


def _print_made(made: CompressionResult | Ladder, *, as_json: bool) -> None:
    from gansdk.result import Ladder

    if isinstance(made, Ladder):
        _print_ladder(made, as_json=as_json)
    else:
        _print_result(made, as_json=as_json)


def _print_ladder(ladder: Ladder, *, as_json: bool) -> None:
    """One row for the teacher and every student, and where they are."""
    if as_json:
        summary = ladder.summary()
        students = {ladder.label(result): _facts(result) for result in ladder.results}
        return _print_json({**summary, "students": students})
    console = Console()
    first, *_ = points = ladder.curve()
    metrics = [(item["metric"], item["reference"]) for item in points[-1]["quality"]]
    table = _table("student", "MACs (M)", "ratio", "parameters (K)", *(f"{name} to {which}" for name, which in metrics))
    for point in points:
        values = {(item["metric"], item["reference"]): f"{item['value']:.4g}" for item in point["quality"]}
        table.add_row(
            point["name"],
            f"{point['macs'] / 1e6:,.1f}",
            f"{first['macs'] / point['macs']:.2f}x" if point["macs"] else "",
            f"{point['params'] / 1e3:,.1f}",
            *(values.get(metric, "") for metric in metrics),
        )
    console.print(table)
    _print_protocols(console, ladder.results[-1].quality)
    if ladder.out_dir is not None:
        console.print(f"Report: {ladder.out_dir / 'ladder.html'}", markup=False, highlight=False)


def _facts(result: CompressionResult) -> dict[str, Any]:
    student = None if result.out_dir is None else str(result.out_dir / "student")
    return {**result.summary(), "widths": result.plan.widths(result.space), "student": student}


def _print_result(result: CompressionResult, *, as_json: bool) -> None:
    """Costs, scores and where the student is."""
    if as_json:
        return _print_json(_facts(result))
    console = Console()
    console.print(_cost_table(result.before, result.after, "student"))
    _print_quality(console, result.quality)
    if result.out_dir is not None:
        student = result.out_dir / "student"
        console.print(f"Student: {student}\nReport: {student / 'report.html'}", markup=False, highlight=False)


def _cost_table(before: Cost, after: Cost, second: str) -> Table:
    table = _table("cost", "before", second, "ratio")
    for title, full, left in (
        ("MACs (M)", before.macs / 1e6, after.macs / 1e6),
        ("parameters (K)", before.params / 1e3, after.params / 1e3),
        ("size (KB)", before.bytes / 1e3, after.bytes / 1e3),
    ):
        table.add_row(title, f"{full:,.1f}", f"{left:,.1f}", f"{full / left:.2f}x" if left else "")
    return table


def _print_quality(console: Console, qualities: Sequence[Quality]) -> None:
    baselines = sorted({name for quality in qualities for name in quality.extra})
    table = _table("quality", "compared with", "teacher", "student", *baselines)
    for quality in qualities:
        values = (quality.teacher, quality.student, *(quality.extra.get(name) for name in baselines))
        shown = ["" if value is None else f"{value:.4g}" for value in values]
        table.add_row(quality.metric, quality.reference, *shown)
    if qualities:
        console.print(table)
    _print_protocols(console, qualities)


def _print_protocols(console: Console, qualities: Sequence[Quality]) -> None:
    from gansdk.quality import protocols

    if qualities:
        console.print(f"{qualities[0].images} images.", markup=False, highlight=False)
    for protocol in protocols(qualities):
        console.print(f"{protocol}.", markup=False, highlight=False)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table

"""Options of commands, made of the fields of calls (`gansdk.recipe`). Torch-free."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from gansdk.recipe import Says, says_of
from gansdk.text import quoted
from gansdk.validation.json_fields import read_json

NAMES = {"budgets": "budget", "metrics": "metric", "out_dir": "out"}
"""Fields whose options are called otherwise."""
SHORT = {"budgets": "-b", "out_dir": "-o"}
LEFT_OUT = frozenset({"observers"})
"""Fields that only Python has."""
ONE_PART, SEVERAL_PARTS = ("adapter", "pruner"), ("distiller", "metrics")
OUT = Path("gansdk-out")


def with_fields(kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an argument or option for each of the fields, in front of its own keyword parameters.

    The command is called with what was given on the command line, by field; defaults are the fields' own.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        made = [
            one for name, says in says_of(kind).items() if name not in LEFT_OUT for one in _options(kind, name, says)
        ]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

        def run(context: typer.Context, **values: Any) -> None:
            passed = {one.name: values.pop(one.name) for one in own}
            command(
                _as_fields(kind, {name: value for name, value in values.items() if _is_given(context, name)}), **passed
            )

        keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*made, *own)]
        vars(run)["__signature__"] = inspect.Signature([context, *keyword])
        run.__annotations__ = {one.name: one.annotation for one in (context, *keyword)}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _options(kind: type, name: str, says: Says) -> list[inspect.Parameter]:
    """The option of a field; a part has a second one for its options."""
    flag, help_text = f"--{NAMES.get(name, name).replace('_', '-')}", says.text[0].upper() + says.text[1:] + "."
    short = [SHORT[name]] if name in SHORT else []

    def option(hint: Any, default: Any, *flags: str, **more: Any) -> inspect.Parameter:
        extra = typer.Option(*flags, help=help_text, **more)
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, extra]
        )

    if name == "model":
        argument = Annotated[str | None, typer.Argument(help=help_text)]
        return [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=argument)]
    if name in ONE_PART or name in SEVERAL_PARTS:
        many = name in SEVERAL_PARTS
        known = {one.name: one.default for one in fields(kind)}[name]
        part = option(list[str], [known] if known else [], flag) if many else option(str, known, flag)
        spelled = "NAME.KEY=VALUE" if many else "KEY=VALUE"
        more = typer.Option(f"{flag}-option", metavar=spelled, help=f"Option of {flag}; repeatable.")
        return [
            part,
            inspect.Parameter(
                f"{name}_option", inspect.Parameter.KEYWORD_ONLY, default=[], annotation=Annotated[list[str], more]
            ),
        ]
    if name == "budgets":
        return [option(list[str], [], flag, *short)]
    if name == "out_dir":
        return [option(Path, OUT, flag, *short)]
    if name == "resume":
        return [option(bool, True, "--resume/--no-resume")]
    if name == "recipe":
        return [option(Path | None, None, flag, metavar="FILE.toml")]
    if name == "dry_run":
        return [option(bool, False, flag)]
    hint = get_type_hints(kind)[name]
    default = {one.name: one.default for one in fields(kind)}[name]
    plain = next((found for found in (int, float) if found in (hint, *get_args(hint))), str)
    bounds = {} if plain is str else {"min": says.least}
    return [option(plain if default is not None else plain | None, default, flag, **bounds)]


def _as_fields(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as the fields of a call."""
    found = {name: value for name, value in given.items() if not name.endswith("_option")}
    defaults = {one.name: one.default for one in fields(kind)}
    for name in ONE_PART:
        if name in given or f"{name}_option" in given:
            found[name] = part_of(given.get(name, defaults.get(name)), given.get(f"{name}_option", ()))
    for name in SEVERAL_PARTS:
        if name in given or f"{name}_option" in given:
            names = given.get(name, [defaults[name]] if defaults.get(name) else [])
            found[name] = parts_of(names, given.get(f"{name}_option", ()))
    if "resume" in found:
        found["resume"] = "auto" if found["resume"] else "never"
    return found


# Parts and their options.


def part_of(name: str, options: Sequence[str]) -> str | dict[str, Any]:
    """A part as the library takes it: its name, or a mapping with its options.

    Options beside the adapter "auto" are for the family that is recognized.
    """
    return {"name": name, **options_of(options, taken=("name",))} if options else name


def parts_of(names: Sequence[str], options: Sequence[str]) -> list[Any]:
    """Each part with those options that begin with its name."""
    of = {name: list[str]() for name in names}
    if len(of) < len(names):
        raise typer.BadParameter(f"One of {', '.join(map(quoted, of))} is given twice. Give it once.")
    for text in options:
        name, dot, rest = text.partition(".")
        if not dot or name not in of:
            raise typer.BadParameter(
                f"{quoted(text)} is not of the form NAME.KEY=VALUE with NAME one of {', '.join(of) or 'none'}."
            )
        of[name].append(rest)
    return [part_of(name, own) for name, own in of.items()]


def options_of(texts: Sequence[str], taken: Sequence[str] = ()) -> dict[str, Any]:
    """All of `KEY=VALUE`, each key once and none of those that are taken."""
    found: dict[str, Any] = {}
    for text in texts:
        key, value = _option(text)
        if key in found or key in taken:
            raise typer.BadParameter(f"{quoted(text)} gives {quoted(key)} a second value. Give it once.")
        found[key] = value
    return found


def _option(text: str) -> tuple[str, Any]:
    """Read `keep=0.5` as ("keep", 0.5): the value is JSON, or else the text itself."""
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise typer.BadParameter(f"{quoted(text)} is not of the form KEY=VALUE.")
    try:
        return key.replace("-", "_"), read_json(value)
    except ValueError:
        return key.replace("-", "_"), value

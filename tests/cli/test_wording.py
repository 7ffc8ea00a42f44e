"""Messages of the library in the words of the command line."""

from __future__ import annotations

import pytest
import typer

from gansdk.cli.app import app
from gansdk.cli.wording import Flag, as_options, flags_of


def options(command: str) -> dict[str, Flag]:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined] # a group has them
    return flags_of(commands[command])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("another out_dir, or resume='never' to move it aside", "another --out, or --no-resume to move it aside"),
        ("out_dir='/tmp/a b' cannot be written", "--out '/tmp/a b' cannot be written"),
        (
            "batch_size=7 counts images. Pass batch_size=6 or 8.",
            "--batch-size 7 counts images. Pass --batch-size 6 or 8.",
        ),
        ("train on larger images (patch=64).", "train on larger images (--patch 64)."),
        ("larger patches (patch=), more steps", "larger patches (--patch), more steps"),
        ("needs images, but data=None. Pass data='photos'", "needs images, but no --data. Pass --data photos"),
        ("or use distiller=None to prune only", "or use --distiller none to prune only"),
        ("distiller=['ssim', 'tv'] imitates it", "--distiller ssim --distiller tv imitates it"),
        ("quality='psnr-y>29' cannot be read", "--quality 'psnr-y>29' cannot be read"),
        ("dry_run=True trains nothing", "--dry-run trains nothing"),
        ("Leave out the metrics, or metrics=...", "Leave out the metrics, or --metric ..."),
        ("The pruner 'x': steps=-1 must be from 0", "The pruner 'x': --pruner-option steps=-1 must be from 0"),
        ("The metric 'kid': seed='x' must be", "The metric 'kid': --metric-option kid.seed='x' must be"),
        ("The distiller 'gka': weight=0, patch=1", "The distiller 'gka': --distiller-option gka.weight=0, patch=1"),
        ("The source 'photos': patch='x' must be", "The source 'photos': patch='x' must be"),
        ("Try a smaller learning_rate, or another seed.", "Try a smaller --learning-rate, or another seed."),
    ],
)
def test_arguments_are_shown_as_options(text: str, shown: str) -> None:
    assert as_options(text, options("compress")) == shown


@pytest.mark.parametrize(
    "text",
    [
        "gansdk.load(device='cpu') reads it",
        "Distiller(regime=OfflineRegime(task_weight=0))",
        "the folder 'seed=1, out_dir=x' has no images",
        'The file "batch_size" is damaged',
        "importance='gauss-newton' and load_size=3 are options of parts",
        "data={'name': 'photos'}",
        "run/out_dir/file and --out_dir",
    ],
)
def test_what_is_no_argument_of_the_command_stays_as_it_is(text: str) -> None:
    assert as_options(text, options("compress")) == text


def test_a_command_knows_only_its_own_options() -> None:
    assert as_options("Pass eval_data='x' or data='y'", options("eval")) == "Pass eval_data='x' or --data y"
    assert as_options("Pass data='y'", {}) == "Pass data='y'"

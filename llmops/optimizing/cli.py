"""`llmops optimize`: a better prompt for a suite, and what is left of its gain on rows that nobody chose by."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from llmops.cli.output import emit_result, json_option, say
from llmops.settings import Settings, data_folder, describe_folder

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command("optimize")
@click.argument("suite")
@click.option("--prompt", metavar="NAME@V", help="The prompt version to improve.  [default: the newest of the suite's]")
@click.option("--model", metavar="NAME@V", help="Model version.  [default: the suite's]")
@click.option(
    "--pool",
    metavar="SET",
    help="Eval set whose rows may be shown as demonstrations.  [default: a fifth of the suite's rows]",
)
@click.option(
    "--optimizer",
    type=click.Choice(["examples", "instructions", "gepa", "metaprompt"]),
    default="examples",
    help="What candidates differ in: demonstrations and instructions, or instructions alone, which MLflow's GEPA or"
    " metaprompt optimizer may write.",
)
@click.option(
    "--instructions", multiple=True, type=_FILE, help="A text file with another instruction (system turn); repeatable."
)
@click.option("--proposer", metavar="NAME@V", help="Model version that writes instructions.")
@click.option("--proposals", type=click.IntRange(1, 100), default=8, help="Instructions it is asked for.")
@click.option("--budget", type=click.IntRange(1), default=600, help="Most answers to the rows that choose.")
@click.option("--most-examples", type=click.IntRange(1, 50), default=6, help="Most demonstrations of a candidate.")
@click.option("--seed", type=int, default=0, help="Of the split and of the candidates.")
@json_option
def command(suite: str, as_json: bool, **options: Any) -> None:
    """Look for a better prompt: candidates race on some of the suite's rows, and the gate compares the best one with
    the current prompt on held-out rows, which it reads once.

    The best candidate is written as the next file of the prompt, unless the gate fails it; nothing is registered. Run
    again, a finished optimisation is shown, and one that was killed goes on. Exit 1 unless the gate passes.

    \b
    Example: llmops optimize extract --pool extract-pool --budget 1000
    Example: llmops optimize qa --optimizer instructions --instructions terse.txt --instructions polite.txt
    """
    from llmops.optimizing.optimization import optimize

    say(describe_folder(data_folder(Settings.from_environment(), "eval_sets")))
    found = optimize(suite, **options)
    emit_result(as_json, found)
    sys.exit(0 if found.passed else 1)

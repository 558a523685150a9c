"""`llmops init`: a new project folder, in which `eval run` works at once."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import click

from llmops.cli.output import echo, emit, json_option, say
from llmops.errors import CannotRun, UsageError
from llmops.models.sources import DEFAULT_MODEL
from llmops.settings import Settings, given_variables
from llmops.text_io import read_text, write_text

_TEMPLATES = Path(__file__).parent / "new_project"
_PLACEHOLDER = "PROJECT"
_FILES = {
    "README.md": "README.md",
    ".gitignore": "gitignore",
    f"prompts/{_PLACEHOLDER}/v1.md": "prompt.md",
    f"eval_sets/{_PLACEHOLDER}.toml": "suite.toml",
    f"eval_sets/{_PLACEHOLDER}/rows.jsonl": "rows.jsonl",
    f"tests/test_{_PLACEHOLDER}.py": "test.py.txt",
}
"""By path in the project: the template."""
_WORKFLOW = {".github/workflows/evals.yml": "evals.yml"}


@click.command("init")
@click.argument("folder", metavar="NAME", type=click.Path(path_type=Path))
@click.option("--no-github", is_flag=True, help="Leave out the GitHub workflow.")
@json_option
def command(folder: Path, no_github: bool, as_json: bool) -> None:
    """Make a new project folder: a prompt, a suite with ten rows, a test and a GitHub workflow.

    The prompt is registered and the default model downloaded (98 MB), into the project's own home unless LLMOPS_HOME
    names another. A folder that has anything in it is refused.

    \b
    Example: llmops init shop
    """
    settings = Settings.from_environment()
    name = folder.resolve().name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise UsageError(f"NAME {name!r}: must be letters, digits, _ and -, and begin with a letter")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; nothing was changed")
    files = []
    for path, template in (_FILES if no_github else _FILES | _WORKFLOW).items():
        text = read_text(_TEMPLATES / template).replace(_PLACEHOLDER, name)
        files.append(path.replace(_PLACEHOLDER, name))
        write_text(folder / files[-1], text)
    given = given_variables()
    for variable in given.keys() & {"LLMOPS_PROMPTS", "LLMOPS_EVAL_SETS"}:
        say(f"{variable} is set: unset it, or commands read that folder instead of the project's")
    home = settings.home if "LLMOPS_HOME" in given else folder.resolve() / Settings.home
    inside = dataclasses.replace(settings, home=home, prompts=folder / "prompts", eval_sets=folder / "eval_sets")
    try:
        prompt, model = _prepare(inside, name)
    except CannotRun:
        say(f"{folder} is made; what is missing there: `llmops prompts register` and `llmops models pull`")
        raise
    value = {"project": str(folder), "files": files, "prompt": prompt, "model": model, "home": str(home)}

    def show() -> None:
        for path in files:
            echo(f"{folder}/{path}")
        echo(f"{prompt} and {model} are registered in {home}")
        if not no_github:
            echo("evals.yml: say where your copy of llmops is")
        echo(f"next: cd {folder}; llmops eval run {name}; pytest")

    emit(as_json, value, show)


def _prepare(settings: Settings, name: str) -> tuple[str, str]:
    """Registers the prompt, and the default model unless it is; returns both versions."""
    from llmops.api.versions import register_prompts
    from llmops.registry import Registry, model_registration

    registered = register_prompts(name, settings=settings)
    for note in registered.notes:
        say(note)
    registry = Registry(settings)
    models = registry.models.versions(DEFAULT_MODEL) or model_registration.pull(settings, registry, DEFAULT_MODEL, say)
    return registered.prompts[0][1].ref, models[0].ref

"""`llmops init`: a new project folder, in which `eval run` works at once."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

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
_ANY_COPY = "YOUR-ORGANISATION/llmops@main"
_ON_GITHUB = re.compile(r"github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?$")


@click.command("init")
@click.argument("folder", metavar="NAME", type=click.Path(path_type=Path))
@click.option("--no-github", is_flag=True, help="Leave out the GitHub workflow.")
@click.option(
    "--action",
    metavar="OWNER/NAME@REF",
    help="Copy of llmops on GitHub whose action the workflow uses. Default: the one that llmops was installed from.",
)
@json_option
def command(folder: Path, no_github: bool, action: str | None, as_json: bool) -> None:
    """Make a new project folder: a prompt, a suite with ten rows, a test and a GitHub workflow. Inside a git repository
    the workflow goes to the repository's own folder for it, under the project's name.

    The prompt is registered and the default model downloaded (98 MB), into the project's own home unless LLMOPS_HOME
    names another. A folder that has anything in it is refused.

    \b
    Example: llmops init shop
    """
    settings = Settings.from_environment()
    name = _checked_name(folder)
    workflow, project = _workflow(folder.resolve(), name)
    if workflow.exists() and not no_github:
        raise UsageError(f"{workflow} is there already; nothing was changed")
    uses = action or _installed_from() or _ANY_COPY
    templates = {folder / path.replace(_PLACEHOLDER, name): template for path, template in _FILES.items()}
    if not no_github:
        templates[workflow] = "evals.yml"
    for path, template in templates.items():
        text = read_text(_TEMPLATES / template).replace(_PLACEHOLDER, name)
        text = text.replace("ACTION", uses).replace("FOLDER/", "" if project == "." else f"{project}/")
        write_text(path, text.replace("FOLDER", project))
    files = [os.path.relpath(path, folder) for path in templates]
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
            echo(os.path.normpath(folder / path))
        echo(f"{prompt} and {model} are registered in {home}")
        if not no_github and uses == _ANY_COPY:
            echo(f"{workflow.name}: say where your copy of llmops is")
        echo(f"next: cd {folder}; llmops eval run {name}; pytest")

    emit(as_json, value, show)


def _checked_name(folder: Path) -> str:
    """The project's name. Raises UsageError: it cannot be one, or the folder has something in it."""
    name = folder.resolve().name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise UsageError(f"NAME {name!r}: must be letters, digits, _ and -, and begin with a letter")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; nothing was changed")
    return name


def _workflow(folder: Path, name: str) -> tuple[Path, str]:
    """The workflow's file, and the project's folder in its git repository, which may have other projects."""
    root = next((each for each in folder.parents if (each / ".git").exists()), folder)
    file = "evals.yml" if root == folder else f"evals-{name}.yml"
    return root / ".github" / "workflows" / file, folder.relative_to(root).as_posix()


def _installed_from() -> str | None:
    """The repository on GitHub that llmops was installed from, with the commit, or the one that the checkout it was
    installed from was cloned from; None where that is not known, as for a wheel."""
    try:
        source = json.loads(distribution("llmops").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return None
    url, ref = str(source.get("url", "")), source.get("vcs_info", {}).get("commit_id", "main")
    if "dir_info" in source:
        config = Path(unquote(urlsplit(url).path)) / ".git" / "config"
        origin = re.search(r'\[remote "origin"\][^\[]*?url = (\S+)', read_text(config)) if config.is_file() else None
        url = origin[1] if origin else ""
    found = _ON_GITHUB.search(url)
    return f"{found[1]}@{ref}" if found else None


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

"""The only finder of data files: prompts and eval sets, of the working folder, of a checkout or of the installed
package."""

from __future__ import annotations

import dataclasses
from importlib import resources
from pathlib import Path

from llmops.errors import CannotRun
from llmops.settings import Settings

_VARIABLES = {"prompts": "LLMOPS_PROMPTS", "eval_sets": "LLMOPS_EVAL_SETS"}


def prompts_folder(settings: Settings) -> Path:
    """Folder of the prompt files. Raises CannotRun when there is none."""
    return _find(settings.prompts, "prompts")


def eval_sets_folder(settings: Settings) -> Path:
    """Folder of the eval sets and suites. Raises CannotRun when there is none."""
    return _find(settings.eval_sets, "eval_sets")


def with_samples(settings: Settings) -> Settings:
    """The settings, with llmops' own samples where they name no folder: for the demo, which is told on those."""
    return dataclasses.replace(
        settings,
        prompts=settings.prompts or _samples("prompts"),
        eval_sets=settings.eval_sets or _samples("eval_sets"),
    )


def described(folder: Path) -> str:
    """A folder that was found here, in words: which it is, and whether it holds llmops' own samples."""
    name = folder.name
    if folder.parent == Path.cwd() or folder not in _sample_folders(name):
        return f"{name}: {folder}"
    return f"{name}: llmops' own samples, {folder} (there is no {Path.cwd() / name}; {_VARIABLES[name]} names another)"


def _find(explicit: Path | None, name: str) -> Path:
    """The explicit setting, else the working folder's own, else llmops' samples.

    Samples never fill up a project: a working folder that has one of the two folders is one, and lacks the other.
    """
    variable, own = _VARIABLES[name], Path.cwd() / name
    if explicit is not None:
        if explicit.is_dir():
            return explicit
        raise CannotRun(f"{variable}={explicit}: no such folder")
    if own.is_dir():
        return own
    for other in _VARIABLES:
        if own.with_name(other).is_dir():
            raise CannotRun(f"{own.parent} has {other}/ but no {name}/: make it, or set {variable}")
    return _samples(name)


def _samples(name: str) -> Path:
    for folder in _sample_folders(name):
        if folder.is_dir():
            return folder
    raise CannotRun(f"no folder {name!r} found beside or inside the package; set {_VARIABLES[name]}")


def _sample_folders(name: str) -> tuple[Path, Path]:
    """Inside the installed package, and beside it in a checkout, where the package holds none."""
    package = Path(str(resources.files("llmops")))
    return package / "_data" / name, package.parent / name

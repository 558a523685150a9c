"""The only finder of data files: prompts and eval sets, in a checkout or in the installed package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from llmops.errors import CannotRun
from llmops.settings import Settings


def prompts_folder(settings: Settings) -> Path:
    """Folder of the prompt files. Raises CannotRun when there is none."""
    return _find(settings.prompts, "prompts", "LLMOPS_PROMPTS")


def eval_sets_folder(settings: Settings) -> Path:
    """Folder of the eval sets and suites. Raises CannotRun when there is none."""
    return _find(settings.eval_sets, "eval_sets", "LLMOPS_EVAL_SETS")


def _find(explicit: Path | None, name: str, variable: str) -> Path:
    """The explicit setting, else the checkout's folder, else the copy inside the installed package."""
    if explicit is not None:
        if explicit.is_dir():
            return explicit
        raise CannotRun(f"{variable}={explicit}: no such folder")
    package = Path(str(resources.files("llmops")))
    for candidate in (package.parent / name, package / "_data" / name):
        if candidate.is_dir():
            return candidate
    raise CannotRun(f"no folder {name!r} found beside or inside the package; set {variable}")

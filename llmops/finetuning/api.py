"""`llmops.finetune`, which the command calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmops.errors import UsageError
from llmops.finetuning.finetune import FineTune, run_recipe
from llmops.finetuning.recipe import make_recipe, read_recipe
from llmops.progress import progress_bar
from llmops.registry import Registry
from llmops.settings import Settings


def finetune(
    model: str | None = None,
    *,
    recipe: Path | str | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = print,
    settings: Settings | None = None,
    **values: Any,
) -> FineTune:
    """Fine-tunes a model version on rows that the suite does not hold, and registers what comes of it.

    Args:
        model: the parent, `NAME@VERSION`.
        recipe: a TOML file with what is not given here.
        progress: shows bars, on a terminal and in a notebook.
        tell: gets lines for people: what is left out, how long it takes.
        settings: by default those of the environment.
        values: fields of the recipe, such as `suite`, `train`, `epochs` and `seed` (docs/finetune.md).

    Raises UsageError, UnknownVersion, BadFile, EngineUnavailable, Corrupted, StoreUnavailable.
    """
    settings = settings or Settings.from_environment()
    given = {**values, "model": model, "train": _names(values.get("train"))}
    changes = {name: value for name, value in given.items() if value is not None}
    if recipe is None and not {"model", "suite"} <= changes.keys():
        raise UsageError("give a model and a suite (MODEL --suite SUITE), or a recipe that names them")
    chosen = make_recipe(changes) if recipe is None else read_recipe(Path(recipe), changes)
    with progress_bar(progress) as show:
        return run_recipe(settings, Registry(settings), chosen, tell=tell, show=show)


def _names(train: Any) -> tuple[str, ...] | None:
    return (str(train),) if isinstance(train, str | Path) else tuple(train) if train else None

"""`llmops.finetune`: from a recipe to a registered model version, in steps of which each is done only once."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from llmops.errors import EngineUnavailable, UsageError
from llmops.eval_runs.evaluations import read_suite
from llmops.finetuning.agreement import PROMPTS, EngineAgreement, check_agreement
from llmops.finetuning.lora import CHECKPOINT_SECONDS, CHECKPOINTS, NO_PACKAGES, BaseModel, TrainingLog, train
from llmops.finetuning.recipe import Recipe, make_recipe, read_recipe
from llmops.finetuning.training_rows import RowCounts, TrainingRow, rendered, training_rows
from llmops.hashing import content_hash, file_sha256
from llmops.models.merging import ADAPTER, WEIGHTS, merge
from llmops.models.weights import verified_path
from llmops.pages.tables import Block, Shown, Table
from llmops.processes import ProcessLock, scratch_folder
from llmops.progress import ShowProgress, progress_bar
from llmops.recording.finetuning import read_summary, record_finetune
from llmops.registry import Registry
from llmops.registry.model_registration import register_finetuned
from llmops.settings import Settings
from llmops.state_files import make_private_folder
from llmops.text_io import checked, read_json, replace_text, write_text
from llmops.versions import ModelVersion

_PACKAGES = ("peft", "torch", "transformers", "trl")
_ROWS_FILE, _RECIPE_FILE, _TRAINED_FILE = "rows.jsonl", "recipe.toml", "training.json"


@dataclass(frozen=True)
class FineTune(Shown):
    """What came of a recipe. `to_pandas` has a line for each step of the learning curve.

    version: the model version that was registered. agreement: None where the parent is a folder, which transformers
    alone reads. new: whether it was made now. folder: recipe, rows and adapter.
    """

    recipe: Recipe
    version: ModelVersion
    counts: RowCounts
    log: TrainingLog
    agreement: EngineAgreement | None
    run_id: str
    folder: Path
    new: bool

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.version.ref,
            "parent": self.recipe.model,
            "suite": self.recipe.suite,
            "prompt": self.recipe.prompt,
            "recipe": self.recipe.to_mapping(),
            "rows": self.counts.to_json(),
            "training": self.log.to_json(),
            "agreement": None if self.agreement is None else self.agreement.to_json(),
            "provenance": dict(self.version.provenance),
            "run_id": self.run_id,
            "folder": str(self.folder),
            "new": self.new,
        }

    def blocks(self) -> Iterator[Block]:
        losses, validated = list(self.log.losses.values()), list(self.log.validation_losses.values())
        tenth = max(1, len(losses) // 10)
        rows = [
            ("parent", self.recipe.model),
            ("trained on", f"{self.counts.trained} rows × {self.recipe.epochs}, {self.log.tokens:,} tokens"),
            ("left out", self.counts.left_out),
            ("loss", f"{sum(losses[:tenth]) / tenth:.3f} → {sum(losses[-tenth:]) / tenth:.3f} nats a token"),
        ]
        if validated:
            held = f"{validated[0]:.3f} → {validated[-1]:.3f} nats a token, {self.counts.validated} rows"
            rows.append(("validation loss", held))
        rows += [("training took", f"{self.log.seconds / 60:.1f} min"), ("run", self.run_id)]
        yield Table(f"{self.version.ref}{'' if self.new else ', made before'}", ("", ""), rows)
        if self.agreement is not None:
            yield self.agreement.text

    @property
    def notes(self) -> list[str]:
        """What to do next: a lower loss says nothing of right answers."""
        models = f"--model {self.recipe.model} --model {self.version.ref}"
        return [f"next: llmops eval run {self.recipe.suite} --prompt {self.recipe.prompt} {models}"]

    def records(self) -> list[dict[str, Any]]:
        steps = sorted({*self.log.losses, *self.log.validation_losses})
        curves = (("loss", self.log.losses), ("validation_loss", self.log.validation_losses))
        return [{"step": step, **{name: curve.get(step) for name, curve in curves}} for step in steps]


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
    train = values.get("train")
    names = (str(train),) if isinstance(train, str | Path) else tuple(train) if train else None
    given = {**values, "model": model, "train": names}
    changes = {name: value for name, value in given.items() if value is not None}
    if recipe is None and not {"model", "suite"} <= changes.keys():
        raise UsageError("give a model and a suite (MODEL --suite SUITE), or a recipe that names them")
    chosen = make_recipe(changes) if recipe is None else read_recipe(Path(recipe), changes)
    with progress_bar(progress) as show:
        return run_recipe(settings, Registry(settings), chosen, tell=tell, show=show)


def run_recipe(
    settings: Settings,
    registry: Registry,
    recipe: Recipe,
    *,
    tell: Callable[[str], None],
    show: ShowProgress,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> FineTune:
    """Trains, checks, records and registers. The same recipe on the same rows gives the same version, which is then not
    made again; a run that was interrupted goes on.

    tell: gets lines for people. checkpoint_seconds: training is kept that often.

    Raises UnknownVersion: of model, prompt, suite or eval set. UsageError: the model cannot be fine-tuned, or no row is
    left. BadFile. EngineUnavailable: a package is missing. Corrupted: the merged file is not what was trained.
    StoreUnavailable.
    """
    parent = registry.models.get(recipe.model)
    if parent.format not in ("gguf", "hf"):
        raise UsageError(f"{parent.ref} is {parent.format}; only models whose weights are here can be fine-tuned")
    suite = read_suite(settings, recipe.suite)
    prompt = registry.prompts.get(recipe.prompt or suite.prompt)
    recipe = replace(recipe, model=parent.ref, prompt=prompt.ref, name=recipe.target)
    rows, counts = training_rows(settings, recipe, suite, prompt.template)
    if not rows:
        raise UsageError(f"train: no row is left to train on ({counts.left_out})")
    try:
        packages = {name: version(name) for name in _PACKAGES}
    except PackageNotFoundError as error:
        raise EngineUnavailable(NO_PACKAGES) from error
    asked = [row.to_json() for row in rows]
    identity = content_hash({
        "recipe": recipe.to_mapping(), "parent": parent.sha256, "prompt": prompt.template.content_hash,
        "rows": asked, "packages": packages,
    })  # fmt: skip
    folder = settings.finetunes_dir / identity[:16]
    make_private_folder(folder)
    with ProcessLock(folder / ".lock"):
        for known in registry.models.versions(recipe.target):
            if known.provenance.get("finetune") == identity:
                run_id = str(known.provenance["finetune_run"])
                done = checked(TrainingOutcome, read_summary(registry.store, run_id))
                return FineTune(recipe, known, done.counts, done.log, done.agreement, run_id, folder, new=False)
        write_text(folder / _RECIPE_FILE, recipe.to_toml())
        write_text(folder / _ROWS_FILE, "".join(f"{json.dumps(row)}\n" for row in asked))
        path = verified_path(parent, settings)
        loaded = functools.cache(lambda: BaseModel(path))
        work = folder / "work"
        make_private_folder(work)
        done = _trained(loaded, rows, counts, recipe, work, tell, show, checkpoint_seconds)
        adapter = work / ADAPTER
        if parent.format == "gguf" and done.agreement is None:
            held_out = [rendered(row, prompt.template, "") for row in islice(suite.rows, PROMPTS)]
            base, shared_prefix = loaded(), prompt.template.shared_prefix
            base.adapt(adapter)
            with scratch_folder("merged") as scratch:
                merged = scratch / f"{recipe.target}.gguf"
                merge(path, adapter, merged, "F32")
                threads = settings.engine_threads or os.cpu_count() or 1
                agreement = check_agreement(base, merged, held_out, shared_prefix, threads, show)
            done = replace(done, agreement=agreement)
            replace_text(work / _TRAINED_FILE, json.dumps(asdict(done)))
        run_id = record_finetune(
            registry.store,
            identity,
            f"{recipe.target} from {parent.ref}",
            parameters={**recipe.to_mapping(), **packages},
            curves={"loss": done.log.losses, "validation_loss": done.log.validation_losses},
            summary=asdict(done),
            files={_RECIPE_FILE: recipe.to_toml()},
            adapter=adapter,
        )
        provenance = {
            "method": recipe.method,
            "weights": recipe.weights,
            "suite": suite.name,
            "prompt": prompt.ref,
            "rows": done.counts.trained,
            "rows_sha256": file_sha256(folder / _ROWS_FILE),
            "adapter_sha256": file_sha256(adapter / WEIGHTS),
            "recipe": recipe.to_toml(),
            "tool": ", ".join(f"{name} {number}" for name, number in packages.items()),
            "finetune": identity,
            "finetune_run": run_id,
        }
        made = register_finetuned(settings, registry, parent, recipe.target, adapter, provenance)
        shutil.rmtree(work / CHECKPOINTS, ignore_errors=True)
        return FineTune(recipe, made, done.counts, done.log, done.agreement, run_id, folder, new=True)


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What is known of a fine-tune once it is trained; also as MLflow's run holds it, in `summary.json`."""

    counts: RowCounts
    log: TrainingLog
    agreement: EngineAgreement | None = None


def _trained(
    loaded: Callable[[], BaseModel],
    rows: Sequence[TrainingRow],
    counts: RowCounts,
    recipe: Recipe,
    work: Path,
    tell: Callable[[str], None],
    show: ShowProgress,
    checkpoint_seconds: float,
) -> TrainingOutcome:
    """Trains the adapter into the work folder, or reads what became of it there."""
    kept = work / _TRAINED_FILE
    if kept.exists():
        return checked(TrainingOutcome, read_json(kept))
    tell(f"loading {recipe.model}")
    encoded = [(row, loaded().encode(row)) for row in rows]
    short = [(row, each) for row, each in encoded if len(each.input_ids) <= recipe.longest]
    # By a hash, so that a row stays on its side when others come or go.
    order = sorted(short, key=lambda pair: content_hash([recipe.seed, pair[0].id]))
    n_validated = min(round(len(order) * recipe.validation), len(order) - 1)
    validation, trained = [each for _, each in order[:n_validated]], [each for _, each in order[n_validated:]]
    counts.too_long, counts.validated, counts.trained = len(rows) - len(short), len(validation), len(trained)
    if not trained:
        raise UsageError(f"train: every row has more than {recipe.longest} tokens; set `longest`")
    tell(f"left out: {counts.left_out}")
    log = train(
        loaded(), trained, validation, recipe, work, show=show, tell=tell, checkpoint_seconds=checkpoint_seconds
    )
    done = TrainingOutcome(counts, log)
    replace_text(kept, json.dumps(asdict(done)))
    return done

"""Cells of the evaluation matrix: what is run, with what, and by what its run is known again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import psutil

from llmops.engines.opening import engine_identity
from llmops.engines.protocol import EngineIdentity
from llmops.evaluation.comparison import draw
from llmops.evaluation.eval_set import Rows, measure
from llmops.evaluation.results import Noise, RowResult
from llmops.evaluation.scorers.protocol import IdentifiedScorer
from llmops.evaluation.suite import Suite
from llmops.generation import GenerationParameters
from llmops.hashing import content_hash
from llmops.recording import CellIdentity, EvalRun
from llmops.recording.runs import RecorderName
from llmops.settings import Settings
from llmops.versions import ModelVersion, PromptVersion, Release

NOISE_PARAM, SERVED_PARAM, STOPPED_PARAM = "noise", "served", "stopped_early"  # of a recorded run

_THEIR_OWN = ("openai", "fake")  # engines with no mode of ours: an upstream's is its own

# Raised when a change to scorers or to recording makes older runs incomparable: they are then run again.
_RUN_FORMAT = 3


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to evaluate: a prompt version on a model version with parameters, perhaps as a release."""

    prompt: PromptVersion
    model: ModelVersion
    parameters: GenerationParameters
    release: Release | None = None

    @property
    def name(self) -> str:
        return f"{self.prompt.ref} on {self.model.ref}"

    @property
    def asks_upstream(self) -> bool:
        """Whether its answers come from another server, whose failures may pass."""
        return self.model.source.startswith("openai:")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a suite is run.

    limit: rows.
    engine: by name.
    seed: makes an independent run.
    repeatable: requests that cannot influence each other, so that answers repeat exactly.
    force: run again although a complete run exists (finished generations are still not made twice).
    recorder: how runs get into MLflow.
    """

    limit: int | None = None
    engine: str | None = None
    seed: int | None = None
    repeatable: bool = False
    force: bool = False
    recorder: RecorderName = "auto"

    def engine_settings(self, settings: Settings) -> Settings:
        """As the gateway opens the model, so that what is served is what was evaluated. Repeatable: each request alone
        on an engine of its own, as many of them as there are cores, from the state that the template left."""
        if not self.repeatable:
            return settings
        replicas = max(1, settings.engine_threads or psutil.cpu_count() or 1)
        return replace(settings, engine_slots=1, engine_prompt_cache="template", engine_replicas=replicas)

    def engine_identity(self, model: ModelVersion, settings: Settings) -> EngineIdentity:
        """What will answer for the model. Raises UsageError."""
        return engine_identity(model, self.engine_settings(settings), self.engine)


@dataclass(frozen=True, slots=True)
class RowChoice:
    """Which rows of a suite a run takes: the first `limit`; and, for a run that was stopped early, of these the share
    `drawn`, in the order that `seed` draws."""

    limit: int | None = None
    drawn: float | None = None
    seed: int = 0

    def of(self, suite: Suite) -> Rows:
        """The rows of that suite."""
        rows = suite.rows.first(self.limit)
        share = self.drawn
        if share is None:
            return rows
        return Rows(lambda: (row for row in rows if draw(self.seed, row.id) < share))


@dataclass(slots=True)
class Failure:
    """Why some rows have no score. first: the id of the first such row. scorers: those that gave none."""

    why: str
    rows: int
    first: str
    scorers: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def failures_of(results: Iterable[RowResult]) -> tuple[Failure, ...]:
    """Why rows have no score, most frequent first. Reasons that differ only by the row that they name are one."""
    found: dict[str, Failure] = {}
    for result in results:
        named = f"row {result.row.id}: "
        failed = {
            name: score.error.replace(named, "") for name, score in result.scores.items() if score.error is not None
        }
        for why in dict.fromkeys(failed.values()):
            failure = found.setdefault(why, Failure(why, 0, result.row.id))
            failure.rows += 1
            failure.scorers += [n for n, error in failed.items() if error == why and n not in failure.scorers]
    return tuple(sorted(found.values(), key=lambda failure: -failure.rows))


@dataclass(frozen=True, slots=True)
class CellRun:
    """A cell's recorded run, and what this call did for it.

    failed_again: why rows failed in this call, where the run is an earlier one that stands because no fewer failed now.
    """

    cell: Cell
    run: EvalRun
    generated: int
    from_cache: int
    failed_again: tuple[Failure, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run.run_id,
            "prompt": self.cell.prompt.ref,
            "model": self.cell.model.ref,
            "release": self.cell.release.ref if self.cell.release else None,
            "rows": self.run.rows,
            "suite_rows": self.run.suite_rows,
            "answers": self.run.answers.to_json(),
            "metrics": {name: metric.to_json() for name, metric in self.run.metrics.items()},
            "generated": self.generated,
            "from_cache": self.from_cache,
            "seconds": self.run.seconds,
            "tokens_per_second": self.run.tokens_per_second,
            **{name: self.run.usage.get(name) for name in ("tokens_in", "tokens_out", "cost")},
        }


def cell_identity(suite: Suite, cell: Cell, settings: Settings, options: RunOptions, chosen: RowChoice) -> CellIdentity:
    """Everything that makes two eval runs the same run."""
    eval_sets = {eval_set.name: eval_set.content_hash for eval_set in suite.eval_sets}
    whole = chosen.limit is None and chosen.drawn is None
    content: dict[str, Any] = {
        **scored_by(suite),
        "suite": suite.name,
        "rows": suite.rows_hash if whole else measure(chosen.of(suite))[1],
        "cluster_by": suite.cluster_by,
        "choices": suite.choices,
        "prompt": [cell.prompt.ref, cell.prompt.template.content_hash],
        "model": [cell.model.ref, cell.model.sha256],
        "parameters": cell.parameters.to_mapping(),
        "engine": options.engine_identity(cell.model, settings).to_mapping(),
        "seed": options.seed,
        "stopped_early": None if chosen.drawn is None else chosen.seed,
    }
    return CellIdentity(suite.name, cell.prompt, cell.model, content, content_hash(content), eval_sets)


def scored_by(suite: Suite) -> dict[str, Any]:
    """The suite's scorers, and the models that score: another judge or embedding model gives other scores."""
    identified = (scorer for scorer in suite.make_scorers() if isinstance(scorer, IdentifiedScorer))
    return {
        "format": _RUN_FORMAT,
        "scorers": [spec.to_json() for spec in suite.scorer_specs],
        "judges": {scorer.name: dict(scorer.identity) for scorer in identified},
    }


def definitions_in(content: Mapping[str, Any]) -> dict[str, str]:
    """What each scorer is, with its judge: a hash by name. content: what `scored_by` gave, as it is now or as a run's
    cell holds it; none where that is not known."""
    judges = content.get("judges", {})
    return {
        spec["name"]: content_hash([content.get("format"), spec, judges.get(spec["name"])])
        for spec in content.get("scorers", ())
    }


def cost_of(model: ModelVersion, tokens_in: int | None, tokens_out: int | None) -> float | None:
    """Price of so many tokens, in the currency that the model was registered with; None where it has no price, or
    where nobody counted the tokens."""
    prices = model.provenance.get("prices")
    if not prices or tokens_in is None or tokens_out is None:
        return None
    return float(tokens_in * prices["per_million_in"] + tokens_out * prices["per_million_out"]) / 1e6


def evaluated_by(run: EvalRun) -> EngineIdentity | None:
    """The engine that made a run's answers; None for a run that does not say."""
    try:
        shown = {name: run.params[f"engine.{name}"] for name in ("name", "build", "settings")}
        return EngineIdentity(shown["name"], shown["build"], json.loads(shown["settings"]))
    except (KeyError, ValueError):
        return None


def served_mode(run: EvalRun, model: ModelVersion, settings: Settings) -> str | None:
    """What a reader of a verdict must know of the answers that will be served; None when there is nothing to say.

    That they were made in another mode; and how many of a sample are others than those evaluated when they are made as
    the gateway makes them, where that is not none. Engines are opened from the same settings for both, so that the
    modes differ only where a run asked for something else (`--repeatable`, `--engine`), or a setting was changed since.
    """
    evaluated, served = evaluated_by(run), engine_identity(model, settings)
    if evaluated is None or (evaluated == served and served.name in _THEIR_OWN):
        return None
    measured = json.loads(run.params.get(NOISE_PARAM if evaluated == served else SERVED_PARAM, "null"))
    if measured is None or measured.pop("served", served.to_mapping()) != served.to_mapping():
        noise, differ = None, "is not known"  # not measured, or before the settings were changed
    else:
        noise = Noise(**measured)
        differ = "{} of {} answers differ ({:.0%} to {:.0%} of all)".format(noise.flips, noise.n, *noise.ci95)
    if evaluated != served:
        counted = differ if noise is not None else f"how many answers differ {differ}"
        return f"evaluated by {_differences(evaluated, served)}: {counted}"
    if noise is None:
        return f"how many answers differ when they are made again, as they are served, {differ}"
    return f"made again, as they are served, {differ}" if noise.flips else None


def mode_change(evaluated: Mapping[str, Any], model: ModelVersion, settings: Settings) -> str | None:
    """How the engine that would serve differs from the one a gate read, as `EngineIdentity.to_mapping` gives it."""
    before, served = EngineIdentity(**evaluated), engine_identity(model, settings)
    return None if before == served else f"evaluated by {_differences(before, served)}"


def _differences(evaluated: EngineIdentity, served: EngineIdentity) -> str:
    """`llamacpp with slots 1, served by llamacpp with slots 16`: what differs, on both sides."""
    if evaluated.name != served.name:
        return f"{evaluated.name}, served by {served.name}"
    names = {**evaluated.settings, **served.settings}
    both = [{name: side.settings.get(name, "unknown") for name in names} for side in (evaluated, served)]
    sides = []
    for side, settings in zip((evaluated, served), both, strict=True):
        parts = [f"{name} {value}" for name, value in settings.items() if both[0][name] != both[1][name]]
        parts += [side.build] if evaluated.build != served.build else []
        sides.append(f"{side.name} with {', '.join(parts)}")
    return ", served by ".join(sides)

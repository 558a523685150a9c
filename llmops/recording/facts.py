"""What is on record of a version beyond its own: eval runs, monitored windows, actions, who registered it and when.

Reads only: an experiment that is not there is not made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops.recording.cell import (
    CELL_TAG,
    COMPLETE_TAG,
    MODEL_TAG,
    PROMPT_TAG,
    SUITE_TAG,
    EvalRun,
    holds_rows,
    json_file,
    read_run,
)
from llmops.registry.store import Store, pages, translated

WINDOW_TAG, ACTION_KEY_TAG = "llmops.monitoring_window", "llmops.action_key"
VERDICT_FILE, ACTION_FILE = "verdict.json", "action.json"
_USER_TAG = "mlflow.user"


@dataclass(frozen=True, slots=True)
class DatasetUse:
    """A dataset as a run names it. context: `training`, `evaluation` …, empty where nobody said. source, profile: what
    MLflow keeps as JSON; empty where it is none. digest: MLflow's short one. tags: of the use, but for the context."""

    name: str
    digest: str
    context: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Any MLflow run: who, when, what with, what came of it. at: seconds since the epoch."""

    run_id: str
    experiment: str
    at: float
    by: str | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    datasets: tuple[DatasetUse, ...]


@dataclass(frozen=True, slots=True)
class EvalFacts:
    """A complete eval run. at: seconds since the epoch. verdicts: those on record with it, each with its comparison."""

    run: EvalRun
    at: float
    by: str | None
    datasets: tuple[DatasetUse, ...]
    verdicts: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class WindowFacts:
    """A monitored window of an app. since, until: ISO 8601. name: of a window that is no stretch of time, such as a
    batch; it has neither. releases: named in it. metrics: among them `rows` and `expected_false_alarms_per_month`."""

    run_id: str
    since: str | None
    until: str | None
    name: str | None
    state: str
    alarms: int
    releases: tuple[str, ...]
    metrics: Mapping[str, float]


def monitoring_experiment(app: str) -> str:
    """The name of the experiment with an app's monitoring."""
    return f"monitoring-{app}"


def registration(store: Store, ref: str, *, is_prompt: bool = False) -> tuple[float | None, str | None]:
    """When a version of a registered model, or of a prompt, was registered, in seconds since the epoch, and by whom;
    None where MLflow was not told. Raises UnknownVersion, StoreUnavailable."""
    name, _, version = ref.partition("@")
    with translated(ref):
        read = store.client.get_prompt_version if is_prompt else store.client.get_model_version
        found = read(name, version)
    return found.creation_timestamp / 1000 if found.creation_timestamp else None, found.user_id or None


def eval_runs(store: Store, prompt: str, model: str) -> list[EvalFacts]:
    """Every complete eval run of this prompt version on this model version, the newest first, whatever the parameters.

    Raises Corrupted where a run's record is no JSON, StoreUnavailable.
    """
    condition = f"tags.`{PROMPT_TAG}` = '{prompt}' and tags.`{MODEL_TAG}` = '{model}'"
    with translated(f"eval runs of {prompt} on {model}"):
        return [
            EvalFacts(
                run=read_run(store, run),
                at=run.info.start_time / 1000,
                by=run.data.tags.get(_USER_TAG) or None,
                datasets=_datasets(run),
                verdicts=verdicts_of(store, run.info.run_id),
            )
            for run in _runs(store, None, f"{condition} and tags.`{COMPLETE_TAG}` = 'true'")
        ]


def lost_eval_runs(store: Store) -> list[str]:
    """Complete eval runs whose rows are not where they were recorded, as `suite: title (run id)`. Raises
    StoreUnavailable."""
    with translated("eval runs"):
        return [
            f"{run.data.tags[SUITE_TAG]}: {run.info.run_name} ({run.info.run_id})"
            for run in _runs(store, None, f"tags.`{CELL_TAG}` != '' and tags.`{COMPLETE_TAG}` = 'true'")
            if not holds_rows(store, run.info.run_id)
        ]


def verdicts_of(store: Store, run_id: str) -> tuple[Mapping[str, Any], ...]:
    """The gate's verdicts on record with a run, each with its comparison. Raises UnknownVersion, StoreUnavailable,
    Corrupted."""
    with translated(f"run {run_id}"):
        return tuple(json_file(store, run_id, item.path) for item in store.client.list_artifacts(run_id, "gate"))


def run_facts(store: Store, run_id: str) -> RunFacts:
    """One run. Raises UnknownVersion, StoreUnavailable."""
    with translated(f"run {run_id}"):
        run = store.client.get_run(run_id)
        experiment = store.client.get_experiment(run.info.experiment_id)
    return RunFacts(
        run_id=run_id,
        experiment=experiment.name,
        at=run.info.start_time / 1000,
        by=run.data.tags.get(_USER_TAG) or None,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
        datasets=_datasets(run),
    )


def monitored_windows(store: Store, app: str) -> list[WindowFacts]:
    """Every window of the app that was monitored, the newest first. Raises StoreUnavailable."""
    found = []
    with translated(f"monitoring of {app}"):
        for run in _runs(store, monitoring_experiment(app), f"tags.`{WINDOW_TAG}` != ''"):
            tags = run.data.tags
            since, until = tags.get("llmops.since") or None, tags.get("llmops.until")
            is_time = until not in ("", None, "None")  # the last is what the tag holds where the verdict had null
            found.append(
                WindowFacts(
                    run_id=str(run.info.run_id),
                    since=since if is_time else None,
                    until=until if is_time else None,
                    name=None if is_time else since,
                    state=tags.get("llmops.state", ""),
                    alarms=int(tags.get("llmops.alarms", "0")),
                    releases=tuple(name for name in tags.get("llmops.release", "").split(", ") if name),
                    metrics=dict(run.data.metrics),
                )
            )
    return found


def window_verdict(store: Store, run_id: str) -> Mapping[str, Any]:
    """What a window's run found, as `MonitorResult.to_json` gives it, without names. Raises UnknownVersion,
    StoreUnavailable, Corrupted."""
    with translated(f"run {run_id}"):
        return json_file(store, run_id, VERDICT_FILE)


def monitor_actions(store: Store, app: str, ref: str) -> list[tuple[str, float, Mapping[str, Any]]]:
    """What the monitor did, or would have done, about a release, the newest first: the run's id, when (seconds since
    the epoch), and the action. Raises StoreUnavailable, Corrupted."""
    condition = f"tags.`{ACTION_KEY_TAG}` != '' and tags.`llmops.release` = '{ref}'"
    with translated(f"actions of {app}"):
        return [
            (run.info.run_id, run.info.start_time / 1000, json_file(store, run.info.run_id, ACTION_FILE))
            for run in _runs(store, monitoring_experiment(app), condition)
        ]


def _runs(store: Store, experiment: str | None, condition: str) -> Iterator[Any]:
    """MLflow's runs of an experiment, or of all, the newest first."""
    if experiment is None:
        experiments: Sequence[Any] = list(pages(store.client.search_experiments))
    else:
        experiments = list(filter(None, [store.client.get_experiment_by_name(experiment)]))
    if experiments:
        yield from pages(
            store.client.search_runs,
            experiment_ids=[each.experiment_id for each in experiments],
            filter_string=condition,
            order_by=["attributes.start_time DESC"],
        )


def _datasets(run: Any) -> tuple[DatasetUse, ...]:
    found = []
    for used in run.inputs.dataset_inputs if run.inputs else ():
        tags = {tag.key: tag.value for tag in used.tags}
        context = tags.pop("mlflow.data.context", "")
        source, profile = (_mapping(text) for text in (used.dataset.source, used.dataset.profile))
        found.append(DatasetUse(used.dataset.name, used.dataset.digest, context, source, profile, tags))
    return tuple(found)


def _mapping(text: str | None) -> Mapping[str, Any]:
    """JSON of an object; empty for anything else: what others log need not be JSON."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

"""What is on record of a version beyond its own: eval runs, monitored windows, actions, who registered it and when.

Reads only: an experiment that is not there is not made.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmops.errors import Corrupted
from llmops.recording.cell import (
    CELL_TAG,
    COMPLETE_TAG,
    MODEL_TAG,
    PROMPT_TAG,
    SUITE_TAG,
    EvalRun,
    holds_rows,
    read_run,
)
from llmops.recording.monitoring import WINDOW_TAG, monitoring_experiment
from llmops.recording.monitoring_actions import KEY_TAG
from llmops.recording.verdicts import find_calibration
from llmops.registry.store import Store, translated

_AT_A_TIME = 1000
_USER_TAG, _CELL_CONTENT_TAG = "mlflow.user", "llmops.cell"
_VERDICT_FILE, _ACTION_FILE = "verdict.json", "action.json"


@dataclass(frozen=True, slots=True)
class Registration:
    """When something was registered, in seconds since the epoch, and by whom; None where MLflow was not told."""

    at: float | None
    by: str | None


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
    """Any MLflow run: who, when, what with, what came of it. at: seconds since the epoch. files: paths of the artifacts
    at its root."""

    run_id: str
    experiment: str
    name: str
    at: float
    by: str | None
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    datasets: tuple[DatasetUse, ...]
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EvalFacts:
    """A complete eval run. content: everything that makes it the run it is (`CellIdentity.content`). verdicts: those
    on record with it, each with its comparison."""

    run: EvalRun
    at: float
    by: str | None
    content: Mapping[str, Any]
    datasets: tuple[DatasetUse, ...]
    verdicts: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class WindowFacts:
    """A monitored window of an app. since, until: ISO 8601, empty where the run says none. releases: named in it.
    metrics: among them `rows` and `expected_false_alarms_per_month`."""

    run_id: str
    since: str
    until: str
    state: str
    alarms: int
    releases: tuple[str, ...]
    metrics: Mapping[str, float]


def registration(store: Store, name: str, version: int) -> Registration:
    """Of a version of a registered model. Raises UnknownVersion, StoreUnavailable."""
    with translated(f"{name}@{version}"):
        found = store.client.get_model_version(name, str(version))
    return _registration(found.creation_timestamp, found.user_id)


def prompt_registration(store: Store, name: str, version: int) -> Registration:
    """Of a prompt version. Raises UnknownVersion, StoreUnavailable."""
    with translated(f"{name}@{version}"):
        found = store.client.get_prompt_version(name, str(version))
    return _registration(found.creation_timestamp, found.user_id)


def eval_runs(store: Store, prompt: str, model: str) -> list[EvalFacts]:
    """Every complete eval run of this prompt version on this model version, the newest first, whatever the parameters.

    Raises Corrupted where a run's record is no JSON, StoreUnavailable.
    """
    condition = (
        f"tags.`{PROMPT_TAG}` = '{prompt}' and tags.`{MODEL_TAG}` = '{model}' and tags.`{COMPLETE_TAG}` = 'true'"
    )
    with translated(f"eval runs of {prompt} on {model}"):
        experiments = [item.experiment_id for item in _pages(store.client.search_experiments)]
        runs = list(_runs(store, experiments, condition))
        return [_eval_facts(store, run) for run in runs]


def lost_eval_runs(store: Store) -> list[str]:
    """Complete eval runs whose rows are not where they were recorded, as `suite: title (run id)`. Raises
    StoreUnavailable."""
    with translated("eval runs"):
        experiments = [item.experiment_id for item in _pages(store.client.search_experiments)]
        runs = _runs(store, experiments, f"tags.`{CELL_TAG}` != '' and tags.`{COMPLETE_TAG}` = 'true'")
        return [
            f"{run.data.tags[SUITE_TAG]}: {run.info.run_name} ({run.info.run_id})"
            for run in runs
            if not holds_rows(store, run.info.run_id)
        ]


def verdicts_of(store: Store, run_id: str) -> tuple[Mapping[str, Any], ...]:
    """The gate's verdicts on record with a run, each with its comparison. Raises UnknownVersion, StoreUnavailable,
    Corrupted."""
    with translated(f"run {run_id}"):
        return tuple(_json_file(store, run_id, item.path) for item in store.client.list_artifacts(run_id, "gate"))


def run_facts(store: Store, run_id: str) -> RunFacts:
    """One run. Raises UnknownVersion, StoreUnavailable, Corrupted."""
    with translated(f"run {run_id}"):
        run = store.client.get_run(run_id)
        experiment = store.client.get_experiment(run.info.experiment_id)
        files = tuple(item.path for item in store.client.list_artifacts(run_id))
    return RunFacts(
        run_id,
        experiment.name,
        run.info.run_name or "",
        run.info.start_time / 1000,
        _user(run),
        run.info.status,
        dict(run.data.params),
        dict(run.data.metrics),
        dict(run.data.tags),
        _datasets(run),
        files,
    )


def monitored_windows(store: Store, app: str) -> list[WindowFacts]:
    """Every window of the app that was monitored, the newest first. Raises StoreUnavailable."""
    with translated(f"monitoring of {app}"):
        return [_window(run) for run in _runs(store, _monitoring(store, app), f"tags.`{WINDOW_TAG}` != ''")]


def window_verdict(store: Store, run_id: str) -> Mapping[str, Any]:
    """What a window's run found, as `MonitorResult.to_json` gives it, without names. Raises UnknownVersion,
    StoreUnavailable, Corrupted."""
    with translated(f"run {run_id}"):
        return _json_file(store, run_id, _VERDICT_FILE)


def monitor_actions(store: Store, app: str, ref: str) -> list[tuple[RunFacts, Mapping[str, Any]]]:
    """What the monitor did, or would have done, about a release: the run and its action, the newest first.

    Raises StoreUnavailable, Corrupted.
    """
    condition = f"tags.`{KEY_TAG}` != '' and tags.`llmops.release` = '{ref}'"
    with translated(f"actions of {app}"):
        runs = list(_runs(store, _monitoring(store, app), condition))
        return [(run_facts(store, run.info.run_id), _json_file(store, run.info.run_id, _ACTION_FILE)) for run in runs]


def agreement_of(store: Store, judge_hash: str) -> Mapping[str, Any] | None:
    """The newest calibration of a judge; None when there is none. Raises StoreUnavailable."""
    with translated("calibrations"):
        known = store.client.get_experiment_by_name("judges")
    return None if known is None else find_calibration(store, judge_hash)


def shown_store(store: Store) -> str:
    """Where the store is, without the user and password that its address may hold."""
    return re.sub(r"(?<=://)[^/]*@", "", store.uri)


def _registration(created: int | None, user: str | None) -> Registration:
    return Registration(created / 1000 if created else None, user or None)


def _monitoring(store: Store, app: str) -> list[str]:
    found = store.client.get_experiment_by_name(monitoring_experiment(app))
    return [found.experiment_id] if found else []


def _runs(store: Store, experiments: Sequence[str], condition: str) -> Iterator[Any]:
    if experiments:
        yield from _pages(
            store.client.search_runs,
            experiment_ids=list(experiments),
            filter_string=condition,
            order_by=["attributes.start_time DESC"],
        )


def _pages(search: Any, **wanted: Any) -> Iterator[Any]:
    page = search(max_results=_AT_A_TIME, **wanted)
    yield from page
    while page.token:
        page = search(max_results=_AT_A_TIME, page_token=page.token, **wanted)
        yield from page


def _eval_facts(store: Store, run: Any) -> EvalFacts:
    tags, run_id = run.data.tags, str(run.info.run_id)
    return EvalFacts(
        read_run(store, run),
        run.info.start_time / 1000,
        _user(run),
        _mapping(tags.get(_CELL_CONTENT_TAG, "")),
        _datasets(run),
        verdicts_of(store, run_id),
    )


def _window(run: Any) -> WindowFacts:
    tags = run.data.tags
    releases = tuple(name for name in tags.get("llmops.release", "").split(", ") if name)
    return WindowFacts(
        str(run.info.run_id),
        tags.get("llmops.since", ""),
        tags.get("llmops.until", ""),
        tags.get("llmops.state", ""),
        int(tags.get("llmops.alarms", "0")),
        releases,
        dict(run.data.metrics),
    )


def _datasets(run: Any) -> tuple[DatasetUse, ...]:
    return tuple(_dataset(item) for item in (run.inputs.dataset_inputs if run.inputs else ()))


def _dataset(used: Any) -> DatasetUse:
    tags = {tag.key: tag.value for tag in used.tags}
    context = tags.pop("mlflow.data.context", "")
    found = used.dataset
    return DatasetUse(found.name, found.digest, context, _mapping(found.source), _mapping(found.profile), tags)


def _mapping(text: str | None) -> Mapping[str, Any]:
    """JSON of an object; empty for anything else: what others log need not be JSON."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _user(run: Any) -> str | None:
    return run.data.tags.get(_USER_TAG) or None


def _json_file(store: Store, run_id: str, path: str) -> Mapping[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(store.client.download_artifacts(run_id, path, folder)).read_text(encoding="utf-8")
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise Corrupted(f"{path} of run {run_id} is no JSON: {error}") from error
    return found

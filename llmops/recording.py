"""Writes eval runs, gates and monitoring runs into MLflow, and reads eval runs back.

Outputs and scores are finished when they get here. `mlflow.genai.evaluate` is given outputs and scorers that replay
the finished scores, so that MLflow's Evaluation-runs page shows exactly the numbers that comparisons and gates use,
and no judge is asked twice. What the store then holds is counted: MLflow loses assessments with a mere warning.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import threading
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import RecordingIncomplete, UnknownVersion
from llmops.evaluation.results import EvalReport, Metric, RowResult, Score
from llmops.hashing import canonical_json
from llmops.registry.store import Store, translated
from llmops.versions import ModelVersion, PromptVersion

_CELL_TAG, _DONE_TAG = "llmops.cell_hash", "llmops.complete"
_ROWS_FILE, _SUMMARY_FILE = "rows.jsonl", "summary.json"


@dataclass(frozen=True, slots=True)
class CellIdentity:
    """What was run: everything that makes two eval runs the same run. hash: of all of it."""

    suite: str
    prompt: PromptVersion
    model: ModelVersion
    content: Mapping[str, Any]
    hash: str
    eval_sets: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EvalRun:
    """A recorded eval run. Rows are read when asked for."""

    run_id: str
    suite: str
    prompt: str
    model: str
    metrics: Mapping[str, Metric]
    rows: int
    seconds: float
    tokens_per_second: float
    experiment_id: str

    @property
    def cell(self) -> str:
        return f"{self.prompt},{self.model}"


class EvalRecorder:
    """Eval runs in one store; each suite has an experiment of its own name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, suite: str, cell_hash: str) -> EvalRun | None:
        """The newest complete run of that cell. Raises StoreUnavailable."""
        condition = f"tags.`{_CELL_TAG}` = '{cell_hash}' and tags.`{_DONE_TAG}` = 'true'"
        experiment_id = self._store.experiment(suite)
        with translated(f"eval runs of {suite}"):
            runs = self._store.client.search_runs(
                [experiment_id], condition, order_by=["attributes.start_time DESC"], max_results=1
            )
        return self._read(runs[0]) if runs else None

    def get(self, run_id: str) -> EvalRun:
        """A complete run by id. Raises UnknownVersion, StoreUnavailable."""
        with translated(f"run {run_id}"):
            run = self._store.client.get_run(run_id)
        if run.data.tags.get(_DONE_TAG) != "true":
            raise UnknownVersion(f"run {run_id} is no complete eval run")
        return self._read(run)

    def rows(self, run: EvalRun) -> list[RowResult]:
        """Every row of a run, with outputs and scores. Raises StoreUnavailable."""
        with translated(f"run {run.run_id}"), tempfile.TemporaryDirectory() as folder:
            path = Path(self._store.client.download_artifacts(run.run_id, _ROWS_FILE, folder))
            return [RowResult.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]

    def record(self, cell: CellIdentity, report: EvalReport) -> EvalRun:
        """Writes one eval run and checks that all of it arrived.

        Raises:
            RecordingIncomplete: the store holds fewer results than were handed over; the run is marked failed.
            StoreUnavailable.
        """
        experiment_id = self._store.experiment(cell.suite)
        client = self._store.client
        with translated(f"recording {cell.prompt.ref} on {cell.suite}"):
            import mlflow

            name = f"{cell.prompt.ref} on {cell.model.ref}"
            with mlflow.start_run(experiment_id=experiment_id, run_name=name, tags=_tags(cell)) as run:
                run_id = run.info.run_id
                mlflow.log_params(_params(cell))
                _log_eval_sets(client, run_id, cell, report)
                client.link_prompt_version_to_run(run_id, cell.prompt.uri)
                _evaluate(report, cell.model.model_id)
                self._check_complete(run_id, experiment_id, report)
                mlflow.log_metrics(_metrics(report))
                _log_files(client, run_id, report)
                mlflow.set_tag(_DONE_TAG, "true")
            return self.get(run_id)

    def _check_complete(self, run_id: str, experiment_id: str, report: EvalReport) -> None:
        stored = self._count_assessments(run_id, experiment_id)
        rows = len(report.results)
        missing = {name: stored.get(name, 0) for name in report.metrics if stored.get(name, 0) != rows}
        if missing:
            raise RecordingIncomplete(
                f"MLflow run {run_id} holds {missing} of {rows} scores each; run the command again (nothing is "
                "generated twice)"
            )

    def _count_assessments(self, run_id: str, experiment_id: str) -> dict[str, int]:
        """Stored feedback by name."""
        counted: dict[str, int] = defaultdict(int)
        token = None
        while True:
            page = self._store.client.search_traces(
                locations=[experiment_id],
                filter_string=f"metadata.`mlflow.sourceRun` = '{run_id}'",
                max_results=500,
                page_token=token,
                include_spans=False,
            )
            for trace in page:
                for assessment in trace.info.assessments:
                    counted[assessment.name] += assessment.feedback is not None
            token = page.token
            if not token:
                return counted

    def _read(self, run: Any) -> EvalRun:
        tags = run.data.tags
        with translated(f"run {run.info.run_id}"), tempfile.TemporaryDirectory() as folder:
            path = Path(self._store.client.download_artifacts(run.info.run_id, _SUMMARY_FILE, folder))
            summary = json.loads(path.read_text(encoding="utf-8"))
        metrics = {
            name: Metric(m["mean"], m["n_scored"], m["n_failed"], tuple(m["ci95"]) if m["ci95"] else None)
            for name, m in summary["metrics"].items()
        }
        return EvalRun(
            run.info.run_id,
            tags["llmops.suite"],
            tags["llmops.prompt"],
            tags["llmops.model"],
            metrics,
            summary["rows"],
            summary["seconds"],
            summary["tokens_per_second"],
            run.info.experiment_id,
        )


def record_monitoring_run(store: Store, app: str, verdict: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """Writes one monitoring run: verdict as JSON, metrics. Returns the run id. Raises StoreUnavailable."""
    with translated(f"recording the monitoring of {app}"):
        import mlflow

        tags = {"llmops.app": app, "llmops.alarms": str(len(verdict.get("alarms", ())))}
        with mlflow.start_run(
            experiment_id=store.experiment("monitoring"), run_name=f"monitor {app}", tags=tags
        ) as run:
            mlflow.log_metrics(dict(metrics))
            mlflow.log_dict(dict(verdict), "verdict.json")
        return str(run.info.run_id)


def record_comparison(store: Store, run_id: str, name: str, comparison: Mapping[str, Any]) -> None:
    """Keeps a comparison, or a gate's verdict, as a file of the challenger's eval run. Raises StoreUnavailable."""
    with translated(f"run {run_id}"):
        store.client.log_dict(run_id, dict(comparison), f"comparisons/{name}.json")


def _tags(cell: CellIdentity) -> dict[str, str]:
    return {
        _CELL_TAG: cell.hash,
        "llmops.suite": cell.suite,
        "llmops.prompt": cell.prompt.ref,
        "llmops.model": cell.model.ref,
        "llmops.cell": canonical_json(cell.content),
    }


def _params(cell: CellIdentity) -> dict[str, str]:
    shown = {"prompt": cell.prompt.ref, "model": cell.model.ref, "model_sha256": cell.model.sha256}
    for group in ("parameters", "engine"):
        shown.update({f"{group}.{key}": _param(value) for key, value in cell.content[group].items()})
    return {**shown, "seed": str(cell.content["seed"])}


def _param(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)[:500]


def _metrics(report: EvalReport) -> dict[str, float]:
    """What MLflow's own evaluation does not log: counts, intervals, and what generating cost."""
    logged: dict[str, float] = {
        "rows": len(report.results),
        "generated": report.generated,
        "from_cache": report.from_cache,
        "seconds": report.seconds,
        "tokens_per_second": report.tokens_per_second,
    }
    for name, metric in report.metrics.items():
        logged |= {f"{name}/n_scored": metric.n_scored, f"{name}/n_failed": metric.n_failed}
        if metric.ci95 is not None:
            logged |= {f"{name}/ci95_low": metric.ci95[0], f"{name}/ci95_high": metric.ci95[1]}
    return logged


def _log_files(client: Any, run_id: str, report: EvalReport) -> None:
    summary = {
        "rows": len(report.results),
        "seconds": report.seconds,
        "tokens_per_second": report.tokens_per_second,
        "metrics": {name: metric.to_json() for name, metric in report.metrics.items()},
    }
    client.log_text(run_id, "".join(canonical_json(r.to_json()) + "\n" for r in report.results), _ROWS_FILE)
    client.log_text(run_id, json.dumps(summary, indent=2), _SUMMARY_FILE)


def _log_eval_sets(client: Any, run_id: str, cell: CellIdentity, report: EvalReport) -> None:
    from mlflow.entities import Dataset, DatasetInput

    for name, digest in cell.eval_sets.items():
        source = canonical_json({"eval_set": name, "sha256": digest})
        profile = canonical_json({"num_rows": len(report.results)})
        dataset = Dataset(name, digest[:16], "llmops", source, profile=profile)
        client.log_inputs(run_id, datasets=[DatasetInput(dataset=dataset, tags=[])])


def _evaluate(report: EvalReport, model_id: str) -> None:
    """`mlflow.genai.evaluate` over finished outputs, inside the active run."""
    import mlflow

    data = [
        {
            "inputs": dict(result.row.inputs),
            "outputs": result.output.text,
            "expectations": dict(result.row.expectations),
            "tags": {**result.row.tags, "row_id": result.row.id},
        }
        for result in report.results
    ]
    scorers = [_replay(name, report.results) for name in report.metrics]
    # MLflow prints a banner to stdout, which belongs to the command's own output; what it warns of (failed scores, its
    # own type hints) is counted and shown by us, or no business of the user's.
    logger = logging.getLogger("mlflow.genai.evaluation.harness")
    logger.setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.genai.evaluate(data=data, scorers=scorers, model_id=model_id or None)


def _replay(name: str, results: Sequence[RowResult]) -> Any:
    """An MLflow scorer that gives each row the score it already has.

    MLflow hands a scorer no row id, so scores wait under the row's content; rows of equal content and output take
    theirs in turn.
    """
    from mlflow.genai.scorers import scorer

    waiting: dict[str, deque[Score]] = defaultdict(deque)
    for result in results:
        key = _row_key(result.row.inputs, result.output.text, result.row.expectations)
        waiting[key].append(result.scores[name])
    lock = threading.Lock()

    def replayed(inputs: Any, outputs: Any, expectations: Any) -> Any:
        with lock:
            score = waiting[_row_key(inputs, outputs, expectations)].popleft()
        return _feedback(name, score)

    made: Callable[..., Any] = scorer(name=name)
    return made(replayed)


def _row_key(inputs: Any, outputs: Any, expectations: Any) -> str:
    return canonical_json([dict(inputs), outputs, dict(expectations or {})])


def _feedback(name: str, score: Score) -> Any:
    from mlflow.entities import AssessmentError, AssessmentSource, Feedback

    source = AssessmentSource(source_type="CODE", source_id=name)
    if score.error is not None:
        return Feedback(name=name, source=source, error=AssessmentError("SCORER_ERROR", score.error))
    return Feedback(name=name, value=score.value, rationale=score.rationale or None, source=source)

"""Eval runs in one store: written whole or not at all, found by what was run, read back row by row."""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmops.errors import UnknownVersion
from llmops.evaluation.generating import Progress
from llmops.evaluation.results import AnswerCounts, EvalReport, Results, Score
from llmops.evaluation.shards import ShardedResults
from llmops.hashing import canonical_json
from llmops.production_log import in_batches
from llmops.recording.cell import (
    CELL_TAG,
    COMPLETE_TAG,
    RECORDER_TAG,
    ROWS_FILE,
    SHARDS_FILE,
    SUMMARY_FILE,
    WRITER_TAG,
    CellIdentity,
    EvalRun,
    find_runs,
    holds_rows,
    read_run,
    recorded_rows,
    shown_param,
)
from llmops.recording.datasets import MAX_TRACED_ROWS, RULE_ALL, RULE_SAMPLE, dataset_inputs, traced
from llmops.recording.evaluation_events import send_results
from llmops.recording.mlflow_evaluate import evaluate_traces
from llmops.recording.resuming import check_complete, parts_of, take_up, this_process
from llmops.recording.trace_writing import BATCH, TraceWriter
from llmops.recording.traces import RowTrace, TraceMaker
from llmops.registry.store import Store, translated

_NOT_IN_METRIC_NAMES = re.compile(r"[^\w\-. :/]")


def log_files(
    store: Store, run_id: str, report: EvalReport, usage: Mapping[str, float], shards: ShardedResults | None
) -> AnswerCounts:
    """Writes `rows.jsonl`, `summary.json` and `findings/<scorer>/…`, made on disk, row by row; says what became of the
    rows. MLflow's errors pass through.

    shards: where the rows stay; they are then named in place of being copied.
    """
    answers = AnswerCounts()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if shards is not None:
            answers = AnswerCounts.of(result.output for result in shards)
            (folder / SHARDS_FILE).write_text(json.dumps(shards.to_json(store.settings.home)), encoding="utf-8")
        else:
            with (folder / ROWS_FILE).open("wb") as file:
                for result in report.results:
                    answers = answers.plus(result.output)
                    # Half a surrogate pair cannot be UTF-8; escaped with a backslash it is what JSON calls it.
                    file.write(canonical_json(result.to_json()).encode(errors="backslashreplace") + b"\n")
        summary = {
            "rows": len(report.results),
            "answers": answers.to_json(),
            "seconds": report.seconds,
            "tokens_per_second": report.tokens_per_second,
            "usage": dict(usage),
            "metrics": {name: metric.to_json() for name, metric in report.metrics.items()},
        }
        (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=2), encoding="utf-8")
        for scorer, findings in report.findings.items():
            for name, content in findings.files.items():
                path = folder / "findings" / scorer / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        store.client.log_artifacts(run_id, made)
    return answers


def run_metrics(
    report: EvalReport, answers: AnswerCounts, usage: Mapping[str, float], extra: Mapping[str, float]
) -> dict[str, float]:
    """Every number of a run by MLflow's name for it; means as `mlflow.genai.evaluate` names them."""
    logged: dict[str, float | None] = {
        "rows": len(report.results),
        "generated": report.generated,
        "from_cache": report.from_cache,
        "seconds": report.seconds,
        "tokens_per_second": report.tokens_per_second,
        **{f"answers/{name}": value for name, value in answers.to_json().items() if name != "rows"},
        **usage,
    }
    for name, metric in report.metrics.items():
        logged |= {f"{name}/n_scored": metric.n_scored, f"{name}/n_failed": metric.n_failed}
        if metric.mean is not None:
            logged[f"{name}/mean"] = metric.mean
        if metric.ci95 is not None:
            logged |= {f"{name}/ci95_low": metric.ci95[0], f"{name}/ci95_high": metric.ci95[1]}
    for scorer, findings in report.findings.items():
        logged |= {f"{scorer}/{name}": value for name, value in findings.metrics.items()}
    # A class or language may be part of a finding's name.
    return {
        _NOT_IN_METRIC_NAMES.sub("_", name): float(value)
        for name, value in {**logged, **extra}.items()
        if value is not None
    }


EVALUATE_UP_TO = 300
"""Rows up to which `auto` records with `mlflow.genai.evaluate`; above, in bulk, which takes less time and memory."""

LISTED_BY_PROMPT = 100
"""Rows of a run that the prompt's page lists. The page needs some rows of each run to lead there, not all of them."""

RecorderName = Literal["auto", "evaluate", "bulk"]


@dataclass(frozen=True, slots=True)
class EvalRecorder:
    """Eval runs in one store; each suite has an experiment of its own name."""

    store: Store

    def find(self, suite: str, cell_hash: str) -> EvalRun | None:
        """The newest complete run of that cell whose rows are still there. Raises StoreUnavailable."""
        with translated(f"eval runs of {suite}"):
            tags = {CELL_TAG: cell_hash, COMPLETE_TAG: "true"}
            runs = find_runs(self.store, self.store.experiment_ids(suite), tags)
            whole = (run for run in runs if holds_rows(self.store, run.info.run_id))
            run = next(whole, None)
            return None if run is None else read_run(self.store, run)

    def get(self, run_id: str) -> EvalRun:
        """A complete run by id. Raises UnknownVersion, StoreUnavailable."""
        with translated(f"run {run_id}"):
            run = self.store.client.get_run(run_id)
            if run.data.tags.get(COMPLETE_TAG) != "true":
                raise UnknownVersion(f"run {run_id} is no complete eval run")
            return read_run(self.store, run)

    def newest(self, suite: str, most: int = 20) -> list[EvalRun]:
        """The newest complete runs of a suite, the last first. Raises StoreUnavailable."""
        with translated(f"eval runs of {suite}"):
            runs = find_runs(self.store, self.store.experiment_ids(suite), {COMPLETE_TAG: "true"}, most=most)
            return [read_run(self.store, run) for run in runs]

    def beginning_with(self, text: str, *, limit: int) -> list[str]:
        """Ids of complete runs that begin so, at most so many. Raises StoreUnavailable."""
        condition = f"attributes.run_id LIKE '{text}%' and tags.`{COMPLETE_TAG}` = 'true'"
        with translated("eval runs"):
            experiments = [each.experiment_id for each in self.store.client.search_experiments()]
            runs = self.store.client.search_runs(experiments, condition, max_results=limit)
        return [str(run.info.run_id) for run in runs]

    def rows(self, run: EvalRun) -> Results:
        """Every row of a run, with outputs and scores, as `recorded_rows` reads them. Raises StoreUnavailable."""
        with translated(f"run {run.run_id}"):
            return recorded_rows(self.store, run.run_id, run.rows)

    def record(
        self,
        cell: CellIdentity,
        report: EvalReport,
        recorder: RecorderName = "auto",
        *,
        extra_params: Mapping[str, str] | None = None,
        extra_metrics: Mapping[str, float] | None = None,
        progress: Progress | None = None,
    ) -> EvalRun:
        """Writes one eval run and checks that all of it arrived. Called again after a crash, it completes the run.

        recorder: `auto` takes `evaluate` up to `EVALUATE_UP_TO` rows, `bulk` above. Both write the same run.
        extra_params, extra_metrics: shown beside the cell's own; a metric `cost` is part of the run's usage.
        progress: is told (rows written, rows to write).

        Raises RecordingIncomplete: the store holds less than was handed over, or more; the run is marked failed.
        StoreUnavailable.
        """
        if recorder == "auto":
            recorder = "evaluate" if len(report.results) <= EVALUATE_UP_TO else "bulk"
        with translated(f"recording {cell.title} on {cell.suite}"):
            writing = _Writing(self.store, cell, report, recorder, progress)
            run_id = writing.write(extra_params or {}, extra_metrics or {})
        run = self.get(run_id)
        send_results(self.store, cell, run)
        return run


@dataclass(frozen=True, slots=True)
class _Writing:
    """One run while it is written. tell: of progress. MLflow's errors pass through."""

    store: Store
    cell: CellIdentity
    report: EvalReport
    recorder: str
    tell: Progress | None

    @property
    def _traced_rows(self) -> int:
        return min(len(self.report.results), MAX_TRACED_ROWS)

    @property
    def _shards(self) -> ShardedResults | None:
        """Where the rows stay; None where all of them go into MLflow."""
        results = self.report.results
        return results if isinstance(results, ShardedResults) and len(results) > self._traced_rows else None

    def write(self, extra_params: Mapping[str, str], extra_metrics: Mapping[str, float]) -> str:
        """Everything in such an order that a run is complete only when all of it is there; returns its id."""
        client, cell, report = self.store.client, self.cell, self.report
        experiment_id = self.store.experiment(cell.suite)
        params = {
            **cell.params(),
            **{name: shown_param(value) for name, value in extra_params.items()},
            "traced_rows": str(self._traced_rows),
            "traced_rule": RULE_ALL if self._traced_rows == len(report.results) else RULE_SAMPLE,
        }
        if self._shards is not None:
            params["rows_in"] = shown_param(f"{len(self._shards.shards)} Parquet files below {self._shards.folder.url}")
        known = {"tokens_in": report.tokens_in, "tokens_out": report.tokens_out, "cost": extra_metrics.get("cost")}
        usage = {name: value for name, value in known.items() if value is not None}
        unfinished = take_up(self.store, experiment_id, cell.hash, self.recorder, params)
        place = {"run_id": unfinished} if unfinished else {"experiment_id": experiment_id}
        tags = {
            **cell.tags(),
            "mlflow.runType": "genai_evaluate",
            COMPLETE_TAG: "false",
            RECORDER_TAG: self.recorder,
            WRITER_TAG: this_process(),
        }
        with self.store.start_run(**place, run_name=cell.title, tags=tags) as run:
            run_id = str(run.info.run_id)
            dataset = self._link(run_id)
            answers = log_files(self.store, run_id, report, usage, self._shards)
            params["cleaned_texts"] = str(self._write_rows(run, experiment_id, dataset))
        # Metrics of run and model. The time is the run's own, so that logging again adds nothing.
        from mlflow.entities import Metric

        at, of = run.info.start_time, (cell.model.model_id or None, dataset.name, dataset.digest)
        metrics = run_metrics(report, answers, usage, extra_metrics)
        logged = [Metric(name, value, at, 0, *of, run_id=run_id) for name, value in metrics.items()]
        self.store.log_numbers(run_id, logged, params)
        client.set_tag(run_id, COMPLETE_TAG, "true")
        return run_id

    def _link(self, run_id: str) -> Any:
        """Links eval sets, model and prompt; returns the dataset that the run's metrics belong to."""
        from mlflow.entities import DatasetInput, LoggedModelInput
        from mlflow.exceptions import MlflowException

        client, model_id = self.store.client, self.cell.model.model_id
        datasets = dataset_inputs(self.store, self.cell, len(self.report.results))
        inputs = {
            "datasets": [DatasetInput(dataset=dataset, tags=[]) for dataset in datasets],
            "models": [LoggedModelInput(model_id=model_id)] if model_id else None,
        }
        try:
            client.log_inputs(run_id, **inputs)
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            client.log_inputs(run_id, **inputs)  # another writer made the same new data set at that moment
        if self.cell.prompt is not None:
            client.link_prompt_version_to_run(run_id, self.cell.prompt.uri)
        return datasets[0]

    def _write_rows(self, run: Any, experiment_id: str, dataset: Any) -> int:
        """Traces and scores, counted afterwards. Returns how many texts had to be cleaned for the database."""
        run_id, in_bulk = run.info.run_id, self.recorder == "bulk"
        maker = TraceMaker(self.cell, run_id, experiment_id, run.info.start_time, with_scores=in_bulk)
        expected: Counter[tuple[str, str]] = Counter()

        def traces() -> Iterator[RowTrace]:
            for number, result in traced(self.report.results, MAX_TRACED_ROWS):
                expected.update(parts_of(result))
                trace = maker.make(number, result)
                if not in_bulk:
                    scores[trace.trace_id] = result.scores
                yield trace

        scores: dict[str, Mapping[str, Score]] = {}
        made: Iterable[RowTrace] = traces()
        if not in_bulk:
            made = list(made)
            names, model_id = list(self.report.metrics), self.cell.model.model_id
            evaluate_traces(self.store, run_id, model_id, dataset, made, names, scores, maker.clean)
        writer, prompt, done = TraceWriter(self.store), self.cell.prompt, 0
        for batch in in_batches(enumerate(made), BATCH):
            listed = {trace.trace_id: prompt for number, trace in batch if prompt and number < LISTED_BY_PROMPT}
            writer.write(experiment_id, [trace for _, trace in batch], listed, run_id)
            done += len(batch)
            if self.tell is not None:
                self.tell(done, self._traced_rows)
        check_complete(self.store.client, experiment_id, run_id, expected)
        return maker.clean.cleaned

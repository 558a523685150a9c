"""Runs of pipelines in MLflow: one MLflow run for each cycle, with each step's inputs and outputs.

A cycle that goes on after an interruption or a failure goes on in the same MLflow run. A step that is done again
replaces what was written of it.
"""

import functools
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llmops.pipelines import Recorder, StepRecord
from llmops.recording.cell import LONGEST_TAG, find_runs
from llmops.registry.store import Store, translated
from llmops.settings import Settings

PIPELINE_EXPERIMENT = "pipelines"
PIPELINE_TAG, CYCLE_TAG = "llmops.pipeline", "llmops.pipeline.cycle"
ATTEMPT_TAG, _NOTE_TAG = "llmops.pipeline.attempt", "mlflow.note.content"
_NOT_IN_A_NAME = re.compile(r"[^\w.-]+", re.ASCII)


class PipelineRecorder(Recorder):
    """Writes the runs of pipelines. Opens the store with the first run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.run_id = ""
        """The MLflow run of the latest pipeline run; empty before."""
        self._attempt = 0

    @functools.cached_property
    def _store(self) -> Store:
        return Store(self._settings)

    def begin(self, pipeline: str, cycle: str, inputs: Mapping[str, Any]) -> None:
        """As `Recorder`. Raises StoreUnavailable."""
        self.run_id = ""
        client = self._store.client
        with translated(f"recording {pipeline} {cycle}"):
            run = find_pipeline_run(self._store, pipeline, cycle)
            if run is None:
                run = client.create_run(
                    self._store.experiment(PIPELINE_EXPERIMENT),
                    run_name=f"{pipeline} {cycle}",
                    tags={PIPELINE_TAG: pipeline, CYCLE_TAG: cycle},
                )
                client.log_dict(run.info.run_id, dict(inputs), "inputs.json")
            self.run_id = str(run.info.run_id)
            self._attempt = int(run.data.tags.get(ATTEMPT_TAG, 0)) + 1
            client.update_run(self.run_id, status="RUNNING")
            client.set_tag(self.run_id, ATTEMPT_TAG, str(self._attempt))

    def step(self, record: StepRecord) -> None:
        """As `Recorder`. Raises StoreUnavailable."""
        from mlflow.entities import Metric

        name = _NOT_IN_A_NAME.sub("-", record.name)
        value = {
            "number": record.number,
            "name": record.name,
            "inputs": list(record.arguments),
            "outputs": record.output,
            "error": record.error,
            "seconds": round(record.seconds, 3),
            "started_at": record.started_at.isoformat("T", "milliseconds"),
            "attempt": self._attempt,
        }
        at = int(datetime.now(UTC).timestamp() * 1000)
        with translated(f"recording step {record.name}"):
            self._store.client.log_dict(self.run_id, value, f"steps/{record.number:02d}-{name}.json")
            metric = Metric(f"seconds/{name}", record.seconds, at, self._attempt)
            self._store.client.log_batch(self.run_id, metrics=[metric])

    def end(self, result: Mapping[str, Any] | None, error: str | None) -> None:
        """As `Recorder`. Raises StoreUnavailable."""
        if not self.run_id:
            return
        client = self._store.client
        with translated("recording the end of a pipeline"):
            if result is not None:
                client.log_dict(self.run_id, dict(result), "result.json")
            shown = f"failed: {error}" if error is not None else str((result or {}).get("told") or "finished")
            client.set_tag(self.run_id, _NOTE_TAG, shown[:LONGEST_TAG])
            client.set_terminated(self.run_id, "FAILED" if error else "FINISHED")


def find_pipeline_run(store: Store, pipeline: str, cycle: str) -> Any | None:
    """MLflow's run of a cycle, or None. Raises StoreUnavailable."""
    with translated(f"looking for {pipeline} {cycle}"):
        tags = {PIPELINE_TAG: pipeline, CYCLE_TAG: cycle}
        runs = find_runs(store, [store.experiment(PIPELINE_EXPERIMENT)], tags, oldest_first=True, most=1)
    return runs[0] if runs else None

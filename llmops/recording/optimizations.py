"""Optimisations of prompts in MLflow: what was tried, and which held-out rows have been read.

A run is written step by step, so that one that was killed goes on where it was: first how the rows are split, then what
was chosen, then that held-out rows are read, then the result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.errors import CannotRun, Corrupted
from llmops.recording.cell import WRITER_TAG, find_runs, json_file, shown_param
from llmops.recording.resuming import this_process, writer_is_gone
from llmops.registry.store import Store, translated

EXPERIMENT = "optimizations"
_IDENTITY_TAG, _SUITE_TAG = "llmops.optimization", "llmops.optimization.suite"
_READ_TAG, _COMPLETE_TAG = "llmops.optimization.held_out_read", "llmops.optimization.complete"
_CHOSEN_TAG = "llmops.optimization.chosen"
SPLIT, CHOSEN, _RESULT, _TABLE = "split.json", "chosen.json", "result.json", "candidates.json"
"""Files of a run."""


@dataclass(frozen=True, slots=True)
class OptimizationRecord:
    """One optimisation's run. All methods raise StoreUnavailable."""

    store: Store
    run_id: str
    suite: str

    @classmethod
    def found(cls, store: Store, identity: str, suite: str) -> OptimizationRecord | None:
        """The run of that identity: the finished one, or one that a dead process left. Raises CannotRun: a process that
        may be alive is at it."""
        with translated(f"optimisations of {suite}"):
            for run in find_runs(store, store.experiment_ids(EXPERIMENT), {_IDENTITY_TAG: identity}, oldest_first=True):
                tags, run_id = run.data.tags, run.info.run_id
                if tags.get(_COMPLETE_TAG) == "refused":
                    continue
                if tags.get(_COMPLETE_TAG) != "true":
                    if not writer_is_gone(tags[WRITER_TAG]):
                        raise CannotRun(f"this optimisation is under way: MLflow run {run_id} by {tags[WRITER_TAG]}")
                    store.client.set_tag(run_id, WRITER_TAG, this_process())
                return cls(store, run_id, suite)
        return None

    @classmethod
    def begun(
        cls, store: Store, identity: str, suite: str, title: str, params: Mapping[str, Any]
    ) -> OptimizationRecord:
        """A new run."""
        tags = {_IDENTITY_TAG: identity, _SUITE_TAG: suite, WRITER_TAG: this_process(), _COMPLETE_TAG: "false"}
        with translated(f"optimisation of {title}"):
            run = store.client.create_run(store.experiment(EXPERIMENT), tags=tags, run_name=title)
            store.log_numbers(run.info.run_id, [], {name: shown_param(value) for name, value in params.items()})
            return cls(store, run.info.run_id, suite)

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON object that was kept under that name; None when there is none. Raises Corrupted."""
        with translated(f"run {self.run_id}"):
            if not any(item.path == name for item in self.store.client.list_artifacts(self.run_id)):
                return None
            try:
                return json_file(self.store, self.run_id, name)
            except Corrupted:  # killed while it was written; what held-out rows were read for was whole before
                if self.store.client.get_run(self.run_id).data.tags.get(_READ_TAG) == "true":
                    raise
                return None

    def keep(self, name: str, value: Mapping[str, Any]) -> None:
        """Keeps a JSON object."""
        with translated(f"run {self.run_id}"):
            self.store.client.log_text(self.run_id, json.dumps(value, ensure_ascii=False, indent=1), name)

    def claim(self, held_out_keys: Sequence[str], prompt_hash: str) -> None:
        """Puts on record that held-out rows are read now, before they are. Of optimisations that claim the same rows at
        the same time none may have them; they stay unread.

        prompt_hash: of the content of the prompt that they are read for.

        Raises CannotRun: another one has read some of them.
        """
        with translated(f"run {self.run_id}"):
            self.store.client.set_tag(self.run_id, _CHOSEN_TAG, prompt_hash)
            self.store.client.set_tag(self.run_id, _READ_TAG, "true")
        before = held_out_before(self.store, self.suite, self.run_id)
        if taken := sorted({before[key] for key in held_out_keys if key in before}):
            with translated(f"run {self.run_id}"):
                self.store.client.set_tag(self.run_id, _READ_TAG, "refused")
                self.store.client.set_tag(self.run_id, _COMPLETE_TAG, "refused")
                self.store.client.set_terminated(self.run_id, "FAILED")
            raise CannotRun(
                f"held-out rows are read once, and run {', '.join(taken)} has read some of these: add new rows to the"
                " suite's eval set and optimise again"
            )

    def finish(
        self, result: Mapping[str, Any], metrics: Mapping[str, float | None], table: Mapping[str, Sequence[Any]]
    ) -> None:
        """Writes the result, the numbers and the table of candidates (columns by name), and completes the run."""
        from mlflow.entities import Metric

        with translated(f"run {self.run_id}"):
            client = self.store.client
            # As MLflow's `log_table` writes it, which would add to the rows of a run that was killed here.
            shown = {"columns": list(table), "data": [list(row) for row in zip(*table.values(), strict=True)]}
            self.keep(_TABLE, shown)
            client.set_tag(self.run_id, "mlflow.loggedArtifacts", json.dumps([{"path": _TABLE, "type": "table"}]))
            self.keep(_RESULT, result)
            at = client.get_run(self.run_id).info.start_time  # so that logging again adds nothing
            known = {name: value for name, value in metrics.items() if value is not None}
            self.store.log_numbers(self.run_id, [Metric(name, float(each), at, 0) for name, each in known.items()])
            client.set_terminated(self.run_id)
            client.set_tag(self.run_id, _COMPLETE_TAG, "true")

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` was given; None while it is not complete."""
        with translated(f"run {self.run_id}"):
            complete = self.store.client.get_run(self.run_id).data.tags.get(_COMPLETE_TAG) == "true"
        return self.read(_RESULT) if complete else None


def held_out_before(store: Store, suite: str, but: str = "") -> dict[str, str]:
    """Of every held-out row of that suite that an optimisation has read: its key, and the id of the optimisation's run.
    but: a run that is left out. Raises StoreUnavailable."""
    with translated(f"optimisations of {suite}"):
        runs = find_runs(store, store.experiment_ids(EXPERIMENT), {_SUITE_TAG: suite, _READ_TAG: "true"})
        return {
            key: run.info.run_id
            for run in runs
            if run.info.run_id != but
            for key in json_file(store, run.info.run_id, SPLIT)["held_out_keys"]
        }


def rows_chosen_by(store: Store, suite: str, prompt_hash: str) -> dict[str, str]:
    """Where an optimisation on that suite chose the prompt of that content: the keys of the rows that it shows or was
    chosen by, each with the optimisation's run id. Raises StoreUnavailable."""
    with translated(f"optimisations of {suite}"):
        wanted = {_SUITE_TAG: suite, _CHOSEN_TAG: prompt_hash, _READ_TAG: "true"}
        runs = find_runs(store, store.experiment_ids(EXPERIMENT), wanted)
        return {key: run.info.run_id for run in runs for key in json_file(store, run.info.run_id, SPLIT)["used_keys"]}

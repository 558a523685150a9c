"""Fine-tunes in MLflow: one run each, with recipe, learning curve, adapter, and what became of the rows."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.models.merging import ADAPTER
from llmops.recording.cell import COMPLETE_TAG, find_runs, json_file, shown_param
from llmops.registry.store import Store, translated

FINETUNE_EXPERIMENT, FINETUNE_TAG = "finetune", "llmops.finetune"
_SUMMARY = "summary.json"


def record_finetune(
    store: Store,
    identity: str,
    name: str,
    *,
    parameters: Mapping[str, Any],
    curves: Mapping[str, Mapping[int, float]],
    summary: Mapping[str, Any],
    files: Mapping[str, str],
    adapter: Path,
) -> str:
    """Writes the run of a fine-tune; anew where one was written in part. A complete one is left as it is.

    identity: of everything that decides the result. curves: values by step. files: texts by name. adapter: a folder.

    Returns the run's id. Raises StoreUnavailable.
    """
    from mlflow.entities import Metric

    with translated(f"recording the fine-tune {name}"):
        experiment_id = store.experiment(FINETUNE_EXPERIMENT)
        earlier = next(iter(find_runs(store, [experiment_id], {FINETUNE_TAG: identity}, most=1)), None)
        if earlier is not None and earlier.data.tags.get(COMPLETE_TAG) == "true":
            return str(earlier.info.run_id)
        client = store.client
        if earlier is not None:
            client.delete_run(earlier.info.run_id)
        made = client.create_run(experiment_id, run_name=name, tags={FINETUNE_TAG: identity})
        run_id, now = str(made.info.run_id), int(time.time() * 1000)
        points = [Metric(curve, value, now, step) for curve, values in curves.items() for step, value in values.items()]
        store.log_numbers(run_id, points, {key: shown_param(value) for key, value in parameters.items()})
        for file, text in {**files, _SUMMARY: json.dumps(summary, indent=2)}.items():
            client.log_text(run_id, text, file)
        client.log_artifacts(run_id, str(adapter), ADAPTER)
        client.set_tag(run_id, COMPLETE_TAG, "true")
        client.set_terminated(run_id)
        return run_id


def read_summary(store: Store, run_id: str) -> dict[str, Any]:
    """The summary that `record_finetune` wrote. Raises StoreUnavailable."""
    with translated(f"run {run_id}"):
        return json_file(store, run_id, _SUMMARY)

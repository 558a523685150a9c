"""Monitoring runs in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmops.recording.fluent import start_run
from llmops.registry.store import Store, translated


def record_monitoring_run(store: Store, app: str, verdict: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """Writes one monitoring run: verdict as JSON, metrics. Returns the run id. Raises StoreUnavailable."""
    with translated(f"recording the monitoring of {app}"):
        import mlflow

        tags = {"llmops.app": app, "llmops.alarms": str(len(verdict.get("alarms", ())))}
        with start_run(
            store, experiment_id=store.experiment("monitoring"), run_name=f"monitor {app}", tags=tags
        ) as run:
            mlflow.log_metrics(dict(metrics))
            mlflow.log_dict(dict(verdict), "verdict.json")
        return str(run.info.run_id)

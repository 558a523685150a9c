"""What is put on record about runs: comparisons, verdicts, reports, and how far a judge agrees with labels."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.recording.active_run import start_run
from llmops.recording.cell import COMPLETE_TAG
from llmops.registry.store import Store, translated

GATE_TAG, GATE_AGAINST_TAG, GATE_REASONS_TAG = "llmops.gate", "llmops.gate.against", "llmops.gate.reasons"
_LONGEST_TAG = 5000  # characters, which is what MLflow keeps
_JUDGES, _JUDGE_TAG, _CALIBRATION_FILE = "judges", "llmops.judge_hash", "calibration.json"
_CALIBRATION_METRICS = ("kappa", "kappa_low", "kappa_high", "n", "n_failed", "accuracy")


def record_comparison(store: Store, run_id: str, name: str, comparison: Mapping[str, Any]) -> None:
    """Keeps a comparison as a file of the challenger's eval run. Raises UnknownVersion, StoreUnavailable."""
    with translated(f"run {run_id}"):
        store.client.log_dict(run_id, dict(comparison), f"comparisons/{name}.json")


def record_verdict(store: Store, run_id: str, verdict: Mapping[str, Any]) -> str:
    """Puts a gate's verdict on the challenger's eval run: tags for lists and filters, and a file with all of it.

    verdict: `verdict` (`pass`, `fail`, `inconclusive`), `against` (a ref or run id; None for no champion yet), and
    whatever else it takes to judge again (rules, run ids, the comparison). A verdict against the same champion replaces
    the one before. Returns the file's path in the run. Raises UnknownVersion, StoreUnavailable.
    """
    against = str(verdict["against"] or "nothing")
    path = f"gate/against-{re.sub(r'[^A-Za-z0-9_.]', '-', against)}.json"
    with translated(f"run {run_id}"):
        store.client.log_dict(run_id, dict(verdict), path)
        store.client.set_tag(run_id, GATE_AGAINST_TAG, against)
        store.client.set_tag(run_id, GATE_REASONS_TAG, "\n".join(verdict.get("reasons", ()))[:_LONGEST_TAG])
        store.client.set_tag(run_id, GATE_TAG, str(verdict["verdict"]))
    return path


def record_report(store: Store, run_id: str, path: Path) -> str:
    """Keeps a file (HTML, Markdown) below `reports/` of a run. Returns its path in the run.

    Raises UnknownVersion, StoreUnavailable.
    """
    with translated(f"run {run_id}"):
        store.client.log_artifact(run_id, str(path), "reports")
    return f"reports/{path.name}"


def record_calibration(store: Store, name: str, calibration: Mapping[str, Any], judge_hash: str) -> str:
    """Writes how a judge agrees with labelled rows into the experiment `judges`. Returns the run id.

    judge_hash: of everything that can change the judge's scores. Of the calibration, the numbers kappa, kappa_low,
    kappa_high, n, n_failed and accuracy become metrics, where it has them. Raises StoreUnavailable.
    """
    metrics = {key: float(calibration[key]) for key in _CALIBRATION_METRICS if calibration.get(key) is not None}
    with translated(f"recording the calibration of {name}"), tempfile.TemporaryDirectory() as folder:
        import mlflow

        path = Path(folder) / _CALIBRATION_FILE
        path.write_text(json.dumps(dict(calibration), indent=2), encoding="utf-8")
        tags = {_JUDGE_TAG: judge_hash, "llmops.judge": name}
        with start_run(store, experiment_id=store.experiment(_JUDGES), run_name=name, tags=tags) as run:
            mlflow.log_metrics(metrics)
            mlflow.log_artifact(str(path))
        store.client.set_tag(run.info.run_id, COMPLETE_TAG, "true")
        return str(run.info.run_id)


def find_calibration(store: Store, judge_hash: str) -> dict[str, Any] | None:
    """The newest calibration of that very judge, or None. Raises StoreUnavailable."""
    condition = f"tags.`{_JUDGE_TAG}` = '{judge_hash}' and tags.`{COMPLETE_TAG}` = 'true'"
    experiment_id = store.experiment(_JUDGES)
    with translated("calibrations"), tempfile.TemporaryDirectory() as folder:
        runs = store.client.search_runs(
            [experiment_id], condition, order_by=["attributes.start_time DESC"], max_results=1
        )
        if not runs:
            return None
        path = Path(store.client.download_artifacts(runs[0].info.run_id, _CALIBRATION_FILE, folder))
        calibration: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return calibration

"""A window as the production log holds it, judged by the monitor, and put on record in MLflow."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmops.errors import CannotRun

if TYPE_CHECKING:
    from labs.definition import LabDefinition
    from labs.labelled_rows import LabelledRows
    from labs.step_json import Json
    from llmops.production_log import PredictionBatch
    from monitoring.tabular import TabularVerdict

_HELD_OUT = "held out"


def watched(
    lab: LabDefinition, window: str, model: Json, past: Sequence[tuple[float, float]], quiet: Sequence[str] = ()
) -> Json:
    """The verdict on a window. model: the champion; its reference is the rows held out when it was trained, and what it
    answered in the windows `quiet`: a few days held out would leave all but the largest rises unseen.

    Raises:
        CannotRun: the log has not the window's predictions. StoreUnavailable.
    """
    from monitoring.tabular import check, frame_of

    champion, held_out = lab.model(model["ref"]), lab.holdout(model["trained_on"])
    clusters = {_HELD_OUT: held_out.clusters}
    clusters |= {lab.request_id(name): lab.window(name).clusters for name in (*quiet, window)}

    def framed(batches: Sequence[PredictionBatch]) -> Any:
        block = (lambda batch, row: clusters[batch.request_id][row]) if lab.blocks else None
        return frame_of(batches, champion.schema, block)

    *before, now = _logged(lab, [*quiet, window])
    reference, current = framed([_of_held_out(model["ref"], champion, held_out), *before]), framed([now])
    verdict = check(
        reference, current, champion.schema, lab.monitoring, windows_in_budget=lab.windows_in_budget, past=past
    )
    run_id = _record(lab, window, model["ref"], verdict, (reference, current, champion.schema))
    return {
        "alarm": verdict.alarm,
        "why": verdict.why,
        "state": verdict.state,
        "reference": {
            "of": model["ref"],
            "rows": len(reference),
            "windows": list(quiet),
            "error": verdict.reference_error,
        },
        "compared_by": verdict.metric,
        "compared_error": verdict.error,
        "compared_interval": list(verdict.error_interval) if verdict.error_interval else None,
        "estimated_error": verdict.estimated_error,
        "estimate_trusted": verdict.estimate_trusted,
        "past_estimate": list(verdict.past_estimate) if verdict.past_estimate else None,
        "drifted": list(verdict.drifted),
        "expected_false_alarms": verdict.false_alarms,
        "run_id": run_id,
    }


def was_answered(lab: LabDefinition, window: str) -> bool:
    """Whether the log has the request that sent a window's rows. Raises StoreUnavailable."""
    return bool(_found(lab, [window]))


def predictions_in(lab: LabDefinition, window: str) -> Any:
    """What was answered in a window, a numpy array. Raises CannotRun, StoreUnavailable."""
    import numpy as np

    return np.asarray(_logged(lab, [window])[0].predictions, dtype=lab.window(window).truth.dtype)


def _logged(lab: LabDefinition, windows: Sequence[str]) -> list[PredictionBatch]:
    found = _found(lab, windows)
    for window in windows:
        if window not in found:
            raise CannotRun(f"the production log has no request {lab.request_id(window)}")
    return [found[window] for window in windows]


def _found(lab: LabDefinition, windows: Sequence[str]) -> dict[str, PredictionBatch]:
    """By window, those whose rows were asked for."""
    from contextlib import closing

    from llmops.production_log import ProductionLog, read_predictions

    with closing(ProductionLog(lab.settings.resolved_log_url)) as log:
        return {
            window: batch
            for window in windows
            for batch in read_predictions(log, lab.name, request_id=lab.request_id(window))
        }


def _of_held_out(ref: str, model: Any, rows: LabelledRows) -> PredictionBatch:
    """The rows held out as if they had been asked for."""
    from llmops.production_log import PredictionBatch

    asked, truth = rows.rows(), rows.truth.tolist()
    found = model.predict(asked)
    return PredictionBatch(datetime.now(UTC), _HELD_OUT, ref, asked, found.values, found.probabilities, truth)


def _record(lab: LabDefinition, window: str, ref: str, verdict: TabularVerdict, frames: tuple[Any, Any, Any]) -> str:
    """The window's run in MLflow, with Evidently's report where there is an alarm to look into. Returns its id."""
    from llmops.recording import record_monitoring_run
    from monitoring.tabular import write_report

    told = verdict.to_json()
    told["window"] = {"since": window, "until": None, "rows": verdict.rows}
    told["alarms"] = [{**alarm.to_json(), "rows": [], "slices": []} for alarm in verdict.alarms]
    told["slices"] = [{"slice": {"release": ref}}]
    found = {
        "rows": verdict.rows,
        "expected_false_alarms": verdict.false_alarms,
        "error": verdict.error,
        "reference_error": verdict.reference_error,
        "estimated_error": verdict.estimated_error,
        "p_value": verdict.rise.p_value,
    }
    metrics = {name: float(value) for name, value in found.items() if value is not None}
    metrics |= {"alarms": float(len(verdict.alarms)), "drifted_columns": float(len(verdict.drifted))}
    page = None
    if verdict.alarm:
        reference, current, schema = frames
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.html"
            write_report(reference, current, schema, verdict, path)
            page = path.read_text(encoding="utf-8")
    return record_monitoring_run(lab.registry.store, lab.name, told, metrics, descriptor_version=lab.cycle, page=page)

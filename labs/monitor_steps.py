"""Parts 4 and 5 of a lab, step by step: windows that are served, judged by the monitor and recorded; and retraining.

As in `model_steps`, each step takes and gives plain JSON and may be done twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labs.evaluation import plain
from labs.lab import FIRST, Json, Lab
from labs.model_steps import recorded, registered, until_served
from llmops.errors import CannotRun

if TYPE_CHECKING:
    from llmops.production_log import PredictionBatch
    from monitoring.tabular import TabularVerdict

_HELD_OUT = "held out"


class MonitorSteps:
    """The windows after a model's training, one after another."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def windows_of(self, model: Json) -> Sequence[str]:
        """The windows after those that a model was trained on. Raises CannotRun when the data has not its last one."""
        names, newest = list(self.lab.windows()), model["trained_on"]
        if newest == FIRST:
            return names
        if newest not in names:
            raise CannotRun(f"{model['ref']} was trained on {newest}, which this data has not")
        return names[names.index(newest) + 1 :]

    def monitor(self, window: str, model: Json, past: Sequence[Sequence[float]], quiet: Sequence[str]) -> Json:
        """Sends a window's rows through the gateway, brings the labels that are known by then, and judges what the log
        holds of the window.

        model: the champion.
        past: estimated and real errors of its earlier windows.
        quiet: those of its earlier windows that raised no alarm.
        """
        lab, names = self.lab, list(self.lab.windows())
        rows = lab.window(window)
        served = lab.gateway.predict(lab.name, rows.rows(), lab.request_id(window)).model
        late = names.index(window) - lab.labels_late
        if late >= 0 and _answered(lab, [names[late]]):
            lab.gateway.tell_truth(lab.request_id(names[late]), plain(lab.window(names[late]).truth))
        joining = [each for each in quiet if names.index(each) <= late and each != window]
        verdict = _judged(
            lab, window, model, [(float(a), float(b)) for a, b in past], joining if lab.reference_grows else []
        )
        return {"window": window, "rows": len(rows), "served_by": served, **verdict}

    def retrain(self, window: str, since: str, model: Json) -> Json:
        """Trains a challenger, and promotes it where the gate lets it.

        since: the window in which the monitor first raised the alarm.
        model: the champion.
        """
        lab, ref = self.lab, model["ref"]
        trained = lab.challenger(window, since, model)
        if trained is None:
            return {"at": window, "from": ref, "to": None, "why": "waits for more labels"}
        told = recorded(lab, trained)
        challenger = (f"{lab.name} of {window}", plain(trained.predictions))
        judged = lab.judge(challenger, (ref, lab.predicted(ref, trained.holdout)), trained.holdout)
        verdict = {**judged.to_json(), "against": ref, "compared_with": ref}
        new = registered(lab, told, window, verdict)
        why = "; ".join(verdict["reasons"])
        if not judged.passed:
            return {"at": window, "from": ref, "to": None, "refused": new["ref"], "why": why}
        lab.registry.tabular_versions.promote(lab.registry.tabular_versions.get(new["ref"]))
        until_served(lab, new["ref"], trained.holdout.rows()[:2])
        return {"at": window, "from": ref, "to": new["ref"], "why": why, "model": new}

    def review(self, promotions: Sequence[Json], names: Sequence[str]) -> Json:
        """Now that all labels are known: the error of every window, and what it would have been without retraining.

        names: of the windows that were monitored. For each promotion the errors of old and new version over the windows
        from the next one on, as long as the new one served.
        """
        retrained = []
        ends = [names.index(each["at"]) for each in promotions[1:]] + [len(names) - 1] * bool(promotions)
        for promotion, end in zip(promotions, ends, strict=True):
            windows = names[names.index(promotion["at"]) + 1 : end + 1]
            before, after = (self._mean_error(promotion[side], windows) for side in ("from", "to"))
            kept = {name: promotion[name] for name in ("at", "from", "to")}
            retrained.append({**kept, "windows": list(windows), "error_before": before, "error_after": after})
        return {"errors": {name: self._error_in(name) for name in names}, "retrained": retrained}

    def _error_in(self, window: str) -> float:
        """Of what was answered."""
        return self.lab.error(self.lab.window(window), _logged(self.lab, [window])[0].predictions)

    def _mean_error(self, ref: str, windows: Sequence[str]) -> float | None:
        """Of what a version would have answered; None without windows."""
        rows = [self.lab.window(window) for window in windows]
        errors = [self.lab.error(each, self.lab.predicted(ref, each)) for each in rows]
        return sum(errors) / len(errors) if errors else None


def _judged(lab: Lab, window: str, model: Json, past: Sequence[tuple[float, float]], quiet: Sequence[str] = ()) -> Json:
    """The monitor's verdict on a window as the production log holds it. The champion's reference is the rows held out
    when it was trained, and what it answered in the windows `quiet`: a few days held out would leave all but the
    largest rises unseen.

    Raises:
        CannotRun: the log has not the window's predictions. StoreUnavailable.
    """
    from llmops.production_log import PredictionBatch
    from monitoring.tabular import check, frame_of

    champion, held_out = lab.model(model["ref"]), lab.holdout(model["trained_on"])
    clusters = {_HELD_OUT: held_out.clusters}
    clusters |= {lab.request_id(name): lab.window(name).clusters for name in (*quiet, window)}

    def framed(batches: Sequence[PredictionBatch]) -> Any:
        block = (lambda batch, row: clusters[batch.request_id][row]) if lab.blocks else None
        return frame_of(batches, champion.schema, block)

    asked = held_out.rows()
    said = champion.predict(asked)
    answered = PredictionBatch(  # the rows held out as if they had been asked for
        datetime.now(UTC), _HELD_OUT, model["ref"], asked, said.values, said.probabilities, held_out.truth.tolist()
    )
    *before, now = _logged(lab, [*quiet, window])
    reference, current = framed([answered, *before]), framed([now])
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


def _logged(lab: Lab, windows: Sequence[str]) -> list[PredictionBatch]:
    """What was answered in each window. Raises CannotRun, StoreUnavailable."""
    found = _answered(lab, windows)
    for window in windows:
        if window not in found:
            raise CannotRun(f"the production log has no request {lab.request_id(window)}")
    return [found[window] for window in windows]


def _answered(lab: Lab, windows: Sequence[str]) -> dict[str, PredictionBatch]:
    """By window, those whose rows were asked for. Raises StoreUnavailable."""
    from llmops.production_log import ProductionLog, read_predictions

    with closing(ProductionLog(lab.settings.resolved_log_url)) as log:
        return {
            window: batch
            for window in windows
            for batch in read_predictions(log, lab.name, request_id=lab.request_id(window))
        }


def _record(lab: Lab, window: str, ref: str, verdict: TabularVerdict, frames: tuple[Any, Any, Any]) -> str:
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
        "alarms": len(verdict.alarms),
        "drifted_columns": len(verdict.drifted),
    }
    metrics = {name: float(value) for name, value in found.items() if value is not None}
    page = None
    if verdict.alarm:
        reference, current, schema = frames
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.html"
            write_report(reference, current, schema, verdict, path)
            page = path.read_text(encoding="utf-8")
    return record_monitoring_run(lab.registry.store, lab.name, told, metrics, descriptor_version=lab.cycle, page=page)

"""The steps of a lab, from its data to a champion that is monitored and trained again.

Each step takes and gives plain JSON and may be done twice, so that a pipeline can keep what was done.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labs.evaluation import plain
from labs.lab import FIRST, Json, Lab
from labs.training import Trained, best_of
from llmops.errors import CannotRun
from llmops.versions import TabularVersion

if TYPE_CHECKING:
    from llmops.production_log import PredictionBatch
    from monitoring.tabular.checking import TabularVerdict

_SEEN_SECONDS = 30.0
_HELD_OUT = "held out"


class LabSteps:
    """From the data to a champion that the gateway serves; then the windows after its training, one after another.

    model: in all steps, what `register` gives of a registered version.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def ingest(self) -> Json:
        """Fetches the data and says what it is."""
        return {name: getattr(self.lab.data.fetched, name) for name in ("source", "sha256", "licence", "citation")}

    def validate(self) -> Json:
        """Checks and cleans it, and counts everything that was done."""
        return self.lab.data.quality.to_json()

    def train(self) -> Json:
        """Searches and fits every candidate; each is an MLflow run. The best is chosen by cross-validation alone."""
        models = self.lab.first_models()
        chosen = best_of(models)
        best = chosen.name
        shown = [self._recorded(model) for model in models]
        predictions = {m.name: plain(m.predictions) for m in models if m.name in (best, self.lab.baseline)}
        findings = self.lab.findings(models, chosen)
        return {"models": shown, "best": best, "predictions": predictions, "findings": findings}

    def evaluate(self, trained: Json) -> Json:
        """MLflow's own evaluation of the best, beside ours and the baseline's."""
        from llmops.recording.tabular import evaluate_tabular
        from llmops.registry.releases import LoggedTabular

        lab = self.lab
        best, baseline = (_candidate(trained, name) for name in (trained["best"], lab.baseline))
        rows, logged = lab.holdout(FIRST), LoggedTabular(**best["logged"])
        task = logged.schema["task"]
        theirs = evaluate_tabular(lab.registry.store, logged.run_id, logged, rows.frame, rows.target, task)
        ours, of_baseline = (each["metrics"][lab.metric] for each in (best, baseline))
        return {
            "name": lab.metric,
            **ours,
            "baseline": of_baseline["value"],
            "baseline_ci95": of_baseline["ci95"],
            "candidate": trained["best"],
            "rows": len(rows),
            "mlflow": dict(theirs),
        }

    def gate(self, trained: Json) -> Json:
        """The gate's verdict on the best: against the champion where there is one, else against the baseline. It passes
        when it is the champion itself, trained again."""
        lab, best, predictions = self.lab, trained["best"], trained["predictions"]
        rows, champion = lab.holdout(FIRST), lab.registry.tabular_versions.champion(lab.model_name)
        challenger = (best, predictions[best])
        if champion is None:
            judged = lab.judge(challenger, (lab.baseline, predictions[lab.baseline]), rows)
            return {**judged.to_json(), "against": None, "compared_with": lab.baseline}
        against = {"against": champion.ref, "compared_with": champion.ref}
        nothing = {**against, "rules": None, "comparison": None}
        if champion.sha256 == _candidate(trained, best)["logged"]["sha256"]:
            return {"verdict": "pass", "reasons": [f"it is {champion.ref}, the champion, trained again"], **nothing}
        if (seen := champion.provenance.get("trained_on")) != FIRST:
            why = f"{champion.ref} was trained on {seen}, after the rows held out here: it cannot be judged by them"
            return {"verdict": "inconclusive", "reasons": [why], **nothing}
        judged = lab.judge(challenger, (champion.ref, lab.predicted(champion.ref, rows)), rows)
        return {**judged.to_json(), **against}

    def register(self, trained: Json, verdict: Json) -> Json:
        """Registers the best as a version, with its gate's verdict."""
        return self._registered(_candidate(trained, trained["best"]), FIRST, verdict)

    def kept(self) -> Json:
        """The champion that goes on serving when the gate says no; empty where there is none of a lab's."""
        champion = self.lab.registry.tabular_versions.champion(self.lab.model_name)
        return {} if champion is None or "trained_on" not in champion.provenance else _known(champion)

    def deploy(self, model: Json) -> Json:
        """Makes the version the champion, and waits until the gateway serves it."""
        book = self.lab.registry.tabular_versions
        version = book.get(model["ref"])
        old = book.promote(version)
        answer = self._until_served(model["ref"], self.lab.holdout(model["trained_on"]).rows()[:2])
        previous = old.ref if old is not None and old.ref != version.ref else None
        return {"champion": version.ref, "previous": previous, "answered": answer["predictions"]}

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
        served = lab.gateway.predict(lab.model_name, rows.rows(), lab.request_id(window))["model"]
        late = names.index(window) - lab.labels_late
        answered = self._answered([names[late]]) if late >= 0 else {}
        if answered:
            lab.gateway.tell_truth(lab.request_id(names[late]), plain(lab.window(names[late]).truth))
        joining = (
            [each for each in quiet if names.index(each) <= late and each != window] if lab.reference_grows else []
        )
        found = {"window": window, "rows": len(rows), "served_by": served}
        if not (lab.judged_late and answered and answered[names[late]].model == model["ref"]):
            return {**found, **self._judged(window, model, past, joining)}
        others = [each for each in joining if each != names[late]]
        settled = self._judged(names[late], model, past, others)
        verdict = self._judged(window, model, past, others if settled["alarm"] else joining)
        return {
            **found,
            **verdict,
            "alarm": verdict["alarm"] or settled["alarm"],
            "state": "alarm" if settled["alarm"] else verdict["state"],
            "why": f"{verdict['why']}; {names[late]}, whose labels have come: {settled['why']}",
            "past_estimate": settled["past_estimate"],
            "settled": {"window": names[late], **settled},
        }

    def retrain(self, window: str, since: str, model: Json) -> Json:
        """Trains a challenger, and promotes it where the gate lets it.

        since: the window in which the monitor first raised the alarm.
        model: the champion.
        """
        lab, ref = self.lab, model["ref"]
        trained = lab.challenger(window, since, model)
        if trained is None:
            return {"at": window, "from": ref, "to": None, "why": "waits for more labels"}
        recorded = self._recorded(trained)
        challenger = (f"{lab.model_name} of {window}", plain(trained.predictions))
        judged = lab.judge(challenger, (ref, lab.predicted(ref, trained.holdout)), trained.holdout)
        verdict = {**judged.to_json(), "against": ref, "compared_with": ref}
        new = self._registered(recorded, window, verdict)
        why = "; ".join(verdict["reasons"])
        if not judged.passed:
            return {"at": window, "from": ref, "to": None, "refused": new["ref"], "why": why}
        lab.registry.tabular_versions.promote(lab.registry.tabular_versions.get(new["ref"]))
        self._until_served(new["ref"], trained.holdout.rows()[:2])
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

    def _recorded(self, model: Trained) -> Json:
        """A trained model, once it is a run in MLflow: what is known of it; `logged` is what `_registered` reads."""
        from labs.recording import record

        lab = self.lab
        pictures = lab.figures(model)
        logged = record(lab.registry.store, lab.model_name, model, lab.data.quality, lab.cycle, pictures)
        return {
            "candidate": model.name,
            "parameters": dict(model.parameters),
            "cross_validation_loss": model.search.best.loss if model.search else None,
            "rows": {"training": len(model.training), "held_out": len(model.holdout)},
            "metrics": {name: metric.to_json() for name, metric in model.metrics.items()},
            "logged": asdict(logged),
        }

    def _registered(self, model: Json, trained_on: str, verdict: Json) -> Json:
        """Registers a recorded model, with its gate's verdict. trained_on: `FIRST`, or the newest window."""
        from llmops.recording import record_verdict
        from llmops.registry.releases import LoggedTabular

        lab, fetched, book = self.lab, self.lab.data.fetched, self.lab.registry.tabular_versions
        provenance = {
            "data_sha256": fetched.sha256,
            "data_source": fetched.source,
            "licence": fetched.licence,
            "trained_on": trained_on,
            "candidate": model["candidate"],
            "parameters": model["parameters"],
        }
        logged = LoggedTabular(**model["logged"])
        version, _ = book.register(lab.model_name, logged, cycle=f"{lab.cycle}/{trained_on}", provenance=provenance)
        if verdict["against"] != version.ref:
            book.record_gate(
                version, lab.model_name, {name: verdict[name] for name in ("verdict", "reasons", "against")}
            )
            record_verdict(lab.registry.store, version.run_id, {"suite": lab.model_name, **verdict})
        return _known(version)

    def _until_served(self, ref: str, rows: Sequence[Mapping[str, Any]]) -> Json:
        """The gateway's answer for rows, once it serves the version. Raises CannotRun when it does not in time."""
        deadline = time.monotonic() + _SEEN_SECONDS
        while (answer := self.lab.gateway.predict(self.lab.model_name, rows))["model"] != ref:
            if time.monotonic() > deadline:
                raise CannotRun(f"the gateway still serves {answer['model']}, not {ref}")
            time.sleep(0.1)
        return answer

    def _judged(self, window: str, model: Json, past: Sequence[Sequence[float]], quiet: Sequence[str]) -> Json:
        """The monitor's verdict on a window as the production log holds it. The champion's reference is the rows held
        out when it was trained, and what it answered in the windows `quiet`: a few days held out would leave all but
        the largest rises unseen.

        Raises:
            CannotRun: the log has not the window's predictions. StoreUnavailable.
        """
        from llmops.production_log import PredictionBatch
        from monitoring.tabular.checking import check
        from monitoring.tabular.observed import frame_of

        lab = self.lab
        champion, held_out = lab.model(model["ref"]), lab.holdout(model["trained_on"])
        schema, asked, said = champion.schema, held_out.rows(), champion.predict(held_out.rows())
        clusters = {_HELD_OUT: held_out.clusters}
        clusters |= {lab.request_id(name): lab.window(name).clusters for name in (*quiet, window)}
        block = (lambda batch, row: clusters[batch.request_id][row]) if lab.blocks else None
        answered = PredictionBatch(  # the rows held out as if they had been asked for
            datetime.now(UTC), _HELD_OUT, model["ref"], asked, said.values, said.probabilities, held_out.truth.tolist()
        )
        *before, now = self._logged([*quiet, window])
        reference, current = frame_of([answered, *before], schema, block), frame_of([now], schema, block)
        verdict = check(
            reference,
            current,
            schema,
            lab.monitoring,
            windows_in_budget=lab.windows_in_budget,
            past=[(float(estimated), float(real)) for estimated, real in past],
        )
        run_id = self._record_window(window, model["ref"], verdict, (reference, current, schema))
        told = verdict.to_json()
        of = {"of": model["ref"], "rows": len(reference), "windows": list(quiet), "error": verdict.reference_error}
        return {
            **{name: told[name] for name in ("alarm", "why", "state", "drifted", "estimated_error")},
            "reference": of,
            "compared_by": verdict.metric,
            "compared_error": verdict.error,
            "compared_interval": told["error_interval"],
            "estimate_trusted": verdict.estimate_trusted,
            "past_estimate": list(verdict.past_estimate) if verdict.past_estimate else None,
            "expected_false_alarms": verdict.false_alarms,
            "run_id": run_id,
        }

    def _record_window(self, window: str, ref: str, verdict: TabularVerdict, frames: tuple[Any, Any, Any]) -> str:
        """The window's run in MLflow, with Evidently's report where there is an alarm to look into. Returns its id.

        frames: reference, window and schema.
        """
        from llmops.recording import record_monitoring_run
        from monitoring.tabular.report import write_report

        told = verdict.to_json()
        told["window"] = {"since": window, "until": None, "rows": verdict.rows}
        told["alarms"] = [{**alarm, "rows": [], "slices": []} for alarm in told["alarms"]]
        told["slices"] = [{"slice": {"release": ref}}]
        numbers = {
            **{name: told[name] for name in ("rows", "error", "reference_error", "estimated_error")},
            "expected_false_alarms": verdict.false_alarms,
            "p_value": verdict.rise.p_value,
            "alarms": len(verdict.alarms),
            "drifted_columns": len(verdict.drifted),
        }
        metrics = {name: float(value) for name, value in numbers.items() if value is not None}
        page = None
        if verdict.alarm:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "report.html"
                write_report(*frames, verdict, path)
                page = path.read_text(encoding="utf-8")
        store, name, cycle = self.lab.registry.store, self.lab.model_name, self.lab.cycle
        return record_monitoring_run(store, name, told, metrics, descriptor_version=cycle, page=page)

    def _error_in(self, window: str) -> float:
        """Of what was answered."""
        return self.lab.error(self.lab.window(window), self._logged([window])[0].predictions)

    def _mean_error(self, ref: str, windows: Sequence[str]) -> float | None:
        """Of what a version would have answered; None without windows."""
        rows = [self.lab.window(window) for window in windows]
        errors = [self.lab.error(each, self.lab.predicted(ref, each)) for each in rows]
        return sum(errors) / len(errors) if errors else None

    def _logged(self, windows: Sequence[str]) -> list[PredictionBatch]:
        """What was answered in each window. Raises CannotRun, StoreUnavailable."""
        answered = self._answered(windows)
        for window in windows:
            if window not in answered:
                raise CannotRun(f"the production log has no request {self.lab.request_id(window)}")
        return [answered[window] for window in windows]

    def _answered(self, windows: Sequence[str]) -> dict[str, PredictionBatch]:
        """By window, those whose rows were asked for. Raises StoreUnavailable."""
        from llmops.production_log import ProductionLog, read_predictions

        lab = self.lab
        with closing(ProductionLog(lab.settings.resolved_log_url)) as log:
            return {
                window: batch
                for window in windows
                for batch in read_predictions(log, lab.model_name, request_id=lab.request_id(window))
            }


def _candidate(trained: Json, name: str) -> Json:
    return next(model for model in trained["models"] if model["candidate"] == name)


def _known(version: TabularVersion) -> Json:
    """What the steps know of a registered version."""
    kept = {name: version.provenance[name] for name in ("trained_on", "candidate", "parameters")}
    return {"ref": version.ref, "run_id": version.run_id, **kept}

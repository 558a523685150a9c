"""A lab's steps, each of which takes and gives plain JSON, and may be done twice: a pipeline can keep what was done."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labs.definition import FIRST, LabDefinition
from labs.gateway_client import Served
from labs.labelled_rows import LabelledRows
from labs.step_json import Json, candidate_in, known, logged_from, logged_json, plain, told_of, without_comparison
from labs.watching import predictions_in, was_answered, watched
from llmops.errors import CannotRun

if TYPE_CHECKING:
    pass

_SEEN_SECONDS = 30.0


class Lab(LabDefinition):
    """The five parts of a lab, step by step."""

    # Part 1: the data.

    def ingest(self) -> Json:
        """Fetches the data and says what it is."""
        found = self.data.fetched
        return {"source": found.source, "sha256": found.sha256, "licence": found.licence, "citation": found.citation}

    def validate(self) -> Json:
        """Checks and cleans it, and counts everything that was done."""
        return self.data.quality.to_json()

    # Part 2: the model.

    def train(self) -> Json:
        """Searches and fits every candidate; each is an MLflow run. The best is chosen by cross-validation alone."""
        from labs.recording import record
        from labs.training import best_of

        models = self.first_models()
        best = best_of(models).name
        shown = []
        for model in models:
            logged = record(
                self.registry.store, self.name, model, self.data.quality, with_evaluate=False, tags=self.tags
            )
            shown.append({**told_of(model), "logged": logged_json(logged)})
        predictions = {m.name: plain(m.predictions) for m in models if m.name in (best, self.baseline)}
        return {"models": shown, "best": best, "predictions": predictions}

    def evaluate(self, trained: Json) -> Json:
        """MLflow's own evaluation of the best, beside ours and the baseline's."""
        from llmops.recording.tabular import evaluate_tabular

        best, baseline = (candidate_in(trained, name) for name in (trained["best"], self.baseline))
        rows = self.holdout(FIRST)
        logged = logged_from(best["logged"])
        task = logged.schema["task"]
        theirs = evaluate_tabular(self.registry.store, logged.run_id, logged, rows.frame, rows.target, task)
        found = best["metrics"][self.metric]
        return {
            "name": self.metric,
            "value": found["value"],
            "ci95": found["ci95"],
            "baseline": baseline["metrics"][self.metric]["value"],
            "baseline_ci95": baseline["metrics"][self.metric]["ci95"],
            "candidate": trained["best"],
            "rows": len(rows),
            "mlflow": dict(theirs),
        }

    def gate(self, trained: Json) -> Json:
        """The gate's verdict on the best: against the champion where there is one, else against the baseline. It passes
        when it is the champion itself, trained again."""
        rows, best, predictions = self.holdout(FIRST), trained["best"], trained["predictions"]
        champion = self.registry.tabular_versions.champion(self.name)
        if champion is None:
            judged = self.judge((best, predictions[best]), (self.baseline, predictions[self.baseline]), rows)
            return {**judged.to_json(), "against": None, "compared_with": self.baseline}
        if champion.sha256 == candidate_in(trained, best)["logged"]["sha256"]:
            return without_comparison("pass", f"it is {champion.ref}, the champion, trained again", champion.ref)
        if (seen := champion.provenance.get("trained_on")) != FIRST:
            why = f"{champion.ref} was trained on {seen}, after the rows held out here: it cannot be judged by them"
            return without_comparison("inconclusive", why, champion.ref)
        judged = self.judge((best, predictions[best]), (champion.ref, self.predicted(champion.ref, rows)), rows)
        return {**judged.to_json(), "against": champion.ref, "compared_with": champion.ref}

    # Part 3: deployment.

    def register(self, trained: Json, verdict: Json) -> Json:
        """Registers the best as a version, with its gate's verdict; gives what the next steps know of a model."""
        best = candidate_in(trained, trained["best"])
        return self._registered(best["logged"], best, FIRST, verdict)

    def kept(self) -> Json:
        """The champion that goes on serving when the gate says no; empty where there is none of a lab's."""
        champion = self.registry.tabular_versions.champion(self.name)
        return {} if champion is None or "trained_on" not in champion.provenance else known(champion)

    def windows_of(self, model: Json) -> Sequence[str]:
        """The windows after those that a model was trained on. Raises CannotRun when the data has not its last one."""
        names, newest = list(self.windows()), model["trained_on"]
        if newest == FIRST:
            return names
        if newest not in names:
            raise CannotRun(f"{model['ref']} was trained on {newest}, which this data has not")
        return names[names.index(newest) + 1 :]

    def deploy(self, model: Json) -> Json:
        """Makes the version the champion, and waits until the gateway serves it."""
        book = self.registry.tabular_versions
        version = book.get(model["ref"])
        old = book.promote(version)
        sample = self.holdout(model["trained_on"]).rows()[:2]
        answer = self._until_served(model["ref"], sample)
        previous = old.ref if old is not None and old.ref != version.ref else None
        return {"champion": version.ref, "previous": previous, "answered": list(answer.predictions)}

    # Part 4: monitoring.

    def monitor(self, window: str, model: Json, past: Sequence[Sequence[float]], quiet: Sequence[str]) -> Json:
        """Sends a window's rows through the gateway, brings the labels that are known by then, and judges what the log
        holds of the window.

        model: the champion. past: estimated and real errors of its earlier windows. quiet: those of them without alarm.
        """
        rows, names = self.window(window), list(self.windows())
        served = self._send(window, rows)
        late = names.index(window) - self.labels_late
        if late >= 0 and was_answered(self, names[late]):
            self._tell_truths(names[late])
        joining = [each for each in quiet if names.index(each) <= late and each != window]
        verdict = watched(
            self, window, model, [(float(a), float(b)) for a, b in past], joining if self.reference_grows else []
        )
        return {"window": window, "rows": len(rows), "served_by": served, **verdict}

    # Part 5: automation.

    def retrain(self, window: str, since: str, model: Json) -> Json:
        """Trains a challenger, and promotes it where the gate lets it.

        since: the window in which the monitor first raised the alarm. model: the champion.
        """
        from labs.recording import record

        trained = self.challenger(window, since, model)
        if trained is None:
            return {"at": window, "from": model["ref"], "to": None, "why": "waits for more labels"}
        logged = record(self.registry.store, self.name, trained, self.data.quality, with_evaluate=False, tags=self.tags)
        champion = (model["ref"], self.predicted(model["ref"], trained.holdout))
        judged = self.judge((f"{self.name} of {window}", plain(trained.predictions)), champion, trained.holdout)
        verdict = {**judged.to_json(), "against": model["ref"], "compared_with": model["ref"]}
        new = self._registered(logged_json(logged), told_of(trained), window, verdict)
        why = "; ".join(verdict["reasons"])
        if not judged.passed:
            return {"at": window, "from": model["ref"], "to": None, "refused": new["ref"], "why": why}
        self.registry.tabular_versions.promote(self.registry.tabular_versions.get(new["ref"]))
        self._until_served(new["ref"], trained.holdout.rows()[:2])
        return {"at": window, "from": model["ref"], "to": new["ref"], "why": why, "model": new}

    def review(self, promotions: Sequence[Json], names: Sequence[str]) -> Json:
        """Now that all labels are known: the error of every window, and what it would have been without retraining.

        names: of the windows that were monitored. For each promotion the errors of old and new version over the windows
        from the next one on, as long as the new one served.
        """
        ends = [names.index(each["at"]) for each in promotions[1:]] + [len(names) - 1] * bool(promotions)
        return {
            "errors": {name: self._error_in(name) for name in names},
            "retrained": [
                self._before_and_after(each, names[names.index(each["at"]) + 1 : end + 1])
                for each, end in zip(promotions, ends, strict=True)
            ],
        }

    def _registered(self, logged: Json, told: Json, trained_on: str, verdict: Json) -> Json:
        from llmops.recording import record_verdict

        book = self.registry.tabular_versions
        provenance = {
            "data_sha256": self.data.fetched.sha256,
            "data_source": self.data.fetched.source,
            "licence": self.data.fetched.licence,
            "trained_on": trained_on,
            "candidate": told["candidate"],
            "parameters": told["parameters"],
        }
        cycle = f"{self.cycle}/{trained_on}"
        version, _ = book.register(self.name, logged_from(logged), cycle=cycle, provenance=provenance)
        if verdict["against"] != version.ref:
            book.record_gate(version, self.name, {name: verdict[name] for name in ("verdict", "reasons", "against")})
            record_verdict(self.registry.store, version.run_id, {"suite": self.name, **verdict})
        return known(version)

    def _until_served(self, ref: str, rows: Sequence[Mapping[str, Any]]) -> Served:
        """Raises CannotRun when the gateway does not serve the version in time."""
        deadline = time.monotonic() + _SEEN_SECONDS
        while (answer := self.gateway.predict(self.name, rows)).model != ref:
            if time.monotonic() > deadline:
                raise CannotRun(f"the gateway still serves {answer.model}, not {ref}")
            time.sleep(0.1)
        return answer

    def _send(self, window: str, rows: LabelledRows) -> str:
        return self.gateway.predict(self.name, rows.rows(), self.request_id(window)).model

    def _tell_truths(self, window: str) -> None:
        self.gateway.tell_truth(self.request_id(window), plain(self.window(window).truth))

    def _error_in(self, window: str) -> float:
        rows = self.window(window)
        return self.error_of(self.evaluate_rows(rows, predictions_in(self, window)))

    def _before_and_after(self, promotion: Json, windows: Sequence[str]) -> Json:
        kept = {name: promotion[name] for name in ("at", "from", "to")}
        if not windows:
            return {**kept, "windows": [], "error_before": None, "error_after": None}
        errors = [self._mean_error(promotion[side], windows) for side in ("from", "to")]
        return {**kept, "windows": list(windows), "error_before": errors[0], "error_after": errors[1]}

    def _mean_error(self, ref: str, windows: Sequence[str]) -> float:
        import numpy as np

        model, errors = self.model(ref), []
        for window in windows:
            rows = self.window(window)
            predictions = np.asarray(model.predict(rows.rows()).values, dtype=rows.truth.dtype)
            errors.append(self.error_of(self.evaluate_rows(rows, predictions)))
        return float(np.mean(errors))

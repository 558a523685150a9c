"""Parts 1 to 3 of a lab, step by step: data, model, deployment.

Each step takes and gives plain JSON and may be done twice, so that a pipeline can keep what was done.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from labs.evaluation import plain
from labs.lab import FIRST, Json, Lab, Served
from llmops.errors import CannotRun

if TYPE_CHECKING:
    from labs.training import Trained
    from llmops.versions import TabularVersion

_SEEN_SECONDS = 30.0


class ModelSteps:
    """From the data to a champion that the gateway serves."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def ingest(self) -> Json:
        """Fetches the data and says what it is."""
        fetched = self.lab.data.fetched
        return {
            "source": fetched.source,
            "sha256": fetched.sha256,
            "licence": fetched.licence,
            "citation": fetched.citation,
        }

    def validate(self) -> Json:
        """Checks and cleans it, and counts everything that was done."""
        return self.lab.data.quality.to_json()

    def train(self) -> Json:
        """Searches and fits every candidate; each is an MLflow run. The best is chosen by cross-validation alone."""
        from labs.training import best_of

        models = self.lab.first_models()
        best = best_of(models).name
        shown = [recorded(self.lab, model) for model in models]
        predictions = {m.name: plain(m.predictions) for m in models if m.name in (best, self.lab.baseline)}
        return {"models": shown, "best": best, "predictions": predictions}

    def evaluate(self, trained: Json) -> Json:
        """MLflow's own evaluation of the best, beside ours and the baseline's."""
        from llmops.recording.tabular import evaluate_tabular
        from llmops.registry.tabular import LoggedTabular

        lab = self.lab
        best, baseline = (_candidate(trained, name) for name in (trained["best"], lab.baseline))
        rows, logged = lab.holdout(FIRST), LoggedTabular(**best["logged"])
        store, task = lab.registry.store, logged.schema["task"]
        theirs = evaluate_tabular(store, logged.run_id, logged, rows.frame, rows.target, task)
        ours, of_baseline = (each["metrics"][lab.metric] for each in (best, baseline))
        return {
            "name": lab.metric,
            "value": ours["value"],
            "ci95": ours["ci95"],
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
        rows, champion = lab.holdout(FIRST), lab.registry.tabular_versions.champion(lab.name)
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
        """Registers the best as a version, with its gate's verdict; gives what the next steps know of a model."""
        return registered(self.lab, _candidate(trained, trained["best"]), FIRST, verdict)

    def kept(self) -> Json:
        """The champion that goes on serving when the gate says no; empty where there is none of a lab's."""
        champion = self.lab.registry.tabular_versions.champion(self.lab.name)
        return {} if champion is None or "trained_on" not in champion.provenance else _known(champion)

    def deploy(self, model: Json) -> Json:
        """Makes the version the champion, and waits until the gateway serves it."""
        book = self.lab.registry.tabular_versions
        version = book.get(model["ref"])
        old = book.promote(version)
        answer = until_served(self.lab, model["ref"], self.lab.holdout(model["trained_on"]).rows()[:2])
        previous = old.ref if old is not None and old.ref != version.ref else None
        return {"champion": version.ref, "previous": previous, "answered": list(answer.predictions)}


def recorded(lab: Lab, model: Trained) -> Json:
    """A trained model, once it is a run in MLflow: what is known of it, and under `logged` what `registered` reads."""
    from labs.recording import record

    logged = record(lab.registry.store, lab.name, model, lab.data.quality, {"llmops.cycle": lab.cycle})
    return {
        "candidate": model.name,
        "parameters": dict(model.parameters),
        "cross_validation_loss": model.search.best.loss if model.search else None,
        "rows": {"training": len(model.training), "held_out": len(model.holdout)},
        "metrics": {name: metric.to_json() for name, metric in model.metrics.items()},
        "logged": asdict(logged),
    }


def registered(lab: Lab, model: Json, trained_on: str, verdict: Json) -> Json:
    """Registers a recorded model as a version, with its gate's verdict. trained_on: `FIRST`, or the newest window."""
    from llmops.recording import record_verdict
    from llmops.registry.tabular import LoggedTabular

    fetched, book = lab.data.fetched, lab.registry.tabular_versions
    provenance = {
        "data_sha256": fetched.sha256,
        "data_source": fetched.source,
        "licence": fetched.licence,
        "trained_on": trained_on,
        "candidate": model["candidate"],
        "parameters": model["parameters"],
    }
    logged = LoggedTabular(**model["logged"])
    version, _ = book.register(lab.name, logged, cycle=f"{lab.cycle}/{trained_on}", provenance=provenance)
    if verdict["against"] != version.ref:
        book.record_gate(version, lab.name, {name: verdict[name] for name in ("verdict", "reasons", "against")})
        record_verdict(lab.registry.store, version.run_id, {"suite": lab.name, **verdict})
    return _known(version)


def until_served(lab: Lab, ref: str, rows: Sequence[Mapping[str, Any]]) -> Served:
    """The gateway's answer for rows, once it serves the version. Raises CannotRun when it does not in time."""
    deadline = time.monotonic() + _SEEN_SECONDS
    while (answer := lab.gateway.predict(lab.name, rows)).model != ref:
        if time.monotonic() > deadline:
            raise CannotRun(f"the gateway still serves {answer.model}, not {ref}")
        time.sleep(0.1)
    return answer


def _candidate(trained: Json, name: str) -> Json:
    return next(model for model in trained["models"] if model["candidate"] == name)


def _known(version: TabularVersion) -> Json:
    """What the steps know of a registered version."""
    kept = {name: version.provenance[name] for name in ("trained_on", "candidate", "parameters")}
    return {"ref": version.ref, "run_id": version.run_id, **kept}

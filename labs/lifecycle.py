"""A lab from its data to a model that is trained again when drift hurts, as one durable pipeline.

```
ingest → validate → train → evaluate → gate → register → deploy ─┐
      ┌─────────────────────────────────────────────────────────┘
      └→ monitor a window → alarm? → retrain (train, gate, register, promote) → next window …  → review
```
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labs.lab import Lab
from labs.step_json import Json
from llmops.errors import UsageError
from llmops.pipelines import Pipeline, Steps
from llmops.settings import Settings


def lab_pipeline(kind: type[Lab], settings: Settings, what: str) -> Pipeline:
    """The pipeline of a lab. Its one input is `source`: `file:PATH` of the data, the catalogue's when absent."""

    def function(steps: Steps, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        with kind(settings, source=inputs["source"], cycle=steps.cycle) as lab:
            return run(lab, steps)

    return Pipeline(kind.name, function, what, _complete)


def run(lab: Lab, steps: Steps) -> Json:
    """All steps, in order. The result is what `llmops lab` prints."""
    data = steps.do("ingest", lab.ingest)
    quality = steps.do("validate", lab.validate)
    trained = steps.do("train", lab.train)
    metric = steps.do("evaluate", lab.evaluate, trained)
    verdict = steps.do("gate", lab.gate, trained)
    told: Json = {"lab": lab.name, "data": data, "quality": quality, "metric": metric, "gate": _without_rows(verdict)}
    told["verdict"] = verdict["verdict"]
    if verdict["verdict"] == "pass":
        model = steps.do("register", lab.register, trained, verdict)
        steps.do("deploy", lab.deploy, model)
    else:
        model = steps.do("keep", lab.kept)
        if not model:
            reasons = "; ".join(verdict["reasons"])
            return {**told, "model": None, "told": f"the gate says no: {reasons}"}
    return {**told, **replay(lab, steps, model)}


def replay(lab: Lab, steps: Steps, model: Json) -> Json:
    """Every window after the model's training through gateway and monitor; after an alarm it is trained again."""
    looked: list[Json] = []
    attempts: list[Json] = []
    since: str | None = None
    past: list[Any] = []
    quiet: list[str] = []
    windows = list(lab.windows_of(model))
    for window in windows:
        found = steps.do(f"monitor {window}", lab.monitor, window, model, past, quiet)
        looked.append(found)
        past = [*past, found["past_estimate"]] if found["past_estimate"] else past
        since = since or (window if found["alarm"] else None)
        if since is None:
            quiet = [*quiet, window]
            continue
        attempt = steps.do(f"retrain {window}", lab.retrain, window, since, model)
        attempts.append({name: attempt[name] for name in ("at", "from", "to", "why")})
        if attempt["to"] is not None:
            model, since, past, quiet = attempt["model"], None, [], []
    promotions = [each for each in attempts if each["to"] is not None]
    review = steps.do("review", lab.review, promotions, windows)
    alarms = sum(each["alarm"] for each in looked)
    return {
        "model": model["ref"],
        "monitoring": [{**each, "error": review["errors"][each["window"]]} for each in looked],
        "retrained": review["retrained"],
        "attempts": attempts,
        "told": f"{model['ref']} serves; {alarms} alarms in {len(looked)} windows, {len(promotions)} promotions",
    }


def _without_rows(verdict: Json) -> Json:
    """Without the comparison, whose rows fill pages; MLflow has it with the step."""
    return {name: value for name, value in verdict.items() if name != "comparison"}


def _complete(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in inputs:
        if name != "source":
            raise UsageError(f"{name}: no input of a lab; there is source")
    source = inputs.get("source")
    if source is not None and not isinstance(source, str):
        raise UsageError("source: must be file:PATH")
    return {"source": source}

"""A lab from its data to a model that is trained again when drift hurts: as one durable pipeline, or step by step by
hand.

```
ingest → validate → train → evaluate → gate → register → deploy ─┐
      ┌─────────────────────────────────────────────────────────┘
      └→ monitor a window → alarm? → retrain (train, gate, register, promote) → next window …  → review
```
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from labs.lab import Json, Lab
from labs.steps import LabSteps
from llmops.errors import CannotRun, UsageError
from llmops.pipelines import Pipeline, Steps
from llmops.settings import Settings
from llmops.text_io import replace_text

BY_HAND = "by-hand"
"""The cycle of the steps that a person calls."""


@dataclass
class WatchedChampion:
    """What the windows so far have shown of the champion, as plain JSON.

    model: the champion, as `LabSteps.register` gives it.
    windows: the monitor's findings.
    since: the first window with an alarm that no promotion has answered yet.
    past: estimated and real errors of the champion's windows.
    quiet: its windows before the first alarm.
    """

    model: Json
    windows: list[Json] = field(default_factory=list)
    since: str | None = None
    past: list[Any] = field(default_factory=list)
    quiet: list[str] = field(default_factory=list)
    promotions: list[Json] = field(default_factory=list)

    def saw(self, verdict: Json) -> None:
        """Takes in what the monitor found in a window, which may be one that it looked at before."""
        name = verdict["window"]
        others = [each for each in self.windows if each["window"] != name]
        if verdict["past_estimate"] and len(others) == len(self.windows):
            self.past.append(verdict["past_estimate"])
        settled = verdict.get("settled")
        if self.since is None and verdict["alarm"]:
            self.since = name
            if settled and settled["alarm"]:  # it was quiet as long as nobody knew its labels
                self.quiet = [each for each in self.quiet if each != settled["window"]]
        if self.since is None and name not in self.quiet:
            self.quiet.append(name)
        self.windows = [*others, verdict]

    def tried(self, attempt: Json) -> None:
        """Takes in what came of retraining: a new champion is watched afresh."""
        if attempt["to"] is not None:
            self.model, self.since, self.past, self.quiet = attempt["model"], None, [], []
            self.promotions.append(attempt)


def lab_pipeline(kind: type[Lab], settings: Settings, what: str) -> Pipeline:
    """The pipeline of a lab. Its one input is `source`: `file:PATH` of the data, the catalogue's when absent."""

    def function(steps: Steps, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        with kind(settings, source=inputs["source"], cycle=steps.cycle) as lab:
            return run(LabSteps(lab), steps)

    def complete(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in inputs:
            if name != "source":
                raise UsageError(f"{name}: no input of a lab; there is source")
        source = inputs.get("source")
        if source is not None and not isinstance(source, str):
            raise UsageError("source: must be file:PATH")
        return {"source": source}

    return Pipeline(kind.name, function, what, complete)


def run(work: LabSteps, steps: Steps) -> Json:
    """All steps of a lab, in order. The result is what `llmops lab` prints."""
    data = steps.do("ingest", work.ingest)
    quality = steps.do("validate", work.validate)
    trained = steps.do("train", work.train)
    metric = steps.do("evaluate", work.evaluate, trained)
    verdict = steps.do("gate", work.gate, trained)
    # Without the comparison, whose rows fill pages; MLflow has it with the step.
    gate = {name: value for name, value in verdict.items() if name != "comparison"}
    told: Json = {"lab": work.lab.name, "data": data, "quality": quality, "metric": metric, "gate": gate}
    told |= {"verdict": verdict["verdict"], "findings": trained["findings"]}
    if verdict["verdict"] == "pass":
        model = steps.do("register", work.register, trained, verdict)
        steps.do("deploy", work.deploy, model)
    else:
        model = steps.do("keep", work.kept)
        if not model:
            reasons = "; ".join(verdict["reasons"])
            return {**told, "model": None, "told": f"the gate says no: {reasons}"}
    return {**told, **_replay(work, steps, model)}


def _replay(work: LabSteps, steps: Steps, model: Json) -> Json:
    """Every window after the model's training through gateway and monitor; after an alarm it is trained again."""
    watch, attempts = WatchedChampion(model), []
    windows = list(work.windows_of(model))
    for window in windows:
        watch.saw(steps.do(f"monitor {window}", work.monitor, window, watch.model, watch.past, watch.quiet))
        if watch.since is not None:
            attempt = steps.do(f"retrain {window}", work.retrain, window, watch.since, watch.model)
            attempts.append({name: attempt[name] for name in ("at", "from", "to", "why")})
            watch.tried(attempt)
    promotions = [each for each in attempts if each["to"] is not None]
    review = steps.do("review", work.review, promotions, windows)
    # What came later of a window whose labels were late stands beside what was known in its time.
    settled = {each["settled"]["window"]: each["settled"] for each in watch.windows if "settled" in each}
    late = ("compared_error", "compared_interval", "reference")
    looked = [
        {**each, **{name: settled[each["window"]][name] for name in late if each["window"] in settled}}
        for each in watch.windows
    ]
    alarms, ref = sum(each["alarm"] for each in watch.windows), watch.model["ref"]
    return {
        "model": ref,
        "monitoring": [{**each, "error": review["errors"][each["window"]]} for each in looked],
        "retrained": review["retrained"],
        "attempts": attempts,
        "told": f"{ref} serves; {alarms} alarms in {len(windows)} windows, {len(promotions)} promotions",
    }


class ByHand:
    """A lab whose steps are called by a person, each on what the ones before left: results are kept in
    `labs/<name>.json` of the home. Each step raises CannotRun naming the one that must come first."""

    def __init__(self, work: LabSteps) -> None:
        self._work = work
        self._path = work.lab.settings.home / "labs" / f"{work.lab.name}.json"
        self._state: Json = json.loads(self._path.read_text("utf-8")) if self._path.is_file() else {}

    def data(self) -> Json:
        """Part 1: what the data is, and what was done to it."""
        done = {"data": self._work.ingest(), "quality": self._work.validate()}
        self._keep({"data": done})
        return done

    def train(self) -> Json:
        """Part 2: every candidate, the best one's metrics, and the gate's verdict."""
        trained = self._work.train()
        done = {"trained": trained, "metric": self._work.evaluate(trained), "gate": self._work.gate(trained)}
        self._keep({"train": done})
        return done

    def register(self) -> Json:
        """Part 3: a version, and the champion where the gate passed; else the champion there is goes on."""
        first = self._of("train")
        model = self._work.register(first["trained"], first["gate"])
        done: Json = {"model": model}
        if first["gate"]["verdict"] == "pass":
            done, serving = {**done, **self._work.deploy(model)}, model
        else:
            serving = self._work.kept()
            done |= {"champion": None, "kept": serving.get("ref"), "reasons": first["gate"]["reasons"]}
        self._keep(asdict(WatchedChampion(serving)))
        return done

    def monitor(self, window: str | None = None) -> Json:
        """Part 4: the next window, or a certain one again."""
        watch, names = self._watch(), list(self._work.lab.windows())
        looked = [each["window"] for each in watch.windows]
        chosen = window or next((name for name in self._work.windows_of(watch.model) if name not in looked), None)
        if chosen is None:
            raise CannotRun(f"every window up to {names[-1]} was looked at; begin again with `register`")
        if chosen not in names:
            raise UsageError(f"no window {chosen!r}; there are {names[0]} to {names[-1]}")
        verdict = self._work.monitor(chosen, watch.model, watch.past, watch.quiet)
        watch.saw(verdict)
        self._keep(asdict(watch))
        return verdict

    def retrain(self) -> Json:
        """Part 5: a challenger on all that is known by the window last looked at; promoted where the gate passes."""
        watch = self._watch()
        newest = self._of("windows", "monitor")[-1]["window"]
        attempt = self._work.retrain(newest, watch.since or newest, watch.model)
        watch.tried(attempt)
        self._keep(asdict(watch))
        return attempt

    def _watch(self) -> WatchedChampion:
        self._of("model", "register")
        return WatchedChampion(**{each.name: self._state[each.name] for each in fields(WatchedChampion)})

    def _of(self, key: str, step: str | None = None) -> Any:
        if not self._state.get(key):
            raise CannotRun(f"`llmops lab {self._work.lab.name} {step or key}` must come first")
        return self._state[key]

    def _keep(self, values: Json) -> None:
        self._state |= values
        replace_text(self._path, json.dumps(self._state))

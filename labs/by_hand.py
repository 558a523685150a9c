"""The steps of a lab one at a time, each on what the ones before left: results are kept in `labs/<name>.json` of the
home. The pipeline does the same by itself; this is for learning, and for looking in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from labs.lab import Lab
from labs.step_json import Json
from llmops.errors import CannotRun, UsageError
from llmops.settings import Settings

T = TypeVar("T")
CYCLE = "by-hand"


class ByHand:
    """A lab whose steps are called by a person. Each raises CannotRun naming the step that must come first."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._path = state_path(lab.settings, lab.name)
        self._state: Json = json.loads(self._path.read_text("utf-8")) if self._path.is_file() else {}

    def data(self) -> Json:
        """Part 1: what the data is, and what was done to it."""
        return self._keep("data", {"data": self.lab.ingest(), "quality": self.lab.validate()})

    def train(self) -> Json:
        """Part 2: every candidate, the best one's metrics, and the gate's verdict."""
        trained = self.lab.train()
        told = {"trained": trained, "metric": self.lab.evaluate(trained), "gate": self.lab.gate(trained)}
        return self._keep("train", told)

    def register(self) -> Json:
        """Part 3: a version, and the champion where the gate passed; else the champion there is goes on."""
        found = self._of("train")
        model = self.lab.register(found["trained"], found["gate"])
        if found["gate"]["verdict"] == "pass":
            told, serving = {"model": model, **self.lab.deploy(model)}, model
        else:
            serving = self.lab.kept()
            told = {
                "model": model,
                "champion": None,
                "kept": serving.get("ref"),
                "reasons": found["gate"]["reasons"],
            }
        self._state |= {"windows": [], "quiet": [], "since": None, "past": [], "promotions": []}
        self._keep("model", serving)
        return told

    def monitor(self, window: str | None = None) -> Json:
        """Part 4: the next window, or a certain one again."""
        model, names = self._of("model", "register"), list(self.lab.windows())
        looked = [each["window"] for each in self._state["windows"]]
        chosen = window or next((name for name in self.lab.windows_of(model) if name not in looked), None)
        if chosen is None:
            raise CannotRun(f"every window up to {names[-1]} was looked at; begin again with `register`")
        if chosen not in names:
            raise UsageError(f"no window {chosen!r}; there are {names[0]} to {names[-1]}")
        found = self.lab.monitor(chosen, model, self._state["past"], self._state["quiet"])
        if found["past_estimate"] and chosen not in looked:
            self._state["past"] = [*self._state["past"], found["past_estimate"]]
        if found["alarm"] and self._state["since"] is None:
            self._state["since"] = chosen
        if self._state["since"] is None and chosen not in self._state["quiet"]:
            self._state["quiet"] = [*self._state["quiet"], chosen]
        kept = [each for each in self._state["windows"] if each["window"] != chosen]
        self._keep("windows", [*kept, found])
        return found

    def retrain(self) -> Json:
        """Part 5: a challenger on all that is known by the window last looked at; promoted where the gate passes."""
        model, windows = self._of("model", "register"), self._of("windows", "monitor")
        newest = windows[-1]["window"]
        done = self.lab.retrain(newest, self._state["since"] or newest, model)
        if done["to"] is not None:
            self._state |= {"since": None, "past": [], "quiet": []}
            self._state["promotions"] = [*self._state["promotions"], done]
            self._keep("model", done["model"])
        return done

    def _of(self, key: str, step: str | None = None) -> Any:
        if not self._state.get(key):
            name = step or key
            raise CannotRun(f"`llmops lab {self.lab.name} {name}` must come first")
        return self._state[key]

    def _keep(self, key: str, value: T) -> T:
        self._state[key] = value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._path.with_suffix(".new")
        scratch.write_text(json.dumps(self._state), encoding="utf-8")
        scratch.replace(self._path)
        return value


def state_path(settings: Settings, name: str) -> Path:
    """Where a lab's steps by hand keep their results."""
    return settings.home / "labs" / f"{name}.json"

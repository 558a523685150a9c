"""The LLM lifecycle as a pipeline: register, evaluate, gate, canary, monitor, then promote or roll back.

Each step is in `llm_steps`; here is only what follows what.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from labs.llm.steps import LlmSteps
from llmops.errors import UsageError
from llmops.pipelines import Pipeline, Steps
from llmops.settings import Settings
from llmops.traffic_policy import parse_share

NAME = "llm"
_WHAT = "eval, gate, canary, monitor, then promote a release or roll it back"
_LEAST_ROWS = 20
"""Below it the monitor gives no verdict."""


def pipeline(settings: Settings, steps: LlmSteps | None = None) -> Pipeline:
    """The pipeline `llm`. steps: other than the settings' own, for a test."""
    work = steps or LlmSteps(settings)
    return Pipeline(NAME, lambda durable, inputs: _Lifecycle(work, durable, inputs).run(), _WHAT, completed)


@dataclass(frozen=True)
class _Lifecycle:
    """One cycle: which step comes after which finding."""

    work: LlmSteps
    steps: Steps
    inputs: Mapping[str, Any]

    def run(self) -> dict[str, Any]:
        given = self.inputs
        plan = self.steps.do("register", self.work.register, *(given[name] for name in _PLANNED))
        if plan["challenger"] == plan["champion"]:
            return _result(plan, "pass", "unchanged", f"{plan['challenger']} serves already: nothing changed")
        if (moved := plan.get("rolled_back")) is not None:  # absent from cycles that an older version began
            told = f"was rolled back at {moved['at']}; change it, or `llmops promote` it with --force --why TEXT"
            return _result(plan, "fail", "not promoted", f"{plan['challenger']} {told}")
        self.steps.do("evaluate", self.work.evaluate, given["suite"], plan)
        gate = self.steps.do("gate", self.work.gate, given["suite"], plan)
        if gate["verdict"] != "pass":
            told = f"is not promoted: the gate says {gate['verdict']}: {'; '.join(gate['reasons'])}"
            return _result(plan, gate["verdict"], "not promoted", f"{plan['challenger']} {told}", gate=gate)
        if plan["champion"] is None:
            return self._promoted(plan, gate, None)
        canary = self.steps.do("canary", self.work.canary, plan, given["canary"])
        seen = self.steps.do("monitor", self.work.monitor, plan, canary, *(given[name] for name in _LOOK))
        return self._promoted(plan, gate, seen) if seen["verdict"] == "pass" else self._rolled_back(plan, gate, seen)

    def _promoted(self, plan: Mapping[str, Any], gate: Any, seen: Any) -> dict[str, Any]:
        self.steps.do("promote", self.work.promote, plan)
        self.steps.do("renew the monitor's reference", self.work.renew_reference, plan)
        why = "the gate passed, and there was no champion to compare with" if seen is None else seen["why"]
        return _result(
            plan, "pass", "promoted", f"{plan['challenger']} is the champion: {why}", gate=gate, monitor=seen
        )

    def _rolled_back(self, plan: Mapping[str, Any], gate: Any, seen: Any) -> dict[str, Any]:
        self.steps.do("roll back", self.work.roll_back, plan)
        told = f"{plan['challenger']} was withdrawn, {plan['champion']} serves: {seen['why']}"
        return _result(plan, seen["verdict"], "rolled back", told, gate=gate, monitor=seen)


def _result(plan: Mapping[str, Any], verdict: str, outcome: str, told: str, **found: Any) -> dict[str, Any]:
    names = ("app", "challenger", "champion")
    return {
        "verdict": verdict, "outcome": outcome, "told": told, **{name: plan[name] for name in names}, **found
    }  # fmt: skip


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{name}: must be text, not {value!r}")
    return value


def _text_or_none(name: str, value: Any) -> str | None:
    return None if value is None else _text(name, value)


def _share(name: str, value: Any) -> float:
    share = parse_share(name, str(value))
    if not share:
        raise UsageError(f"{name}: must be more than 0: the challenger answers this share of the traffic")
    return share


def _rows(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < _LEAST_ROWS:
        raise UsageError(f"{name}: must be a whole number of at least {_LEAST_ROWS}, not {value!r}")
    return value


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise UsageError(f"{name}: must be a number of seconds, not {value!r}")
    return float(value)


def _names(name: str, value: Any) -> list[str]:
    """A list, or text with commas."""
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(each, str) and each for each in names):
        raise UsageError(f"{name}: must be names of descriptors, not {value!r}")
    return names


_INPUTS: dict[str, tuple[Any, Callable[[str, Any], Any]]] = {
    "suite": ("qa", _text),
    "app": ("assistant", _text),
    "prompt": (None, _text_or_none),
    "model": (None, _text_or_none),
    "canary": (0.1, _share),
    "minimum_rows": (200, _rows),
    "deadline_seconds": (86_400, _seconds),
    "accept": ([], _names),
}
_PLANNED = ("suite", "app", "prompt", "model")
_LOOK = ("minimum_rows", "deadline_seconds", "accept")


def completed(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs with their defaults.

    suite: what is evaluated and gated. app: whose release it is. prompt: `NAME@V`, by default the newest version of the
    suite's. model: `NAME@V`, by default the suite's. canary: share of plain traffic. minimum_rows: requests that the
    challenger must have answered before the monitor looks. deadline_seconds: how long to wait for them. accept:
    descriptors of the monitor that may be worse, such as `first_token_ms` where a longer prompt is wanted.

    Raises UsageError: an unknown input, or one of a wrong kind.
    """
    for name in inputs:
        if name not in _INPUTS:
            raise UsageError(f"{name}: no input of pipeline {NAME}; there are {', '.join(_INPUTS)}")
    return {name: check(name, inputs.get(name, default)) for name, (default, check) in _INPUTS.items()}

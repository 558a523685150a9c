"""What a sheet says that takes more than a value: the phrases of sheet.jinja."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmops.evaluation.gate_rules import GateRules
from llmops.factsheet.contents import Agreement, Column, Evaluation, Factsheet, Gate, Metric, Prompt, Tabular
from llmops.factsheet.times import spoken
from llmops.pages.numbers import counted, interval, number

UNKNOWN = "not on record"
MOST_MOVES = 60
ATTESTED = {True: "yes", False: "no: it was changed since", None: "the log has no such gate"}
_BEFORE_WINDOWS = "first"  # how a lab names what its first model was trained on: later ones name a window
_ALIASES = {"previous": "previous: what a rollback goes back to"}
_TOLD_ELSEWHERE = {"data_sha256", "data_source", "licence", "parameters"}


def when(at: str | None) -> str:
    """A time as readers write it."""
    return spoken(at) or UNKNOWN


def plain(value: Any) -> str:
    """A value of parameters and the like: text as it is, what has parts as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, (Mapping, Sequence, bool)) or value is None:
        return json.dumps(value, ensure_ascii=False)
    return f"{value:g}" if isinstance(value, float) else str(value)


def state(sheet: Factsheet) -> str:
    """Which aliases it holds, and since when it is champion."""
    if (serving := sheet.serving) is not None:
        since = f"since {when(serving.since)}" if serving.since else "since when is not on record"
        others = [alias for alias in sheet.aliases if alias != "champion"]
        return f"champion, {since}" + (f"; also {', '.join(others)}" if others else "")
    aliases = ", ".join(_ALIASES.get(alias, alias) for alias in sheet.aliases)
    return aliases or "holds no alias: nothing is served by it unless asked for by number"


def current_gates(sheet: Factsheet) -> str:
    """The verdicts that a promotion reads."""
    return "; ".join(
        f"{gate.suite}: {gate.verdict} against {gate.against or 'no champion'}"
        + (f", compared with {gate.compared_with}" if gate.compared_with else "")
        for gate in sheet.gates
        if gate.current
    )


def first_metrics(sheet: Factsheet) -> list[tuple[Evaluation, Metric]]:
    """At most three that decide a gate; of a tabular model without such, the first with an interval."""
    every = [(run, metric) for run in sheet.evaluations for metric in run.metrics]
    deciding = [(run, metric) for run, metric in every if metric.name in run.deciding[:1]]
    if deciding or sheet.kind != "tabular":
        return deciding[:3]
    return [(run, metric) for run, metric in every if metric.ci95 is not None][:1]


def prompt_text(prompt: Prompt) -> str:
    """Its turns, each headed by its role."""
    return "\n\n".join(f"# {role}\n{text}" for role, text in prompt.turns)


def pipeline_run(model: Tabular) -> str:
    """A pipeline that registers several versions names each after the last window it had seen: `first/batch 09`. Its
    labels may be late: the training data, which the sheet lists, can end before it."""
    if model.cycle is None:
        return "none: registered by hand"
    if not (trained_on := _trained_on(model)):
        return f"cycle {model.cycle}"
    trained = "before the first window" if trained_on == _BEFORE_WINDOWS else f"after {trained_on}"
    return f"cycle {model.cycle.removesuffix(f'/{trained_on}')}, trained {trained}"


def registered_with(model: Tabular) -> dict[str, Any]:
    """Its provenance, but for what stands elsewhere on the sheet."""
    elsewhere = _TOLD_ELSEWHERE | ({"trained_on"} if _trained_on(model) else set())
    if model.provenance.get("candidate") == model.algorithm:
        elsewhere.add("candidate")
    return {name: value for name, value in model.provenance.items() if name not in elsewhere}


def signature(model: Tabular) -> list[tuple[str, Column]]:
    """The columns of a model's rows, and of its answer."""
    return [("input", column) for column in model.inputs] + ([("output", model.output)] if model.output else [])


def means_of(run: Evaluation) -> list[tuple[str, str, Metric]]:
    """Its metrics, with a word on what each is for."""
    words = dict.fromkeys(run.deciding, "gates") | dict.fromkeys(run.deciding[:1], "decides")
    return [(metric.name, words.get(metric.name, ""), metric) for metric in run.metrics]


def slices_of(run: Evaluation) -> list[tuple[str, str, Metric]]:
    """Its slices, with the metric of each where they are of several."""
    several = len({part.metric.name for part in run.slices}) > 1
    return [(part.name, part.metric.name if several else "", part.metric) for part in run.slices]


def agreed(found: Agreement | None) -> str:
    """A judge's agreement with people."""
    if found is None:
        return "never measured"
    return f"κ {number(found.kappa)}, 95 % interval {interval(found.ci95)}, {counted(found.n, 'labelled row')}"


def rules(gate: Gate) -> str:
    """What was asked."""
    if "primary" in gate.rules:
        return GateRules.from_mapping(gate.rules).sentence()
    return "; ".join(gate.checks) or UNKNOWN


def _trained_on(model: Tabular) -> str:
    """After what the cycle's name says it was trained; empty where it says nothing."""
    trained_on = str(model.provenance.get("trained_on", ""))
    return trained_on if trained_on and (model.cycle or "").endswith(f"/{trained_on}") else ""

"""A sheet as Markdown, or as one HTML page that asks nothing of any network. What it says is in sheet.jinja; here are
the phrases that take more than a value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmops.evaluation.gate_rules import GateRules
from llmops.factsheet.contents import UNKNOWN, Agreement, Evaluation, Factsheet, Gate, Metric, Tabular, when
from llmops.pages.charts import Axis
from llmops.pages.numbers import counted, interval, number, printable
from llmops.pages.rendering import page, render_blocks, write_page

_SHEET = "llmops/factsheet/sheet.jinja"
_MOST_MOVES = 60
_ATTESTED = {True: "yes", False: "no: it was changed since", None: "the log has no such gate"}
_BEFORE_WINDOWS = "first"  # how a lab names what its first model was trained on: later ones name a window
_TOLD_ELSEWHERE = {"data_sha256", "data_source", "licence", "parameters"}
# What means something to Markdown wherever it stands; at the beginning of a line; and between characters that are no
# part of a word. Whatever else stays as it is, so that `rouge_l` and `qa@2` can be read.
_EVERYWHERE = re.compile(r"""[\\`*<>\[\]|~$]|&(?=#|\w)|(?<![^\W_])_|_(?![^\W_])|(?<!\w)@""")
_AT_THE_START = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[-+=#]))")
_ENTITY_FOR = {"@": "&#64;", "$": "&#36;"}  # a backslash would not keep GitHub from these


def markdown(sheet: Factsheet) -> str:
    """The sheet as Markdown that reads well as it is, on a terminal too."""
    writing = {"blocks": "llmops/factsheet/blocks.md", "readable": readable, "cell": cell, "fenced": _fenced}
    return render_blocks(_SHEET, **_values(sheet), **writing)


def html(sheet: Factsheet) -> str:
    """The sheet as a page."""
    verdicts = {gate.verdict for gate in sheet.gates if gate.current}
    return page(
        _SHEET,
        **_values(sheet),
        title=f"{sheet.ref}: fact sheet",
        blocks="llmops/factsheet/blocks.html",
        standing="fail" if "fail" in verdicts else "pass" if verdicts == {"pass"} else "none",
        axis_of=_axis,
        fits=_fits,
    )


def write_html(sheet: Factsheet, path: Path) -> None:
    """Writes the page, making the file's folder. Raises CannotRun."""
    write_page([html(sheet)], path)


def readable(text: str) -> str:
    """The text in one line, such that Markdown shows it as it is, wherever it stands."""
    return _AT_THE_START.sub(r"\1\\", cell(text))


def cell(text: str) -> str:
    """As `readable`, for the cell of a table, where a beginning means nothing."""
    line = " ".join(printable(text).split())
    return _EVERYWHERE.sub(lambda found: _ENTITY_FOR.get(found[0], f"\\{found[0]}"), line)


def _fenced(text: str) -> str:
    """The text as it is, between fences that nothing in it can close."""
    shown = printable(text)
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", shown)), 0)
    return f"{fence}text\n{shown}\n{fence}"


def _values(sheet: Factsheet) -> dict[str, Any]:
    """What sheet.jinja shows, for either format."""
    metrics = [(run, metric) for run in sheet.evaluations for metric in run.metrics]
    first = [(run, metric) for run, metric in metrics if metric.name in run.deciding[:1]][:3]
    if not first and sheet.kind == "tabular":
        first = [(run, metric) for run, metric in metrics if metric.ci95 is not None][:1]
    current = [
        f"{gate.suite}: {gate.verdict} against {gate.against or 'no champion'}"
        + (f", compared with {gate.compared_with}" if gate.compared_with else "")
        for gate in sheet.gates
        if gate.current
    ]
    return {
        "sheet": sheet,
        "state": _state(sheet),
        "current_gates": "; ".join(current),
        "first_metrics": first,
        "unknown": UNKNOWN,
        "most_moves": _MOST_MOVES,
        "attested": _ATTESTED,
        "when": when,
        "plain": _plain,
        "pipeline_run": _pipeline_run,
        "registered_with": _registered_with,
        "means_of": _means_of,
        "slices_of": _slices_of,
        "agreed": _agreed,
        "rules": _rules,
    }


def _state(sheet: Factsheet) -> str:
    """Which aliases it holds, and since when it is champion."""
    serving = next((period for period in sheet.history.periods if period.lasts), None)
    if serving is not None:
        since = f"since {when(serving.since)}" if serving.since else "since when is not on record"
        others = [alias for alias in sheet.aliases if alias != "champion"]
        return f"champion, {since}" + (f"; also {', '.join(others)}" if others else "")
    meanings = {"previous": "previous: what a rollback goes back to"}
    aliases = ", ".join(meanings.get(alias, alias) for alias in sheet.aliases)
    return aliases or "holds no alias: nothing is served by it unless asked for by number"


def _plain(value: Any) -> str:
    """A value of parameters and the like: text as it is, what has parts as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, (Mapping, Sequence, bool)) or value is None:
        return json.dumps(value, ensure_ascii=False)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _pipeline_run(model: Tabular) -> str:
    """A pipeline that registers several versions names each after the last window it had seen: `first/batch 09`. Its
    labels may be late: the training data, which the sheet lists, can end before it."""
    if model.cycle is None:
        return "none: registered by hand"
    if not (trained_on := _trained_on(model)):
        return f"cycle {model.cycle}"
    trained = "before the first window" if trained_on == _BEFORE_WINDOWS else f"after {trained_on}"
    return f"cycle {model.cycle.removesuffix(f'/{trained_on}')}, trained {trained}"


def _registered_with(model: Tabular) -> dict[str, Any]:
    """Its provenance, but for what stands elsewhere on the sheet."""
    elsewhere = _TOLD_ELSEWHERE | ({"trained_on"} if _trained_on(model) else set())
    if model.provenance.get("candidate") == model.algorithm:
        elsewhere.add("candidate")
    return {name: value for name, value in model.provenance.items() if name not in elsewhere}


def _trained_on(model: Tabular) -> str:
    """After what the cycle's name says it was trained; empty where it says nothing."""
    trained_on = str(model.provenance.get("trained_on", ""))
    return trained_on if trained_on and (model.cycle or "").endswith(f"/{trained_on}") else ""


def _means_of(run: Evaluation) -> list[tuple[str, str, Metric]]:
    """Its metrics, with a word on what each is for."""
    words = dict.fromkeys(run.deciding, "gates") | dict.fromkeys(run.deciding[:1], "decides")
    return [(metric.name, words.get(metric.name, ""), metric) for metric in run.metrics]


def _slices_of(run: Evaluation) -> list[tuple[str, str, Metric]]:
    """Its slices, with the metric of each where they are of several."""
    several = len({part.metric.name for part in run.slices}) > 1
    return [(part.name, part.metric.name if several else "", part.metric) for part in run.slices]


def _agreed(found: Agreement | None) -> str:
    """A judge's agreement with people."""
    if found is None:
        return "never measured"
    return f"κ {number(found.kappa)}, 95 % interval {interval(found.ci95)}, {counted(found.n, 'labelled row')}"


def _rules(gate: Gate) -> str:
    """What was asked."""
    if "primary" in gate.rules:
        return GateRules.from_mapping(gate.rules).sentence()
    return "; ".join(gate.checks) or UNKNOWN


def _axis(rows: Iterable[tuple[Any, Any, Metric]]) -> Axis | None:
    """From 0 to 1, which shares and scores lie within; None where none does."""
    return Axis(0.0, 1.0) if any(0 <= end <= 1 for *_, metric in rows for end in _ends(metric)) else None


def _fits(metric: Metric) -> bool:
    return metric.mean is not None and all(-0.05 <= end <= 1.05 for end in _ends(metric))


def _ends(metric: Metric) -> list[float]:
    return [] if metric.mean is None else [metric.mean, *(metric.ci95 or ())]

"""How evaluations and gates are told."""

from __future__ import annotations

from collections.abc import Iterator

from llmops.evaluation.gate_rules import GateRules
from llmops.evaluation.reports.wording import count, counted, interval, number, probability, signed
from llmops.factsheet.blocks import (
    NOT_ON_RECORD,
    Block,
    Facts,
    Means,
    Note,
    Points,
    Table,
    time_or_unknown,
)
from llmops.factsheet.contents import Difference, Evaluation, Factsheet, Gate, Metric

_ATTESTED = {True: "yes", False: "no: it was changed since", None: "the log has no such gate"}


def evaluations(sheet: Factsheet) -> Iterator[Block]:
    """The runs with their means, slices and settings."""
    if not sheet.evaluations:
        yield Note("No evaluation is on record.")
    for run in sheet.evaluations:
        yield from _evaluation(run)
    if sheet.further_runs:
        yield Note(f"{counted(sheet.further_runs, 'further run')} on record, older or of fewer rows, not told here.")


def _evaluation(run: Evaluation) -> Iterator[Block]:
    rows = counted(run.rows, "row") if run.rows is not None else "rows not on record"
    said = [f"{run.suite}: {rows}", f"run {run.run_id}", time_or_unknown(run.at), f"by {run.by}" if run.by else ""]
    yield Means(", ".join(part for part in said if part), tuple(_mean_line(run, metric) for metric in run.metrics))
    if run.answers is not None:
        yield Note(f"Answers of {run.suite}: {run.answers.sentence()}.")
    if run.slices:
        several = len({part.metric.name for part in run.slices}) > 1
        lines = [(part.name, part.metric.name if several else "", part.metric) for part in run.slices]
        names = ", ".join(dict.fromkeys(part.metric.name for part in run.slices))
        yield Means(f"{run.suite} by slice: {names}", tuple(lines))
    if run.settings:
        yield Facts(f"How {run.suite} was run", tuple(run.settings.items()))
    judges = [(scorer, _agreement(run, scorer)) for scorer in run.judges]
    if judges:
        yield Facts("Judges and their agreement with people", tuple(judges))


def _mean_line(run: Evaluation, metric: Metric) -> tuple[str, str, Metric]:
    words = ["decides"] if metric.name in run.deciding[:1] else ["gates"] if metric.name in run.deciding else []
    return metric.name, ", ".join(words), metric


def _agreement(run: Evaluation, scorer: str) -> str:
    found = run.judges[scorer]
    if found is None:
        return "never measured"
    return f"κ {number(found.kappa)}, 95 % interval {interval(found.ci95)}, {counted(found.n, 'labelled row')}"


def gates(sheet: Factsheet) -> Iterator[Block]:
    """The verdicts with reasons and comparisons."""
    if not sheet.gates:
        yield Note("No gate is on record.")
    for gate in sheet.gates:
        yield from _gate(gate)


def _gate(gate: Gate) -> Iterator[Block]:
    rows = [
        ("verdict", gate.verdict),
        ("against", gate.against or "no champion at that time"),
        *([("compared with", gate.compared_with)] if gate.compared_with else []),
        ("when", time_or_unknown(gate.at)),
        ("rules", _rules(gate)),
        *([("rules loosened", "; ".join(gate.loosened))] if gate.loosened else []),
        ("run", gate.run_id or NOT_ON_RECORD),
        ("as the audit log has it", _ATTESTED[gate.attested]),
    ]
    place = "" if gate.current else ", not the one that a promotion reads"
    yield Facts(f"Gate of {gate.suite}{place}", tuple(rows))
    yield Points(gate.reasons)
    if gate.differences:
        columns = ("slice", "metric", "a#", "b#", "b − a#", "95 % interval#", "p#", "rows#")
        lines = tuple(_difference(each) for each in gate.differences)
        yield Table(f"{gate.suite} against {gate.other}: a is {gate.other}, b is this version", columns, lines)


def _rules(gate: Gate) -> str:
    if "primary" in gate.rules:
        return GateRules.from_mapping(gate.rules).sentence()
    return "; ".join(gate.checks) or NOT_ON_RECORD


def _difference(found: Difference) -> tuple[str, ...]:
    figures = number(found.a), number(found.b), signed(found.difference), interval(found.ci95, of_difference=True)
    p_value = probability(found.p_value).removeprefix("p ").removeprefix("= ")
    return found.slice or "all rows", found.metric, *figures, p_value, count(found.rows)

"""A sheet as sections of plain blocks, in the order and words in which every format shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.evaluation.reports.wording import NOTHING, count, counted, interval, number, probability, signed
from llmops.factsheet.contents import (
    Column,
    Data,
    Difference,
    Evaluation,
    Factsheet,
    Gate,
    Metric,
    Monitoring,
    Period,
    Tabular,
)
from llmops.factsheet.times import spoken

NOT_ON_RECORD = "not on record"
_MOST_LINES = 60
_ATTESTED = {True: "yes", False: "no: it was changed since", None: "the log has no such gate"}


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    caption: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Columns whose name ends in `#` are numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Means:
    """Means with 95 % intervals. rows: (what, a word beside it, the metric)."""

    caption: str
    rows: tuple[tuple[str, str, Metric], ...]


@dataclass(frozen=True, slots=True)
class Points:
    """Sentences, as a list."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Quoted:
    """A text from outside, kept as it is."""

    caption: str
    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence."""

    text: str


Block = Facts | Table | Means | Points | Quoted | Note


@dataclass(frozen=True, slots=True)
class Section:
    """A part under a heading. name: what links point at."""

    name: str
    heading: str
    blocks: tuple[Block, ...]


def sections(sheet: Factsheet) -> list[Section]:
    """The whole sheet, but for its title."""
    parts: list[tuple[str, str, list[Block]]] = [
        ("glance", "At a glance", [Facts("", tuple(_glance(sheet)))]),
        ("what", "What it is", list(_what(sheet))),
        ("data", "Data", list(_data(sheet))),
        ("who", "Who, what, when", list(_who(sheet))),
        ("evaluation", "Evaluation", list(_evaluations(sheet))),
        ("gates", "Gates", list(_gates(sheet))),
        ("deployments", "Deployments", list(_deployments(sheet))),
        ("monitoring", "Monitoring", list(_monitoring(sheet.monitoring))),
        ("limits", "Known limits", [Points(sheet.limits) if sheet.limits else Note("None is known.")]),
        ("unknown", "Not on record", [Points(sheet.unknown) if sheet.unknown else Note("Nothing is missing.")]),
    ]
    return [Section(name, heading, tuple(blocks)) for name, heading, blocks in parts]


def subtitle(sheet: Factsheet) -> str:
    """What the sheet is, in a line below its title."""
    kind = "Release" if sheet.kind == "release" else "Tabular model"
    return f"{kind} · read from the registry {_time(sheet.made_at)} · llmops {sheet.llmops}"


def _glance(sheet: Factsheet) -> Iterator[tuple[str, str]]:
    yield "state", _state(sheet)
    current = [gate for gate in sheet.gates if gate.current]
    yield "gate", "; ".join(_verdict_line(gate) for gate in current) or "none on record"
    deciding = [(run, metric) for run in sheet.evaluations for metric in run.metrics if metric.name in run.deciding[:1]]
    for run, metric in deciding[:3]:
        yield f"{metric.name} ({run.suite})", f"{number(metric.mean)}, 95 % interval {interval(metric.ci95)}"
    yield "monitoring", _monitoring_line(sheet.monitoring)
    yield "known limits", count(len(sheet.limits))
    yield "not on record", counted(len(sheet.unknown), "thing") if sheet.unknown else "nothing is missing"
    yield "read from", sheet.store


def _state(sheet: Factsheet) -> str:
    aliases = ", ".join(sheet.aliases)
    if (serving := sheet.serving) is not None:
        since = f"since {_time(serving.since)}" if serving.since else "since when is not on record"
        others = [alias for alias in sheet.aliases if alias != "champion"]
        return f"champion, {since}" + (f"; also {', '.join(others)}" if others else "")
    return aliases or "holds no alias: nothing is served by it unless asked for by number"


def _verdict_line(gate: Gate) -> str:
    return f"{gate.suite}: {gate.verdict} against {gate.against or 'no champion'}"


def _monitoring_line(found: Monitoring | None) -> str:
    if found is None:
        return "no monitoring run on record"
    alarmed = f"{counted(found.alarmed, 'window')} with alarms" if found.alarmed else "no alarm"
    return f"{alarmed} in {counted(found.windows, 'window')} of {counted(found.rows, 'request')}"


def _what(sheet: Factsheet) -> Iterator[Block]:
    if sheet.description:
        yield Note(sheet.description)
    if (prompt := sheet.prompt) is not None:
        rows = [("prompt", prompt.ref), ("content sha256", prompt.sha256), ("input variable", prompt.input_variable)]
        yield Facts("Prompt", (*rows, ("description", prompt.description or NOT_ON_RECORD)))
        yield Quoted("The prompt’s text", "\n\n".join(f"# {role}\n{text}" for role, text in prompt.turns))
    if (model := sheet.model) is not None:
        size = f"{count(model.size_bytes)} bytes" if model.size_bytes else NOT_ON_RECORD
        named = [("model", model.ref), ("source", model.source), ("format", model.format), ("sha256", model.sha256)]
        made = [(f"made from: {name}", _shown(value)) for name, value in model.provenance.items()]
        yield Facts("Model", (*named, ("licence", model.licence or NOT_ON_RECORD), ("size", size), *made))
    if sheet.tabular is not None:
        yield from _tabular(sheet.tabular)
    yield Facts("Parameters", tuple((name, _shown(value)) for name, value in sheet.parameters.items()))
    if sheet.kind == "release":
        yield Facts(
            "Guards", tuple((guard.partition("=")[0], guard.partition("=")[2] or "on") for guard in sheet.guards)
        )


def _tabular(model: Tabular) -> Iterator[Block]:
    rows = [
        ("model", model.ref),
        ("task", model.task or NOT_ON_RECORD),
        ("algorithm", model.algorithm or NOT_ON_RECORD),
        ("sha256", model.sha256),
        ("kept at", model.source),
        ("training run", model.run_id),
        ("pipeline run", model.cycle or "none: registered by hand"),
    ]
    yield Facts("Tabular model", tuple(rows))
    yield Facts("Registered with", tuple((name, _shown(value)) for name, value in model.provenance.items()))
    columns = [("input", column) for column in model.inputs] + ([("output", model.output)] if model.output else [])
    lines = tuple((use, *_column(column)) for use, column in columns)
    yield Table("Signature", ("", "column", "kind", "may be missing", "categories"), lines)


def _column(column: Column) -> tuple[str, str, str, str]:
    return column.name, column.kind, "yes" if column.nullable else "no", ", ".join(column.categories) or NOTHING


def _data(sheet: Factsheet) -> Iterator[Block]:
    if not sheet.data:
        yield Note("No data is on record.")
        return
    columns = ("use", "data", "rows#", "sha256", "licence", "source")
    yield Table("Data and licences", columns, tuple(_data_line(data) for data in sheet.data))


def _data_line(data: Data) -> tuple[str, ...]:
    digest = data.sha256 or (f"{NOT_ON_RECORD}; MLflow's digest {data.digest}" if data.digest else NOT_ON_RECORD)
    licence = data.licence or NOT_ON_RECORD
    return data.use, data.name, count(data.rows), digest, licence, data.source or NOT_ON_RECORD


def _who(sheet: Factsheet) -> Iterator[Block]:
    lines = [
        (part.what, part.ref, _time(part.at), part.by or NOT_ON_RECORD)
        for part in sheet.registered
    ]  # fmt: skip
    yield Table("Registered", ("what", "which", "when", "by"), tuple(lines))
    history = sheet.history
    if history.note:
        yield Note(history.note)
    if not history.moves:
        yield Note(f"The {history.source} has no move of this version’s aliases, gates or traffic.")
        return
    moves = [
        (
            _time(move.at),
            move.what,
            move.old or NOTHING,
            move.new or NOTHING,
            move.why or NOTHING,
            move.by or NOT_ON_RECORD,
        )
        for move in history.moves[-_MOST_LINES:]
    ]
    cut = len(history.moves) - len(moves)
    caption = f"What was done, from the {history.source}" + (f"; {counted(cut, 'older entry')} left out" if cut else "")
    yield Table(caption, ("when", "what", "from", "to", "why", "by"), tuple(moves))


def _evaluations(sheet: Factsheet) -> Iterator[Block]:
    if not sheet.evaluations:
        yield Note("No evaluation is on record.")
    for run in sheet.evaluations:
        yield from _evaluation(run)
    if sheet.further_runs:
        yield Note(f"{counted(sheet.further_runs, 'further run')} on record, older or of fewer rows, not told here.")


def _evaluation(run: Evaluation) -> Iterator[Block]:
    rows = f"{count(run.rows)} rows" if run.rows is not None else "rows not on record"
    said = [f"{run.suite}: {rows}", f"run {run.run_id}", _time(run.at), f"by {run.by}" if run.by else ""]
    yield Means(", ".join(part for part in said if part), tuple(_mean_line(run, metric) for metric in run.metrics))
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


def _gates(sheet: Factsheet) -> Iterator[Block]:
    if not sheet.gates:
        yield Note("No gate is on record.")
    for gate in sheet.gates:
        yield from _gate(gate)


def _gate(gate: Gate) -> Iterator[Block]:
    rows = [
        ("verdict", gate.verdict),
        ("against", gate.against or "no champion at that time"),
        ("when", _time(gate.at)),
        ("rules", _rules(gate.rules) if gate.rules else NOT_ON_RECORD),
        ("run", gate.run_id or NOT_ON_RECORD),
        ("as the audit log has it", _ATTESTED[gate.attested]),
    ]
    place = "" if gate.current else ", not the one that a promotion reads"
    yield Facts(f"Gate of {gate.suite}{place}", tuple(rows))
    yield Points(gate.reasons)
    if gate.differences:
        columns = ("slice", "metric", "a#", "b#", "b − a#", "95 % interval#", "p#", "rows#")
        lines = tuple(_difference(each) for each in gate.differences)
        yield Table(f"{gate.suite} against {gate.against}: a is {gate.against}, b is this version", columns, lines)


def _rules(rules: Mapping[str, Any]) -> str:
    """The rules in words, those that ask for nothing left out."""
    margin = f" by {rules['margin']:g} or more" if rules.get("rule") == "not-worse" else ""
    said = [f"{rules['primary']} decides: {rules['rule']}{margin}"] if "primary" in rules else []
    for name, words in (("floors", "at least"), ("ceilings", "at most"), ("not_worse", "not worse by")):
        said += [f"{scorer} {words} {value:g}" for scorer, value in rules.get(name, {}).items()]
    for part, floors in rules.get("slice_floors", {}).items():
        said += [f"{scorer} in {part} at least {value:g}" for scorer, value in floors.items()]
    return "; ".join(said)


def _difference(found: Difference) -> tuple[str, ...]:
    figures = number(found.a), number(found.b), signed(found.difference), interval(found.ci95, of_difference=True)
    p_value = probability(found.p_value).removeprefix("p ").removeprefix("= ")
    return found.slice or "all rows", found.metric, *figures, p_value, count(found.rows)


def _deployments(sheet: Factsheet) -> Iterator[Block]:
    periods = sheet.history.periods
    if not periods:
        yield Note("It has never been champion, as far as is on record.")
        return
    columns = ("champion since", "until", "how it became so", "why", "instead of", "followed by")
    yield Table("Times as champion", columns, tuple(_period(period) for period in periods))


def _period(period: Period) -> tuple[str, ...]:
    until = "now" if period.lasts else f"{_time(period.until)}" + (f" ({period.ended})" if period.ended else "")
    how = period.began + (", forced" if period.forced else "")
    return (
        _time(period.since),
        until,
        how or NOT_ON_RECORD,
        period.why or NOT_ON_RECORD,
        period.after or NOTHING,
        period.then or NOTHING,
    )


def _monitoring(found: Monitoring | None) -> Iterator[Block]:
    if found is None:
        yield Note("No monitoring run is on record in which this version answered.")
        return
    budget = found.expected_false_alarms
    rows = [
        ("windows", count(found.windows)),
        ("requests in them", count(found.rows)),
        ("from", _time(found.since)),
        ("to", _time(found.until)),
        ("windows with alarms", count(found.alarmed)),
        ("windows with too few rows", count(found.too_few)),
        ("false alarms to expect in a month", NOT_ON_RECORD if budget is None else f"at most {budget:g}"),
    ]
    yield Facts("Monitored", tuple(rows))
    if found.alarms:
        lines = [
            (_time(a.until), a.what, a.severity or NOTHING, "this version" if a.of_version else "all traffic", a.why)
            for a in found.alarms
        ]
        yield Table("Alarms", ("window’s end", "what", "severity", "seen in", "why"), tuple(lines))
    if found.unread:
        yield Note(f"{counted(found.unread, 'older window')} with alarms not told here.")
    if found.actions:
        acts = [
            (_time(a.at), a.what + (" (dry run)" if a.dry_run else ""), a.why, a.outcome) for a in found.actions
        ]  # fmt: skip
        yield Table("What was done about alarms, by itself", ("when", "action", "why", "outcome"), tuple(acts))
    elif found.alarms:
        yield Note("No action of the monitor is on record.")


def _time(at: str | None) -> str:
    return spoken(at) or NOT_ON_RECORD


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (Mapping, Sequence, bool)) or value is None:
        return json.dumps(value, ensure_ascii=False)
    return f"{value:g}" if isinstance(value, float) else str(value)

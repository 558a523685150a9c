"""A sheet as sections of plain blocks, in the order and words in which every format shows it."""

from __future__ import annotations

from collections.abc import Iterator

from llmops.evaluation.reports.wording import NOTHING, count, counted, interval, number
from llmops.factsheet.blocks import (
    NOT_ON_RECORD,
    Block,
    Facts,
    Note,
    Points,
    Quoted,
    Section,
    Table,
    shown_value,
    time_or_unknown,
)
from llmops.factsheet.contents import (
    Column,
    Data,
    Evaluation,
    Factsheet,
    Gate,
    Metric,
    Monitoring,
    Period,
    Tabular,
)
from llmops.factsheet.layout_evaluation import evaluations, gates
from llmops.factsheet.layout_monitoring import monitoring

_MOST_LINES = 60
_BEFORE_WINDOWS = "first"
"""What a lab's first model was trained on, as it names it; later ones name the last window that they came after."""
_ALIASES = {"previous": "previous: what a rollback goes back to"}
_TOLD_ELSEWHERE = ("data_sha256", "data_source", "licence", "parameters")


def sections(sheet: Factsheet) -> list[Section]:
    """The whole sheet, but for its title."""
    parts: list[tuple[str, str, list[Block]]] = [
        ("glance", "At a glance", [Facts("", tuple(_glance(sheet)))]),
        ("what", "What it is", list(_what(sheet))),
        ("data", "Data", list(_data(sheet))),
        ("who", "Who, what, when", list(_who(sheet))),
        ("evaluation", "Evaluation", list(evaluations(sheet))),
        ("gates", "Gates", list(gates(sheet))),
        ("deployments", "Deployments", list(_deployments(sheet))),
        ("monitoring", "Monitoring", list(monitoring(sheet.monitoring, _unit(sheet)))),
        ("limits", "Known limits", [Points(sheet.limits) if sheet.limits else Note("None is known.")]),
        ("unknown", "Not on record", [Points(sheet.unknown) if sheet.unknown else Note("Nothing is missing.")]),
    ]
    return [Section(name, heading, tuple(blocks)) for name, heading, blocks in parts]


def subtitle(sheet: Factsheet) -> str:
    """What the sheet is, in a line below its title."""
    kind = "Release" if sheet.kind == "release" else "Tabular model"
    return f"{kind} · read from the registry {time_or_unknown(sheet.made_at)} · llmops {sheet.llmops}"


def _glance(sheet: Factsheet) -> Iterator[tuple[str, str]]:
    yield "state", _state(sheet)
    current = [gate for gate in sheet.gates if gate.current]
    yield "gate", "; ".join(_verdict_line(gate) for gate in current) or "none on record"
    for run, metric in _first_metrics(sheet)[:3]:
        yield f"{metric.name} ({run.suite})", f"{number(metric.mean)}, 95 % interval {interval(metric.ci95)}"
    yield "monitoring", _monitoring_line(sheet.monitoring, _unit(sheet))
    yield "known limits", count(len(sheet.limits))
    yield "not on record", counted(len(sheet.unknown), "thing") if sheet.unknown else "nothing is missing"
    yield "read from", sheet.store


def _first_metrics(sheet: Factsheet) -> list[tuple[Evaluation, Metric]]:
    """Those that decide a gate; of a tabular model without such, the first with an interval."""
    deciding = [(run, metric) for run in sheet.evaluations for metric in run.metrics if metric.name in run.deciding[:1]]
    if deciding or sheet.kind != "tabular":
        return deciding
    return [(run, metric) for run in sheet.evaluations for metric in run.metrics if metric.ci95 is not None][:1]


def _unit(sheet: Factsheet) -> str:
    """What its monitored windows hold: one request can ask a tabular model about many rows."""
    return "row" if sheet.kind == "tabular" else "request"


def _state(sheet: Factsheet) -> str:
    aliases = ", ".join(_ALIASES.get(alias, alias) for alias in sheet.aliases)
    if (serving := sheet.serving) is not None:
        since = f"since {time_or_unknown(serving.since)}" if serving.since else "since when is not on record"
        others = [alias for alias in sheet.aliases if alias != "champion"]
        return f"champion, {since}" + (f"; also {', '.join(others)}" if others else "")
    return aliases or "holds no alias: nothing is served by it unless asked for by number"


def _verdict_line(gate: Gate) -> str:
    instead = f", compared with {gate.compared_with}" if gate.compared_with else ""
    return f"{gate.suite}: {gate.verdict} against {gate.against or 'no champion'}{instead}"


def _monitoring_line(found: Monitoring | None, unit: str) -> str:
    if found is None:
        return "no monitoring run on record"
    alarmed = f"alarms in {count(found.alarmed)} of" if found.alarmed else "no alarm in"
    return f"{alarmed} {counted(found.windows, 'window')} with {counted(found.rows, unit)}"


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
        made = [(f"made from: {name}", shown_value(value)) for name, value in model.provenance.items()]
        yield Facts("Model", (*named, ("licence", model.licence or NOT_ON_RECORD), ("size", size), *made))
    if sheet.tabular is not None:
        yield from _tabular(sheet.tabular)
    yield Facts("Parameters", tuple((name, shown_value(value)) for name, value in sheet.parameters.items()))
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
        ("pipeline run", _pipeline_run(model)),
    ]
    yield Facts("Tabular model", tuple(rows))
    elsewhere = {*_TOLD_ELSEWHERE, *(("trained_on",) if _trained_on(model) else ())}
    if model.provenance.get("candidate") == model.algorithm:
        elsewhere.add("candidate")
    told = [(name, shown_value(value)) for name, value in model.provenance.items() if name not in elsewhere]
    yield Facts("Registered with", tuple(told))
    columns = [("input", column) for column in model.inputs] + ([("output", model.output)] if model.output else [])
    lines = tuple((use, *_column(column)) for use, column in columns)
    yield Table("Signature", ("", "column", "kind", "may be missing", "categories"), lines)


def _pipeline_run(model: Tabular) -> str:
    """A pipeline that registers several versions names each after the last window it had seen: `first/batch 09`. Its
    labels may be late: the training data, which the sheet lists, can end before it."""
    if model.cycle is None:
        return "none: registered by hand"
    if not (trained_on := _trained_on(model)):
        return f"cycle {model.cycle}"
    when = "before the first window" if trained_on == _BEFORE_WINDOWS else f"after {trained_on}"
    return f"cycle {model.cycle.removesuffix(f'/{trained_on}')}, trained {when}"


def _trained_on(model: Tabular) -> str:
    """After what the cycle's name says it was trained; empty where it says nothing."""
    trained_on = str(model.provenance.get("trained_on", ""))
    return trained_on if trained_on and (model.cycle or "").endswith(f"/{trained_on}") else ""


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
    source = data.source or NOT_ON_RECORD
    if data.source_sha256 is not None:
        source = f"{source}; sha256 of that file {data.source_sha256}"
    return data.use, data.name, count(data.rows), digest, licence, source


def _who(sheet: Factsheet) -> Iterator[Block]:
    lines = [
        (part.what, part.ref, time_or_unknown(part.at), part.by or NOT_ON_RECORD)
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
            time_or_unknown(move.at),
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


def _deployments(sheet: Factsheet) -> Iterator[Block]:
    periods = sheet.history.periods
    if not periods:
        yield Note("It has never been champion, as far as is on record.")
        return
    columns = ("champion since", "until", "how it became so", "why", "instead of", "followed by")
    yield Table("Times as champion", columns, tuple(_period(period) for period in periods))


def _period(period: Period) -> tuple[str, ...]:
    until = (
        "now" if period.lasts else f"{time_or_unknown(period.until)}" + (f" ({period.ended})" if period.ended else "")
    )
    how = period.began + (", forced" if period.forced else "")
    return (
        time_or_unknown(period.since),
        until,
        how or NOT_ON_RECORD,
        period.why or NOT_ON_RECORD,
        period.after or NOTHING,
        period.then or NOTHING,
    )

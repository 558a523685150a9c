"""What a sheet has to admit: known limits, and what is not on record. Derived from its contents, never made up."""

from __future__ import annotations

from collections.abc import Iterator

from llmops.factsheet.contents import Data, Evaluation, Factsheet, Gate, Metric, when
from llmops.pages.numbers import count, counted, share

FEW_ROWS, FEW_ROWS_OF_A_SLICE = 100, 30
"""Below, an evaluation, or a slice of one, is said to be small."""


def limits_of(sheet: Factsheet) -> tuple[str, ...]:
    """What one should know before relying on the version, in sentences."""
    found = [*_of_gates(sheet), *_of_evaluations(sheet), *_of_parts(sheet), *_of_serving(sheet), *_of_monitoring(sheet)]
    return tuple(dict.fromkeys(found))


def unknown_of(sheet: Factsheet) -> tuple[str, ...]:
    """What is not on record, in the words of a list."""
    parts = (_unknown_registrations, _unknown_data, _unknown_model, _unknown_gates, _unknown_moves)
    found = [missing for part in parts for missing in part(sheet)]
    return tuple(dict.fromkeys(found))


def _of_gates(sheet: Factsheet) -> Iterator[str]:
    current = [gate for gate in sheet.gates if gate.current]
    if not current:
        yield "No gate has judged this version."
    for gate in current:
        if gate.verdict == "inconclusive":
            yield f"The gate of {gate.suite} is inconclusive: its rows could not tell, which is not the same as a pass."
        if gate.verdict == "fail":
            yield f"The gate of {gate.suite} failed."
        if gate.verdict == "pass" and gate.against is None:
            instead = f"it was compared with {gate.other}" if gate.other else "only floors and ceilings were checked"
            yield f"The gate of {gate.suite} had no champion to compare with: {instead}."
        yield from (f"The gate of {gate.suite} asked less than one before it: {change}." for change in gate.loosened)
        if gate.attested is False:
            yield f"The gate of {gate.suite} is not the one whose hash the audit log has: it was changed since."
        yield from (
            f"{scorer} was not allowed to gate {gate.suite}: its judge is not trusted." for scorer in gate.untrusted
        )
    yield from (f"What {gate.suite} can see: {power}." for gate in current if (power := _power(gate)))


def _power(gate: Gate) -> str:
    if not gate.rules and len(gate.power) == 1:
        return next(iter(gate.power.values()))
    return gate.power.get(str(gate.rules.get("primary")), "")


def _of_evaluations(sheet: Factsheet) -> Iterator[str]:
    if not sheet.evaluations:
        yield "No evaluation of this version is on record."
    for run in sheet.evaluations:
        yield from _of_evaluation(run)
    if sheet.other_parameters:
        runs = counted(sheet.other_parameters, "eval run")
        yield f"{runs} of its prompt and model had other parameters, and say nothing of this version."


def _of_evaluation(run: Evaluation) -> Iterator[str]:
    if run.rows is not None and run.rows < FEW_ROWS:
        yield f"{_called(run)} has {counted(run.rows, 'row')}: few, so its intervals are wide."
    small = [part.name for part in run.slices if _scored(part.metric) < FEW_ROWS_OF_A_SLICE]
    if small:
        names = ", ".join(dict.fromkeys(small))
        yield f"Slices of {_called(run)} with fewer than {FEW_ROWS_OF_A_SLICE} rows say little: {names}."
    if run.whole is False and not run.stopped_early:
        yield f"The run {_short(run.run_id)} of {_called(run)} took some of its rows, not all."
    if run.stopped_early:
        yield f"The run {_short(run.run_id)} of {_called(run)} was stopped as soon as its comparison was decided."
    if run.answers is not None and run.answers.flawed:
        yield f"Answers of {_called(run)}: {run.answers.sentence()}."
    yield from _unmeasured(run)
    for scorer, agreement in run.judges.items():
        if agreement is None:
            yield f"{scorer} in {_called(run)} is a language model's judgement, never compared with people's."
    if run.noise and run.noise["flips"]:
        flips, rows = run.noise["flips"], run.noise["n"]
        yield (
            f"Asked again with nothing changed, the engine of {_called(run)} answered {count(flips)} of "
            f"{counted(rows, 'row')} ({share(flips / rows)}) differently."
        )


def _unmeasured(run: Evaluation) -> Iterator[str]:
    nothing = [metric.name for metric in run.metrics if metric.mean is None]
    if nothing:
        yield f"Not measured in {_called(run)}, no row has a score: {', '.join(nothing)}."
    for metric in run.metrics:
        if metric.mean is not None and metric.n_failed:
            rows = metric.n_failed + _scored(metric)
            yield f"{metric.name} in {_called(run)} is missing in {count(metric.n_failed)} of {counted(rows, 'row')}."
    without = [metric.name for metric in run.metrics if metric.mean is not None and metric.ci95 is None]
    if without and len(without) < len(run.metrics):
        yield f"Without an interval in {_called(run)}: {', '.join(without)}."


def _of_parts(sheet: Factsheet) -> Iterator[str]:
    if sheet.model is not None and sheet.model.format == "openai":
        yield (
            "The model is served elsewhere: its sha256 is of its address and name, not of weights, and the server may "
            "change them unseen."
        )
    if sheet.guards:
        yield "Guards act in the gateway; the eval runs asked the engine without them."
    if sheet.tabular is not None and not any(data.sha256 for data in sheet.data):
        yield "No hash of its training data is on record, so its training cannot be repeated for certain."


def _of_serving(sheet: Factsheet) -> Iterator[str]:
    yield from sheet.history.problems
    if not sheet.history.periods:
        yield "It has never been champion, as far as is on record: nothing is known of it as the one that serves."
    for period in sheet.history.periods:
        if period.forced:
            yield f"It was promoted without a passing gate ({when(period.since, 'time unknown')}): {period.why}"
    for period in sheet.history.periods:
        if period.ended == "rollback":
            yield f"It was rolled back ({when(period.until, '')})."


def _of_monitoring(sheet: Factsheet) -> Iterator[str]:
    found = sheet.monitoring
    if found is None:
        yield "No monitoring run is on record in which this version answered: nothing is known of it in production."
        return
    if found.windows and found.too_few == found.windows:
        yield "Every monitored window had too few rows to be tested."
    elif found.too_few:
        yield f"{count(found.too_few)} of {counted(found.windows, 'monitored window')} had too few rows to be tested."
    if found.expected_false_alarms is not None:
        yield (
            f"Monitoring that finds nothing is no proof: by chance alone up to {found.expected_false_alarms:g} "
            f"false alarms in {found.expected_over} are to be expected, and small changes of few rows are not seen."
        )


def _unknown_registrations(sheet: Factsheet) -> Iterator[str]:
    for part in sheet.registered:
        if part.by is None:
            yield f"who registered the {part.what} {part.ref}"
        if part.at is None:
            yield f"when the {part.what} {part.ref} was registered"


def _unknown_data(sheet: Factsheet) -> Iterator[str]:
    for data in sheet.data:
        shown = f"the {data.use} data {data.name}" if data.use else f"the data {data.name}"
        yield from (f"{what} of {shown}" for what in _missing(data))
    if sheet.kind == "tabular" and not any(data.use == "training" for data in sheet.data):
        yield "what it was trained on"


def _missing(data: Data) -> Iterator[str]:
    if data.licence is None:
        yield "the licence"
    if data.sha256 is None:
        yield "the sha256"


def _unknown_model(sheet: Factsheet) -> Iterator[str]:
    if sheet.model is not None:
        if not sheet.model.licence:
            yield f"the licence of the model {sheet.model.ref}"
        yield f"what the weights of {sheet.model.ref} were trained on"
    if sheet.tabular is not None:
        if sheet.tabular.algorithm is None:
            yield "its algorithm"
        if not sheet.parameters:
            yield "its parameters"


def _unknown_gates(sheet: Factsheet) -> Iterator[str]:
    for gate in sheet.gates:
        if gate.current and not gate.rules and not gate.checks:
            yield f"the rules of the gate of {gate.suite}"
        if gate.current and gate.against is not None and not gate.differences:
            yield f"the comparison behind the gate of {gate.suite}"
    parts = [part for run in sheet.evaluations for part in run.slices]
    if sheet.tabular is not None and sheet.evaluations and not parts:
        yield "its metrics by slice"


def _unknown_moves(sheet: Factsheet) -> Iterator[str]:
    if any(period.since is None for period in sheet.history.periods):
        yield "since when it has been champion"
    if not sheet.history.complete:
        yield f"moves older than what the {sheet.history.source} still has"
    if any(move.by is None for move in sheet.history.moves):
        yield "who moved the aliases, where no name is given"


def _scored(metric: Metric) -> int:
    return metric.n_scored or 0


def _called(run: Evaluation) -> str:
    """The suite's name, such that it can be told from the sentence around it."""
    return f"“{run.suite}”" if " " in run.suite else run.suite


def _short(run_id: str) -> str:
    return run_id[:8]

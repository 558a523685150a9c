"""What a sheet has to admit: known limits, and what is not on record. Derived from its contents, never made up."""

from __future__ import annotations

from llmops.factsheet.contents import Evaluation, Factsheet, Gate, Monitoring, when
from llmops.pages.numbers import count, counted, share

FEW_ROWS, FEW_ROWS_OF_A_SLICE = 100, 30
"""Below, an evaluation, or a slice of one, is said to be small."""


def limits_of(sheet: Factsheet) -> tuple[str, ...]:
    """What one should know before relying on the version, in sentences."""
    current = [gate for gate in sheet.gates if gate.current]
    periods, others, nothing = sheet.history.periods, sheet.other_parameters, "nothing is known"
    found = _said((not current, "No gate has judged this version."))
    found += [sentence for gate in current for sentence in _of_gate(gate)]
    for gate in current:
        only = next(iter(gate.power.values())) if not gate.rules and len(gate.power) == 1 else ""
        power = only or gate.power.get(str(gate.rules.get("primary")), "")
        found += _said((power, f"What {gate.suite} can see: {power}."))
    found += _said((not sheet.evaluations, "No evaluation of this version is on record."))
    found += [sentence for run in sheet.evaluations for sentence in _of_evaluation(run)]
    found += _said(
        (
            others,
            f"{counted(others, 'eval run')} of its prompt and model had other parameters, and say nothing of this "
            "version.",
        ),
        (
            sheet.model is not None and sheet.model.format == "openai",
            "The model is served elsewhere: its sha256 is of its address and name, not of weights, and the server may "
            "change them unseen.",
        ),
        (sheet.guards, "Guards act in the gateway; the eval runs asked the engine without them."),
        (
            sheet.tabular is not None and not any(data.sha256 for data in sheet.data),
            "No hash of its training data is on record, so its training cannot be repeated for certain.",
        ),
    )
    found += sheet.history.problems
    found += _said(
        (not periods, f"It has never been champion, as far as is on record: {nothing} of it as the one that serves."),
        *(
            (
                period.forced,
                f"It was promoted without a passing gate ({when(period.since, 'time unknown')}): {period.why}",
            )
            for period in periods
        ),
        *((period.ended == "rollback", f"It was rolled back ({when(period.until, '')}).") for period in periods),
    )
    return tuple(dict.fromkeys([*found, *_of_monitoring(sheet.monitoring)]))


def _said(*cases: tuple[object, str]) -> list[str]:
    """The sentences whose condition holds."""
    return [sentence for holds, sentence in cases if holds]


def _of_gate(gate: Gate) -> list[str]:
    no_champion = f"The gate of {gate.suite} had no champion to compare with: "
    instead = f"it was compared with {gate.other}" if gate.other else "only floors and ceilings were checked"
    return _said(
        (
            gate.verdict == "inconclusive",
            f"The gate of {gate.suite} is inconclusive: its rows could not tell, which is not the same as a pass.",
        ),
        (gate.verdict == "fail", f"The gate of {gate.suite} failed."),
        (gate.verdict == "pass" and gate.against is None, f"{no_champion}{instead}."),
        *((True, f"The gate of {gate.suite} asked less than one before it: {change}.") for change in gate.loosened),
        (
            gate.attested is False,
            f"The gate of {gate.suite} is not the one whose hash the audit log has: it was changed since.",
        ),
        *(
            (True, f"{scorer} was not allowed to gate {gate.suite}: its judge is not trusted.")
            for scorer in gate.untrusted
        ),
    )


def _of_evaluation(run: Evaluation) -> list[str]:
    # A name with spaces is set apart from the sentence around it.
    called, short = f"“{run.suite}”" if " " in run.suite else run.suite, run.run_id[:8]
    small = dict.fromkeys(part.name for part in run.slices if (part.metric.n_scored or 0) < FEW_ROWS_OF_A_SLICE)
    nothing = [metric.name for metric in run.metrics if metric.mean is None]
    measured = [metric for metric in run.metrics if metric.mean is not None]
    without = [metric.name for metric in measured if metric.ci95 is None]
    flips, asked = (run.noise["flips"], run.noise["n"]) if run.noise else (0, 1)
    return _said(
        (
            run.rows is not None and run.rows < FEW_ROWS,
            f"{called} has {counted(run.rows or 0, 'row')}: few, so its intervals are wide.",
        ),
        (small, f"Slices of {called} with fewer than {FEW_ROWS_OF_A_SLICE} rows say little: {', '.join(small)}."),
        (run.whole is False and not run.stopped_early, f"The run {short} of {called} took some of its rows, not all."),
        (run.stopped_early, f"The run {short} of {called} was stopped as soon as its comparison was decided."),
        (
            run.answers is not None and run.answers.flawed,
            f"Answers of {called}: {run.answers.sentence() if run.answers else ''}.",
        ),
        (nothing, f"Not measured in {called}, no row has a score: {', '.join(nothing)}."),
        *(
            (
                metric.n_failed,
                f"{metric.name} in {called} is missing in {count(metric.n_failed)} of "
                f"{counted(metric.n_failed + (metric.n_scored or 0), 'row')}.",
            )
            for metric in measured
        ),
        (without and len(without) < len(run.metrics), f"Without an interval in {called}: {', '.join(without)}."),
        *(
            (agreement is None, f"{scorer} in {called} is a language model's judgement, never compared with people's.")
            for scorer, agreement in run.judges.items()
        ),
        (
            flips,
            f"Asked again with nothing changed, the engine of {called} answered {count(flips)} of "
            f"{counted(asked, 'row')} ({share(flips / asked)}) differently.",
        ),
    )


def _of_monitoring(found: Monitoring | None) -> list[str]:
    if found is None:
        return ["No monitoring run is on record in which this version answered: nothing is known of it in production."]
    windows, few, too_few = found.windows, found.too_few, "too few rows to be tested"
    expected = found.expected_false_alarms
    return _said(
        (windows and few == windows, f"Every monitored window had {too_few}."),
        (
            few and few != windows,
            f"{count(few)} of {counted(windows, 'monitored window')} had {too_few}.",
        ),
        (
            expected is not None,
            f"Monitoring that finds nothing is no proof: by chance alone up to {expected or 0:g} false alarms in "
            f"{found.expected_over} are to be expected, and small changes of few rows are not seen.",
        ),
    )


def unknown_of(sheet: Factsheet) -> tuple[str, ...]:
    """What is not on record, in the words of a list."""
    model, tabular, periods, moves = sheet.model, sheet.tabular, sheet.history.periods, sheet.history.moves
    found: list[str] = []
    for part in sheet.registered:
        found += _said(
            (part.by is None, f"who registered the {part.what} {part.ref}"),
            (part.at is None, f"when the {part.what} {part.ref} was registered"),
        )
    for data in sheet.data:
        shown = f"of the {data.use} data {data.name}" if data.use else f"of the data {data.name}"
        found += _said((data.licence is None, f"the licence {shown}"), (data.sha256 is None, f"the sha256 {shown}"))
    trained = any(data.use == "training" for data in sheet.data)
    found += _said((sheet.kind == "tabular" and not trained, "what it was trained on"))
    if model is not None:
        found += _said((not model.licence, f"the licence of the model {model.ref}"))
        found.append(f"what the weights of {model.ref} were trained on")
    found += _said(
        (tabular is not None and tabular.algorithm is None, "its algorithm"),
        (tabular is not None and not sheet.parameters, "its parameters"),
    )
    for gate in (gate for gate in sheet.gates if gate.current):
        found += _said(
            (not gate.rules and not gate.checks, f"the rules of the gate of {gate.suite}"),
            (gate.against is not None and not gate.differences, f"the comparison behind the gate of {gate.suite}"),
        )
    sliced = any(run.slices for run in sheet.evaluations)
    found += _said(
        (tabular is not None and sheet.evaluations and not sliced, "its metrics by slice"),
        (any(period.since is None for period in periods), "since when it has been champion"),
        (not sheet.history.complete, f"moves older than what the {sheet.history.source} still has"),
        (any(move.by is None for move in moves), "who moved the aliases, where no name is given"),
    )
    return tuple(dict.fromkeys(found))

"""What a sheet says: its known limits and what is not on record, derived from its contents; and the whole as Markdown,
or as one HTML page that asks nothing of any network, in the order and words of sheet.jinja."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llmops.evaluation.gate_rules import GateRules
from llmops.factsheet.contents import (
    UNKNOWN,
    Factsheet,
    Monitoring,
    RecordedEvaluation,
    RecordedGate,
    RecordedMetric,
    Tabular,
    when,
)
from llmops.pages.numbers import count, counted, printable, share
from llmops.pages.rendering import Axis, page, render_blocks

_SHEET = "llmops/factsheet/sheet.jinja"
_MOST_MOVES = 60
_ATTESTED = {True: "yes", False: "no: it was changed since", None: "the log has no such gate"}
_BEFORE_WINDOWS = "first"  # how a lab names what its first model was trained on: later ones name a window
_PROVENANCE_ELSEWHERE = {"data_sha256", "data_source", "licence", "parameters"}
# What means something to Markdown wherever it stands; at the beginning of a line; and between characters that are no
# part of a word. Whatever else stays as it is, so that `rouge_l` and `qa@2` can be read.
_EVERYWHERE = re.compile(r"""[\\`*<>\[\]|~$]|&(?=#|\w)|(?<![^\W_])_|_(?![^\W_])|(?<!\w)@""")
_AT_THE_START = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[-+=#]))")
_ENTITY_FOR = {"@": "&#64;", "$": "&#36;"}  # a backslash would not keep GitHub from these
FEW_ROWS, FEW_ROWS_OF_A_SLICE = 100, 30
"""Below, an evaluation, or a slice of one, is said to be small."""


def markdown(sheet: Factsheet) -> str:
    """The sheet as Markdown that reads well as it is, on a terminal too."""
    writing = {"blocks": "llmops/factsheet/blocks.md", "readable": readable, "cell": cell, "fenced": _fenced}
    return render_blocks(_SHEET, **_values(sheet), **writing)


def html(sheet: Factsheet, render: Callable[..., str] = page) -> str:
    """The sheet as a page. render: makes it, or a part of a page that is not ours."""
    verdicts = {gate.verdict for gate in sheet.gates if gate.current}
    return render(
        _SHEET,
        **_values(sheet),
        title=f"{sheet.ref}: fact sheet",
        blocks="llmops/factsheet/blocks.html",
        standing="fail" if "fail" in verdicts else "pass" if verdicts == {"pass"} else "none",
        axis_of=_axis,
        fits=_fits,
    )


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
        "rules": [
            GateRules.from_mapping(gate.rules).sentence() if "primary" in gate.rules else "; ".join(gate.checks)
            for gate in sheet.gates
        ],
        "unknown": UNKNOWN,
        "most_moves": _MOST_MOVES,
        "attested": _ATTESTED,
        "when": when,
        "plain": _plain,
        "registered_with": _registered_with,
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


def _registered_with(model: Tabular) -> tuple[str, dict[str, Any]]:
    """The pipeline run that registered it, in words; and its provenance, but for what stands elsewhere on the sheet.

    A pipeline that registers several versions names each after the last window it had seen: `first/batch 09`. Its
    labels may be late: the training data, which the sheet lists, can end before it.
    """
    cycle, trained_on = model.cycle or "", str(model.provenance.get("trained_on", ""))
    elsewhere, run = set(_PROVENANCE_ELSEWHERE), f"cycle {cycle}" if cycle else "none: registered by hand"
    if trained_on and cycle.endswith(f"/{trained_on}"):
        elsewhere.add("trained_on")
        trained = "before the first window" if trained_on == _BEFORE_WINDOWS else f"after {trained_on}"
        run = f"cycle {cycle.removesuffix(f'/{trained_on}')}, trained {trained}"
    if model.provenance.get("candidate") == model.algorithm:
        elsewhere.add("candidate")
    return run, {name: value for name, value in model.provenance.items() if name not in elsewhere}


def _axis(rows: Iterable[tuple[Any, Any, RecordedMetric]]) -> Axis | None:
    """From 0 to 1, which shares and scores lie within; None where none does."""
    return Axis(0.0, 1.0) if any(_fits(metric) for *_, metric in rows) else None


def _fits(metric: RecordedMetric) -> bool:
    ends = [] if metric.mean is None else [metric.mean, *(metric.ci95 or ())]
    return bool(ends) and all(-0.05 <= end <= 1.05 for end in ends)


Case = tuple[object, str]
"""Whether something holds, and what a sheet then says."""


def limits_of(sheet: Factsheet) -> tuple[str, ...]:
    """What one should know before relying on the version, in sentences."""
    current = [gate for gate in sheet.gates if gate.current]
    periods, others, nothing = sheet.history.periods, sheet.other_parameters, "nothing is known"
    cases: list[Case] = [(not current, "No gate has judged this version.")]
    cases += [case for gate in current for case in _of_gate(gate)]
    for gate in current:
        only = next(iter(gate.power.values())) if not gate.rules and len(gate.power) == 1 else ""
        power = only or gate.power.get(str(gate.rules.get("primary")), "")
        cases += [(power, f"What {gate.suite} can see: {power}.")]
    cases += [(not sheet.evaluations, "No evaluation of this version is on record.")]
    cases += [case for run in sheet.evaluations for case in _of_evaluation(run)]
    cases += [
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
    ]
    cases += [(True, problem) for problem in sheet.history.problems]
    cases += [
        (not periods, f"It has never been champion, as far as is on record: {nothing} of it as the one that serves."),
        *(
            (
                period.forced,
                f"It was promoted without a passing gate ({when(period.since, 'time unknown')}): {period.why}",
            )
            for period in periods
        ),
        *((period.ended == "rollback", f"It was rolled back ({when(period.until, '')}).") for period in periods),
    ]
    cases += _of_monitoring(sheet.monitoring)
    return tuple(dict.fromkeys(sentence for holds, sentence in cases if holds))


def _of_gate(gate: RecordedGate) -> list[Case]:
    no_champion = f"The gate of {gate.suite} had no champion to compare with: "
    instead = f"it was compared with {gate.other}" if gate.other else "only floors and ceilings were checked"
    return [
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
    ]


def _of_evaluation(run: RecordedEvaluation) -> list[Case]:
    # A name with spaces is set apart from the sentence around it.
    called, short = f"“{run.suite}”" if " " in run.suite else run.suite, run.run_id[:8]
    small = dict.fromkeys(part.name for part in run.slices if (part.metric.n_scored or 0) < FEW_ROWS_OF_A_SLICE)
    nothing = [metric.name for metric in run.metrics if metric.mean is None]
    measured = [metric for metric in run.metrics if metric.mean is not None]
    without = [metric.name for metric in measured if metric.ci95 is None]
    flips, asked = (run.noise["flips"], run.noise["n"]) if run.noise else (0, 1)
    return [
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
    ]


def _of_monitoring(found: Monitoring | None) -> list[Case]:
    if found is None:
        return [
            (
                True,
                "No monitoring run is on record in which this version answered: nothing is known of it in production.",
            )
        ]
    windows, few, too_few = found.windows, found.too_few, "too few rows to be tested"
    expected = found.expected_false_alarms
    return [
        (windows and few == windows, f"Every monitored window had {too_few}."),
        (few and few != windows, f"{count(few)} of {counted(windows, 'monitored window')} had {too_few}."),
        (
            expected is not None,
            f"Monitoring that finds nothing is no proof: by chance alone up to {expected or 0:g} false alarms in "
            f"{found.expected_over} are to be expected, and small changes of few rows are not seen.",
        ),
    ]


def unknown_of(sheet: Factsheet) -> tuple[str, ...]:
    """What is not on record, in the words of a list."""
    model, tabular, periods, moves = sheet.model, sheet.tabular, sheet.history.periods, sheet.history.moves
    cases: list[Case] = []
    for part in sheet.registered:
        cases += [
            (part.by is None, f"who registered the {part.what} {part.ref}"),
            (part.at is None, f"when the {part.what} {part.ref} was registered"),
        ]
    for data in sheet.data:
        shown = f"of the {data.use} data {data.name}" if data.use else f"of the data {data.name}"
        cases += [(data.licence is None, f"the licence {shown}"), (data.sha256 is None, f"the sha256 {shown}")]
    trained = any(data.use == "training" for data in sheet.data)
    cases += [(sheet.kind == "tabular" and not trained, "what it was trained on")]
    if model is not None:
        cases += [(not model.licence, f"the licence of the model {model.ref}")]
        # Derived weights tell how they were made, a fine-tune with its rows; what they began with, nobody tells.
        cases.append((True, f"what the weights of {model.provenance.get('parent', model.ref)} were trained on"))
    cases += [
        (tabular is not None and tabular.algorithm is None, "its algorithm"),
        (tabular is not None and not sheet.parameters, "its parameters"),
    ]
    for gate in (gate for gate in sheet.gates if gate.current):
        cases += [
            (not gate.rules and not gate.checks, f"the rules of the gate of {gate.suite}"),
            (gate.against is not None and not gate.differences, f"the comparison behind the gate of {gate.suite}"),
        ]
    sliced = any(run.slices for run in sheet.evaluations)
    cases += [
        (tabular is not None and sheet.evaluations and not sliced, "its metrics by slice"),
        (any(period.since is None for period in periods), "since when it has been champion"),
        (not sheet.history.complete, f"moves older than what the {sheet.history.source} still has"),
        (any(move.by is None for move in moves), "who moved the aliases, where no name is given"),
    ]
    return tuple(dict.fromkeys(words for holds, words in cases if holds))

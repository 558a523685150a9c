"""Which rows people are asked about first, and what their answers are worth.

A label is worth most where it decides something. Of an eval run: where two runs differ on the gate's metric, since only
such rows can move a comparison; and where scorers contradict each other or a score lies halfway, since there a judge is
most likely wrong. Of the production log: where users contradict each other, or say that an answer is wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from llmops.errors import UnknownVersion
from llmops.eval_runs.eval_set_from_log import NEGATIVE, feedback_of, feedback_sign, inputs_hash, inputs_of
from llmops.eval_runs.evaluations import Evaluations
from llmops.evaluation.comparison import paired
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.metric_comparison import change_of
from llmops.evaluation.results import RowResult
from llmops.evaluation.scorers.protocol import Scorer
from llmops.hashing import JsonData
from llmops.pages.numbers import counted
from llmops.production_log import Feedback, LogRecord, ProductionLog, is_prediction
from llmops.recording import EvalRecorder, EvalRun
from llmops.recording.production_traces import REVIEW, experiment_of, trace_id_of, write_traces
from llmops.recording.review import (
    CORRECT,
    EXPECTED,
    ReviewAnswer,
    ReviewedItem,
    ReviewQueue,
    put_into_queue,
    read_queue,
)
from llmops.recording.traces import trace_ids
from llmops.registry.store import Store

_UNIT = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class RowToReview(JsonData):
    """A row, or a request, that people are asked about. decides: 0 to 2; 0 where nothing hangs on its label."""

    row: str
    decides: float
    why: str


@dataclass(frozen=True, slots=True)
class OpenedReview(JsonData):
    """queue, queue_id: its name, the suite's or the app's, and MLflow's id of it. run_id: whose answers are reviewed;
    None for the production log. against: the run that it may be gated against; None where there is none. rows: those
    that were put in, the first first. there: rows that were in it already. untraced: rows that have no trace in MLflow,
    as those of a large run have none."""

    queue: str
    queue_id: str
    experiment_id: str
    run_id: str | None
    against: str | None
    rows: Sequence[RowToReview]
    there: int
    untraced: int


def open_review(
    evaluations: Evaluations, suite_name: str, run: str | None, against: str | None, limit: int, users: Sequence[str]
) -> OpenedReview:
    """Puts the rows of a run whose label decides most into MLflow's review queue of the suite.

    run, against: as `Evaluations.resolve` reads them; by default the suite's newest run, and that of another cell.

    Raises UnknownVersion, CannotRun, StoreUnavailable.
    """
    suite = evaluations.suite(suite_name)
    newest = EvalRecorder(evaluations.registry.store).newest(suite_name)
    if run is None and not newest:
        raise UnknownVersion(f"{suite_name} was not run yet; run `llmops eval run {suite_name}`")
    reviewed = newest[0] if run is None else evaluations.resolve(run, suite_name)
    if against is not None:
        other: EvalRun | None = evaluations.resolve(against, suite_name)
    else:
        other = next((each for each in newest if each.cell != reviewed.cell), None)
    scorers = suite.make_scorers()
    before = () if other is None else evaluations.rows(other)
    ordered = rows_in_order(evaluations.rows(reviewed), before, scorers, suite.gate.primary)[:limit]
    by_trace = {trace_ids(reviewed.run_id, each.row)[0]: each for each in ordered}
    of_runs = reviewed.run_id, None if other is None else other.run_id
    return _opened(evaluations.registry.store, reviewed.experiment_id, suite_name, of_runs, by_trace, users)


def _opened(
    store: Store,
    experiment_id: str,
    queue: str,
    of_runs: tuple[str | None, str | None],
    by_trace: Mapping[str, RowToReview],
    users: Sequence[str],
) -> OpenedReview:
    """The queue, with the rows put in. of_runs: whose answers, and against which."""
    queue_id, added, unknown = put_into_queue(store, experiment_id, queue, list(by_trace), users)
    return OpenedReview(
        queue=queue,
        queue_id=queue_id,
        experiment_id=experiment_id,
        run_id=of_runs[0],
        against=of_runs[1],
        rows=[by_trace[trace_id] for trace_id in added],
        there=len(by_trace) - len(added) - len(unknown),
        untraced=len(unknown),
    )


def open_log_review(
    store: Store,
    log: ProductionLog,
    app: str,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    users: Sequence[str],
) -> OpenedReview:
    """Puts the answers of an app whose label decides most into MLflow's review queue of the app, with their traces,
    which are written where they were not sampled. Raises UnknownVersion: the window has no answer that can be reviewed.
    StoreUnavailable."""
    ordered = answers_in_order(log.iterate(feedback=True, app=app, since=since, until=until))[:limit]
    if not ordered:
        raise UnknownVersion(f"the production log has no answer of {app} with its text in this window")
    logged = [_record(log, each.row, key) for key, each in ordered]
    records = [record for record in logged if record is not None]
    write_traces(store, records)
    by_trace = {trace_id_of(key): each for key, each in ordered}
    return _opened(store, store.experiment(experiment_of(app)), app, (None, None), by_trace, users)


def _record(log: ProductionLog, request_id: str, key: str) -> LogRecord | None:
    records = log.read(request_id=request_id, feedback=True)
    return next((record for record in records if record.key == key and record.text_deleted_at is None), None)


def answers_in_order(records: Iterable[LogRecord]) -> list[tuple[str, RowToReview]]:
    """The answers of production, with the key of a record, those first whose label decides most.

    An answer that was given to the same question several times stands here once. Where users say nothing, the more
    frequent ones come first; among equals, a sample that is the same each time.
    """
    answers: dict[tuple[str, str], _Given] = {}
    for record in records:
        inputs = inputs_of(record, "question") if record.outcome == "ok" and not is_prediction(record) else None
        if inputs is None or not record.output or record.text_deleted_at is not None:
            continue
        given = answers.setdefault((inputs_hash(inputs), record.output), _Given(record))
        given.times += 1
        said: list[Mapping[str, Any]] = [each.to_json() for each in record.feedback if each.caller != REVIEW]
        imported = feedback_of(replace(record, feedback=()))
        for sign in filter(None, map(feedback_sign, said or [imported or {}])):
            given.signs += 1
            given.negative += sign == NEGATIVE
    ordered = sorted(answers.values(), key=lambda given: (-given.decides, -given.times, trace_id_of(given.key)))
    return [(given.key, RowToReview(given.request_id, given.decides, given.why)) for given in ordered]


class _Given:
    """An answer as it was given, once or more often."""

    def __init__(self, first: LogRecord) -> None:
        self.key, self.request_id = first.key, first.request_id
        self.times = self.signs = self.negative = 0

    @property
    def decides(self) -> float:
        """The share of users who say it is wrong, and how far users contradict each other: 1 for half and half."""
        wrong = self.negative / self.signs if self.signs else 0.0
        return wrong + 1 - abs(2 * wrong - 1)

    @property
    def why(self) -> str:
        said = f"{self.negative} of {counted(self.signs, 'user verdict')} negative" if self.signs else "no user verdict"
        return said + (f"; given {self.times} times" if self.times > 1 else "")


def rows_in_order(
    reviewed: Iterable[RowResult], against: Iterable[RowResult], scorers: Sequence[Scorer], primary: str | None
) -> list[RowToReview]:
    """The rows with an answer, those first whose label decides most. primary: the gate's scorer."""
    reviewed = list(reviewed)
    gating = next((scorer for scorer in scorers if scorer.name == primary), None)
    moved: dict[str, float] = {}
    if gating is not None and (others := list(against)):
        for left, right in paired(others, reviewed):
            moved[left.row.id] = min(1.0, abs(change_of(left, right, gating) or 0.0))
    rows = [
        _to_review(result, moved.get(result.row.id, 0.0), scorers, primary)
        for result in reviewed
        if result.output.error is None
    ]
    return sorted(rows, key=lambda row: -row.decides)


def _to_review(result: RowResult, moved: float, scorers: Sequence[Scorer], primary: str | None) -> RowToReview:
    values = {
        scorer.name: score.value
        for scorer in scorers
        if getattr(scorer, "limits", None) == _UNIT
        and (score := result.scores.get(scorer.name)) is not None
        and score.value is not None
    }
    spread = max(values.values()) - min(values.values()) if values else 0.0
    halfway = max((1 - abs(2 * value - 1) for value in values.values()), default=0.0)
    reasons = []
    if moved:
        reasons.append(f"{primary} differs by {moved:.3g} between the runs")
    if spread and spread >= halfway:
        low, high = min(values, key=lambda name: values[name]), max(values, key=lambda name: values[name])
        reasons.append(f"{low} is {values[low]:.3g}, {high} {values[high]:.3g}")
    elif halfway:
        nearest = max(values, key=lambda name: 1 - abs(2 * values[name] - 1))
        reasons.append(f"{nearest} is {values[nearest]:.3g}, halfway")
    return RowToReview(result.row.id, moved + max(spread, halfway), "; ".join(reasons) or "nothing contradicts it")


@dataclass(frozen=True, slots=True)
class TakenReview(JsonData):
    """Answers as lines of files: labels for `eval calibrate-judge`, and rows of an eval set with what people expect.
    pending, declined: items without an answer yet, or that nobody wants to answer. refused: by trace, why an answer is
    not taken. feedback: how many answers were new to the production log, and are feedback there now."""

    queue: str
    labels: Sequence[Mapping[str, Any]]
    expectations: Sequence[Mapping[str, Any]]
    pending: int
    declined: int
    refused: Mapping[str, str]
    feedback: int = 0


def take_review(evaluations: Evaluations, suite_name: str) -> TakenReview:
    """What people answered in the suite's queue, checked: MLflow checks no answer. Raises UnknownVersion, CannotRun,
    StoreUnavailable."""
    evaluations.suite(suite_name)
    queue = read_queue(evaluations.registry.store, suite_name, suite_name)
    agreed, refused = _agreed(queue)
    by_run: dict[str, dict[str, _Answers]] = defaultdict(dict)
    for item, answers in agreed:
        by_run[str(item.source)][str(item.row)] = answers
    labels, expectations = [], []
    for run_id, of_run in by_run.items():
        for result in evaluations.rows(evaluations.resolve(run_id, suite_name)):
            answers = of_run.get(result.row.id, {})
            if (label := answers.get(CORRECT)) is not None:
                labels.append(_label(result.row, result.output.text, label, f"{result.row.id} of {run_id[:8]}"))
            if (expected := answers.get(EXPECTED)) is not None:
                expectations.append(_expectation(result.row, expected))
    return _taken(queue, labels, expectations, refused)


def take_log_review(
    store: Store, log: ProductionLog, app: str, input_variable: str, *, to_log: bool = False
) -> TakenReview:
    """What people answered in the app's queue, checked. Raises UnknownVersion, StoreUnavailable.

    input_variable: the prompt variable that a single user message fills.
    to_log: also write each answer into the production log, once, as feedback of the caller `review`.
    """
    queue = read_queue(store, experiment_of(app), app)
    agreed, refused = _agreed(queue)
    labels, expectations, written = [], [], 0
    for item, answers in agreed:
        record = _record(log, str(item.source), str(item.row))
        inputs = None if record is None else inputs_of(record, input_variable)
        if record is None or inputs is None:
            refused[item.trace_id] = "its record is no longer in the production log, or its text"
            continue
        row = EvalRow(f"log-{record.key}", inputs, {}, (), {"source": "log", "release": record.release or ""})
        if (label := answers.get(CORRECT)) is not None:
            labels.append(_label(row, record.output, label, row.id))
        if (expected := answers.get(EXPECTED)) is not None:
            expectations.append(_expectation(row, expected))
        if to_log:
            feedback = _feedback(record, answers)
            written += log.add_feedback(feedback) is feedback
    return _taken(queue, labels, expectations, refused, written)


_Answers = Mapping[str, ReviewAnswer]
"""By question."""


def _agreed(queue: ReviewQueue) -> tuple[list[tuple[ReviewedItem, _Answers]], dict[str, str]]:
    """The items whose answers can be taken, and by trace, why others cannot."""
    agreed: list[tuple[ReviewedItem, _Answers]] = []
    refused: dict[str, str] = {}
    for item in queue.items:
        if item.status != "complete":
            continue
        try:
            agreed.append((item, checked(item, queue.users)))
        except ValueError as error:
            refused[item.trace_id] = str(error)
    return agreed, refused


def _taken(
    queue: ReviewQueue,
    labels: Sequence[Mapping[str, Any]],
    expectations: Sequence[Mapping[str, Any]],
    refused: Mapping[str, str],
    feedback: int = 0,
) -> TakenReview:
    statuses = [item.status for item in queue.items]
    pending, declined = statuses.count("pending"), statuses.count("declined")
    return TakenReview(queue.name, labels, expectations, pending, declined, refused, feedback)


def checked(item: ReviewedItem, users: Sequence[str]) -> dict[str, ReviewAnswer]:
    """The answer to each question. users: who is asked; empty for anybody. Raises ValueError, which says why none can
    be taken."""
    if item.source is None or item.row is None:
        raise ValueError("its trace is gone, or is neither of an eval run nor of the production log")
    by_question: dict[str, ReviewAnswer] = {}
    for answer in item.answers:
        if users and answer.by.lower() not in users:
            raise ValueError(f"{answer.by} is not asked; asked are {', '.join(users)}")
        if answer.question == CORRECT and not isinstance(answer.value, bool):
            raise ValueError(f"{answer.by} answered {json.dumps(answer.value)}: must be true or false")
        if answer.question == EXPECTED and not (isinstance(answer.value, str) and answer.value.strip()):
            raise ValueError(f"{answer.by} answered {json.dumps(answer.value)}: must be text")
        earlier = by_question.setdefault(answer.question, answer)
        if earlier is not answer and earlier.value != answer.value:
            who = f"{answer.by} answered twice" if earlier.by == answer.by else f"{earlier.by} and {answer.by} disagree"
            raise ValueError(f"{who}: {json.dumps(earlier.value)} and {json.dumps(answer.value)}")
    if not by_question:
        raise ValueError("it is marked as complete, and has no answer")
    return by_question


def _label(row: EvalRow, output: str, answer: ReviewAnswer, row_id: str) -> dict[str, Any]:
    return {
        "id": row_id,
        "inputs": row.inputs,
        "expectations": row.expectations,
        "contexts": list(row.contexts),
        "output": output,
        "label": answer.value,
        "by": answer.by,
        "at": answer.at.isoformat(),
    }


def _expectation(row: EvalRow, answer: ReviewAnswer) -> dict[str, Any]:
    tags = {**row.tags, "reviewed_by": answer.by, "reviewed_at": answer.at.isoformat()}
    return {**row.to_json(), "expectations": {**row.expectations, "answers": [answer.value]}, "tags": tags}


def _feedback(record: LogRecord, answers: _Answers) -> Feedback:
    """The answers as one feedback, whose key is theirs: written again it is the same."""
    label, expected = answers.get(CORRECT), answers.get(EXPECTED)
    newest = max(answers.values(), key=lambda answer: answer.at)
    told = [(each.question, each.value, each.by, each.at.isoformat()) for each in answers.values()]
    return Feedback(
        request_id=record.request_id,
        record_key=record.key,
        caller=REVIEW,
        app=record.app,
        release=record.release,
        user=newest.by,
        label=None if label is None else ("correct" if label.value else "wrong"),
        comment=None if expected is None else str(expected.value),
        at=newest.at,
        key=hashlib.sha256(json.dumps([record.key, sorted(told)]).encode()).hexdigest()[:32],
    )

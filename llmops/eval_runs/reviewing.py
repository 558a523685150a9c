"""Which rows people are asked about first, and what their answers are worth.

A label is worth most where it decides something: where two runs differ on the gate's metric, since only such rows can
move a comparison; and where scorers contradict each other or a score lies halfway, since there a judge is most likely
wrong.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.errors import UnknownVersion
from llmops.eval_runs.evaluations import Evaluations
from llmops.evaluation.comparison import paired
from llmops.evaluation.metric_comparison import value_of
from llmops.evaluation.results import RowResult
from llmops.evaluation.scorers.protocol import Scorer
from llmops.hashing import JsonData
from llmops.recording import EvalRun
from llmops.recording.review import CORRECT, EXPECTED, Answer, ReviewedItem, put_into_queue, read_queue
from llmops.recording.traces import trace_ids

_UNIT = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class RowToReview(JsonData):
    """A row that people are asked about. decides: 0 to 2, of what; 0 where nothing hangs on its label."""

    row: str
    decides: float
    why: str


@dataclass(frozen=True, slots=True)
class OpenedReview(JsonData):
    """queue: its name, the suite's. run_id: whose answers are reviewed. against: the run that it may be gated against;
    None where there is none. rows: those that were put in, the first first. there: rows that were in it already.
    untraced: rows that have no trace in MLflow, as those of a large run have none."""

    queue: str
    experiment_id: str
    run_id: str
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
    newest = evaluations.newest_runs(suite_name)
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
    store = evaluations.registry.store
    added, unknown = put_into_queue(store, reviewed.experiment_id, suite_name, list(by_trace), users)
    return OpenedReview(
        queue=suite_name,
        experiment_id=reviewed.experiment_id,
        run_id=reviewed.run_id,
        against=None if other is None else other.run_id,
        rows=[by_trace[trace_id] for trace_id in added],
        there=len(ordered) - len(added) - len(unknown),
        untraced=len(unknown),
    )


def rows_in_order(
    reviewed: Iterable[RowResult], against: Iterable[RowResult], scorers: Sequence[Scorer], primary: str | None
) -> list[RowToReview]:
    """The rows with an answer, those first whose label decides most. primary: the gate's scorer."""
    reviewed = list(reviewed)
    gating = next((scorer for scorer in scorers if scorer.name == primary), None)
    moved: dict[str, float] = {}
    if gating is not None and (others := list(against)):
        for left, right in paired(others, reviewed):
            x, y = value_of(left, gating), value_of(right, gating)
            moved[left.row.id] = 0.0 if x is None or y is None else min(1.0, abs(y - x))
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
    not taken."""

    queue: str
    labels: Sequence[Mapping[str, Any]]
    expectations: Sequence[Mapping[str, Any]]
    pending: int
    declined: int
    refused: Mapping[str, str]


def take_review(evaluations: Evaluations, suite_name: str) -> TakenReview:
    """What people answered in the suite's queue, checked: MLflow checks no answer. Raises UnknownVersion, CannotRun,
    StoreUnavailable."""
    store = evaluations.registry.store
    evaluations.suite(suite_name)
    queue = read_queue(store, store.experiment(suite_name), suite_name)
    refused: dict[str, str] = {}
    agreed: dict[str, dict[str, dict[str, Answer]]] = defaultdict(dict)  # by run, row and question
    for item in queue.items:
        if item.status != "complete":
            continue
        try:
            answers = checked(item, queue.users)
        except ValueError as error:
            refused[item.trace_id] = str(error)
            continue
        agreed[str(item.run_id)][str(item.row_id)] = answers
    labels, expectations = [], []
    for run_id, of_run in agreed.items():
        for result in evaluations.rows(evaluations.resolve(run_id, suite_name)):
            answers = of_run.get(result.row.id, {})
            if (label := answers.get(CORRECT)) is not None:
                labels.append(_label(result, label, f"{result.row.id} of {run_id[:8]}"))
            if (expected := answers.get(EXPECTED)) is not None:
                expectations.append(_expectation(result, expected))
    statuses = [item.status for item in queue.items]
    return TakenReview(suite_name, labels, expectations, statuses.count("pending"), statuses.count("declined"), refused)


def checked(item: ReviewedItem, users: Sequence[str]) -> dict[str, Answer]:
    """The answer to each question. users: who is asked; empty for anybody. Raises ValueError, which says why none can
    be taken."""
    if item.run_id is None or item.row_id is None:
        raise ValueError("its trace is gone, or is of no eval run")
    found: dict[str, Answer] = {}
    for answer in item.answers:
        if users and answer.by.lower() not in users:
            raise ValueError(f"{answer.by} is not asked; asked are {', '.join(users)}")
        if answer.question == CORRECT and not isinstance(answer.value, bool):
            raise ValueError(f"{answer.by} answered {json.dumps(answer.value)}: must be true or false")
        if answer.question == EXPECTED and not (isinstance(answer.value, str) and answer.value.strip()):
            raise ValueError(f"{answer.by} answered {json.dumps(answer.value)}: must be text")
        earlier = found.setdefault(answer.question, answer)
        if earlier is not answer and earlier.value != answer.value:
            who = f"{answer.by} answered twice" if earlier.by == answer.by else f"{earlier.by} and {answer.by} disagree"
            raise ValueError(f"{who}: {json.dumps(earlier.value)} and {json.dumps(answer.value)}")
    if not found:
        raise ValueError("it is marked as complete, and has no answer")
    return found


def _label(result: RowResult, answer: Answer, row_id: str) -> dict[str, Any]:
    return {
        "id": row_id,
        "inputs": result.row.inputs,
        "expectations": result.row.expectations,
        "contexts": list(result.row.contexts),
        "output": result.output.text,
        "label": answer.value,
        "by": answer.by,
        "at": answer.at.isoformat(),
    }


def _expectation(result: RowResult, answer: Answer) -> dict[str, Any]:
    row = result.row.to_json()
    tags = {**row["tags"], "reviewed_by": answer.by, "reviewed_at": answer.at.isoformat()}
    return {**row, "expectations": {**row["expectations"], "answers": [answer.value]}, "tags": tags}

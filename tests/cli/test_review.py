"""`llmops review`: rows in MLflow's own review queue, answered there, and the labels taken back with every check."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmops.eval_runs.reviewing import answers_in_order, checked, rows_in_order
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, Score
from llmops.evaluation.scorers.text_scorers import Contains, ExactMatch
from llmops.judges.calibration import load_labels
from llmops.production_log import Feedback, LogRecord, ProductionLog
from llmops.recording.production_traces import trace_id_of
from llmops.recording.review import CORRECT, EXPECTED, ReviewAnswer, ReviewedItem
from llmops.recording.traces import traces_in
from tests.registered_home import Workshop

AT = datetime(2026, 1, 2, tzinfo=UTC)


def result(
    row_id: str, *, exact: float | None = 0.0, contains: float | None = 0.0, error: str | None = None
) -> RowResult:
    scores = {"exact": Score(exact), "contains": Score(contains)}
    row = EvalRow(row_id, {"question": row_id}, {"answers": ["x"]}, (), {})
    return RowResult(row, Output("said", error=error), scores)


def test_rows_that_decide_a_gate_come_first_then_those_where_scorers_contradict_each_other():
    scorers = (ExactMatch("exact"), Contains("contains"))
    before = [result(name) for name in ("same", "moved", "contradicted", "halfway", "failed")]
    after = [
        result("same"),
        result("moved", exact=1.0, contains=1.0),
        result("contradicted", contains=1.0),
        result("halfway", exact=0.3, contains=0.3),
        result("failed", error="no answer"),
    ]
    found = rows_in_order(after, before, scorers, "contains")
    assert [row.row for row in found] == ["contradicted", "moved", "halfway", "same"]
    assert found[0].why == "contains differs by 1 between the runs; exact is 0, contains 1"
    assert (found[-1].decides, found[-1].why) == (0, "nothing contradicts it")
    assert rows_in_order(after, (), scorers, "contains")[0].row == "contradicted"


def item(*answers: ReviewAnswer, run_id: str | None = "r") -> ReviewedItem:
    return ReviewedItem("tr-1", "complete", run_id, "row", answers)


def answer(value: Any, by: str = "anna", question: str = CORRECT) -> ReviewAnswer:
    return ReviewAnswer(question, value, by, AT)


@pytest.mark.parametrize(
    ("reviewed", "why"),
    [
        (item(answer("yes")), 'answered "yes": must be true or false'),
        (item(answer(1)), "answered 1: must be true or false"),
        (item(answer(" ", question=EXPECTED)), "must be text"),
        (item(answer(True, by="eve")), "eve is not asked; asked are anna, bob"),
        (item(answer(True), answer(False)), "anna answered twice: true and false"),
        (item(answer(True), answer(False, by="bob")), "anna and bob disagree"),
        (item(), "has no answer"),
        (item(answer(True), run_id=None), "its trace is gone"),
    ],
)
def test_an_answer_that_cannot_be_taken_is_refused_with_its_reason(reviewed, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        checked(reviewed, ("anna", "bob"))


def test_people_who_say_the_same_are_one_answer():
    assert checked(item(answer(True), answer(True, by="Bob"), answer(True)), ("anna", "bob"))[CORRECT].by == "anna"


@pytest.fixture
def shop(workshop: Workshop, home: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Two runs of a suite, in a home whose commands are run."""
    workshop.run(("qa@1", "qa@2"))
    monkeypatch.setenv("LLMOPS_HOME", str(workshop.settings.home))
    monkeypatch.setenv("LLMOPS_EVAL_SETS", str(workshop.folder))
    return workshop


def test_rows_are_reviewed_in_mlflow_and_come_back_as_labels_and_expectations(shop, llmops, tmp_path):
    import mlflow
    from mlflow.genai import review_queues

    opened = llmops("review", "open", "sums", "--rows", "4", "--reviewer", "Anna", "--json")
    assert opened.code == 0, opened.err
    assert (len(opened.json["rows"]), opened.json["there"], opened.json["untraced"]) == (4, 0, 0)
    again = llmops("review", "open", "sums", "--rows", "5")
    assert "5 rows" not in again.out
    assert "4 rows stood in the queue already" in again.out
    shop.registry.store.make_current()
    (queue,) = review_queues.list_review_queues(experiment_id=opened.json["experiment_id"])
    items = list(review_queues.list_review_queue_items(queue.queue_id))
    rows = [mlflow.get_trace(each.item_id).info.tags["row_id"] for each in items]
    assert rows[:4] == [row["row"] for row in opened.json["rows"]]  # what was added later stands below

    answer_in(shop, queue, items[0].item_id, {CORRECT: True, EXPECTED: "a right answer"})
    answer_in(shop, queue, items[1].item_id, {CORRECT: False})
    answer_in(shop, queue, items[2].item_id, {CORRECT: "perhaps"})
    answer_in(shop, queue, items[3].item_id, {CORRECT: True}, by="eve")
    labels, expected = tmp_path / "labels.jsonl", tmp_path / "rows.jsonl"
    taken = llmops("review", "take", "sums", "--labels", str(labels), "--expectations", str(expected))
    assert taken.code == 0, taken.err
    assert "2 labels and 1 expected answer taken, 2 reviewed rows not taken" in taken.out
    assert 'Anna answered "perhaps": must be true or false' in taken.err
    assert "eve is not asked; asked are anna" in taken.err
    assert "1 row to review yet, 0 declined" in taken.out

    found = load_labels(labels)  # as `eval calibrate-judge` reads them
    assert sorted((each.row.id.split(" of ")[0], each.label) for each in found) == sorted(
        [(rows[0], True), (rows[1], False)]
    )
    assert all(line["by"] == "Anna" and line["at"] for line in map(json.loads, labels.read_text().splitlines()))
    (row,) = map(json.loads, expected.read_text().splitlines())
    assert (row["id"], row["expectations"]["answers"], row["tags"]["reviewed_by"]) == (
        rows[0],
        ["a right answer"],
        "Anna",
    )


def answer_in(shop: Workshop, queue: Any, trace_id: str, answers: Mapping[str, Any], by: str = "Anna") -> None:
    """Answers an item as MLflow's page does."""
    import mlflow
    from mlflow.entities import AssessmentSource
    from mlflow.genai.review_queues import set_review_queue_item_status

    shop.registry.store.make_current()
    for name, value in answers.items():
        log = mlflow.log_feedback if name == CORRECT else mlflow.log_expectation
        log(trace_id=trace_id, name=name, value=value, source=AssessmentSource("HUMAN", by))
    set_review_queue_item_status(queue.queue_id, item_id=trace_id, status="complete", completed_by=by)


def record(question: str, answered: str, app: str = "shop", **more: Any) -> LogRecord:
    request_id = f"req_{question}".replace(" ", "_")
    return LogRecord(request_id, datetime.now(UTC), 200, "ok", question, answered, release=f"{app}@1", **more)


def verdict(of: LogRecord, label: str, user: str = "u") -> Feedback:
    return Feedback(of.request_id, of.key, "anonymous", of.app, of.release, user=user, label=label)


def test_of_production_contested_answers_come_first_then_wrong_ones_then_frequent_ones():
    asked = [record(name, "said") for name in ("rare", "often", "often", "wrong", "liked", "contested", "empty")]
    asked[3:6] = [
        replace(asked[3], feedback=(verdict(asked[3], "bad"),)),
        replace(asked[4], feedback=(verdict(asked[4], "good"),)),
        replace(asked[5], feedback=(verdict(asked[5], "good"), verdict(asked[5], "bad", "v"))),
    ]
    asked[6] = replace(asked[6], output="")
    asked += [record("failed", "said", details={}), replace(record("shadow", "said"), text_deleted_at=AT)]
    asked[7] = replace(asked[7], outcome="error")
    found = [each for _, each in answers_in_order(asked)]
    assert [each.row for each in found[:3]] == ["req_contested", "req_wrong", "req_often"]
    assert {each.row for each in found[3:]} == {"req_rare", "req_liked"}
    assert (found[0].decides, found[0].why) == (1.5, "1 of 2 user verdicts negative")
    assert (found[2].decides, found[2].why) == (0, "no user verdict; given 2 times")


def test_answers_of_production_stand_in_the_queue_in_order_and_are_refused_once_their_text_is_gone(shop, llmops):
    from mlflow.genai.review_queues import list_review_queue_items, list_review_queues

    log = ProductionLog(shop.settings.resolved_log_url)
    asked = [record("one plus one", "3"), record("two plus two", "4"), record("gone", "x")]
    log.append(asked)
    log.add_feedback(verdict(asked[0], "bad"))
    opened = llmops("review", "open", "shop", "--rows", "2", "--json")
    assert opened.code == 0, opened.err
    assert opened.json["rows"][0] == {"row": "req_one_plus_one", "decides": 1, "why": "1 of 1 user verdict negative"}
    added = llmops("review", "open", "shop", "--log", "--json").json
    assert (len(added["rows"]), added["there"], added["untraced"]) == (1, 2, 0)

    shop.registry.store.make_current()
    (queue,) = list_review_queues(experiment_id=opened.json["experiment_id"])
    items = [item.item_id for item in list_review_queue_items(queue.queue_id)]
    order = [row["row"] for row in opened.json["rows"] + added["rows"]]
    by_request = {each.request_id: each for each in asked}
    assert items == [trace_id_of(by_request[request].key) for request in order]
    said = traces_in(shop.registry.store.uri, items)[items[0]].assessments
    assert [(each.name, each.value) for each in said] == [("user_label", "bad")]  # which reviewers see
    for trace_id in items:
        answer_in(shop, queue, trace_id, {CORRECT: False, EXPECTED: "two"})
    log.delete_texts(datetime.now(UTC))
    refused = llmops("review", "take", "shop", "--json").json["refused"]
    assert set(refused.values()) == {"its record is no longer in the production log, or its text"}


def test_answers_of_production_come_back_as_labels_rows_and_feedback(shop, llmops, tmp_path):
    from mlflow.genai.review_queues import list_review_queues

    log = ProductionLog(shop.settings.resolved_log_url)
    asked = record("one plus one", "3", "desk", details={"prompt_variables": {"unit": "cm"}})
    log.append([asked])
    opened = llmops("review", "open", "desk", "--json").json
    shop.registry.store.make_current()
    (queue,) = list_review_queues(experiment_id=opened["experiment_id"])
    answer_in(shop, queue, trace_id_of(asked.key), {CORRECT: False, EXPECTED: "2"})
    labels, rows = tmp_path / "labels.jsonl", tmp_path / "rows.jsonl"
    take = ("review", "take", "desk", "--labels", str(labels), "--expectations", str(rows), "--feedback")
    assert "1 answer written into the production log" in llmops(*take).out
    assert "0 answers written into the production log" in llmops(*take).out
    (label,) = load_labels(labels)
    assert (label.row.id, label.output, label.label) == (f"log-{asked.key}", "3", False)
    (row,) = map(json.loads, rows.read_text().splitlines())
    assert (row["inputs"], row["expectations"]) == ({"unit": "cm", "question": "one plus one"}, {"answers": ["2"]})
    (stored,) = log.read(app="desk", feedback=True)
    (feedback,) = stored.feedback
    assert (feedback.caller, feedback.user, feedback.label, feedback.comment) == ("review", "Anna", "wrong", "2")
    # What was said in MLflow is neither said there a second time, nor counted as a user's verdict.
    assert llmops("review", "open", "desk", "--json").json["there"] == 1
    info = traces_in(shop.registry.store.uri, [trace_id_of(asked.key)])[trace_id_of(asked.key)]
    assert sorted(each.name for each in info.assessments) == sorted([CORRECT, EXPECTED])
    assert answers_in_order(log.iterate(app="desk", feedback=True))[0][1].why == "no user verdict"


def test_a_suite_without_a_run_or_a_queue_says_what_to_do(shop, llmops):
    shop.add_suite("fresh", 3)
    llmops("review", "open", "fresh").refused(3, "run `llmops eval run fresh`")
    llmops("review", "take", "fresh").refused(3, "`llmops review open` makes it")
    assert shop.registry.store.experiment_ids("fresh") == []
    llmops("review", "open", "nobody").refused(3, "no answer of an app 'nobody'")
    llmops("review", "open", "sums", "--since", "1h").refused(2, "--since: sums is a suite")
    llmops("review", "take", "sums", "--feedback").refused(2, "--feedback: sums is a suite")

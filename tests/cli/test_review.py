"""`llmops review`: rows in MLflow's own review queue, answered there, and the labels taken back with every check."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmops.eval_runs.reviewing import checked, rows_in_order
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, Score
from llmops.evaluation.scorers.text_scorers import Contains, ExactMatch
from llmops.judges.calibration import load_labels
from llmops.recording.review import CORRECT, EXPECTED, Answer, ReviewedItem
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


def item(*answers: Answer, run_id: str | None = "r") -> ReviewedItem:
    return ReviewedItem("tr-1", "complete", run_id, "row", answers)


def answer(value: Any, by: str = "anna", question: str = CORRECT) -> Answer:
    return Answer(question, value, by, AT)


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
    from mlflow.entities import AssessmentSource
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
    assert rows[1:] == [row["row"] for row in opened.json["rows"]]  # the newest, added later, stands first

    def say(position: int, name: str, value: Any, by: str = "Anna") -> None:
        source = AssessmentSource("HUMAN", by)
        log = mlflow.log_feedback if name == CORRECT else mlflow.log_expectation
        log(trace_id=items[position].item_id, name=name, value=value, source=source)
        review_queues.set_review_queue_item_status(
            queue.queue_id, item_id=items[position].item_id, status="complete", completed_by=by
        )

    say(1, CORRECT, True)
    say(1, EXPECTED, "a right answer")
    say(2, CORRECT, False)
    say(3, CORRECT, "perhaps")
    say(4, CORRECT, True, by="eve")
    labels, expected = tmp_path / "labels.jsonl", tmp_path / "rows.jsonl"
    taken = llmops("review", "take", "sums", "--labels", str(labels), "--expectations", str(expected))
    assert taken.code == 0, taken.err
    assert "2 labels and 1 expected answer taken, 2 reviewed rows not taken" in taken.out
    assert 'Anna answered "perhaps": must be true or false' in taken.err
    assert "eve is not asked; asked are anna" in taken.err
    assert "1 row to review yet, 0 declined" in taken.out

    found = load_labels(labels)  # as `eval calibrate-judge` reads them
    assert sorted((each.row.id.split(" of ")[0], each.label) for each in found) == sorted(
        [(rows[1], True), (rows[2], False)]
    )
    assert all(line["by"] == "Anna" and line["at"] for line in map(json.loads, labels.read_text().splitlines()))
    (row,) = map(json.loads, expected.read_text().splitlines())
    assert (row["id"], row["expectations"]["answers"], row["tags"]["reviewed_by"]) == (
        rows[1],
        ["a right answer"],
        "Anna",
    )


def test_a_suite_without_a_run_or_a_queue_says_what_to_do(shop, llmops):
    shop.add_suite("fresh", 3)
    llmops("review", "open", "fresh").refused(3, "run `llmops eval run fresh`")
    llmops("review", "take", "fresh").refused(3, "`llmops review open` makes it")

"""Production requests become rows of an eval set only through a person, and all of a review or nothing."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import BadFile, CannotRun, UsageError
from llmops.eval_runs.eval_set_from_log import RecordChoice, add_reviewed, feedback_sign, write_review
from llmops.evaluation.eval_set import load_eval_set
from llmops.production_log import Feedback, LogRecord, ProductionLog
from tests.moments import START


def record(number: int, text: str = "", outcome: str = "ok", **details: Any) -> LogRecord:
    return LogRecord(
        f"req{number}", START + timedelta(minutes=number), 200, outcome, text or f"Question {number}?",
        f"Answer {number}", release="assistant@3", details=details, key=f"{number:032x}",
    )  # fmt: skip


@pytest.fixture
def log(tmp_path: Path) -> ProductionLog:
    return ProductionLog(f"sqlite:///{tmp_path / 'log.db'}")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "eval_sets" / "qa"


def reviewed(log: ProductionLog, target: Path, *records: LogRecord, **choice: Any) -> list[dict[str, Any]]:
    """The lines of the review file that these records give."""
    log.append(records)
    out = target.parent.parent / "review.jsonl"
    write_review(log.iterate(feedback=True), target, out, RecordChoice(**choice))
    return [json.loads(line) for line in out.read_bytes().splitlines()]


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def line(number: int, accept: bool | None = True, **other: Any) -> dict[str, Any]:
    return {
        "id": f"log-{number}", "inputs": {"question": f"Question {number}?"}, "expectations": {"answers": ["4"]},
        "tags": {"source": "log"}, "review": {"accept": accept, "output": "4"}, **other,
    }  # fmt: skip


def test_a_record_becomes_a_row_to_fill_in_with_the_prompt_variables_sent_along(log, target):
    feedback = {"score": -1, "label": "negative", "comment": "wrong"}
    asked = record(1, "Wie weit?\u2028x", feedback=feedback, prompt_variables={"context": "Ida."})
    [written] = reviewed(log, target, asked, input_variable="query")
    assert written == {
        "id": f"log-{1:032x}",
        "inputs": {"context": "Ida.", "query": "Wie weit?\u2028x"},
        "expectations": {},
        "tags": {"source": "log", "release": "assistant@3"},
        "review": {"accept": None, "output": "Answer 1", "feedback": feedback, "request_id": "req1"},
    }


def test_a_message_fills_the_one_input_that_the_rows_of_the_set_have(log, target):
    write_lines(
        target / "rows.jsonl", [{"id": "1", "inputs": {"text": "Two lamps."}, "expectations": {"answers": ["2"]}}]
    )
    [written] = reviewed(log, target, record(1, "Three mugs."))
    assert written["inputs"] == {"text": "Three mugs."}


def test_a_conversation_becomes_messages_and_a_single_message_does_not(log, target):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
    one, several = reviewed(log, target, record(1, messages=turns[:1]), record(2, messages=turns))
    assert one["inputs"] == {"question": "Question 1?"}
    assert several["inputs"] == {"messages": turns}


def test_what_the_eval_set_or_an_earlier_record_asks_is_passed_over(log, target):
    write_lines(target / "rows.jsonl", [{"id": "r1", "inputs": {"question": "question 1?"}}])
    log.append([record(1), record(2), record(3, "QUESTION  2?")])
    counts = write_review(log.iterate(), target, target.parent / "review.jsonl", RecordChoice())
    assert counts.to_json() == {"written": 1, "known": 2, "not_chosen": 0, "unusable": 0}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({}, ["req1", "req2", "req3", "req4"]),
        ({"outcome": "error"}, ["req5"]),
        ({"outcome": None}, ["req1", "req2", "req3", "req4", "req5"]),
        ({"feedback": "negative"}, ["req2", "req4"]),
        ({"feedback": "positive"}, ["req3"]),
        ({"feedback": "any"}, ["req2", "req3", "req4"]),
        ({"limit": 2}, ["req1", "req2"]),
    ],
)
def test_outcome_feedback_and_limit_choose_the_records(log, target, choice, expected):
    lines = reviewed(
        log, target,
        record(1, feedback="broken"),
        record(2, feedback={"score": 0}),
        record(3, feedback=[{"score": 0}, {"label": "Thumbs up"}]),
        record(4, feedback={"label": "negative", "score": 1}),
        record(5, outcome="error", feedback=[]),
        **choice,
    )  # fmt: skip
    assert [written["review"]["request_id"] for written in lines] == expected


@pytest.mark.parametrize(
    ("feedback", "sign"),
    [({"score": 1}, "positive"), ({"score": True}, "positive"), ({"score": False}, "negative"),
     ({"score": -0.5}, "negative"), ({"label": "thumbs-down"}, "negative"), ({"label": "good", "score": 0}, "positive"),
     ({"label": "odd", "score": 2}, "positive"), ({"label": None}, None), ({"label": "better"}, "positive"),
     ({"label": "worse"}, "negative"), ({"label": "tie"}, None), ({"score": "5"}, None), ({}, None)],
)  # fmt: skip
def test_a_known_label_tells_the_sign_and_else_the_score(feedback, sign):
    assert feedback_sign(feedback) == sign


@pytest.mark.parametrize(
    "unusable",
    [record(1, " "), record(1, messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
     record(1, prompt_variables={"n": [3]}), record(1, messages=["a", "b"])],
)  # fmt: skip
def test_a_record_that_no_row_could_ask_is_counted(log, target, unusable):
    log.append([unusable, record(2)])
    counts = write_review(log.iterate(), target, target.parent.parent / "review.jsonl", RecordChoice())
    assert (counts.unusable, counts.written) == (1, 1)


def test_a_review_file_is_never_written_over_and_one_that_cannot_be_written_is_named(log, target, tmp_path):
    out = write_lines(tmp_path / "review.jsonl", [line(1)])
    before = out.read_bytes()
    with pytest.raises(UsageError, match="may hold a review"):
        write_review(log.iterate(), target, out, RecordChoice())
    assert out.read_bytes() == before
    with pytest.raises(CannotRun, match="cannot be written"):
        write_review(log.iterate(), target, tmp_path / "absent" / "review.jsonl", RecordChoice())


def test_accepted_rows_make_a_new_set(target, tmp_path):
    review = write_lines(
        tmp_path / "review.jsonl", [line(1), line(2, False), line(3, None), line(4, expectations={"x": 0})]
    )
    assert add_reviewed(review, target) == (2, 1, 1)
    rows = list(load_eval_set(target).rows)
    assert [(row.id, row.expectations) for row in rows] == [("log-1", {"answers": ["4"]}), ("log-4", {"x": 0})]
    assert "review" not in (target / "rows.jsonl").read_text()
    assert [path.name for path in target.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("ending", ["", "\n"])
def test_accepted_rows_stand_after_those_there_are_and_leave_them_as_they_were(target, tmp_path, ending):
    target.mkdir(parents=True)
    old = '{ "id": "r1",  "inputs": {"question": "Why?"} }'
    (target / "rows.jsonl").write_text(old + ending)
    add_reviewed(write_lines(tmp_path / "review.jsonl", [line(1)]), target)
    assert (target / "rows.jsonl").read_text().startswith(old + "\n{")
    assert [row.id for row in load_eval_set(target).rows] == ["r1", "log-1"]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (line(2, expectations={}), "expectations"),
        (line(2, expectations={"answers": [], "expected_response": ""}), "expectations"),
        (line(2, expectations={"answers": "4"}), "expectations.answers"),
        (line(1), "id"),
        (line(2, id="r1"), "id"),
        (line(2, inputs={}), "inputs"),
        (line(2, review={"accept": "yes"}), "review.accept"),
        (line(2, review=True), "review.accept"),
        (line(2, extra=1), "extra"),
    ],
)
def test_one_wrong_row_is_named_and_nothing_is_added(target, tmp_path, bad, field):
    rows = write_lines(target / "rows.jsonl", [{"id": "r1", "inputs": {"question": "Why?"}}])
    before = rows.read_bytes()
    review = write_lines(tmp_path / "review.jsonl", [line(1), bad, line(3)])
    with pytest.raises(BadFile) as caught:
        add_reviewed(review, target)
    assert (caught.value.path, caught.value.line, caught.value.field) == (review, 2, field)
    assert rows.read_bytes() == before


def test_a_review_is_added_once_and_without_a_decision_changes_nothing(target, tmp_path):
    assert add_reviewed(write_lines(tmp_path / "review.jsonl", [line(1, None)]), target) == (0, 0, 1)
    assert not target.exists()
    review = write_lines(tmp_path / "review.jsonl", [line(1)])
    add_reviewed(review, target)
    with pytest.raises(BadFile, match="is in the eval set"):
        add_reviewed(review, target)
    assert load_eval_set(target).n_rows == 1


def test_text_that_no_file_can_hold_leaves_the_set_as_it_was(target, tmp_path):
    rows = write_lines(target / "rows.jsonl", [{"id": "r1", "inputs": {"question": "Why?"}}])
    before = rows.read_bytes()
    with pytest.raises(CannotRun, match="cannot be written"):
        add_reviewed(write_lines(tmp_path / "review.jsonl", [line(1, inputs={"question": "\ud800"})]), target)
    assert rows.read_bytes() == before
    assert [path.name for path in target.iterdir()] == ["rows.jsonl"]


def test_a_name_that_is_no_folder_of_its_own_or_a_set_with_rows_from_elsewhere_is_refused(target, tmp_path):
    review = write_lines(tmp_path / "review.jsonl", [line(1)])
    for name in ("..", "a b", ".hidden"):
        with pytest.raises(UsageError, match="an eval set's name"):
            add_reviewed(review, tmp_path / name)
    target.mkdir(parents=True)
    (target / "eval_set.toml").write_text('source = "x.jsonl"')
    with pytest.raises(UsageError, match=r"come from eval_set\.toml"):
        add_reviewed(review, target)


def said(number: int, **fields: Any) -> Feedback:
    return Feedback(f"req{number}", f"{number:032x}", "anonymous", app="assistant", **fields)


def test_feedback_that_the_gateway_took_chooses_records_and_stands_in_the_review(log, target):
    imported = {"label": "positive"}
    log.add_feedback(said(1, label="bad"))
    log.add_feedback(said(1, comment="No source.", user="ida"))
    log.add_feedback(said(2, score=1.0))
    records = [record(1, feedback=imported), record(2), record(3), record(4, feedback={"score": -1})]
    lines = reviewed(log, target, *records, feedback="negative")
    assert [line["review"]["feedback"] for line in lines] == [
        {"label": "bad", "comment": "No source.", "user": "ida"},
        {"score": -1},
    ]


def test_the_last_verdict_counts(log, target):
    log.add_feedback(said(1, label="good", score=0.5))
    log.add_feedback(said(1, score=-2.0))
    [line] = reviewed(log, target, record(1), feedback="negative")
    assert line["review"]["feedback"] == {"score": -2.0}

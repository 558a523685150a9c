"""Columns of any table become rows; what cannot is named by file, row and field."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import BadFile, UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.eval_set_source import Columns

QUESTION = {"inputs.question": "q"}


def read(mapping: dict[str, Any] | None, record: Any, number: int = 7) -> EvalRow:
    return Columns.from_table("sums", mapping).row(record, "table.parquet", number)


def refused(mapping: dict[str, Any] | None, record: Any) -> BadFile:
    with pytest.raises(BadFile) as caught:
        read(mapping, record)
    assert caught.value.line == 7
    return caught.value


def test_every_field_of_a_row_may_come_from_a_column_of_any_name() -> None:
    mapping = {
        "id": "key", "inputs": {"question": "q", "context": "c"}, "contexts": "c",
        "expectations": {"answers": "a", "expected_response": "a.0"}, "tags": {"topic": "t"},
    }  # fmt: skip
    record = {"key": 3, "q": "Why?", "c": "Because.", "a": ["4", "four"], "t": "sums", "unused": object()}
    assert read(mapping, record) == EvalRow(
        "3",
        {"question": "Why?", "context": "Because."},
        {"answers": ["4", "four"], "expected_response": "4"},
        ("Because.",),
        {"topic": "sums"},
    )


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("answers.text", ["4", "four"]),
        ("answers.text.1", "four"),
        ("answers.text.9", None),
        ("spans.text", ["a", "b"]),
        ("spans.0.text", "a"),
        ("dotted.name", "plain"),
        ("deep.dotted.name.x", 1),
        ("nothing.text", None),
    ],
)
def test_a_dotted_path_leads_into_nested_columns(column: str, expected: Any) -> None:
    record = {
        "q": "Why?", "answers": {"text": ["4", "four"]}, "spans": [{"text": "a"}, {"text": "b"}],
        "dotted.name": "plain", "deep": {"dotted.name": {"x": 1}}, "nothing": None,
    }  # fmt: skip
    row = read({**QUESTION, "expectations.found": column}, record)
    assert row.expectations.get("found") == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (2.5, "2.5"),
        (1.0, "1.0"),
        (2**70, "1180591620717411303424"),
        (True, "true"),
        (Decimal("9.50"), "9.50"),
        (date(2026, 1, 31), "2026-01-31"),
        (time(8, 30), "08:30:00"),
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31T00:00:00+00:00"),
    ],
)
def test_numbers_truth_values_and_dates_become_text_in_inputs_and_tags(value: Any, text: str) -> None:
    row = read({**QUESTION, "tags.t": "q"}, {"q": value})
    assert (row.inputs, row.tags) == ({"question": text}, {"t": text})


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (2**70, 2**70), (1.0, 1.0), (False, False), ("007", "007"), ("2026-01-31", "2026-01-31"), (("a", 1), ["a", 1]),
        (Decimal("9.50"), 9.5), (Decimal(2**70), 2**70), (date(2026, 1, 31), "2026-01-31"),
    ],
)  # fmt: skip
def test_expectations_hold_what_the_file_holds_as_json_has_it(value: Any, kept: Any) -> None:
    found = read({**QUESTION, "expectations.x": "v"}, {"q": "x", "v": value}).expectations["x"]
    assert (found, type(found)) == (kept, type(kept))


def test_expectations_keep_their_kind_and_a_single_answer_becomes_a_list() -> None:
    mapping = {**QUESTION, "expectations.answers": "a", "expectations.expected_json": "j"}
    assert read(mapping, {"q": "x", "a": "4", "j": {"n": 4}}).expectations == {
        "answers": ["4"],
        "expected_json": {"n": 4},
    }


def test_nulls_in_tags_and_expectations_are_left_out() -> None:
    row = read({**QUESTION, "tags.t": "t", "expectations.answers": "a"}, {"q": "x", "t": None, "a": None})
    assert (row.tags, row.expectations) == ({}, {})


def test_messages_keep_role_and_content_alone() -> None:
    chat = [{"role": "user", "content": "Why?", "name": "ada"}]
    assert read({"messages": "chat"}, {"chat": chat}).inputs == {"messages": [{"role": "user", "content": "Why?"}]}


def test_a_made_id_is_unique_by_number_and_changes_with_the_content() -> None:
    ids = [read(QUESTION, {"q": text}, number).id for number, text in ((1, "a"), (2, "a"), (2, "b"))]
    assert len(set(ids)) == 3
    assert ids[0] == read(QUESTION, {"q": "a"}, 1).id
    assert ids[0].startswith("sums-000001-")


def test_without_columns_a_record_has_our_shape_and_numbers_become_text() -> None:
    row = read(None, {"id": 1, "inputs": {"text": "x"}, "tags": {"source_row": 17}})
    assert row == EvalRow("1", {"text": "x"}, {}, (), {"source_row": "17"})


def test_a_null_right_under_a_field_says_that_the_row_has_none_and_deeper_it_is_a_value() -> None:
    deep = {"expected_json": {"a": None}, "answers": ["x"]}
    record = {
        "id": "r1", "inputs": {"q": "x", "context": None}, "expectations": {"note": None, **deep}, "tags": {"t": None},
    }  # fmt: skip
    mapping = {"id": "id", "inputs.q": "inputs.q", "inputs.context": "inputs.context", "tags.t": "tags.t"}
    mapping |= {f"expectations.{name}": f"expectations.{name}" for name in record["expectations"]}
    assert read(None, record) == read(mapping, record) == EvalRow("r1", {"q": "x"}, deep)


@pytest.mark.parametrize(
    ("mapping", "record", "field", "problem"),
    [
        (QUESTION, {"text": "x", "n": 1}, "inputs.question", "no column 'q'; there are text, n"),
        ({"inputs.question": "a.b"}, {"a": "x"}, "inputs.question", "no column 'a.b'; there are a"),
        (QUESTION, {"q": None}, "inputs", "must be an object with a field that is not null"),
        (QUESTION, {"q": b"raw"}, "inputs.question", "is bytes, which JSON cannot hold"),
        (QUESTION, {"q": float("nan")}, "inputs.question", "is nan, which JSON does not have"),
        ({**QUESTION, "expectations.x": "d"}, {"q": "x", "d": timedelta(1)}, "expectations.x", "is a duration, which"),
        ({**QUESTION, "expectations.x": "d"}, {"q": "x", "d": {3: 4}}, "expectations.x", "has the name 3"),
        (
            {**QUESTION, "contexts": "i"},
            {"q": "x", "i": [{"bytes": b"", "path": None}]},
            "contexts[0].bytes",
            "is bytes",
        ),
        (QUESTION, {"q": ["x"]}, "inputs.question", "must be text, and not empty"),
        ({**QUESTION, "id": "key"}, {"q": "x", "key": None}, "id", "must be text"),
        ({**QUESTION, "contexts": "c"}, {"q": "x", "c": 3}, "contexts", "must be a list of texts"),
        ({**QUESTION, "expectations.x": "b"}, {"q": "x", "b": b"raw"}, "expectations.x", "is bytes, which JSON"),
        ({**QUESTION, "tags.t": "l"}, {"q": "x", "l": ["x"]}, "tags", "must be an object of texts"),
        ({"messages": "m"}, {"m": "hello"}, "inputs.messages", "must be a list of messages"),
        (QUESTION, ["x"], None, "must be an object"),
        (None, {"id": "r1", "question": "x"}, "question", "unknown field"),
    ],
)
def test_a_wrong_column_names_row_and_field(mapping: Any, record: Any, field: str | None, problem: str) -> None:
    error = refused(mapping, record)
    assert error.field == field
    assert problem in error.problem


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"question": "q"}, "question: is no field of a row"),
        ({"inputs": "q"}, "inputs: is no field of a row"),
        ({"inputs.a.b": "q"}, r"inputs\.a\.b: is no field of a row"),
        ({"inputs.question": 3}, r"inputs\.question: must name a column"),
        ({"id": "key"}, "inputs: at least one"),
        ({}, "inputs: at least one"),
    ],
)
def test_a_wrong_mapping_is_refused(mapping: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        Columns.from_table("sums", mapping)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["q", "a", "c", "t", "m"]), _JSON))
def test_any_record_gives_a_sound_row_or_a_bad_file(record: dict[str, Any]) -> None:
    mapping = {**QUESTION, "expectations.answers": "a.x", "contexts": "c", "tags.t": "t", "messages": "m"}
    columns = Columns.from_table("sums", mapping)
    try:
        row = columns.row(record, "t", 1)
    except BadFile:
        return
    assert row.inputs["question"].strip()
    assert row.messages[-1]["role"] == "user"

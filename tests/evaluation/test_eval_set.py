"""Eval sets are read whole or not at all, and are identified by their content."""

import json
import tracemalloc
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import BadFile, UsageError
from llmops.evaluation.eval_set import EvalRow, Rows, cluster_of, load_eval_set, measure, row_from_values
from llmops.evaluation.eval_set_source import ColumnMapping

GOOD: dict[str, Any] = {"id": "r1", "inputs": {"question": "How many?"}, "expectations": {"answers": ["4"]}}


def written(folder: Path, *lines: Any) -> Path:
    """The eval set folder with these lines; objects are written as JSON."""
    folder.mkdir(exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_reads_every_field_of_every_row_in_order(tmp_path):
    full = {**GOOD, "id": "r2", "contexts": ["one", "two"], "tags": {"topic": "sums"}}
    loaded = load_eval_set(written(tmp_path / "sums", full, GOOD))
    assert loaded.name == "sums"
    assert list(loaded.rows) == [
        EvalRow("r2", {"question": "How many?"}, {"answers": ["4"]}, ("one", "two"), {"topic": "sums"}),
        EvalRow("r1", {"question": "How many?"}, {"answers": ["4"]}),
    ]
    assert list(loaded.rows) == list(loaded.rows)
    assert loaded.n_rows == 2


def test_optional_fields_may_be_absent_or_null_and_an_unknown_one_is_told_with_those_known(tmp_path):
    bare = {"id": "r1", "inputs": {"question": "x"}}
    nulls = {"id": "r2", "inputs": {"question": "x"}, "expectations": None, "contexts": None, "tags": None}
    rows = load_eval_set(written(tmp_path, bare, nulls)).rows
    assert [(row.expectations, row.contexts, row.tags) for row in rows] == [({}, (), {})] * 2
    with pytest.raises(BadFile, match="known: contexts, expectations, id, inputs, tags"):
        row_from_values({**GOOD, "label": "x"}, "rows.jsonl", 1)


@pytest.mark.parametrize(
    ("lines", "line", "problem"),
    [
        ((GOOD, "", "   ", {**GOOD, "id": ""}), 4, "id: must be text"),  # blank lines are counted
        ((GOOD, {**GOOD, "id": ""}, "{"), 2, "id: must be text"),
        ((), None, "holds no rows"),
        (("", "  "), None, "holds no rows"),
        (None, None, "cannot be read"),
    ],
)
def test_the_first_thing_that_is_wrong_with_a_file_is_named(tmp_path, lines, line, problem):
    folder = tmp_path / "absent" if lines is None else written(tmp_path, *lines)
    with pytest.raises(BadFile, match=problem) as caught:
        load_eval_set(folder)
    assert (caught.value.path, caught.value.line) == (folder / "rows.jsonl", line)


def test_bytes_that_are_no_utf8_are_a_bad_file_and_line_separators_inside_a_text_do_not_end_a_row(tmp_path):
    row = {"id": "r1", "inputs": {"question": "one\u2028two\x85three"}}
    line = json.dumps(row, ensure_ascii=False)
    assert next(iter(load_eval_set(written(tmp_path, line)).rows)).inputs == row["inputs"]
    (tmp_path / "rows.jsonl").write_bytes(b'{"id": "\xff"}')
    with pytest.raises(BadFile, match="is no UTF-8"):
        load_eval_set(tmp_path)


BAD_ROWS: list[tuple[Any, str | None]] = [
    ("{not json", None),
    ("[1, 2]", None),
    ('"text"', None),
    ({"inputs": {"q": "x"}}, "id"),
    ({**GOOD, "id": ""}, "id"),
    ({**GOOD, "id": ["r2"]}, "id"),
    ({**GOOD, "id": None}, "id"),
    ({"id": "r2"}, "inputs"),
    ({"id": "r2", "inputs": {}}, "inputs"),
    ({"id": "r2", "inputs": "x"}, "inputs"),
    ({"id": "r2", "inputs": ["x"]}, "inputs"),
    ({"id": "r2", "inputs": {"question": None}}, "inputs"),
    ({"id": "r2", "inputs": {"question": ""}}, "inputs.question"),
    ({"id": "r2", "inputs": {"question": " \n"}}, "inputs.question"),
    ({"id": "r2", "inputs": {"question": ["x"]}}, "inputs.question"),
    ({**GOOD, "id": "r2", "expectations": ["4"]}, "expectations"),
    ({**GOOD, "id": "r2", "expectations": "4"}, "expectations"),
    ({**GOOD, "id": "r2", "contexts": "one text"}, "contexts"),
    ({**GOOD, "id": "r2", "contexts": ["one", 2]}, "contexts"),
    ({**GOOD, "id": "r2", "contexts": {"a": "b"}}, "contexts"),
    ({**GOOD, "id": "r2", "tags": ["easy"]}, "tags"),
    ({**GOOD, "id": "r2", "tags": {"level": [1]}}, "tags"),
    ('{"id": "r2", "inputs": {"question": "x"}, "expectations": {"n": [1, NaN]}}', "expectations.n[1]"),
    ('{"id": "r2", "inputs": {"question": "x"}, "expectations": {"n": -Infinity}}', "expectations.n"),
    ('{"id": "r2", "inputs": {"question": "x"}, "expectations": {"n": 1e999}}', "expectations.n"),
    ('{"id": "r2", "inputs": {"question": "x", "question": "y"}}', "inputs.question"),
    ('{"id": "r2", "id": "r3", "inputs": {"question": "x"}}', "id"),
    ({**GOOD, "id": "r2", "expectations": {"a\0": "x"}}, "expectations"),
    ({**GOOD, "id": "r2", "tags": {"\ud800": "x"}}, "tags"),
    ({**GOOD, "id": "r2", "expected": "4"}, "expected"),
    ({**GOOD, "id": "r2", "expectations": {"answers": "4"}}, "expectations.answers"),
    ({"id": "r2", "inputs": {"messages": "hello"}}, "inputs.messages"),
    ({"id": "r2", "inputs": {"messages": []}}, "inputs.messages"),
    ({"id": "r2", "inputs": {"messages": ["hello"]}}, "inputs.messages[0]"),
    ({"id": "r2", "inputs": {"messages": [{"role": "user"}]}}, "inputs.messages[0]"),
    ({"id": "r2", "inputs": {"messages": [{"role": "tool", "content": "x"}]}}, "inputs.messages[0].role"),
    ({"id": "r2", "inputs": {"messages": [{"role": "user", "content": " "}]}}, "inputs.messages[0].content"),
    ({"id": "r2", "inputs": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}},
     "inputs.messages"),
    ({**GOOD, "id": "r1"}, "id"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "field"), BAD_ROWS)
def test_a_bad_row_names_file_line_and_field(tmp_path, row, field):
    folder = written(tmp_path, GOOD, row, {**GOOD, "id": "r9"})
    with pytest.raises(BadFile) as caught:
        load_eval_set(folder)
    error = caught.value
    assert (error.path, error.line, error.field) == (folder / "rows.jsonl", 2, field)
    assert str(error).startswith(f"{folder / 'rows.jsonl'}:2: " + (f"{field}: " if field else ""))
    assert "\n" not in str(error)


ROW = EvalRow("r1", {"question": "How many?"}, {"answers": ["4"]}, ("one",), {"topic": "sums"})


OTHER = EvalRow("r2", {"question": "Why?"})


@pytest.mark.parametrize(
    "rows",
    [
        (replace(ROW, id="r2"),),
        (replace(ROW, inputs={"question": "How many ?"}),),
        (replace(ROW, expectations={"answers": ["5"]}),),
        (replace(ROW, contexts=("two",)),),
        (replace(ROW, tags={"topic": "words"}),),
        (ROW, OTHER),
        (OTHER, ROW),
    ],
)
def test_the_hash_changes_with_every_part_of_a_row_and_with_number_and_order_of_rows(rows):
    assert measure(rows)[1] not in {measure([ROW])[1], measure(rows[::-1])[1] if len(rows) > 1 else None}


def test_a_loaded_set_knows_number_and_hash_of_its_rows_and_refuses_a_later_change(tmp_path):
    loaded = load_eval_set(written(tmp_path / "one", GOOD, {**GOOD, "id": "r2"}))
    assert (loaded.n_rows, loaded.content_hash) == measure(loaded.rows)
    assert [row.id for row in loaded.rows] == ["r1", "r2"]
    # The hash depends neither on the name nor on how the file is written.
    spaced = '{ "inputs": {"question":"How many?"},   "id":"r1", "expectations": {"answers": ["4"]} }'
    other = load_eval_set(written(tmp_path / "two", "", spaced, "", {**GOOD, "id": "r2"}, ""))
    assert other.content_hash == loaded.content_hash
    written(tmp_path / "one", GOOD)
    with pytest.raises(BadFile, match="changed since it was checked"):
        list(loaded.rows)


def test_the_first_rows_are_read_no_further_than_they_must():
    numbers = iter(range(100))
    rows = Rows(lambda: (EvalRow(f"r{number}", {"question": "x"}) for number in numbers))
    assert measure(islice(rows, 3))[0] == 3
    assert next(numbers) == 3


def test_many_rows_are_not_held_in_memory(tmp_path):
    text = "x" * 2000
    lines = (json.dumps({"id": str(number), "inputs": {"question": text}}) for number in range(2500))
    folder = written(tmp_path, *lines)
    tracemalloc.start()
    try:
        assert load_eval_set(folder).n_rows == 2500
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000  # the file holds five million bytes


def test_a_conversation_ends_with_the_users_message_and_leaves_the_other_variables():
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
    row = row_from_values({"id": "r1", "inputs": {"messages": messages, "tone": "dry"}}, "rows.jsonl", 1)
    assert [dict(message) for message in row.messages] == messages
    assert row.variables == {"tone": "dry"}


def test_rows_of_one_source_share_a_cluster_which_is_a_tag_an_input_or_the_contexts():
    row = EvalRow("r1", {"question": "x", "context": "one text"}, {}, ("one text",), {"title": "Sums"})
    other = EvalRow("r2", {"question": "y", "context": "one text"}, {}, ("one text",), {"title": "Sums"})
    strange = EvalRow("r3", {"question": "x", "context": "another"}, {}, ("one text", "two"), {})
    for cluster_by in ("tags.title", "inputs.context", "contexts"):
        assert cluster_of(row, cluster_by) == cluster_of(other, cluster_by) != cluster_of(strange, cluster_by)
    assert cluster_of(row, "tags.title") == "Sums"
    assert cluster_of(row, "tags.topic") is None
    assert cluster_of(EvalRow("r4", {"question": "x"}), "contexts") is None
    for wrong in ("title", "tags", "tags.", "expectations.answers", "id"):
        with pytest.raises(UsageError, match=r"must be `contexts`, `tags\.NAME` or `inputs\.NAME`"):
            cluster_of(ROW, wrong)


def test_the_eval_sets_of_the_product_can_be_read():
    folder = Path(__file__).parents[2] / "eval_sets"
    for rows in folder.glob("*/rows.jsonl"):
        assert load_eval_set(rows.parent).n_rows >= 20


# Columns of any table become rows; what cannot is named by file, row and field


QUESTION = {"inputs.question": "q"}


def read(mapping: dict[str, Any] | None, record: Any, number: int = 7) -> EvalRow:
    return ColumnMapping.from_table("sums", mapping).row(record, "table.parquet", number)


def refused(mapping: dict[str, Any] | None, record: Any) -> BadFile:
    with pytest.raises(BadFile) as caught:
        read(mapping, record)
    assert caught.value.line == 7
    return caught.value


def test_every_field_of_a_row_may_come_from_a_column_of_any_name_and_expectations_keep_their_kind():
    mapping = {
        "id": "key", "inputs": {"question": "q", "context": "c"}, "contexts": "c",
        "expectations": {"answers": "a", "expected_response": "a.0", "expected_json": "j"}, "tags": {"topic": "t"},
    }  # fmt: skip
    record = {"key": 3, "q": "Why?", "c": "So.", "a": ["4", "four"], "t": "sums", "j": {"n": 4}, "unused": object()}
    expectations = {"answers": ["4", "four"], "expected_response": "4", "expected_json": {"n": 4}}
    row = EvalRow("3", {"question": "Why?", "context": "So."}, expectations, ("So.",), {"topic": "sums"})
    assert read(mapping, record) == row
    assert read({**QUESTION, "expectations.answers": "a"}, {"q": "x", "a": "4"}).expectations == {"answers": ["4"]}


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
def test_a_dotted_path_leads_into_nested_columns(column, expected):
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
def test_numbers_truth_values_and_dates_become_text_in_inputs_and_tags(value, text):
    row = read({**QUESTION, "tags.t": "q"}, {"q": value})
    assert (row.inputs, row.tags) == ({"question": text}, {"t": text})


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (2**70, 2**70), (1.0, 1.0), (False, False), ("007", "007"), ("2026-01-31", "2026-01-31"), (("a", 1), ["a", 1]),
        (Decimal("9.50"), 9.5), (Decimal(2**70), 2**70), (date(2026, 1, 31), "2026-01-31"),
    ],
)  # fmt: skip
def test_expectations_hold_what_the_file_holds_as_json_has_it(value, kept):
    found = read({**QUESTION, "expectations.x": "v"}, {"q": "x", "v": value}).expectations["x"]
    assert (found, type(found)) == (kept, type(kept))


def test_nulls_in_tags_and_expectations_are_left_out_and_messages_keep_role_and_content_alone():
    row = read({**QUESTION, "tags.t": "t", "expectations.answers": "a"}, {"q": "x", "t": None, "a": None})
    assert (row.tags, row.expectations) == ({}, {})
    chat = [{"role": "user", "content": "Why?", "name": "ada"}]
    assert read({"messages": "chat"}, {"chat": chat}).inputs == {"messages": [{"role": "user", "content": "Why?"}]}
    # Without columns a record has our shape.
    row = read(None, {"id": 1, "inputs": {"text": "x"}, "tags": {"source_row": 17}})
    assert row == EvalRow("1", {"text": "x"}, {}, (), {"source_row": "17"})


def test_a_made_id_is_unique_by_number_and_changes_with_the_content():
    ids = [read(QUESTION, {"q": text}, number).id for number, text in ((1, "a"), (2, "a"), (2, "b"))]
    assert len(set(ids)) == 3
    assert ids[0] == read(QUESTION, {"q": "a"}, 1).id
    assert ids[0].startswith("sums-000001-")


def test_a_null_right_under_a_field_says_that_the_row_has_none_and_deeper_it_is_a_value():
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
        ({**QUESTION, "expectations.x": "d"}, {"q": "x", "d": {3: 4}}, "expectations.x", "has the name 3"),
        (
            {**QUESTION, "contexts": "i"},
            {"q": "x", "i": [{"bytes": b"", "path": None}]},
            "contexts[0].bytes",
            "is bytes",
        ),
        ({**QUESTION, "contexts": "c"}, {"q": "x", "c": 3}, "contexts", "must be a list of texts"),
        (QUESTION, ["x"], None, "must be an object"),
        (None, {"id": "r1", "question": "x"}, "question", "unknown field"),
    ],
)
def test_a_wrong_column_names_row_and_field(mapping, record, field, problem):
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
def test_a_wrong_mapping_is_refused(mapping, problem):
    with pytest.raises(UsageError, match=problem):
        ColumnMapping.from_table("sums", mapping)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["q", "a", "c", "t", "m"]), _JSON))
def test_any_record_gives_a_sound_row_or_a_bad_file(record):
    mapping = {**QUESTION, "expectations.answers": "a.x", "contexts": "c", "tags.t": "t", "messages": "m"}
    columns = ColumnMapping.from_table("sums", mapping)
    try:
        row = columns.row(record, "t", 1)
    except BadFile:
        return
    assert row.inputs["question"].strip()
    assert row.messages[-1]["role"] == "user"

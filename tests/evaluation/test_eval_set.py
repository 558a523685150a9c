"""Eval sets are read whole or not at all, and are identified by their content."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import BadFile, UsageError
from llmops.evaluation.eval_set import EvalRow, Rows, cluster_of, load_eval_set, measure, row_from_values

GOOD: dict[str, Any] = {"id": "r1", "inputs": {"question": "How many?"}, "expectations": {"answers": ["4"]}}


def written(folder: Path, *lines: Any) -> Path:
    """The eval set folder with these lines; objects are written as JSON."""
    folder.mkdir(exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_reads_every_field_of_every_row_in_order(tmp_path: Path) -> None:
    full = {**GOOD, "id": "r2", "contexts": ["one", "two"], "tags": {"topic": "sums"}}
    loaded = load_eval_set(written(tmp_path / "sums", full, GOOD))
    assert loaded.name == "sums"
    assert list(loaded.rows) == [
        EvalRow("r2", {"question": "How many?"}, {"answers": ["4"]}, ("one", "two"), {"topic": "sums"}),
        EvalRow("r1", {"question": "How many?"}, {"answers": ["4"]}),
    ]
    assert list(loaded.rows) == list(loaded.rows)
    assert loaded.n_rows == 2


def test_optional_fields_may_be_absent_or_null(tmp_path: Path) -> None:
    bare = {"id": "r1", "inputs": {"question": "x"}}
    nulls = {"id": "r2", "inputs": {"question": "x"}, "expectations": None, "contexts": None, "tags": None}
    rows = load_eval_set(written(tmp_path, bare, nulls)).rows
    assert [(row.expectations, row.contexts, row.tags) for row in rows] == [({}, (), {})] * 2


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


def test_bytes_that_are_no_utf8_are_a_bad_file(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"id": "\xff"}')
    with pytest.raises(BadFile, match="is no UTF-8"):
        load_eval_set(tmp_path)


def test_line_separators_inside_a_text_do_not_end_a_row(tmp_path: Path) -> None:
    row = {"id": "r1", "inputs": {"question": "one\u2028two\x85three"}}
    line = json.dumps(row, ensure_ascii=False)
    assert next(iter(load_eval_set(written(tmp_path, line)).rows)).inputs == row["inputs"]


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
    ('{"id": "r2", "inputs": {"question": "x"}},', None),
    ('{"id": "r2", "inputs": {"question": "x"},}', None),
    ('{"id": "r2", "inputs": {"question": "x"}', None),
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
def test_a_bad_row_names_file_line_and_field(tmp_path: Path, row: Any, field: str | None) -> None:
    folder = written(tmp_path, GOOD, row, {**GOOD, "id": "r9"})
    with pytest.raises(BadFile) as caught:
        load_eval_set(folder)
    error = caught.value
    assert (error.path, error.line, error.field) == (folder / "rows.jsonl", 2, field)
    assert str(error).startswith(f"{folder / 'rows.jsonl'}:2: " + (f"{field}: " if field else ""))
    assert "\n" not in str(error)


def test_an_unknown_field_says_which_are_known() -> None:
    with pytest.raises(BadFile, match="known: contexts, expectations, id, inputs, tags"):
        row_from_values({**GOOD, "label": "x"}, "rows.jsonl", 1)


ROW = EvalRow("r1", {"question": "How many?"}, {"answers": ["4"]}, ("one",), {"topic": "sums"})


OTHER = EvalRow("r2", {"question": "Why?"})


@pytest.mark.parametrize(
    "rows",
    [
        (EvalRow("r2", ROW.inputs, ROW.expectations, ROW.contexts, ROW.tags),),
        (EvalRow("r1", {"question": "How many ?"}, ROW.expectations, ROW.contexts, ROW.tags),),
        (EvalRow("r1", ROW.inputs, {"answers": ["5"]}, ROW.contexts, ROW.tags),),
        (EvalRow("r1", ROW.inputs, ROW.expectations, ("two",), ROW.tags),),
        (EvalRow("r1", ROW.inputs, ROW.expectations, ROW.contexts, {"topic": "words"}),),
        (ROW, OTHER),
        (OTHER, ROW),
    ],
)
def test_the_hash_changes_with_every_part_of_a_row_and_with_number_and_order_of_rows(rows):
    assert measure(rows)[1] not in {measure([ROW])[1], measure(rows[::-1])[1] if len(rows) > 1 else None}


def test_the_hash_does_not_depend_on_the_name_or_on_how_the_file_is_written(tmp_path: Path) -> None:
    spaced = '{ "inputs": {"question":"How many?"},   "id":"r1", "expectations": {"answers": ["4"]} }'
    one = load_eval_set(written(tmp_path / "one", GOOD))
    two = load_eval_set(written(tmp_path / "two", "", spaced, ""))
    assert one.content_hash == two.content_hash


def test_a_loaded_set_knows_number_and_hash_of_its_rows_and_gives_the_first_of_them(tmp_path: Path) -> None:
    loaded = load_eval_set(written(tmp_path, GOOD, {**GOOD, "id": "r2"}))
    assert (loaded.n_rows, loaded.content_hash) == measure(loaded.rows) == measure(loaded.rows.first(None))
    assert [row.id for row in loaded.rows.first(1)] == ["r1"]
    assert [row.id for row in loaded.rows.first(9)] == ["r1", "r2"]


def test_the_first_rows_are_read_no_further_than_they_must() -> None:
    numbers = iter(range(100))
    rows = Rows(lambda: (EvalRow(f"r{number}", {"question": "x"}) for number in numbers))
    assert measure(rows.first(3))[0] == 3
    assert next(numbers) == 3


def test_a_file_that_changed_since_it_was_checked_is_refused(tmp_path: Path) -> None:
    loaded = load_eval_set(written(tmp_path, GOOD))
    written(tmp_path, GOOD, {**GOOD, "id": "r2"})
    with pytest.raises(BadFile, match="changed since it was checked"):
        list(loaded.rows)


def test_many_rows_are_not_held_in_memory(tmp_path: Path) -> None:
    text = "x" * 2000
    lines = (json.dumps({"id": str(number), "inputs": {"question": text}}) for number in range(5000))
    folder = written(tmp_path, *lines)
    tracemalloc.start()
    try:
        assert load_eval_set(folder).n_rows == 5000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000  # the file holds ten million bytes


def test_a_conversation_ends_with_the_users_message_and_leaves_the_other_variables() -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
    row = row_from_values({"id": "r1", "inputs": {"messages": messages, "tone": "dry"}}, "rows.jsonl", 1)
    assert [dict(message) for message in row.messages] == messages
    assert row.variables == {"tone": "dry"}


def test_rows_of_one_source_share_a_cluster() -> None:
    row = EvalRow("r1", {"question": "x", "context": "one text"}, {}, ("one text",), {"title": "Sums"})
    other = EvalRow("r2", {"question": "y", "context": "one text"}, {}, ("one text",), {"title": "Sums"})
    strange = EvalRow("r3", {"question": "x", "context": "another"}, {}, ("one text", "two"), {})
    for cluster_by in ("tags.title", "inputs.context", "contexts"):
        assert cluster_of(row, cluster_by) == cluster_of(other, cluster_by) != cluster_of(strange, cluster_by)
    assert cluster_of(row, "tags.title") == "Sums"
    assert cluster_of(row, "tags.topic") is None
    assert cluster_of(EvalRow("r4", {"question": "x"}), "contexts") is None


@pytest.mark.parametrize("cluster_by", ["title", "tags", "tags.", "expectations.answers", "id"])
def test_a_cluster_is_a_tag_an_input_or_the_contexts(cluster_by: str) -> None:
    with pytest.raises(UsageError, match=r"must be `contexts`, `tags\.NAME` or `inputs\.NAME`"):
        cluster_of(ROW, cluster_by)


def test_the_eval_sets_of_the_product_can_be_read() -> None:
    folder = Path(__file__).parents[2] / "eval_sets"
    for rows in folder.glob("*/rows.jsonl"):
        assert load_eval_set(rows.parent).n_rows >= 20

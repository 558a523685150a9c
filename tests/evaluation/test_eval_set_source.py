"""Eval sets from files, folders and the hub: the same rows on every pass, and errors that name their place."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import BadFile
from llmops.evaluation.eval_set import EvalSet
from llmops.evaluation.eval_set_source import eval_set_of_table, find_eval_set
from tests.evaluation.eval_set_sources import json_lines, loaded, parquet, refused
from tests.http_server import Answer, answering

RECORDS: list[dict[str, Any]] = [
    {"key": f"k{number}", "q": f"How many is {number}?", "answers": {"text": [str(number)]}, "level": number}
    for number in range(20)
]
COLUMNS = {"id": "key", "inputs.question": "q", "expectations.answers": "answers.text", "tags.level": "level"}
OWN = {"id": "r1", "inputs": {"question": "Why?"}, "tags": {"source_row": 3}}


def ids(eval_set: EvalSet) -> list[str]:
    return [row.id for row in eval_set.rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same records as every kind of file, and as a folder of two splits."""
    (tmp_path / "t.jsonl").write_bytes(json_lines(RECORDS))
    (tmp_path / "t.json").write_text(json.dumps(RECORDS))
    (tmp_path / "t.parquet").write_bytes(parquet(RECORDS))
    (tmp_path / "data" / "data").mkdir(parents=True)
    for split, part in (("train", RECORDS[:5]), ("validation", RECORDS[5:])):
        (tmp_path / "data" / "data" / f"{split}-00000-of-00001.parquet").write_bytes(parquet(part))
    return tmp_path


def test_a_csv_file_is_read_as_it_is_written_however_long_a_cell_and_errors_name_the_line_a_record_begins_on(tmp_path):
    long, path = "x" * 200_000, tmp_path / "t.csv"  # the csv module's limit is 128 KiB
    path.write_text(f'\ufeffid,q,a\n007,"two\nlines",\n008,NA,1.50\n009,{long},\n')
    columns = {"id": "id", "inputs.question": "q", "expectations.answers": "a"}
    rows = list(loaded(tmp_path, "t.csv", columns).rows)
    assert [(row.id, row.inputs["question"], row.expectations) for row in rows] == [
        ("007", "two\nlines", {}),
        ("008", "NA", {"answers": ["1.50"]}),
        ("009", long, {}),
    ]
    path.write_text('q,a\n"two\nlines",x\n ,x\n')
    error = refused(tmp_path, "t.csv", {"inputs.question": "q"})
    assert (error.path, error.line, error.field) == (path, 4, "inputs.question")
    path.write_text('q,a\n"two\nlines",x\none\n')
    error = refused(tmp_path, "t.csv", {"inputs.question": "q"})
    assert (error.line, error.problem) == (4, "has 1 cells, the header 2")
    path.write_text("key,q,level\nk,x,1\n")  # a header that names no fields
    error = refused(tmp_path, "t.csv")
    assert (error.path, error.line, error.field) == (path, 2, "key")
    assert "`columns`" in error.problem


def test_a_file_of_our_own_shape_needs_no_columns(tmp_path):
    (tmp_path / "own.jsonl").write_bytes(json_lines([OWN]))
    for eval_set in (loaded(tmp_path, "own.jsonl"), find_eval_set(tmp_path / "own.jsonl")):
        assert [row.tags for row in eval_set.rows] == [{"source_row": "3"}]
    (tmp_path / "own.jsonl").write_text(json.dumps(OWN) + "\n\n" + json.dumps({**OWN, "id": "r2", "inputs": {}}))
    error = refused(tmp_path, "own.jsonl")
    assert (error.path, error.line, error.field) == (tmp_path / "own.jsonl", 3, "inputs")


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_a_wrong_column_names_file_row_and_field_and_an_id_that_stands_twice_the_second_line(folder, ending):
    error = refused(folder, f"t.{ending}", {**COLUMNS, "tags.topic": "topic"})
    assert (error.path, error.line, error.field) == (folder / f"t.{ending}", 1, "tags.topic")
    assert error.problem == "no column 'topic'; there are key, q, answers, level"
    (folder / "t.jsonl").write_bytes(json_lines([*RECORDS, RECORDS[3]]))
    error = refused(folder, "t.jsonl", COLUMNS)
    assert (error.line, error.field) == (21, "id")


def test_a_sample_is_the_same_every_time_in_the_order_of_the_file_and_drawn_within_a_limit(folder):
    everything = ids(loaded(folder, "t.jsonl", COLUMNS))
    sample = ids(loaded(folder, "t.jsonl", COLUMNS, sample=6, seed=1))
    assert sample == ids(loaded(folder, "t.parquet", COLUMNS, sample=6, seed=1))
    assert sample == [row for row in everything if row in sample]
    assert len(sample) == 6
    assert sample != ids(loaded(folder, "t.jsonl", COLUMNS, sample=6, seed=2))
    assert set(sample) < set(ids(loaded(folder, "t.jsonl", COLUMNS, sample=7, seed=1)))
    assert ids(loaded(folder, "t.jsonl", COLUMNS, sample=99)) == everything
    assert ids(loaded(folder, "t.jsonl", COLUMNS, limit=2)) == ["k0", "k1"]
    assert set(ids(loaded(folder, "t.jsonl", COLUMNS, limit=5, sample=3))) < {"k0", "k1", "k2", "k3", "k4"}


def test_a_sample_of_many_draws_from_all_of_them(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(json_lines([{"q": str(number)} for number in range(4000)]))
    drawn = [int(row.inputs["q"]) for row in loaded(tmp_path, "t.jsonl", {"inputs.q": "q"}, sample=400).rows]
    quarters = [sum(1000 * part <= number < 1000 * (part + 1) for number in drawn) for part in range(4)]
    assert min(quarters) > 60  # 100 expected; five standard deviations below are 57


def test_the_default_split_is_the_first_of_test_validation_and_train_and_code_and_pickles_are_not_run(folder):
    assert ids(loaded(folder, "data", COLUMNS)) == [record["key"] for record in RECORDS[5:]]
    assert ids(loaded(folder, "data", COLUMNS, split="train")) == [record["key"] for record in RECORDS[:5]]
    error = refused(folder, "data", COLUMNS, split="dev")
    assert (error.field, error.problem) == ("split", "no split dev; there are train, validation")
    assert (folder / "kept" / "datasets").is_dir()  # what `datasets` keeps stays in the folder given
    (folder / "data" / "data.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    assert "no longer supported" in refused(folder, "data", COLUMNS).problem
    assert not (folder / "ran").exists()
    (folder / "t.pkl").write_bytes(b"\x80\x04.")
    assert refused(folder, "t.pkl", COLUMNS).field == "source"


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"source": 3}, "source"),
        ({"source": "t.txt"}, "source"),
        ({"source": "hf:squad"}, "source"),
        ({"source": "absent"}, "source"),
        ({"split": "test"}, "split"),
        ({"config": "en"}, "config"),
        ({"columns": "q"}, "columns"),
        ({"columns": {"question": "q"}}, "columns.question"),
        ({"sample": 0}, "sample"),
        ({"sample": True}, "sample"),
        ({"seed": -1}, "seed"),
        ({"limit": "3"}, "limit"),
        ({"sampel": 3}, "sampel"),
    ],
)
def test_a_mistake_in_the_table_names_the_toml_and_the_key(folder, keys, field):
    with pytest.raises(BadFile) as caught:
        eval_set_of_table(
            {"name": "sums", "source": "t.jsonl", "columns": COLUMNS, **keys}, folder / "task.toml", key="eval_sets[0]"
        )
    assert (caught.value.path, caught.value.field) == (folder / "task.toml", f"eval_sets[0].{field}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.json", b"{"), ("t.json", b'{"a": 1}'), ("t.json", b"[1]"), ("t.json", b"[]"), ("t.jsonl", b"{"),
        ("t.parquet", b"PAR1"), ("t.csv", b'q\n"open'), ("t.csv", b"q\n\xff\n"), ("t.csv", b""), ("t.json", b"\xff"),
        ("absent.jsonl", None), ("absent.json", None), ("absent.csv", None), ("absent.parquet", None),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert refused(tmp_path, name, COLUMNS).path == tmp_path / name


# ---- eval_set.toml


TABLE = 'source = "../t.jsonl"\n[columns]\nid = "key"\ninputs.question = "q"\n'


@pytest.mark.parametrize(
    ("text", "rows", "problem"),
    [
        (TABLE, None, None),
        (TABLE, OWN, "stands beside rows.jsonl"),
        ("source = ", None, "is not TOML"),
        ('source = "../t.txt"', None, "source: "),
        ("name = 3", None, "name: must be text"),
    ],
)
def test_a_folder_may_hold_a_table_in_place_of_rows(folder, text, rows, problem):
    (folder / "squad").mkdir()
    (folder / "squad" / "eval_set.toml").write_text(text)
    if rows is not None:
        (folder / "squad" / "rows.jsonl").write_text(json.dumps(rows))
    if problem is None:
        eval_set = find_eval_set(folder / "squad")
        assert (eval_set.name, eval_set.n_rows) == ("squad", 20)
    else:
        with pytest.raises(BadFile, match=problem) as caught:
            find_eval_set(folder / "squad")
        assert caught.value.path == folder / "squad" / "eval_set.toml"


# ---- hf:

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CELLS = b"id;inputs.question;expectations.answers\n007;When, exactly?;2026-01-31\n1.0;NA;true\n"


DATA_SETS = {
    "acme/sums": {"data/test.jsonl": json_lines(RECORDS), "README.md": b"# Sums\n"},
    "acme/cells": {"data/test.csv": CELLS},
    "acme/table": {"data/test.parquet": parquet(RECORDS)},
}


def hub_answer(path: str) -> Answer:
    """Of the hub for each of DATA_SETS at `main` and `v2`."""
    name = next((name for name in DATA_SETS if f"/{name}" in path), "")
    files = DATA_SETS.get(name, {})
    api, tree = f"/api/datasets/{name}", f"/api/datasets/{name}/tree/{COMMIT}"
    if files and path in (api, *(f"{api}/revision/{revision}" for revision in ("main", "v2", COMMIT))):
        return 200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode(), {}
    if path.startswith(tree):
        folder = path.removeprefix(tree).strip("/")
        found: list[dict[str, Any]] = (
            [] if folder else [{"type": "directory", "path": "data", "oid": "0" * 40, "size": 0}]
        )
        inside = [file for file in files if file.rpartition("/")[0] == folder]
        found += [{"type": "file", "path": file, "size": len(files[file]), "oid": "1" * 40} for file in inside]
        return 200, json.dumps(found).encode(), {}
    if path.startswith(f"/datasets/{name}/resolve/"):
        file = path.removeprefix(f"/datasets/{name}/resolve/").partition("/")[2]
        if file in files:
            return 200, files[file], {"etag": f'"{file}"', "x-repo-commit": COMMIT}
        return 404, b"", {"x-error-code": "EntryNotFound", "x-repo-commit": COMMIT}
    return 404, b'{"error": "Repository not found"}', {"x-error-code": "RepoNotFound"}


@pytest.fixture
def hub():
    """A stand-in of the Hugging Face hub: its URL, and the paths it was asked for."""
    with answering(hub_answer) as running:
        yield running


APART = """
import json, sys
from pathlib import Path
from llmops.errors import LlmopsError
from llmops.evaluation.eval_set_source import eval_set_of_table
from llmops.evaluation.record_files import SourceAccess
tables, endpoint, folder = json.loads(sys.argv[1])
found = []
for table in tables:
    try:
        eval_set = eval_set_of_table(table, Path("task.toml"), SourceAccess(endpoint, Path(folder)))
        found.append([eval_set.n_rows, eval_set.content_hash, [row.id for row in eval_set.rows]])
    except LlmopsError as error:
        found.append([type(error).__name__, str(error)])
print(json.dumps(found))
"""


def load_apart(url: str, folder: Path, *tables: dict[str, Any]) -> Any:
    """Tables of the data set `acme/sums` but for the keys given, in a process of their own: the hub client reads its
    environment once, when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    usual = {"name": "sums", "source": "hf:acme/sums@v2", "columns": COLUMNS}
    argument = json.dumps([[{**usual, **table} for table in tables], url, str(folder / "kept")])
    done = subprocess.run(
        [sys.executable, "-c", APART, argument], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_data_set_of_the_hub_is_streamed_once_and_then_read_from_its_copy(hub, folder):
    url, asked = hub
    local = loaded(folder, "t.jsonl", COLUMNS)
    (folder / "cells.csv").write_bytes(CELLS)
    cells = find_eval_set(folder / "cells.csv")
    tables = ({}, {"source": "hf:acme/table@v2"}, {"source": "hf:acme/cells@v2", "columns": None})
    first = load_apart(url, folder, *tables)
    requests = len(asked)
    second = load_apart("http://127.0.0.1:9", folder, *tables)
    assert first == second
    assert first == [[20, local.content_hash, ids(local)]] * 2 + [[2, cells.content_hash, ["007", "1.0"]]]
    assert any("/resolve/v2/" in path or path.endswith("/revision/v2") for path in asked)
    assert len(asked) == requests
    assert not [path.name for path in (folder / "kept").iterdir() if path.name.startswith(".")]


def test_what_the_hub_does_not_give_or_a_wrong_row_of_it_is_an_error_of_one_line_and_leaves_no_copy(hub, tmp_path):
    tables = {"source": "hf:acme/none"}, {"columns": {"inputs.question": "question"}}
    (kind, message), (of_row, problem) = load_apart(hub[0], tmp_path, *tables)
    assert (kind, of_row) == ("CannotRun", "BadFile")
    assert message.startswith("hf:acme/none cannot be read: ")
    assert "\n" not in message
    assert problem.startswith("hf:acme/sums@v2/data/test.jsonl:1: inputs.question: no column 'question'")
    assert not list((tmp_path / "kept").glob("*.jsonl"))

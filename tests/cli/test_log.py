"""`llmops log`: the contract's shape, import and export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

FIELDS = {
    "request_id", "at", "release", "prompt", "model", "status", "outcome", "input", "output", "tokens_in",
    "tokens_out", "latency_ms",
}  # fmt: skip


def line(number: int, **other: object) -> str:
    at = f"2026-01-01T00:00:{number:02d}Z"
    return json.dumps({"request_id": f"r{number}", "at": at, "release": "assistant@1", "input": "q", **other})


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    path = tmp_path / "traffic.jsonl"
    path.write_text("\n".join(line(number) for number in range(5)) + "\n")
    return path


def test_import_is_idempotent_by_request_id(llmops: Run, traffic: Path) -> None:
    assert llmops("log", "import", str(traffic), "--json").json == {"imported": 5, "known": 0, "total": 5}
    assert llmops("log", "import", str(traffic), "--json").json == {"imported": 0, "known": 5, "total": 5}


def test_tail_shows_the_newest_in_the_contracts_shape(llmops: Run, traffic: Path) -> None:
    llmops("log", "import", str(traffic))
    shown = llmops("log", "tail", "-n", "2", "--json").json
    assert shown["total"] == 5
    assert [record["request_id"] for record in shown["records"]] == ["r3", "r4"]
    assert set(shown["records"][0]) >= FIELDS


def test_a_window_and_an_app_limit_what_is_read(llmops: Run, traffic: Path) -> None:
    llmops("log", "import", str(traffic))
    since = llmops("log", "tail", "--since", "2026-01-01T00:00:03Z", "--json").json
    assert [record["request_id"] for record in since["records"]] == ["r3", "r4"]
    assert llmops("log", "tail", "--app", "other", "--json").json["total"] == 0


@pytest.mark.parametrize(
    ("bad", "named"),
    [("{", "not JSON"), ("[]", "JSON object"), (line(1, status="x"), "status"), ('{"at": "2026-01-01"}', "request_id")],
)
def test_a_bad_line_is_named_and_nothing_is_imported(llmops: Run, tmp_path: Path, bad: str, named: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{line(0)}\n{bad}\n")
    done = llmops("log", "import", str(path))
    assert done.code == 3
    assert f"{path}:2: " in done.err
    assert named in done.err
    assert llmops("log", "tail", "--json").json["total"] == 0


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_an_export_holds_every_record(llmops: Run, traffic: Path, tmp_path: Path, ending: str) -> None:
    llmops("log", "import", str(traffic))
    out = tmp_path / f"out.{ending}"
    assert llmops("log", "export", "--out", str(out), "--json").json["total"] == 5
    if ending == "jsonl":
        rows = [json.loads(text) for text in out.read_text().splitlines()]
    else:
        import pyarrow.parquet as pq

        rows = pq.read_table(out).to_pylist()
    assert [row["request_id"] for row in rows] == [f"r{number}" for number in range(5)]


def test_an_export_to_another_kind_of_file_is_refused(llmops: Run) -> None:
    assert llmops("log", "export", "--out", "x.csv").code == 2


def test_a_malformed_time_is_a_usage_error(llmops: Run) -> None:
    assert llmops("log", "tail", "--since", "yesterday").code == 2


def test_show_gives_every_record_of_a_request(llmops: Run, traffic: Path) -> None:
    llmops("log", "import", str(traffic))
    assert llmops("log", "show", "r2", "--json").json["total"] == 1
    assert llmops("log", "show", "missing").code == 3

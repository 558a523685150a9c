"""Records from elsewhere are checked line by line; what the log holds already can always be read and forgotten."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from llmops.production_log import LogRecord, ProductionLog
from llmops.settings import Settings
from tests.cli.test_log import line
from tests.command_line import Run


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ("{", None), ("[]", None), ('{"request_id": "r1", "at": 0', None), (b'{"request_id": "\xff"}', None),
        ('{"at": "2026-01-01"}', "request_id"), (line(1, request_id=""), "request_id"),
        (line(1, request_id=7), "request_id"), (line(1, request_id="x" * 256), "request_id"),
        (line(1, release="x" * 256), "release"), (line(1, key="x" * 33), "key"), (line(1, at=None), "at"),
        (line(1, at="yesterday"), "at"), (line(1, at=1767225600000), "at"), (line(1, at=-1), "at"),
        (line(1, at="1969-12-31T23:59:59Z"), "at"), (line(1, at="9999-12-31T23:59:59Z"), "at"),
        (line(1, at=True), "at"), (line(1, at=float("nan")), "at"), (line(1, at=float("inf")), "at"),
        (line(1, at="0001-01-01T00:00:00+14:00"), "at"), (line(1, status="200"), "status"),
        (line(1, status=99), "status"), (line(1, status=600), "status"), (line(1, status=True), "status"),
        (line(1, status=200.5), "status"), (line(1, outcome=1), "outcome"), (line(1, tokens_in=-1), "tokens_in"),
        (line(1, tokens_out=1.5), "tokens_out"), (line(1, tokens_in="3"), "tokens_in"),
        (line(1, tokens_out=float("nan")), "tokens_out"), (line(1, tokens_in=2**80), "tokens_in"),
        (line(1, latency_ms=-0.5), "latency_ms"), (line(1, latency_ms=float("nan")), "latency_ms"),
        (line(1, latency_ms=float("inf")), "latency_ms"), (line(1, latency_ms=1e300), "latency_ms"),
        (line(1, first_token_ms=-1), "first_token_ms"), (line(1, latency_ms="12"), "latency_ms"),
        (line(1, text_deleted_at="9999-01-01"), "text_deleted_at"), (line(1, input={"a": 1}), "input"),
        (line(1, details=[1]), "details"), (line(1, route="predict", input="no rows", output="[1]"), "output"),
        (line(1, route="predict", input="[{}]", output="[1, 2]"), "output"),
        (line(1, details={"score": float("nan")}), "details.score"),
        ('{"request_id": "r1", "at": 0, "at": 1}', "at"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_record_is_named_and_counted_and_stops_no_other(
    llmops: Run, tmp_path: Path, bad: str | bytes, field: str | None
) -> None:
    path = tmp_path / "bad.jsonl"
    raw = bad if isinstance(bad, bytes) else bad.encode()
    path.write_bytes(line(0).encode() + b"\n" + raw + b"\n" + line(2).encode())
    done = llmops("log", "import", str(path), "--json")
    assert done.code == 3
    assert {name: done.json[name] for name in ("imported", "known", "refused", "total")} == {
        "imported": 2, "known": 0, "refused": 1, "total": 3,
    }  # fmt: skip
    (error,) = done.json["errors"]
    assert (error["line"], error["field"]) == (2, field)
    assert f"{path}:2: " + (f"{field}: " if field else "") in done.err
    assert [record["request_id"] for record in llmops("log", "tail", "--json").json["records"]] == ["r0", "r2"]


def test_what_is_not_known_is_null_from_import_to_export_and_never_0(llmops: Run, tmp_path: Path) -> None:
    unknown = {"tokens_in": None, "tokens_out": None, "latency_ms": None, "first_token_ms": None}
    zero = dict.fromkeys(unknown, 0)
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n".join([line(0, **unknown), line(1), line(2, **zero)]))
    assert llmops("log", "import", str(path)).code == 0
    llmops("log", "export", "--out", str(out))
    llmops("log", "export", "--out", str(tmp_path / "out.parquet"))
    import pyarrow.parquet as pq

    shown = llmops("log", "tail", "--json").json["records"]
    written = [json.loads(text) for text in out.read_text().splitlines()]
    for records in (shown, written, pq.read_table(tmp_path / "out.parquet").to_pylist()):
        assert [{name: record[name] for name in unknown} for record in records] == [unknown, unknown, zero]
    assert "–" in llmops("log", "tail").out


def test_a_record_whose_key_another_one_has_gets_a_key_of_its_own(llmops: Run, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(line(number, key="0" * 32) for number in range(3)))
    assert llmops("log", "import", str(path), "--json").json["imported"] == 3
    keys = [record["key"] for record in llmops("log", "tail", "--json").json["records"]]
    assert len(set(keys)) == 3
    assert "0" * 32 in keys


ODD: list[dict[str, Any]] = [
    {"at": 1e20}, {"at": -1e20}, {"at": float("inf")}, {"at": -62135596800.0}, {"at": 253402300799.9},
    {"at": "noon"}, {"tokens_in": -5}, {"tokens_out": -1}, {"latency_ms": float("inf")}, {"latency_ms": -3.0},
    {"latency_ms": 1e300}, {"first_token_ms": float("-inf")}, {"status": 0}, {"details": "[1]"},
    {"details": "{broken"}, {"details": '{"a": NaN}'}, {"text_deleted_at": 1e20},
]  # fmt: skip


@pytest.fixture
def odd_log(llmops: Run, home: Path) -> ProductionLog:
    """A log in which an older version has left what no version would take today, among sound records."""
    log = ProductionLog(Settings.from_environment().resolved_log_url)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    log.append(
        [
            LogRecord(
                f"odd{number}", at, 200, "ok", "q", "a", "assistant@1", tokens_in=1, user="ada", key=f"{number:032x}"
            )
            for number in range(len(ODD))
        ]
        + [LogRecord("sound", at, 200, "ok", "q", "a", "assistant@1", user="ada")]
    )
    with closing(sqlite3.connect(home / "log.db")) as connection, connection:
        for number, values in enumerate(ODD):
            (column, value), key = next(iter(values.items())), f"{number:032x}"
            connection.execute(f"UPDATE log_records SET {column} = ? WHERE key = ?", (value, key))  # noqa: S608
    return log


def test_what_is_in_the_log_already_is_shown_and_exported(llmops: Run, odd_log: ProductionLog, tmp_path: Path) -> None:
    total = len(ODD) + 1
    assert llmops("log", "tail", "-n", "99", "--json").json["total"] == total
    assert llmops("log", "tail", "-n", "99").code == 0
    assert llmops("log", "show", "odd14").code == 0
    for ending in ("jsonl", "parquet"):
        assert llmops("log", "export", "--out", str(tmp_path / f"out.{ending}"), "--json").json["total"] == total

    def refuse(name: str) -> None:
        raise AssertionError(name)

    for text in (tmp_path / "out.jsonl").read_text().splitlines():
        record = json.loads(text, parse_constant=refuse)
        assert all(record[name] is None or record[name] >= 0 for name in ("tokens_in", "tokens_out", "latency_ms"))


@pytest.mark.slow
def test_what_is_in_the_log_already_is_stepped_over_by_the_monitor(llmops: Run, odd_log: ProductionLog) -> None:
    done = llmops("monitor", "run", "--app", "assistant", "--since", "2025-12-31", "--until", "2026-01-02", "--json")
    assert done.code == 0, done.err
    assert done.json["window"]["rows"] == 1 + sum("at" not in values for values in ODD)


def test_what_is_in_the_log_already_is_forgotten_and_retained(llmops: Run, odd_log: ProductionLog) -> None:
    assert llmops("monitor", "run", "--app", "assistant", "--since", "2025-12-31", "--until", "2026-01-02").code == 0
    assert llmops("log", "retain", "--days", "1", "--json").json["deleted"] > 0
    for chosen in (("--request-id", "odd0"), ("--request-id", "odd14"), ("--user", "ada")):
        done = llmops("log", "forget", *chosen)
        assert done.code == 0, done.err
    assert llmops("log", "tail", "--json").json["total"] == 0

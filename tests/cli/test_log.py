"""`llmops log`: the contract's shape, import and export."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmops.production_log import SHADOW, Feedback, LogRecord, ProductionLog
from llmops.settings import Settings
from tests.command_line import Run

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


def test_import_is_idempotent_and_what_is_shown_has_the_contracts_shape(llmops, traffic):
    assert llmops("log", "import", str(traffic), "--json").json == {"imported": 5, "known": 0, "total": 5}
    assert llmops("log", "import", str(traffic), "--json").json == {"imported": 0, "known": 5, "total": 5}
    shown = llmops("log", "tail", "-n", "2", "--json").json
    assert shown["total"] == 5
    assert [record["request_id"] for record in shown["records"]] == ["r3", "r4"]
    assert set(shown["records"][0]) >= FIELDS
    since = llmops("log", "tail", "--since", "2026-01-01T00:00:03Z", "--json").json
    assert [record["request_id"] for record in since["records"]] == ["r3", "r4"]
    assert llmops("log", "tail", "--app", "other", "--json").json["total"] == 0
    assert llmops("log", "show", "r2", "--json").json["total"] == 1
    assert llmops("log", "show", "missing").code == 3


@pytest.mark.parametrize("error", ["EngineError: no route", {"message": "EngineError: no route"}])
def test_tail_shows_why_a_request_without_an_answer_failed(llmops, tmp_path, error):
    (tmp_path / "failed.jsonl").write_text(line(1, status=502, details={"error": error}))
    llmops("log", "import", str(tmp_path / "failed.jsonl"))
    assert "EngineError: no route" in " ".join(llmops("log", "tail").out.split())


def test_an_export_as_parquet_is_no_file_to_import_and_is_refused_as_one(llmops, traffic, tmp_path):
    llmops("log", "import", str(traffic))
    llmops("log", "export", "--out", str(tmp_path / "out.parquet"))
    refused = llmops("log", "import", str(tmp_path / "out.parquet")).refused(
        3, "out.parquet: is Parquet; JSON Lines are read"
    )
    assert "left out" not in refused.err


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_new_york")
def test_a_time_as_a_table_shows_it_is_read_again_as_the_same(llmops, traffic):
    llmops("log", "import", str(traffic))
    shown = "2026-01-01 00:00:03Z"
    assert shown in llmops("log", "tail").out
    assert llmops("log", "tail", "--since", shown, "--json").json["total"] == 2


@pytest.fixture
def rated(llmops: Run, traffic: Path) -> ProductionLog:
    llmops("log", "import", str(traffic))
    log = ProductionLog(Settings.from_environment().resolved_log_url)
    (record,) = log.read(request_id="r2")
    log.add_feedback(Feedback("r2", record.key, "anonymous", app="assistant", score=-0.5, comment="Not so."))
    log.add_feedback(Feedback("r2", record.key, "anonymous", app="assistant", label="negative"))
    return log


def test_show_and_tail_have_what_users_said(llmops, rated):
    (shown,) = llmops("log", "show", "r2", "--json").json["records"]
    assert [(said.get("score"), said.get("label"), said.get("comment")) for said in shown["feedback"]] == [
        (-0.5, None, "Not so."),
        (None, "negative", None),
    ]
    tail = llmops("log", "tail", "--json").json["records"]
    assert [len(record["feedback"]) for record in tail] == [0, 0, 2, 0, 0]
    assert "negative" in llmops("log", "tail").out


def test_an_export_holds_every_record_and_its_feedback(llmops, rated, tmp_path):
    import pyarrow.parquet as pq

    for ending in ("jsonl", "parquet"):
        out = str(tmp_path / f"out.{ending}")
        assert llmops("log", "export", "--out", out, "--json").json["total"] == 5
    lines = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert "feedback" not in lines[0]
    for records, said in ((lines, lines[2]["feedback"]), (rows, json.loads(rows[2]["feedback"]))):
        assert [record["request_id"] for record in records] == [f"r{number}" for number in range(5)]
        assert [(item.get("score"), item.get("label")) for item in said] == [(-0.5, None), (None, "negative")]


def test_an_exported_record_is_imported_with_its_feedback_as_details(llmops, rated, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    llmops("log", "export", "--out", str(out))
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "elsewhere"))
    assert llmops("log", "import", str(out), "--json").json["imported"] == 5
    first, _, said, *_ = llmops("log", "tail", "--json").json["records"]
    assert [item.get("label") for item in said["details"]["feedback"]] == [None, "negative"]
    assert "feedback" not in first["details"]


@pytest.mark.parametrize("arguments", [("export", "--out", "x.csv"), ("tail", "--since", "yesterday")])
def test_another_kind_of_file_or_a_malformed_time_is_a_usage_error(llmops, arguments):
    assert llmops("log", *arguments).code == 2


def test_a_request_is_shown_by_the_beginning_of_its_id_that_tail_prints(llmops, home):
    log = ProductionLog(Settings(home=home).resolved_log_url)
    ids = ("req_40a44636b0c1", "req_40a44636ffff", "req_40A44636", "r%t", "req_40a4463")
    log.append([LogRecord.from_json(json.loads(line(n, request_id=each))) for n, each in enumerate(ids)])
    log.close()

    def shown(given: str) -> list[str]:
        return [record["request_id"] for record in llmops("log", "show", given, "--json").json["records"]]

    assert shown("req_40a44636b") == ["req_40a44636b0c1"]
    assert shown("req_40A") == ["req_40A44636"]
    assert shown("req_40a4463") == ["req_40a4463"]  # a whole id, though others begin with it
    assert shown("r%") == ["r%t"]
    several = llmops("log", "show", "req_40a44636")
    assert (several.code, several.out) == (2, "")
    assert "req_40a44636b0c1, req_40a44636ffff" in several.err
    receipt = llmops("log", "forget", "--request-id", "req_40a44636f", "--dry-run", "--json").json
    assert receipt["request_id"] == "req_40a44636ffff"


def test_shadow_requests_are_shown_and_exported_only_when_asked_for(llmops, home):
    log = ProductionLog(Settings(home=home).resolved_log_url)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    answered = LogRecord("r1", at, 200, "ok", release="assistant@1")
    unheard = LogRecord(
        "r2", at + timedelta(seconds=1), 200, SHADOW, release="assistant@2", details={"shadow_of": "r1"}
    )
    log.append([answered, unheard])
    log.close()
    assert llmops("log", "tail", "--json").json["total"] == 1
    asked = llmops("log", "tail", "--shadow", "--json").json
    assert ([record["outcome"] for record in asked["records"]], asked["total"]) == (["ok", "shadow"], 2)
    assert llmops("log", "show", "r2", "--json").json["total"] == 1
    assert llmops("log", "export", "--out", str(home / "all.jsonl"), "--shadow", "--json").json["total"] == 2
    assert llmops("log", "export", "--out", str(home / "some.jsonl"), "--json").json["total"] == 1


BAD: list[tuple[str | bytes, str | None]] = [
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
]  # fmt: skip
"""Lines that are no records, each with the field at fault."""


def test_lines_that_are_no_records_are_named_and_counted_and_stop_no_other(llmops, tmp_path):
    path = tmp_path / "bad.jsonl"
    raw = [bad if isinstance(bad, bytes) else bad.encode() for bad, _ in BAD]
    path.write_bytes(b"\n".join([line(0).encode(), *raw, line(2).encode()]))
    done = llmops("log", "import", str(path), "--json")
    assert done.code == 3
    assert {name: done.json[name] for name in ("imported", "known", "refused", "total")} == {
        "imported": 2, "known": 0, "refused": len(BAD), "total": len(BAD) + 2,
    }  # fmt: skip
    found = [(error["line"], error["field"]) for error in done.json["errors"]]
    assert found == [(number, field) for number, (_, field) in enumerate(BAD, 2)]
    for number, field in found:
        assert f"{path}:{number}: " + (f"{field}: " if field else "") in done.err
    assert [record["request_id"] for record in llmops("log", "tail", "--json").json["records"]] == ["r0", "r2"]


def test_what_is_not_known_is_null_from_import_to_export_and_never_0(llmops, tmp_path):
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


def test_a_record_whose_key_another_one_has_gets_a_key_of_its_own(llmops, tmp_path):
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


def odd_key(number: int) -> str:
    return f"{number:f>32x}"  # zeros would be found again in the audit log, whose first entry follows a hash of zeros


@pytest.fixture
def odd_log(llmops: Run, home: Path) -> ProductionLog:
    """A log in which an older version has left what no version would take today, among sound records."""
    log = ProductionLog(Settings.from_environment().resolved_log_url)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    log.append(
        [
            LogRecord(
                f"odd{number}", at, 200, "ok", "q", "a", "assistant@1", tokens_in=1, user="ada", key=odd_key(number)
            )
            for number in range(len(ODD))
        ]
        + [LogRecord("sound", at, 200, "ok", "q", "a", "assistant@1", user="ada")]
    )
    with closing(sqlite3.connect(home / "log.db")) as connection, connection:
        for number, values in enumerate(ODD):
            (column, value), key = next(iter(values.items())), odd_key(number)
            connection.execute(f"UPDATE log_records SET {column} = ? WHERE key = ?", (value, key))  # noqa: S608
    return log


def test_what_is_in_the_log_already_is_shown_and_exported(llmops, odd_log, tmp_path):
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
def test_what_is_in_the_log_already_is_stepped_over_by_the_monitor(llmops, odd_log):
    done = llmops("monitor", "run", "--app", "assistant", "--since", "2025-12-31", "--until", "2026-01-02", "--json")
    assert done.code == 0, done.err
    assert done.json["window"]["rows"] == 1 + sum("at" not in values for values in ODD)


def test_what_is_in_the_log_already_is_forgotten_and_retained(llmops, odd_log):
    assert llmops("monitor", "run", "--app", "assistant", "--since", "2025-12-31", "--until", "2026-01-02").code == 0
    assert llmops("log", "retain", "--days", "1", "--json").json["deleted"] > 0
    for chosen in (("--request-id", "odd0"), ("--request-id", "odd14"), ("--user", "ada")):
        done = llmops("log", "forget", *chosen)
        assert done.code == 0, done.err
    assert llmops("log", "tail", "--json").json["total"] == 0

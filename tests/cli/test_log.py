"""`llmops log`: the contract's shape, import and export."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

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


def test_import_is_idempotent_and_what_is_shown_has_the_contracts_shape(llmops: Run, traffic: Path) -> None:
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
def test_tail_shows_why_a_request_without_an_answer_failed(llmops: Run, tmp_path: Path, error: object) -> None:
    (tmp_path / "failed.jsonl").write_text(line(1, status=502, details={"error": error}))
    llmops("log", "import", str(tmp_path / "failed.jsonl"))
    assert "EngineError: no route" in " ".join(llmops("log", "tail").out.split())


def test_an_export_as_parquet_is_no_file_to_import_and_is_refused_as_one(
    llmops: Run, traffic: Path, tmp_path: Path
) -> None:
    llmops("log", "import", str(traffic))
    llmops("log", "export", "--out", str(tmp_path / "out.parquet"))
    refused = llmops("log", "import", str(tmp_path / "out.parquet"))
    assert refused.code == 3
    assert "out.parquet: is Parquet; JSON Lines are read" in refused.err
    assert "left out" not in refused.err


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_new_york")
def test_a_time_as_a_table_shows_it_is_read_again_as_the_same(llmops: Run, traffic: Path) -> None:
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


def test_show_and_tail_have_what_users_said(llmops: Run, rated: ProductionLog) -> None:
    (shown,) = llmops("log", "show", "r2", "--json").json["records"]
    assert [(said.get("score"), said.get("label"), said.get("comment")) for said in shown["feedback"]] == [
        (-0.5, None, "Not so."),
        (None, "negative", None),
    ]
    tail = llmops("log", "tail", "--json").json["records"]
    assert [len(record["feedback"]) for record in tail] == [0, 0, 2, 0, 0]
    assert "negative" in llmops("log", "tail").out


def test_an_export_holds_every_record_and_its_feedback(llmops: Run, rated: ProductionLog, tmp_path: Path) -> None:
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


def test_an_exported_record_is_imported_with_its_feedback_as_details(
    llmops: Run, rated: ProductionLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    llmops("log", "export", "--out", str(out))
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "elsewhere"))
    assert llmops("log", "import", str(out), "--json").json["imported"] == 5
    first, _, said, *_ = llmops("log", "tail", "--json").json["records"]
    assert [item.get("label") for item in said["details"]["feedback"]] == [None, "negative"]
    assert "feedback" not in first["details"]


@pytest.mark.parametrize("arguments", [("export", "--out", "x.csv"), ("tail", "--since", "yesterday")])
def test_another_kind_of_file_or_a_malformed_time_is_a_usage_error(llmops: Run, arguments: tuple[str, ...]) -> None:
    assert llmops("log", *arguments).code == 2


def test_a_request_is_shown_by_the_beginning_of_its_id_that_tail_prints(llmops: Run, home: Path) -> None:
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


def test_shadow_requests_are_shown_and_exported_only_when_asked_for(llmops: Run, home: Path) -> None:
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

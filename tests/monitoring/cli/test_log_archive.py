"""`llmops log archive` and `verify`; `retain` and `forget` reach what was archived."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from llmops.audit import AuditLog
from llmops.cli import main
from llmops.production_log import Feedback, LogRecord, ProductionLog
from llmops.production_log.archive import Archive
from tests.at_once import at_once
from tests.monitoring.cli.conftest import describe

NOW = datetime.now(UTC)
MARKER = "kilo-lima-mike-november"


@pytest.fixture
def to(tmp_path):
    return str(tmp_path / "archive")


def record(number, user, hours=30):
    at = NOW.replace(minute=0) - timedelta(hours=hours) + timedelta(minutes=number)
    return LogRecord(f"r{number}", at, 200, "ok", f"{MARKER} {user}", f"to {user}", "assistant@1", user=user)


def test_closed_hours_are_archived_and_read_as_the_log_is(llmops, log, to, tmp_path):
    log.append([*(record(n, "anna", hours=30 + n) for n in range(3)), record(3, "bert", hours=0)])
    done = llmops("log", "archive", "--to", to, "--json")
    assert (done.code, done.err) == (0, "")
    assert {name: done.json[name] for name in ("archive", "hours", "written", "records", "deleted")} == {
        "archive": to, "hours": 3, "written": 3, "records": 3, "deleted": 0,
    }  # fmt: skip
    assert llmops("log", "archive", "--to", to, "--json").json["written"] == 0
    until = f"{NOW - timedelta(hours=5):%FT%T}"
    for command in (("tail",), ("tail", "-n", "2"), ("show", "r1")):
        options = ("--until", until) if command[0] == "tail" else ()
        live = llmops("log", *command, *options, "--json").json
        assert llmops("log", *command, *options, "--archive", to, "--json").json == live
    files = [tmp_path / name for name in ("live.jsonl", "archive.jsonl")]
    llmops("log", "export", "--until", until, "--out", str(files[0]))
    assert llmops("log", "export", "--archive", "archive", "--out", str(files[1])).code == 0
    assert files[0].read_text() == files[1].read_text() != ""
    llmops("log", "show", "r9", "--archive", to).refused(3, "r9")
    llmops("log", "tail", "--archive", "nowhere").refused(3, "is not there")


def test_what_is_archived_and_described_is_deleted_from_the_log(llmops, log, to):
    log.append([record(0, "anna")])
    describe(log)
    log.append([record(1, "anna"), record(2, "bert", hours=0)])
    assert llmops("log", "archive", "--to", to, "--delete", "--json").json["deleted"] == 1
    assert [each.request_id for each in log.read()] == ["r1", "r2"]
    assert llmops("log", "archive", "--to", to, "--delete", "--undescribed", "--json").json["deleted"] == 1
    assert [each.request_id for each in log.read()] == ["r2"]
    assert llmops("log", "tail", "--archive", to, "--json").json["total"] == 2


def fill_and_archive(llmops, log, to):
    """Archives anna's and bert's records of two hours; anna's first is left in the log too."""
    records = [record(n, ("anna", "bert")[n % 2], hours=30 + n // 4) for n in range(8)]
    log.append(records[1:])
    log.add_feedback(Feedback("r1", records[1].key, "k", "assistant", user="anna", comment=f"{MARKER} anna said"))
    log.add_feedback(Feedback("r3", records[3].key, "k", "assistant", label="worse", compared_key=records[2].key))
    log.add_feedback(Feedback("r3", records[3].key, "k", "assistant", user="carl", comment="stays"))
    assert llmops("log", "archive", "--to", to, "--delete", "--json").json["deleted"] == 7
    log.append(records[:1])
    return records


def test_a_user_is_forgotten_in_the_archive_too_and_the_receipt_proves_it(llmops, log, to, home):
    fill_and_archive(llmops, log, to)
    dry = llmops("log", "forget", "--user", "anna", "--dry-run", "--json").json["tables"]
    assert (dry["archived_records"]["deleted"], dry["log_records"]["deleted"]) == (3, 1)
    done = llmops("log", "forget", "--user", "anna", "--json")
    assert (done.code, done.json["complete"]) == (0, True)
    assert not any(each["left"] for each in done.json["tables"].values())
    counts = [done.json["tables"][f"archived_{name}"]["deleted"] for name in ("records", "feedback")]
    assert counts == [3, 2]
    assert [each.request_id for each in Archive(to).iterate()] == ["r5", "r7", "r1", "r3"]
    assert [said.comment for said in Archive(to).read(request_id="r3", feedback=True)[0].feedback] == ["stays"]
    records = duckdb.read_parquet(f"{to}/*/*/*/*.parquet")
    assert not any("anna" in str(row) for row in records.fetchall())
    assert llmops("log", "verify").code == 0
    (entry,) = (each for each in AuditLog(log.url).entries() if each.action == "forget")
    assert entry.details["deleted"] == {"archived_records": 3, "archived_feedback": 2, "log_records": 1}
    assert (entry.details["asked"], entry.details["left"]) == (["user"], 0)
    assert not any(b"anna" in path.read_bytes() for path in home.glob("log.db*") if path.is_file())
    assert llmops("audit", "verify").code == 0
    again = llmops("log", "forget", "--user", "anna", "--json").json["tables"]
    assert not any(each["deleted"] for each in again.values())


def test_a_request_that_only_the_archive_has_is_forgotten_on_postgresql(llmops, home, to, postgres_url, monkeypatch):
    monkeypatch.setenv("LLMOPS_LOG_URL", postgres_url)
    log = ProductionLog(postgres_url)
    fill_and_archive(llmops, log, to)
    assert llmops("log", "forget", "--request-id", "r3", "--json").json["tables"]["archived_feedback"]["deleted"] == 2
    assert "r3" not in [each.request_id for each in Archive(to).iterate()]
    log.close()


def test_old_hours_leave_the_archive_and_are_not_archived_again(llmops, log, to, monkeypatch):
    log.append([record(0, "anna", hours=24 * 40), record(1, "anna")])
    llmops("log", "archive", "--to", to)
    assert llmops("log", "retain", "--days", "30", "--dry-run", "--json").json["archived_hours"] == 1
    monkeypatch.setenv("LLMOPS_ARCHIVE_RETENTION_DAYS", "50")
    assert llmops("log", "retain", "--days", "30", "--json").json["archived_hours"] == 0
    monkeypatch.delenv("LLMOPS_ARCHIVE_RETENTION_DAYS")
    assert "1 archived hours" in llmops("log", "retain", "--days", "30").out
    (entry,) = AuditLog(log.url).entries()
    assert (entry.action, entry.details["deleted"]) == ("retain", {"archived_hours": 1, "archived_records": 1})
    monkeypatch.setenv("LLMOPS_RETENTION_DAYS", "30")
    assert llmops("log", "archive", "--to", to, "--json").json["hours"] == 1
    assert Archive(to).count() == 1
    monkeypatch.setenv("LLMOPS_RETENTION_DAYS", "1")
    assert llmops("log", "archive", "--to", to, "--json").json["hours"] == 0
    assert Archive(to).count() == 0


def test_a_damaged_archive_is_found_and_one_that_is_gone_is_not_passed_over(llmops, log, to):
    log.append([record(0, "anna")])
    llmops("log", "archive", "--to", to)
    found = llmops("log", "verify", "--json")
    assert (found.code, found.json["problems"], found.json["archives"][0]["records"]) == (0, [], 1)
    path = next(Path(to).rglob("*.parquet"))
    path.write_bytes(path.read_bytes() + b"x")
    found = llmops("log", "verify", "--archive", to)
    assert found.code == 1
    assert "not as it was written" in found.err
    Path(to).rename(f"{to}-elsewhere")
    for command in (("forget", "--user", "anna"), ("retain", "--days", "1"), ("verify",)):
        llmops("log", *command).refused(3, "is not there", "--unregister")
    assert log.count() == 1
    assert llmops("log", "archive", "--to", to, "--unregister", "--json").json == {"unregistered": True}
    assert llmops("log", "forget", "--user", "anna").code == 0


@pytest.mark.parametrize(("command", "least"), [("archive", 10), ("forget", 6)])
@pytest.mark.slow
def test_a_command_that_is_killed_anywhere_leaves_nothing_twice_and_nothing_missing(
    llmops, log, tmp_path, command, least
):
    folder = tmp_path / "killed"
    log.append([record(0, "anna"), record(1, "bert"), record(2, "carl", hours=40)])
    llmops("log", "archive", "--to", str(folder / "archive"))
    late = record(3, "bert")
    log.append([late])
    log.add_feedback(Feedback("r3", late.key, "k", "assistant", user="anna", comment="late"))
    log.close()
    (tmp_path / "home").rename(folder / "home")
    program = [sys.executable, "-m", "tests.monitoring.cli.killed_commands", str(folder), command]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(program, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= least


def test_two_archivers_at_once_take_turns(log, to, capsys):
    log.append([record(n, "anna", hours=30 + n) for n in range(20)])

    def archive():
        with suppress(SystemExit):
            main(["log", "archive", "--to", to, "--delete", "--json"])

    at_once(archive, archive)
    assert sum(map(int, re.findall(r'"deleted": (\d+)', capsys.readouterr().out))) == 20
    assert (log.count(), Archive(to).count()) == (0, 20)
    assert [problem for _, found in Archive(to).verify() for problem in found] == []

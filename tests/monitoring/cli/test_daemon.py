"""`llmops monitor daemon`, `alarms` and `policy`."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from llmops.production_log import LogRecord
from monitoring.act.alarm_book import AlarmBook
from monitoring.act.alerts import AlertSettings
from monitoring.act.outbox import Outbox
from monitoring.store.database import open_database
from tests.monitoring.acting import START, finding

PROGRAM = "import sys; from monitoring.cli.daemon import daemon; daemon(sys.argv[1:])"


@pytest.fixture
def book(settings):
    engine = open_database(settings.resolved_log_url)
    yield AlarmBook(engine, AlertSettings(), Outbox(engine))
    engine.dispose()


def test_alarms_are_listed_acknowledged_and_shown_with_what_the_policy_comes_to(llmops, book):
    assert "no alarm lasts" in llmops("monitor", "alarms", "list").out
    book.record("assistant", "window", [finding(kind="drift", rows=("r1",))], START)
    (listed,) = llmops("monitor", "alarms", "list", "--json").json["alarms"]
    assert (listed["what"], listed["state"], listed["rows"]) == ("output.refusal", "open", ["r1"])
    assert "assistant@2" in llmops("monitor", "alarms", "list").out
    (shown,) = llmops("monitor", "policy", "show", "--json").json["policies"]
    assert (shown["app"], shown["policy"]["action"], shown["decision"]["action"]) == ("assistant", "observe", None)
    assert "to observe" in llmops("monitor", "policy", "show").out
    acknowledged = llmops("monitor", "alarms", "ack", "1", "--by", "ada", "--json").json
    assert (acknowledged["state"], acknowledged["acknowledged_by"]) == ("acknowledged", "ada")
    llmops("monitor", "alarms", "ack", "9").refused(2, "no alarm 9")


def test_a_wrong_time_is_a_usage_error(llmops):
    for option, value in (("--every", "often"), ("--window-at", "noon"), ("--every-window", "5h")):
        llmops("monitor", "daemon", option, value, "--once").refused(2, option)


@pytest.fixture
def fifty_rows(log):
    """Of the last fifty minutes."""
    now = datetime.now(UTC)
    log.append(
        [
            LogRecord(f"r{n}", now - timedelta(minutes=n), 200, "ok", "What is it?", "It is this.", "assistant@1")
            for n in range(50)
        ]
    )


@pytest.mark.usefixtures("fifty_rows")
def test_once_is_one_look_for_a_cron_job(llmops, monkeypatch):
    monkeypatch.setenv("LLMOPS_SERVER_LOG", "json")
    done = llmops("monitor", "daemon", "--once", "--json")
    assert done.code == 0, done.err
    assert (done.json["worked"], done.json["ingested"], done.json["failed"]) == (True, 50, [])
    assert llmops("monitor", "daemon", "--once", "--json").json["ingested"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("fifty_rows")
def test_a_daemon_ends_cleanly_on_sigterm(home, settings):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
    environment = {**clean, "LLMOPS_HOME": str(home), "LLMOPS_SERVER_LOG": "json"}
    command = [sys.executable, "-c", PROGRAM, "--every", "1s"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        lines = iter(process.stderr.readline, "")
        try:
            assert any("50 new rows" in line for line in lines)
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
            assert process.wait(30) == 0, rest
        finally:
            process.kill()
    engine = open_database(settings.resolved_log_url)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM monitor_leases").scalar() == 0
    engine.dispose()

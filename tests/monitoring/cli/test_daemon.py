"""`llmops monitor daemon`, `alarms` and `policy`."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llmops.cli import cli
from llmops.errors import UsageError
from llmops.production_log import LogRecord, ProductionLog
from llmops.settings import Settings
from monitoring.act.alarm_book import AlarmBook
from monitoring.act.alerts import AlertSettings
from monitoring.act.outbox import Outbox
from monitoring.store.database import open_database
from tests.monitoring.acting import START, finding

Run = Callable[..., Result]

PROGRAM = "import sys; from monitoring.cli.daemon import daemon; daemon(sys.argv[1:])"


@pytest.fixture
def run(tmp_path):
    def invoke(command, *arguments):
        environment = {"LLMOPS_HOME": str(tmp_path), "LLMOPS_SERVER_LOG": "json"}
        return CliRunner().invoke(cli, ["monitor", command, *arguments], env=environment, catch_exceptions=False)

    return invoke


def alarm(home):
    engine = open_database(Settings(home=home).resolved_log_url)
    book = AlarmBook(engine, AlertSettings(), Outbox(engine))
    book.record("assistant", "window", [finding(kind="drift", rows=("r1",))], START)
    engine.dispose()


def test_alarms_are_listed_and_acknowledged(run, tmp_path):
    assert "no alarm lasts" in run("alarms", "list").output
    alarm(tmp_path)
    listed: dict[str, Any] = json.loads(run("alarms", "list", "--json").stdout)
    table = run("alarms", "list").output
    acknowledged = json.loads(run("alarms", "ack", "1", "--by", "ada", "--json").stdout)
    assert [(each["what"], each["state"], each["rows"]) for each in listed["alarms"]] == [
        ("output.refusal", "open", ["r1"])
    ]
    assert "assistant@2" in table
    assert (acknowledged["state"], acknowledged["acknowledged_by"]) == ("acknowledged", "ada")
    with pytest.raises(UsageError, match="no alarm 9"):
        run("alarms", "ack", "9")


def test_a_policy_is_shown_with_what_it_comes_to(run, tmp_path):
    alarm(tmp_path)
    (shown,) = json.loads(run("policy", "show", "--json").stdout)["policies"]
    assert (shown["app"], shown["policy"]["action"], shown["decision"]["action"]) == ("assistant", "observe", None)
    assert "to observe" in run("policy", "show").output


def test_a_wrong_time_is_a_usage_error(run):
    for option, value in (("--every", "often"), ("--window-at", "noon"), ("--every-window", "5h")):
        with pytest.raises(UsageError, match=option):
            run("daemon", option, value, "--once")


def records(home):
    log = ProductionLog(Settings(home=home).resolved_log_url)
    now = datetime.now(UTC)
    log.append(
        [
            LogRecord(f"r{n}", now - timedelta(minutes=n), 200, "ok", "What is it?", "It is this.", "assistant@1")
            for n in range(50)
        ]
    )
    log.close()


def test_once_is_one_look_for_a_cron_job(run, tmp_path):
    records(tmp_path)
    done = run("daemon", "--once", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0, done.output
    assert (told["worked"], told["ingested"], told["failed"]) == (True, 50, [])
    assert json.loads(run("daemon", "--once", "--json").stdout)["ingested"] == 0


@pytest.mark.slow
def test_a_daemon_ends_cleanly_on_sigterm(tmp_path):
    records(tmp_path)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
    environment = {**clean, "LLMOPS_HOME": str(tmp_path), "LLMOPS_SERVER_LOG": "json"}
    command = [sys.executable, "-c", PROGRAM, "--every", "1s"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        try:
            assert any("50 new rows" in line for line in lines)
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
            assert process.wait(30) == 0, rest
        finally:
            process.kill()
    engine = open_database(Settings(home=tmp_path).resolved_log_url)
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM monitor_leases").scalar() == 0
    engine.dispose()

"""`llmops log retain` and `forget`, on a log that a monitor and MLflow have followed."""

import json
import sqlite3
from datetime import UTC, datetime, timedelta

from llmops.production_log import Feedback, LogRecord, ProductionLog
from llmops.recording.production_traces import TraceExporter, experiment_of
from llmops.registry.store import Store
from llmops.settings import Settings
from monitoring.act.actions import evidence_folder
from tests.monitoring.cli.conftest import describe

MARKER = "kilo-lima-mike-november"
NOW = datetime.now(UTC)


def record(number, user, days=0):
    text = f"{MARKER} {user}: " + "why? " * 100
    at = NOW - timedelta(days=days, minutes=number)
    return LogRecord(f"r{number}", at, 200, "ok", text, text * 20, "assistant@1", user=user, route="chat")


def bytes_of(folder):
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


def test_old_texts_go_once_and_are_told(llmops, log, monkeypatch):
    log.append([record(0, "anna", days=40), record(1, "anna", days=1)])
    assert llmops("log", "retain").code == 2, "nobody says how many days"
    assert llmops("log", "retain", "--days", "30", "--dry-run", "--json").json["deleted"] == 1
    monkeypatch.setenv("LLMOPS_RETENTION_DAYS", "30")
    assert "1 records" in llmops("log", "retain").out
    done = llmops("log", "retain", "--days", "30", "--json")
    assert (done.code, done.json["deleted"], done.json["waiting"]) == (0, 0, 0)
    (old, new) = llmops("log", "tail", "--json").json["records"]
    assert (old["input"], old["release"], old["route"]) == ("", "assistant@1", "chat")
    assert old["text_deleted_at"] is not None
    assert new["input"] != ""


def test_what_the_monitor_has_not_described_waits_unless_told_otherwise(llmops, log):
    log.append([record(0, "anna", days=40)])
    describe(log)
    log.append([record(1, "anna", days=40)])
    first = llmops("log", "retain", "--days", "30", "--json")
    assert (first.json["deleted"], first.json["waiting"]) == (1, 1)
    assert "--undescribed" in first.err
    assert llmops("log", "retain", "--days", "30", "--undescribed", "--json").json["deleted"] == 1


def test_a_user_is_forgotten_everywhere_and_the_receipt_proves_it(llmops, log, home):
    settings = Settings(home=home, trace_sample=1.0)
    exporter = TraceExporter(settings, log)
    exporter.export()
    records = [record(number, ("anna", "bert")[number % 2]) for number in range(20)]
    log.append(records)
    log.add_feedback(Feedback("r1", records[1].key, "k", app="assistant", user="anna", comment=f"{MARKER} anna said"))
    exporter.export()
    describe(log)
    assert f"{MARKER} anna".encode() in bytes_of(home)
    dry = llmops("log", "forget", "--user", "anna", "--dry-run", "--json").json
    assert (dry["tables"]["log_records"], log.count()) == ({"deleted": 10, "left": 0}, 20)
    done = llmops("log", "forget", "--user", "anna", "--json")
    assert (done.code, done.json["complete"]) == (0, True)
    tables = done.json["tables"]
    assert not any(table["left"] for table in tables.values())
    names = ("log_records", "feedback", "descriptor_segments", "traces", "assessments")
    assert [tables[name]["deleted"] for name in names] == [10, 1, 10, 10, 1]
    assert (done.json["files"]["found"], done.json["files"]["markers"]) == (0, 10)
    assert [item.user for item in log.read()] == ["bert"] * 10
    store = Store(settings)
    experiment = store.client.get_experiment_by_name(experiment_of("assistant"))
    left = store.client.search_traces(locations=[experiment.experiment_id], max_results=500)
    assert {trace.info.tags["log_key"] for trace in left} == {item.key for item in records if item.user == "bert"}
    raw = bytes_of(home)
    assert f"{MARKER} anna".encode() not in raw
    assert not any(item.key.encode() in raw for item in records if item.user == "anna")
    assert f"{MARKER} bert".encode() in raw
    again = llmops("log", "forget", "--user", "anna", "--json").json
    assert not any(each["deleted"] for each in again["tables"].values())


def test_one_request_is_forgotten(llmops, log, home):
    log.append([record(number, "anna") for number in range(3)])
    for neither_or_both in ((), ("--user", "a", "--request-id", "b")):
        assert llmops("log", "forget", *neither_or_both).code == 2
    shown = llmops("log", "forget", "--request-id", "r1")
    assert shown.code == 0
    assert "log_records" in shown.out
    assert "0 found" in shown.err
    assert [item.request_id for item in log.read()] == ["r2", "r0"]
    assert not (home / "mlflow.db").exists()


def test_what_another_table_still_holds_is_told_and_fails(llmops, log, home):
    item = record(0, "anna")
    log.append([item])
    with sqlite3.connect(home / "log.db") as connection:
        connection.execute("CREATE TABLE somebody_elses (note TEXT)")
        connection.execute("INSERT INTO somebody_elses VALUES (?)", [json.dumps({"seen": [item.key]})])
    connection.close()
    done = llmops("log", "forget", "--user", "anna", "--json")
    assert (done.code, done.json["complete"]) == (1, False)
    assert done.json["tables"]["somebody_elses"] == {"deleted": 0, "left": 1}


def test_the_evidence_that_a_retrain_command_was_given_forgets_too(llmops, log, home):
    log.append([record(0, "anna"), record(1, "bert")])
    folder = evidence_folder(home)
    folder.mkdir(parents=True)
    alarms = [{"slice": {"user": "anna"}, "rows": ["r0"]}, {"slice": {"release": "assistant@1"}, "rows": ["r0", "r1"]}]
    file, half = folder / "a.json", folder / "b.json"
    file.write_text(json.dumps({"key": "k", "alarms": alarms}))
    half.write_text('{"alarms": [{"rows": ["r0')
    assert llmops("log", "forget", "--user", "anna", "--dry-run", "--json").json["tables"]["evidence_files"]["deleted"]
    assert half.exists()
    done = llmops("log", "forget", "--user", "anna", "--json")
    assert (done.code, done.json["tables"]["evidence_files"]) == (0, {"deleted": 2, "left": 0})
    kept = [{"slice": {"release": "assistant@1"}, "rows": ["r1"]}]
    assert json.loads(file.read_text()) == {"key": "k", "alarms": kept}
    assert not half.exists()


def test_rows_that_models_learn_from_are_forgotten_too(llmops, log, home):
    log.append([record(0, "anna"), record(1, "bert")])
    keys = {item.user: item.key for item in log.read()}
    lines = [json.dumps({"id": f"log-{keys[user]}", "inputs": {"question": user}}) for user in ("anna", "bert")]
    files = [home / place for place in ("improve/assistant/a.jsonl", "improve/assistant/training/rows.jsonl")]
    files.append(home / "finetunes" / "1a" / "rows.jsonl")
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("\n".join([*lines, '{"id": "own"}', "half a li"]) + "\n")
    dry = llmops("log", "forget", "--user", "anna", "--dry-run", "--json")
    assert dry.json["tables"]["rows_to_learn_from"] == {"deleted": 3, "left": 0}
    assert "anna" in files[0].read_text()
    done = llmops("log", "forget", "--user", "anna", "--json")
    assert (done.code, done.json["tables"]["rows_to_learn_from"]) == (0, {"deleted": 3, "left": 0})
    for file in files:
        assert file.read_text() == "\n".join([lines[1], '{"id": "own"}', "half a li"]) + "\n"


def test_a_user_is_forgotten_on_postgresql_too(llmops, home, postgres_url, monkeypatch):
    monkeypatch.setenv("LLMOPS_LOG_URL", postgres_url)
    log = ProductionLog(postgres_url)
    log.append([record(0, "anna"), record(1, "bert")])
    describe(log)
    done = llmops("log", "forget", "--user", "anna", "--json")
    assert (done.code, done.json["complete"]) == (0, True)
    assert [item.user for item in log.read()] == ["bert"]
    log.close()

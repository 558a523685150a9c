from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import StoreUnavailable, UsageError
from llmops.production_log import LogRecord, ProductionLog, parse_time

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = {field.name for field in dataclasses.fields(LogRecord)}
RECORDS = st.builds(
    LogRecord,
    request_id=st.text(min_size=1),
    at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    status=st.integers(100, 599),
    outcome=st.sampled_from(["ok", "error", "cancelled"]),
    input=st.text(),
    output=st.text(),
    release=st.none() | st.text(),
    prompt=st.none() | st.text(),
    model=st.none() | st.text(),
    tokens_in=st.integers(0, 2**31),
    tokens_out=st.integers(0, 2**31),
    latency_ms=st.floats(0, 1e9),
    first_token_ms=st.none() | st.floats(0, 1e9),
    details=st.dictionaries(st.text().filter(lambda name: name not in FIELDS), JSON, max_size=3),
    key=st.uuids().map(lambda key: key.hex),
)


def record(number: int = 0, **fields) -> LogRecord:
    values = {"request_id": f"r{number}", "at": START + number * HOUR, "status": 200, "outcome": "ok"}
    return LogRecord(**{**values, "release": "assistant@1", **fields})


def ids(records) -> list[str]:
    return [item.request_id for item in records]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/deep/log.db"


@pytest.fixture
def log(url):
    log = ProductionLog(url)
    yield log
    log.close()


def test_a_record_is_read_back_as_it_was_written(log):
    written = record(
        input="Why?",
        output="Därför.",
        prompt="qa@1",
        model="tiny@1",
        tokens_in=3,
        tokens_out=2,
        latency_ms=1.5,
        first_token_ms=0.5,
        details={"messages": [{"role": "user", "content": "Why?"}], "finish_reason": None},
    )
    log.append([written])
    assert log.read() == [written]


@given(st.lists(RECORDS, max_size=4, unique_by=lambda item: item.key))
def test_any_records_survive_the_database(records):
    with closing(ProductionLog("sqlite://")) as log:
        log.append(records)
        assert log.read() == sorted(records, key=lambda item: (item.at, item.key))


def test_half_of_a_surrogate_pair_does_not_lose_the_records_beside_it(log):
    # No database stores one; a generated or imported text can hold one.
    log.append([record(0), record(1, input="a\ud800b", output="\udfff", details={"text": "\ud800"}), record(2)])
    first, odd, last = log.read()
    assert (first.request_id, last.request_id) == ("r0", "r2")
    assert odd.input == "a?b"
    assert odd.output == "?"


def test_records_come_oldest_first_whatever_the_order_of_writing(log):
    log.append([record(2), record(0)])
    log.append([record(1)])
    assert ids(log.read()) == ["r0", "r1", "r2"]


def test_a_window_holds_its_start_and_not_its_end(log):
    log.append([record(number) for number in range(5)])
    assert ids(log.read(since=START + HOUR, until=START + 3 * HOUR)) == ["r1", "r2"]
    assert ids(log.read(since=START + 3 * HOUR)) == ["r3", "r4"]
    assert ids(log.read(until=START + HOUR)) == ["r0"]
    assert log.count(since=START + HOUR, until=START + 3 * HOUR) == 2


def test_a_window_in_another_time_zone_is_the_same_moment(log):
    log.append([record(number) for number in range(3)])
    tokyo = timezone(timedelta(hours=9))
    assert ids(log.read(since=(START + HOUR).astimezone(tokyo))) == ["r1", "r2"]


def test_a_limit_counts_from_the_start_or_from_the_end(log):
    log.append([record(number) for number in range(5)])
    assert ids(log.read(limit=2)) == ["r0", "r1"]
    assert ids(log.read(limit=2, newest=True)) == ["r3", "r4"]
    assert log.read(limit=0) == []


def test_an_app_has_its_own_records_only(log):
    log.append(
        [
            record(0, release="assistant@1"),
            record(1, release="assistant@2"),
            record(2, release="assistants@1"),
            record(3, release=None),
        ]
    )
    assert ids(log.read(app="assistant")) == ["r0", "r1"]
    assert ids(log.read(app="")) == ["r3"]
    assert log.count(app="assistant") == 2
    assert ids(log.iterate(app="assistants")) == ["r2"]


def test_a_request_id_may_repeat_and_finds_all_its_records(log):
    log.append([record(0, request_id="same"), record(1, request_id="same"), record(2)])
    assert [item.at for item in log.read(request_id="same")] == [START, START + HOUR]
    assert log.count() == 3


def test_an_empty_log_is_empty(log):
    log.append([])
    assert log.read() == list(log.iterate()) == []
    assert log.count() == 0


def test_one_bad_record_of_a_batch_leaves_none_of_it(log):
    log.append([record(0)])
    with pytest.raises(StoreUnavailable):
        log.append([record(1), record(2, key=log.read()[0].key)])
    assert ids(log.read()) == ["r0"]


def test_importing_again_adds_nothing(log):
    records = [record(number) for number in range(1200)]
    assert log.import_records(records) == 1200
    assert log.import_records(records) == 0
    again = [dataclasses.replace(item, key=f"{number:032x}") for number, item in enumerate(records)]
    assert log.import_records([*again, record(1200)]) == 1
    assert log.count() == 1201


def test_an_import_takes_a_repeated_request_id_once(log):
    assert log.import_records([record(0, request_id="same"), record(1, request_id="same")]) == 1
    assert log.count() == 1


def test_iterating_gives_what_reading_gives(log):
    log.append([record(number) for number in range(25)])
    window = {"since": START + 3 * HOUR, "until": START + 20 * HOUR}
    assert list(log.iterate(batch=4, **window)) == log.read(**window)


def test_iterating_holds_a_batch_and_not_the_log_in_memory(log):
    text = "x" * 5_000
    log.append([record(number, input=text) for number in range(4_000)])  # 20 MB
    tracemalloc.start()
    try:
        assert sum(len(item.input) for item in log.iterate(batch=50)) == 20_000_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_records_written_while_iterating_do_not_wait(log):
    log.append([record(number) for number in range(10)])
    reading = log.iterate(batch=2)
    assert ids(islice(reading, 3)) == ["r0", "r1", "r2"]
    log.append([record(10)])
    reading.close()
    assert log.count() == 11


def test_threads_may_share_a_log(log):
    def write(worker: int) -> None:
        for number in range(10):
            log.append([record(number, request_id=f"{worker}-{number}")])

    threads = [threading.Thread(target=write, args=[worker]) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids(log.read()))) == 40


WRITER = """
import sys, time
from datetime import UTC, datetime
from llmops.production_log import LogRecord, ProductionLog
url, name = sys.argv[1:]
print("imported", flush=True)
sys.stdin.readline()
log = ProductionLog(url)
for number in range(30):
    log.append([LogRecord(f"{name}-{number}", datetime.now(UTC), 200, "ok")])
    print(number, flush=True)
if name == "killed":
    time.sleep(60)
"""


def start_writer(url: str, name: str) -> subprocess.Popen[str]:
    """A process that has imported everything and waits for a line to open the log."""
    command = [sys.executable, "-c", WRITER, url, name]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "imported\n"
    return writer


def let_go(writer: subprocess.Popen[str]) -> None:
    writer.stdin.write("\n")
    writer.stdin.flush()


def test_processes_that_open_a_new_log_at_once_lose_nothing(url):
    writers = [start_writer(url, name) for name in "abc"]
    for writer in writers:
        let_go(writer)
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    log = ProductionLog(url)
    assert set(ids(log.read())) == {f"{name}-{number}" for name in "abc" for number in range(30)}
    log.close()


def test_an_appended_record_survives_a_killed_process(url):
    with start_writer(url, "killed") as writer:
        let_go(writer)
        told = [writer.stdout.readline() for _ in range(30)]
        os.kill(writer.pid, signal.SIGKILL)
    assert told[-1] == "29\n"
    log = ProductionLog(url)
    assert log.count() == 30
    log.close()


def test_sqlite_syncs_every_transaction_to_the_disk(log):
    with log._engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 30000}


@pytest.fixture
def closed_port():
    with socket.socket() as held:  # bound and not listening: connections are refused
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_an_unreachable_database_is_named_without_its_password(closed_port):
    with pytest.raises(StoreUnavailable) as caught:
        ProductionLog(f"postgresql://anna:sesame@127.0.0.1:{closed_port}/log")
    assert f"postgresql://anna:***@127.0.0.1:{closed_port}/log" in str(caught.value)
    assert "sesame" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "anna:sesame", "nosuchdatabase://anna:sesame@host/log"])
def test_a_url_of_no_database_is_told_without_its_password(url):
    with pytest.raises(StoreUnavailable, match="production log") as caught:
        ProductionLog(url)
    assert "sesame" not in str(caught.value)


def test_a_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "log.db").write_text("Dear diary, " * 1000)
    with pytest.raises(StoreUnavailable, match="not a database"):
        ProductionLog(f"sqlite:///{tmp_path}/log.db")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="file"):
        ProductionLog(f"sqlite:///{tmp_path}/file/log.db")


def test_a_log_that_lost_its_table_says_so_on_every_call(log, tmp_path):
    with sqlite3.connect(tmp_path / "deep" / "log.db") as connection:
        connection.execute("DROP TABLE log_records")
    connection.close()
    calls = [lambda: log.append([record()]), log.read, log.count, lambda: list(log.iterate())]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="no such table"):
            call()
    log.check()  # the database itself is there


@given(RECORDS)
def test_json_and_back_is_the_same_record(item):
    assert LogRecord.from_json(json.loads(json.dumps(item.to_json()))) == item


def test_json_has_the_fields_of_the_contract():
    values = record(3, prompt="qa@2", details={"finish_reason": "stop"}).to_json()
    contract = "request_id at release prompt model status outcome input output tokens_in tokens_out latency_ms"
    assert set(contract.split()) <= set(values)
    assert values["at"] == "2026-01-01T03:00:00+00:00"
    assert values["details"] == {"finish_reason": "stop"}


def test_a_minimal_record_is_filled_with_defaults():
    item = LogRecord.from_json({"request_id": "r", "at": "2026-01-01T00:00:00Z"})
    assert (item.at, item.status, item.outcome, item.app, item.details) == (START, 200, "ok", "", {})
    assert item.key != LogRecord.from_json({"request_id": "r", "at": 0}).key


def test_a_failed_status_without_an_outcome_is_an_error():
    assert LogRecord.from_json({"request_id": "r", "at": 0, "status": 500}).outcome == "error"


def test_nulls_are_taken_as_absent():
    names = FIELDS - {"request_id", "at"}
    item = LogRecord.from_json({"request_id": "r", "at": 0, **dict.fromkeys(names)})
    expected = LogRecord("r", datetime.fromtimestamp(0, UTC), 200, "ok", key=item.key)
    assert item == expected


def test_unknown_fields_are_kept_as_details():
    item = LogRecord.from_json({"request_id": "r", "at": 0, "user": "anna", "details": {"a": 1}})
    assert item.details == {"a": 1, "user": "anna"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"request_id": None}, "request_id: must be text, not NoneType"),
        ({"request_id": ""}, "request_id: is missing"),
        ({"request_id": 7}, "request_id: must be text, not int"),
        ({"at": None}, "at: None is not a time"),
        ({"at": "yesterday"}, "at: 'yesterday' is not a time"),
        ({"at": True}, "at: True is not a time"),
        ({"at": 1e30}, "at: 1e+30 is not a time"),
        ({"at": float("nan")}, "at: nan is not a time"),
        ({"status": "200"}, "status: must be a whole number, not str"),
        ({"status": True}, "status: must be a whole number, not bool"),
        ({"tokens_in": 1.5}, "tokens_in: must be a whole number, not float"),
        ({"tokens_out": 2**70}, "tokens_out: is too large"),
        ({"latency_ms": "fast"}, "latency_ms: must be a number, not str"),
        ({"first_token_ms": []}, "first_token_ms: must be a number, not list"),
        ({"input": {"a": 1}}, "input: must be text, not dict"),
        ({"release": 3}, "release: must be text, not int"),
        ({"details": "text"}, "details: must be an object, not str"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(fields, text):
    with pytest.raises(UsageError) as caught:
        LogRecord.from_json({"request_id": "r", "at": 0, **fields})
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("absent", ["request_id", "at"])
def test_a_missing_field_is_named(absent):
    values = {"request_id": "r", "at": 0}
    del values[absent]
    with pytest.raises(UsageError, match=f"^{absent}: "):
        LogRecord.from_json(values)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-01-01", START),
        ("2026-01-01T00:00:00", START),
        ("2026-01-01T00:00:00Z", START),
        ("2026-01-01T09:00:00+09:00", START),
        (START.timestamp(), START),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_is_iso_text_or_seconds(value, moment):
    assert parse_time(value, "since") == moment

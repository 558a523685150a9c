"""The log in its databases: appending, reading, opening, and logs of older versions."""

import dataclasses
import threading
import tracemalloc
import uuid
from contextlib import closing, suppress
from datetime import timedelta, timezone
from functools import partial
from itertools import islice

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.errors import StoreUnavailable
from llmops.production_log import ProductionLog, RecordRefused, open_engine
from tests.at_once import at_once
from tests.core.log_records import RECORDS, START, ids, record
from tests.moments import HOUR
from tests.production_log.conftest import execute


def test_a_record_is_read_back_as_it_was_written_with_or_without_its_texts(log):
    written = record(
        input="Why?", output="Därför.", prompt="qa@1", model="tiny@1", tokens_in=3, tokens_out=2, latency_ms=1.5,
        first_token_ms=0.5, details={"messages": [{"role": "user", "content": "Why?"}], "finish_reason": None},
    )  # fmt: skip
    log.append([written])
    assert log.read() == [written]
    assert log.read(texts=False) == [dataclasses.replace(written, input="", output="", details={})]


def test_any_records_survive_the_database(log):
    def stored(item):
        """PostgreSQL's text holds every character but one."""
        if log.url.startswith("sqlite"):
            return item
        texts = ("request_id", "input", "output", "release", "prompt", "model", "route", "caller", "user")
        values = {name: getattr(item, name) for name in texts}
        return dataclasses.replace(item, **{name: v and v.replace("\x00", "\ufffd") for name, v in values.items()})

    @given(st.lists(RECORDS, max_size=4, unique_by=lambda item: item.key))
    @settings(deadline=None)
    def survive(records):
        records = [dataclasses.replace(item, key=uuid.uuid4().hex) for item in records]  # examples repeat theirs
        start = log.records_end()
        log.append(records)
        assert log.records_since(start)[0] == [stored(item) for item in records]

    survive()


def test_half_of_a_surrogate_pair_does_not_lose_the_records_beside_it(log):
    # No database stores one; a generated or imported text can hold one.
    log.append([record(0), record(1, input="a\ud800b", output="\udfff", details={"text": "\ud800"}), record(2)])
    assert [(item.request_id, item.input, item.output) for item in log.read()] == [
        ("r0", "", ""),
        ("r1", "a?b", "?"),
        ("r2", "", ""),
    ]


def test_a_window_holds_its_start_and_not_its_end_and_an_app_its_own_records(log):
    log.append([])
    assert log.read() == list(log.iterate()) == []
    releases = ("assistant@1", "assistant@2", "assistants@1", None, "assistant@2")
    log.append([record(number, release=release) for number, release in enumerate(releases)])
    tokyo = timezone(timedelta(hours=9))
    for window, expected in (
        ({"since": START + HOUR, "until": START + 3 * HOUR}, ["r1", "r2"]),
        ({"since": (START + 3 * HOUR).astimezone(tokyo)}, ["r3", "r4"]),
        ({"until": START + HOUR}, ["r0"]),
        ({"app": "assistant"}, ["r0", "r1", "r4"]),
        ({"app": "assistant", "since": START + HOUR}, ["r1", "r4"]),
        ({"app": "assistants"}, ["r2"]),
        ({"app": ""}, ["r3"]),
    ):
        found = log.read(**window)
        assert ids(found) == expected
        assert list(log.iterate(batch=2, **window)) == found
        assert log.count(**window) == len(expected)
    assert ids(log.read(limit=2)) == ["r0", "r1"]
    assert ids(log.read(limit=2, newest=True)) == ["r3", "r4"]
    assert log.read(limit=0) == []


def test_records_come_oldest_first_whatever_the_order_of_writing_and_request_ids_may_repeat(log):
    log.append([record(2), record(0, request_id="same")])
    log.append([record(1, request_id="same")])
    assert ids(log.read()) == ["same", "same", "r2"]
    assert [item.at for item in log.read(request_id="same")] == [START, START + HOUR]
    assert log.count() == 3


def test_details_hold_what_json_can_and_not_a_number_becomes_null(log):
    huge, odd = 2**80, {"nan": float("nan"), "deep": [{"text": "\ud800", "inf": float("inf")}]}
    log.append([record(0, details={"huge": huge}), record(1, details=odd), record(2, details={"nan": float("nan")})])
    found = [item.details for item in log.read()]
    assert found == [{"huge": huge}, {"nan": None, "deep": [{"text": "\ud800", "inf": None}]}, {"nan": None}]


def test_a_record_that_the_database_refuses_is_told_from_a_database_that_is_down(log):
    log.append([record(0, key="same")])
    with pytest.raises(RecordRefused):
        log.append([record(1), record(2, key="same")])
    log.append([record(3)])
    assert ids(log.read()) == ["r0", "r3"]


def test_importing_again_adds_nothing(log):
    records = [record(number) for number in range(1200)]
    assert log.import_records(records) == 1200
    assert log.import_records(records) == 0
    again = [dataclasses.replace(item, key=f"{number:032x}") for number, item in enumerate(records)]
    assert log.import_records([*again, record(1200), record(1201, request_id="r1200")]) == 1
    assert log.count() == 1201


def test_iterating_holds_a_batch_and_not_the_log_in_memory(log):
    text = "x" * 5_000
    log.append([record(number, input=text) for number in range(2_000)])  # 10 MB
    tracemalloc.start()
    try:
        assert sum(len(item.input) for item in log.iterate(batch=50)) == 10_000_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
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
    def write(worker):
        for number in range(10):
            log.append([record(number, request_id=f"{worker}-{number}")])

    at_once(*(partial(write, worker) for worker in range(4)))
    assert len(set(ids(log.read()))) == 40


def test_sqlite_syncs_every_transaction_to_the_disk(sqlite_log):
    engine = open_engine(sqlite_log.url)
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "secure_delete")
        }
    engine.dispose()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 30000, "secure_delete": 1}


def test_a_transaction_that_reads_and_then_writes_queues_behind_other_writers(sqlite_log):
    # Begun as a reader it would fail: another one has written since its first look.
    engine = open_engine(sqlite_log.url)
    writes = engine.execution_options(writes=True)
    done = threading.Event()

    def other_writer():
        sqlite_log.append([record(1)])
        done.set()

    with writes.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM log_records").scalar() == 0
        thread = threading.Thread(target=other_writer)
        thread.start()
        assert not done.wait(0.05)
        connection.exec_driver_sql("CREATE TABLE other (a INTEGER)")
    thread.join(10)
    engine.dispose()
    assert sqlite_log.count() == 1


OLDER_SQLITE = """
CREATE TABLE log_records (
    "key" VARCHAR(32) NOT NULL, request_id VARCHAR(255) NOT NULL, at FLOAT NOT NULL, app VARCHAR(255) NOT NULL,
    release VARCHAR(255), prompt VARCHAR(255), model VARCHAR(255), status INTEGER NOT NULL,
    outcome VARCHAR(32) NOT NULL, input TEXT NOT NULL, output TEXT NOT NULL, tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL, latency_ms FLOAT NOT NULL, first_token_ms FLOAT, details JSON NOT NULL,
    PRIMARY KEY ("key")
);
CREATE INDEX ix_log_records_at ON log_records (at);
CREATE INDEX ix_log_records_request_id ON log_records (request_id);
CREATE INDEX ix_log_records_app ON log_records (app);
INSERT INTO log_records VALUES
    ('b', 'r1', 1.0, 'assistant', 'assistant@1', NULL, NULL, 200, 'ok', 'in', 'out', 1, 2, 3.0, NULL, '{"a": 1}'),
    ('a', 'r0', 0.0, '', NULL, NULL, NULL, 200, 'ok', '', '', 0, 0, 0.0, 0.5, '{}');
"""


def test_a_log_of_an_older_version_keeps_its_records(log_url):
    execute(log_url, *filter(str.strip, OLDER_SQLITE.split(";")))
    for _ in range(2):
        with closing(ProductionLog(log_url)) as log:
            assert ids(log.read()) == ["r0", "r1"]
    with closing(ProductionLog(log_url)) as log:
        assert log.read(app="assistant")[0].details == {"a": 1}
        log.append([record(2)])
        assert ids(log.records_since(0)[0])[-1] == "r2"
        assert log.records_end() == 3


NUMBERED_SQLITE = """
CREATE TABLE log_records (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "key" VARCHAR(32) NOT NULL UNIQUE,
    request_id VARCHAR(255) NOT NULL, at FLOAT NOT NULL, app VARCHAR(255) NOT NULL,
    release VARCHAR(255), prompt VARCHAR(255), model VARCHAR(255), status INTEGER NOT NULL,
    outcome VARCHAR(32) NOT NULL, input TEXT NOT NULL, output TEXT NOT NULL, tokens_in BIGINT NOT NULL,
    tokens_out BIGINT NOT NULL, latency_ms FLOAT NOT NULL, first_token_ms FLOAT, details JSON NOT NULL
)
"""
DETAILS = {"route": "chat", "key": "k1", "user": "Änna", "messages": [{"content": "half \ud800 of a pair, \x00"}]}


def make_numbered(url, rows):
    """A log as releases up to 0.9 made it."""
    numbers = "INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT", "BIGSERIAL PRIMARY KEY"
    execute(url, NUMBERED_SQLITE if url.startswith("sqlite") else NUMBERED_SQLITE.replace(*numbers))
    same = {"app": "assistant", "status": 200, "outcome": "ok", "input": "", "output": "", "tokens_in": 0,
            "tokens_out": 0, "latency_ms": 0}  # fmt: skip
    made = [{**same, "key": str(n), "request_id": f"r{n}", "at": n, "details": row} for n, row in enumerate(rows)]
    columns = [sa.column(name, sa.JSON if name == "details" else None) for name in made[0]]
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.insert(sa.table("log_records", *columns)), made)
    engine.dispose()


def test_a_numbered_log_is_brought_up_to_date_whole_and_never_gives_a_number_twice(log_url):
    # Its fields that only details had are filled, its token counts need not be known any more.
    make_numbered(log_url, [DETAILS, {}, {"user": 7, "route": ["odd"]}, [], *({"user": f"u{n}"} for n in range(2100))])
    execute(log_url, "DELETE FROM log_records WHERE seq = 2104")
    for _ in range(2):
        with closing(ProductionLog(log_url)) as log:
            found = [(item.route, item.caller, item.user, item.text_deleted_at) for item in log.read()]
            assert found[:3] == [("chat", "k1", "Änna", None), (None, None, None, None), (None, None, "7", None)]
            assert [user for _, _, user, _ in found[4:]] == [f"u{number}" for number in range(2099)]
    with closing(ProductionLog(log_url)) as log:
        log.append([record(7, tokens_in=None, tokens_out=5)])
        assert [(item.tokens_in, item.tokens_out) for item in log.read()[-2:]] == [(0, 0), (None, 5)]
        assert log.records_end() == 2105


def test_a_writer_survives_that_its_connection_was_lost(postgres_url):
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = "
    with closing(ProductionLog(postgres_url)) as log:
        log.append([record(0)])
        execute(postgres_url, others + "current_user")
        log.append([record(1)])
        assert ids(log.read()) == ["r0", "r1"]


def test_a_writer_that_failed_leaves_no_transaction_open(log):
    with suppress(RuntimeError), log._database.inserting() as cursor:
        log._insert(cursor, [record(0)])
        raise RuntimeError
    log.append([record(1)])
    assert ids(log.read()) == ["r1"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "production log"),
        ("anna:sesame", "production log"),
        ("nosuchdatabase://anna:sesame@host/log", "production log"),
        ("mysql://a:sesame@h/l", "production log"),
        ("postgresql://anna:sesame@127.0.0.1:9/log", r"postgresql://anna:\*\*\*@127\.0\.0\.1:9/log"),
        ("sqlite:///{folder}/diary", "not a database"),
        ("sqlite:///{folder}/diary/log.db", "diary"),
    ],
)
def test_what_cannot_be_opened_is_told_without_its_password(tmp_path, url, told):
    (tmp_path / "diary").write_text("Dear diary, " * 1000)
    with pytest.raises(StoreUnavailable, match=told) as caught:
        ProductionLog(url.format(folder=tmp_path))
    assert "sesame" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_log_that_lost_its_table_says_so_on_every_call(log):
    execute(log.url, "DROP TABLE log_records")
    for call in (lambda: log.append([record()]), log.read, log.count, lambda: list(log.iterate())):
        with pytest.raises(StoreUnavailable, match="log_records"):
            call()
    log.check()  # the database itself is there


def test_a_full_disk_refuses_records_and_loses_none_and_writing_goes_on_when_there_is_room(tmp_path):
    pages = [40]
    with closing(ProductionLog(f"sqlite:///{tmp_path}/log.db")) as log:
        log.close()  # every connection from now on has this limit, beyond which SQLite says that the disk is full
        sa.event.listen(
            log._database.engine, "connect", lambda opened, _: opened.execute(f"PRAGMA max_page_count={pages[0]}")
        )
        written = []

        def fill():
            while len(written) < 1000:
                log.append([record(len(written), input="x" * 2000)])
                written.append(f"r{len(written)}")

        with pytest.raises(StoreUnavailable, match="disk is full"):
            fill()
        pages[0] = 10_000
        log.append([record(len(written))])
        assert ids(log.read()) == [*written, f"r{len(written)}"]


def test_the_index_of_users_has_no_entry_of_a_record_without_one(any_log):
    definition = {
        "sqlite": "SELECT sql FROM sqlite_master WHERE name = 'log_records_user'",
        "postgresql": "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema() "
        "AND indexname = 'log_records_user'",
    }
    engine = open_engine(any_log.url)
    with engine.connect() as connection:
        index = connection.exec_driver_sql(definition[engine.dialect.name]).scalar_one()
    engine.dispose()
    assert "user" in index.partition(" WHERE ")[2]
    assert "IS NOT NULL" in index

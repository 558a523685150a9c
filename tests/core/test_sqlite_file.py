import contextlib
import sqlite3
import threading

import pytest

from llmops.state_files import write_ahead


def _open(path):
    return contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False))


def test_a_new_file_gets_a_write_ahead_log(tmp_path):
    with _open(tmp_path / "new.db") as connection:
        write_ahead(connection, synchronous="FULL")
        assert [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")] == [
            "wal",
            2,
        ]


def test_who_opens_a_file_waits_for_who_reads_it(tmp_path):
    with _open(tmp_path / "old.db") as reader, _open(tmp_path / "old.db") as opener:
        reader.execute("CREATE TABLE t (x)")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM t").fetchall()
        tried = threading.Event()
        opener.set_trace_callback(lambda statement: tried.set() if "WAL" in statement else None)
        opening = threading.Thread(target=write_ahead, args=(opener,))
        opening.start()
        assert tried.wait(30)
        reader.execute("COMMIT")
        opening.join(30)
        assert opener.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_many_open_a_new_file_at_once(tmp_path):
    for round_number in range(20):
        path, modes, together = tmp_path / f"{round_number}.db", [], threading.Barrier(8)

        def opened(path=path, modes=modes, together=together):
            together.wait(30)
            with _open(path) as connection:
                write_ahead(connection)
                connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
                connection.execute("INSERT INTO t VALUES (1)")
                modes.append(connection.execute("PRAGMA journal_mode").fetchone()[0])

        threads = [threading.Thread(target=opened) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert modes == ["wal"] * 8


def test_a_database_in_memory_is_left_without_one():
    with _open(":memory:") as connection:
        write_ahead(connection)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("memory",)


def test_what_is_no_database_is_said(tmp_path):
    (tmp_path / "text.db").write_text("this is a text, not a database; " * 100)
    with _open(tmp_path / "text.db") as connection, pytest.raises(sqlite3.DatabaseError, match="not a database"):
        write_ahead(connection)

"""State is for its owner alone; SQLite files have a write-ahead log."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from llmops.evaluation.generation_cache import GenerationCache
from llmops.processes import make_scratch_folder, scratch_folder, sweep_scratch_folders
from llmops.production_log import ProductionLog
from llmops.state_files import keep_private, make_private_folder, write_ahead
from tests.at_once import at_once


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def open_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_new_log_a_cache_their_folders_and_what_lies_beside_it_are_the_owners_alone(tmp_path):
    home, cache = tmp_path / "deep" / "home", tmp_path / "cache"
    with closing(ProductionLog(f"sqlite:///{home / 'log.db'}")), closing(GenerationCache(cache)):
        assert {mode(folder) for folder in (cache, home, home.parent)} == {0o700}
        assert {mode(path) for path in cache.iterdir()} == {0o600}
        assert {path.name: mode(path) for path in home.iterdir()} == dict.fromkeys(
            ("log.db", "log.db-wal", "log.db-shm", "log.db-writers"), 0o600
        )


def test_what_was_made_readable_before_is_mended_when_it_is_opened_but_for_folders_that_are_shared(tmp_path):
    path, shared = tmp_path / "home" / "log.db", tmp_path / "shared"
    path.parent.mkdir()
    sqlite3.connect(path).execute("CREATE TABLE old (x)").connection.close()
    path.chmod(0o664)
    with closing(ProductionLog(f"sqlite:///{path}")):
        assert {mode(each) for each in path.parent.iterdir()} == {0o600}
    shared.mkdir()
    shared.chmod(0o1777)
    keep_private(shared)
    make_private_folder(shared)
    assert mode(shared) == 0o1777
    keep_private(tmp_path / "missing")


def test_folders_of_killed_processes_are_swept_and_those_of_living_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "from llmops.processes import make_scratch_folder; print(make_scratch_folder('engine'))"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    killed = Path(subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True,
                                 text=True).stdout.strip())  # fmt: skip
    (tmp_path / "llmops-notes").mkdir()
    mine = make_scratch_folder("engine")
    assert mode(mine) == 0o700
    with scratch_folder("metrics") as open_folder:
        assert sweep_scratch_folders() == 1
        assert open_folder.exists()
    assert (killed.exists(), mine.exists(), open_folder.exists()) == (False, True, False)
    assert (tmp_path / "llmops-notes").exists()


def _open(path):
    return closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False))


def test_a_new_file_gets_a_write_ahead_log_a_database_in_memory_none_and_a_text_is_refused(tmp_path):
    with _open(tmp_path / "new.db") as connection:
        write_ahead(connection, synchronous="FULL")
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    with _open(":memory:") as connection:
        write_ahead(connection)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("memory",)
    (tmp_path / "text.db").write_text("this is a text, not a database; " * 100)
    with _open(tmp_path / "text.db") as connection, pytest.raises(sqlite3.DatabaseError, match="not a database"):
        write_ahead(connection)


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

        at_once(*[opened] * 8)
        assert modes == ["wal"] * 8

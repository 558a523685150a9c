"""How every SQLite file of ours is opened: who writes waits for another, and nobody waits for who reads."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

from llmops.private_files import keep_private

BUSY_SECONDS = 30.0
_PAUSE_SECONDS = 0.01
_DAMAGED = ("database disk image is malformed", "disk I/O error", "file is not a database")


def write_ahead(connection: Any, *, synchronous: str = "NORMAL") -> None:
    """Makes a SQLite connection wait for locks, and its file keep a write-ahead log.

    The file is kept for its owner alone (mode 0600), and with it its log, which gets the file's mode.

    SQLite never waits while it changes the log's kind, whatever the busy timeout says (two who both hold a read lock
    would wait for each other), so who opens a new file beside others tries again here.

    connection: the driver's. synchronous: FULL: each commit survives a power cut; NORMAL: a crash of the process.

    Raises:
        sqlite3.OperationalError: the file cannot be written, or was locked for `BUSY_SECONDS`.
    """
    connection.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
    if path := connection.execute("PRAGMA database_list").fetchone()[2]:
        for suffix in ("", "-wal", "-shm"):
            keep_private(Path(f"{path}{suffix}"))
    give_up_at = time.monotonic() + BUSY_SECONDS
    while not _is_switched(connection):
        if time.monotonic() > give_up_at:
            raise sqlite3.OperationalError("database is locked")
        time.sleep(_PAUSE_SECONDS)
    connection.execute(f"PRAGMA synchronous={synchronous}")


def integrity(path: Path) -> str:
    """`ok`, or the first problem that SQLite finds when it reads the whole file, which it opens for reading only."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error)


def advised(problem: str) -> str:
    """What SQLite says, and for a damaged file what to do: its own words name neither a file nor a cure."""
    damaged = any(words in problem for words in _DAMAGED)
    return f"{problem}; `llmops doctor` says which files are broken" if damaged else problem


def _is_switched(connection: Any) -> bool:
    """Whether the file now has a write-ahead log, or (in memory, on some network disks) never can have one."""
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise
        return False
    return True

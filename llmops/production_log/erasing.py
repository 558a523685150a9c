"""Makes deleted rows' bytes go from a database's files, and looks whether they have."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmops.errors import CannotRun

_CHUNK = 1 << 23
_WAIT_SECONDS = 60.0
MOST_SOUGHT = 300
"""Of more markers than these the file is not searched first: it is written anew."""

Alone = Callable[[], AbstractContextManager[sa.Connection]]
"""Gives a connection without a transaction."""


@dataclass(frozen=True, slots=True)
class Erased:
    """searched: bytes of the files looked through; markers: looked for there; found: of them, at the end.

    rewritten: whether the whole file was written anew, because deleting had left something in it.
    """

    searched: int = 0
    markers: int = 0
    found: int = 0
    rewritten: bool = False


def erase_from_file(alone: Alone, file: Path, keys: Iterable[str], pieces: Iterable[str] = ()) -> Erased:
    """Erases what was deleted from a SQLite file and its write-ahead log.

    What is deleted is overwritten (`secure_delete`), but earlier moves of a row between pages may have left copies. So
    the files are searched, and the database is written anew (VACUUM: needs as much room again, and holds up writers
    meanwhile) when anything is found.

    keys: found nowhere but in the deleted rows. pieces: of their texts; another row may hold the same words.

    Raises:
        CannotRun: somebody reads the database all the time.
    """
    unique = sorted({key.encode() for key in keys})
    sought = [*unique, *sorted({piece.encode(errors="replace") for piece in pieces})]
    _empty_wal(alone)
    rewritten = len(sought) > MOST_SOUGHT or bool(_found(file, sought))
    if rewritten:
        with alone() as connection:
            connection.exec_driver_sql("VACUUM")
        _empty_wal(alone)
    unique = unique[:: len(unique) // MOST_SOUGHT + 1]
    found = _found(file, unique)
    return Erased(sum(path.stat().st_size for path in _files(file)), len(unique), len(found), rewritten)


def reclaim_postgresql(alone: Alone, tables: Iterable[str]) -> None:
    """Removes deleted rows from PostgreSQL's own files; copies in its write-ahead log end with the log's segments."""
    with alone() as connection:
        for table in sorted(tables):
            connection.exec_driver_sql(f'VACUUM "{table}"')


def _empty_wal(alone: Alone) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        with alone() as connection:
            busy = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
        if not busy:
            return
        if time.monotonic() > deadline:
            raise CannotRun("the database is being read all the time, so its write-ahead log stays; run this again")
        time.sleep(0.1)


def _files(file: Path) -> list[Path]:
    beside = (file.with_name(file.name + ending) for ending in ("", "-wal", "-journal"))
    return [path for path in beside if path.exists()]


def _found(file: Path, sought: list[bytes]) -> set[bytes]:
    """Which of them are anywhere in the files. Reads them once, some megabytes at a time."""
    found: set[bytes] = set()
    overlap = max(map(len, sought), default=1)
    for path in _files(file):
        with path.open("rb") as opened:
            chunk = opened.read(_CHUNK)
            while chunk:
                found.update(mark for mark in sought if mark not in found and mark in chunk)
                more = opened.read(_CHUNK)
                chunk = chunk[-overlap:] + more if more else b""
    return found


def connections(engine: Any) -> Alone:
    """Of any engine, for `erase_from_file`."""
    return lambda: engine.execution_options(isolation_level="AUTOCOMMIT").connect()

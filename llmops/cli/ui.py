"""`llmops ui`: MLflow's UI on the store."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from llmops.cli.output import say
from llmops.errors import CannotRun
from llmops.processes import running
from llmops.settings import Settings

if TYPE_CHECKING:
    from llmops.registry import Store


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=5000, show_default=True)
def command(host: str, port: int) -> None:
    """Open MLflow's UI, where you can compare prompt versions row by row. Stop it with Ctrl-C, or SIGTERM.

    \b
    Example: llmops ui --port 5000
    """
    from llmops.registry import Store

    settings = Settings.from_environment()
    store = Store(settings)
    _check_free(host, port)
    for line in _pages(store, f"http://{host}:{port}"):
        say(line)
    arguments = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri]
    arguments += ["--default-artifact-root", settings.artifact_root, "--host", host, "--port", str(port)]
    arguments += ["--workers", "1"]
    # Job execution would start a queue with several processes and 1.5 GB, and nothing here uses it.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _sigterm_exits(), running(arguments, env=environment) as server:
        sys.exit(server.wait())


@contextmanager
def _sigterm_exits() -> Iterator[None]:
    """SIGTERM ends the block, instead of this process at once: the port is free again when the process has ended."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _pages(store: Store, base: str) -> list[str]:
    """Where to look: for each suite, its newest two runs side by side."""
    pages = [f"MLflow on {base}"]
    for experiment in sorted(store.client.search_experiments(), key=lambda item: str(item.name)):
        runs = store.client.search_runs(
            [experiment.experiment_id],
            "tags.`llmops.complete` = 'true'",
            order_by=["attributes.start_time DESC"],
            max_results=2,
        )
        if len(runs) == 2:
            newer, older = (run.info.run_id for run in runs)
            page = f"{base}/#/experiments/{experiment.experiment_id}/evaluation-runs"
            pages.append(f"  suite {experiment.name}: {page}?selectedRunUuid={newer}&compareToRunUuid={older}")
    return pages


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            problem = f"port {port} cannot be used on {host} ({error.strerror}); choose another with --port"
            raise CannotRun(problem) from error

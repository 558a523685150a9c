"""The processes of `llmops serve`: this one, which supervises; the engine process; and the workers, which answer.

    llmops serve ── engine process        every local model once, for all workers; started again when it dies
                 ├─ worker × N            the gateway's app; started again when one dies
                 └─ thread                makes MLflow traces of sampled log records, where that is asked for

Workers share nothing but the listening socket, the engine process's socket, the log's database and the metrics' folder.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from llmops.engines.protocol import Engine
from llmops.errors import CannotRun, UsageError
from llmops.json_logs import configure_logging
from llmops.keys import KeyStore
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from llmops.versions import ModelVersion, RegisteredVersions, TabularVersion
from service.metrics_files import prepare_multiprocess
from service.server import listen, uvicorn_config
from service.tabular_pool import Predictor

if TYPE_CHECKING:
    from llmops.registry import Registry

logger = logging.getLogger("llmops.service")

LOAD_SECONDS = 600.0
"""How long a worker waits for the engine process to load a model."""


def serve(*, host: str = "127.0.0.1", port: int = 8000, workers: int = 1) -> None:
    """Serves, as `LLMOPS_*` variables say, until SIGTERM or SIGINT; then drains.

    Raises:
        UsageError: a host beyond loopback without a key, a port outside 0–65535, fewer than one worker, or a setting.
        CannotRun: the port is taken, the production log cannot be opened, or the app does not start.
    """
    if workers < 1:
        raise UsageError("--workers: must be 1 or more")
    settings = Settings.from_environment()
    configure_logging(settings.server_log)
    with ExitStack() as stack:
        log = stack.enter_context(_opened_log(settings))
        listener = stack.enter_context(listen(host, port, _has_live_key(settings, workers)))
        socket_path = stack.enter_context(_engine_process(settings))
        metrics = stack.enter_context(tempfile.TemporaryDirectory(prefix="llmops-metrics-"))
        # Workers are new processes: all that they get from here is their environment.
        os.environ.update({"LLMOPS_ENGINE_SOCKET": str(socket_path), **prepare_multiprocess(Path(metrics))})
        stack.enter_context(_exporting_traces(settings, log))
        supervisor = Multiprocess(uvicorn_config("service.serve:worker_app", settings, workers), sockets=[listener])
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise CannotRun("the gateway did not start; the lines above say why")


def worker_app() -> FastAPI:
    """The app of one worker process, as its environment describes it."""
    # Imported here: the supervising process needs none of it.
    from llmops.engine_host.client import embed, open_remote, ping
    from llmops.engines.opening import engine_name, open_engine
    from service.app import create_app

    settings = Settings.from_environment()
    configure_logging(settings.server_log)
    socket_path = settings.engine_socket
    if socket_path is None:
        raise UsageError("LLMOPS_ENGINE_SOCKET: a worker needs the engine process's socket")
    _end_with_parent()

    def open_model(model: ModelVersion) -> Engine:
        if engine_name(model, settings) == "openai":
            return open_engine(model, settings)
        return open_remote(socket_path, model, LOAD_SECONDS)

    registry = _RegistryOnDemand(settings)
    return create_app(
        settings,
        registry,
        open_model,
        ProductionLog(settings.resolved_log_url),
        keys=KeyStore(settings.resolved_log_url),
        ping=lambda: ping(socket_path),
        embed=lambda texts: embed(socket_path, texts),
        open_tabular=registry.open_tabular,
    )


class _RegistryOnDemand:
    """The registry, opened by the first look at it: a store that is away then holds up neither start nor shutdown."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._registry: Registry | None = None

    def registered(self) -> RegisteredVersions:
        """As `ReleaseSource`."""
        return self._opened().registered()

    def open_tabular(self, version: TabularVersion) -> Predictor:
        """As `TabularOpener`: in the worker, which needs no engine process for it."""
        from llmops.tabular.storage import load

        return load(self._opened().tabular_versions.fetch(version))

    def _opened(self) -> Registry:
        if self._registry is None:
            from llmops.registry import Registry

            self._registry = Registry(self._settings)
        return self._registry


def _end_with_parent() -> None:
    """Drains and ends this worker when its parent dies: nobody else would start it again, or stop it."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=wait, name="watch parent", daemon=True).start()


def _has_live_key(settings: Settings, workers: int) -> bool:
    """Whether a live key exists; warns when keys have limits that several workers cannot count together."""
    keys = KeyStore(settings.resolved_log_url)
    try:
        now = datetime.now(UTC)
        limited = any(key.limited and key.live(now) for key in keys.read())
        if limited and workers > 1 and settings.redis_url is None:
            logger.warning(
                "each of the %d workers counts the keys' limits for itself; LLMOPS_REDIS_URL makes them exact", workers
            )
        return keys.has_live_key()
    finally:
        keys.close()


@contextmanager
def _opened_log(settings: Settings) -> Iterator[ProductionLog]:
    log = ProductionLog(settings.resolved_log_url)
    try:
        yield log
    finally:
        log.close()


@contextmanager
def _engine_process(settings: Settings) -> Iterator[Path]:
    """The socket of an engine process: one that serves already, or one of our own while the block runs."""
    if settings.engine_socket is not None:
        yield settings.engine_socket
        return
    from llmops.engine_host.supervisor import EngineProcess

    process = EngineProcess(settings)
    process.start()
    try:
        yield process.socket_path
    finally:
        process.stop()


@contextmanager
def _exporting_traces(settings: Settings, log: ProductionLog) -> Iterator[None]:
    """Makes MLflow traces of sampled records while the block runs."""
    if settings.trace_sample == 0:
        yield
        return
    from llmops.recording.production_traces import TraceExporter

    stop = threading.Event()
    thread = threading.Thread(target=TraceExporter(settings, log).run, args=(stop,), name="trace exporter")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

"""The processes of `llmops serve`: this one, which supervises; the engine process; and the workers, which answer.

    llmops serve ── engine process        every local model once, for all workers; started again when it dies
                 ├─ worker × N            the gateway's app; started again when one dies
                 └─ thread                makes MLflow traces of sampled log records, where that is asked for

Workers share nothing but the listening socket, the engine process's socket, the log's database, and the folders of the
metrics and of the keys' requests.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

from llmops.engines.protocol import Engine
from llmops.errors import CannotRun, StoreUnavailable, UsageError
from llmops.json_logs import configure_logging
from llmops.keys import KeyStore
from llmops.processes import scratch_folder, sweep_scratch_folders
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from llmops.state_files import FileIdentity, hold, identity_of, keep_private, sqlite_path
from llmops.versions import ModelVersion, RegisteredVersions, TabularVersion
from service.predictions import Predictor
from service.server import Workers, listen, uvicorn_config

if TYPE_CHECKING:
    from llmops.registry import Registry

logger = logging.getLogger("llmops.service")

LOAD_SECONDS = 600.0
"""How long a worker waits for the engine process to load a model."""

HUNG_SECONDS = 30.0
"""A worker beside busy engines may be slow to answer its parent; only one that hangs is to be killed."""


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    on_serving: Callable[[str], None] = lambda _url: None,
) -> None:
    """Serves, as `LLMOPS_*` variables say, until SIGTERM or SIGINT; then drains.

    port: 0 takes a free one. on_serving: called once with the gateway's URL, when it answers requests.

    Raises:
        UsageError: a host beyond loopback without a key, a port outside 0–65535, fewer than one worker, or a setting.
        CannotRun: the port is taken, the production log cannot be opened, or the app does not start.
    """
    if workers < 1:
        raise UsageError("--workers: must be 1 or more")
    settings = Settings.from_environment()
    configure_logging(settings.server_log)
    sweep_scratch_folders()
    keep_private(settings.home)
    with ExitStack() as stack:
        log = stack.enter_context(closing(ProductionLog(settings.resolved_log_url)))
        with closing(KeyStore(settings.resolved_log_url, home=settings.home)) as keys:
            has_keys = keys.has_live_key()
        listener = stack.enter_context(listen(host, port, has_keys))
        socket_path = stack.enter_context(_engine_process(settings))
        metrics = stack.enter_context(scratch_folder("metrics"))
        # Workers are new processes: all that they get from here is their environment, and what makes their app.
        os.environ.update({"LLMOPS_ENGINE_SOCKET": str(socket_path), **prepare_metrics(metrics)})
        stack.enter_context(_exporting_traces(settings, log))
        registry_file = stack.enter_context(_registry_file(settings))
        windows = stack.enter_context(scratch_folder("limits"))
        make_app = functools.partial(worker_app, log.file, registry_file, windows)
        supervisor = Workers(
            uvicorn_config(make_app, settings, workers),
            [listener],
            hung_seconds=HUNG_SECONDS,
            drain_seconds=settings.drain_seconds,
            on_serving=lambda: on_serving(_url(listener)),
        )
        supervisor.run()
        if supervisor.failed_to_start:
            raise CannotRun("the gateway did not start; the lines above say why")


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def prepare_metrics(folder: Path) -> dict[str, str]:
    """Empties the folder, and returns the environment in which workers count into it together.

    Call it once, in the parent of all workers, before anything imports `service.metrics` there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.db"):
        path.unlink()
    return {"PROMETHEUS_MULTIPROC_DIR": str(folder)}


def worker_app(
    log_file: FileIdentity | None = None, registry_file: FileIdentity | None = None, windows: Path | None = None
) -> FastAPI:
    """The app of one worker process, as its environment describes it.

    log_file, registry_file: the SQLite files that the gateway began with. A worker that starts later must not take
    others for them: it would find no keys, or no releases. windows: where all workers count keys' requests.
    """
    # Imported here: the supervising process needs none of it.
    from llmops.engine_host.client import RemoteEngine, embed, ping
    from llmops.engines.opening import engine_name, open_engine
    from service.app import closed_app, create_app

    settings = Settings.from_environment()
    configure_logging(settings.server_log)
    socket_path = settings.engine_socket
    if socket_path is None:
        raise UsageError("LLMOPS_ENGINE_SOCKET: a worker needs the engine process's socket")
    if (parent := multiprocessing.parent_process()) is not None:
        # Drains and ends when its parent dies: nobody else would start it again, or stop it.
        threading.Thread(target=_end_with, args=(parent,), name="watch parent", daemon=True).start()

    def open_model(model: ModelVersion) -> Engine:
        if engine_name(model, settings) == "openai":
            return open_engine(model, settings)
        return RemoteEngine(socket_path, model, LOAD_SECONDS)

    try:
        log = ProductionLog(settings.resolved_log_url, log_file)
    except StoreUnavailable as problem:
        logger.error("nothing is served: %s", problem)  # noqa: TRY400  its place says nothing more
        return closed_app(problem)
    registry = _RegistryOnDemand(settings, registry_file)
    return create_app(
        settings,
        registry,
        open_model,
        log,
        keys=KeyStore(settings.resolved_log_url, home=settings.home, file=log_file),
        ping=lambda: ping(socket_path),
        embed=lambda texts: embed(socket_path, texts),
        open_tabular=registry.open_tabular,
        windows=windows,
    )


class _RegistryOnDemand:
    """The registry, opened by the first look at it: a store that is away then holds up neither start nor shutdown."""

    def __init__(self, settings: Settings, file: FileIdentity | None = None) -> None:
        self._settings, self._file = settings, file
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

            self._registry = Registry(self._settings, file=self._file)
        return self._registry


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _registry_file(settings: Settings) -> Iterator[FileIdentity | None]:
    """Which file the registry is; None where it is behind a server, or made by the first who opens it. While the block
    runs no other file can be taken for it."""
    path = sqlite_path(settings.resolved_tracking_uri)
    if path is None or not path.exists():
        yield None
        return
    held = hold(path)
    try:
        yield identity_of(path)
    finally:
        os.close(held)


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

"""The processes of `llmops serve`: this one, which supervises; the engine process; and the workers, which answer.

    llmops serve ── engine process        every local model once, for all workers; started again when it dies
                 ├─ worker × N            the gateway's app; started again when one dies
                 └─ thread                makes MLflow traces of sampled log records, where that is asked for

Workers share nothing but the listening socket, the engine process's socket, the log's database, and the folders of the
metrics and of the keys' requests.
"""

from __future__ import annotations

import functools
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

from llmops.engines.protocol import Engine
from llmops.errors import CannotRun, IncompatibleStore, StoreUnavailable, UsageError
from llmops.json_logs import configure_logging
from llmops.keys import KeyStore
from llmops.processes import running, scratch_folder, sweep_scratch_folders
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from llmops.state_files import FileIdentity, hold, identity_of, keep_private, sqlite_path
from llmops.versions import ModelVersion
from service.server import STARTUP_SECONDS, Workers, bound_socket, uvicorn_config

if TYPE_CHECKING:
    from llmops.registry import Registry

logger = logging.getLogger("llmops.service")

NEW_OBJECTS = 20_000
"""A worker's garbage collector looks at new objects when there are so many. By Python's default, 700, it took a tenth
of a busy worker's CPU time. Only cycles wait for it, and a request leaves few."""

LOAD_SECONDS = 600.0
"""How long a worker waits for the engine process to load a model."""


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
        IncompatibleStore: MLflow's tables are older or newer than the installed MLflow's.
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
        _refuse_incompatible_store(settings)
        listener = stack.enter_context(bound_socket(host, port, has_keys))
        socket_path = settings.engine_socket or _start_engine_process(settings, stack)
        metrics = stack.enter_context(scratch_folder("metrics"))
        # Workers are new processes: all that they get from here is their environment, and what makes their app.
        os.environ.update(LLMOPS_ENGINE_SOCKET=str(socket_path), PROMETHEUS_MULTIPROC_DIR=str(metrics))
        if settings.trace_sample:
            _start_exporting_traces(settings, log, stack)
        registry_path, registry_file = sqlite_path(settings.resolved_tracking_uri), None
        if registry_path is not None and registry_path.exists():  # else it is made by the first who opens it
            # While it is held no other file can be taken for it.
            stack.callback(os.close, hold(registry_path))
            registry_file = identity_of(registry_path)
        rate_limit_folder = stack.enter_context(scratch_folder("limits"))
        make_app = functools.partial(worker_app, log.file, registry_file, rate_limit_folder)
        supervisor = Workers(
            uvicorn_config(make_app, settings, workers),
            [listener],
            drain_seconds=settings.drain_seconds,
            on_serving=lambda: on_serving(_url(listener)),
        )
        supervisor.run()
        if supervisor.failed_to_start:
            raise CannotRun("the gateway did not start; the lines above say why")


def _refuse_incompatible_store(settings: Settings) -> None:
    """Raises IncompatibleStore. A store that cannot be reached is waited for later."""
    from llmops.registry.schema import checked_schema
    from llmops.registry.store import translated

    try:
        with translated("MLflow store"):
            checked_schema(settings.resolved_tracking_uri)
    except IncompatibleStore:
        raise
    except StoreUnavailable as error:
        logger.warning("%s", error)


def _start_engine_process(settings: Settings, stack: ExitStack) -> Path:
    """The socket of an engine process of our own, which ends with the stack."""
    from llmops.engine_host.supervisor import EngineProcess

    process = EngineProcess(settings)
    process.start()
    stack.callback(process.stop)
    return process.socket_path


def _start_exporting_traces(settings: Settings, log: ProductionLog, stack: ExitStack) -> None:
    """Makes MLflow traces of sampled records until the stack ends."""
    from llmops.recording.production_traces import TraceExporter

    stop = threading.Event()
    thread = threading.Thread(target=TraceExporter(settings, log).run, args=(stop,), name="trace exporter")
    thread.start()
    stack.callback(thread.join)
    stack.callback(stop.set)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def worker_app(
    log_file: FileIdentity | None = None,
    registry_file: FileIdentity | None = None,
    rate_limit_folder: Path | None = None,
) -> FastAPI:
    """The app of one worker process, as its environment describes it.

    log_file, registry_file: the SQLite files that the gateway began with. A worker that starts later must not take
    others for them: it would find no keys, or no releases. rate_limit_folder: where all workers count keys' requests.
    """
    # Imported here: the supervising process needs none of it.
    from llmops.engine_host.client import RemoteEngine, embed, ping
    from llmops.engines.opening import engine_name, open_engine
    from llmops.tabular.storage import load
    from service.app import closed_app, create_app
    from service.gateway import Gateway

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
    registry = registry_on_demand(settings, registry_file)
    gateway = Gateway(
        settings,
        lambda: registry().registered(),
        open_model,
        log,
        keys=KeyStore(settings.resolved_log_url, home=settings.home, file=log_file),
        ping=lambda: ping(socket_path),
        embed=lambda texts: embed(socket_path, texts),
        open_tabular=lambda version: load(registry().tabular_versions.fetch(version)),
        rate_limit_folder=rate_limit_folder,
    )
    app = create_app(gateway)
    if parent is not None:
        gc.collect()
        gc.freeze()  # modules and the app stay, so no collection needs to look at them again
        gc.set_threshold(NEW_OBJECTS)
    return app


def registry_on_demand(settings: Settings, file: FileIdentity | None = None) -> Callable[[], Registry]:
    """Gives the registry, opened by the first call: a store that is away then holds up neither start nor shutdown."""

    @functools.cache
    def opened() -> Registry:
        from llmops.registry import Registry

        return Registry(settings, file=file)

    return opened


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def running_gateway(settings: Settings) -> Iterator[str]:
    """The URL of a gateway of one's own, a process on a free port that is ready to answer; it ends with the block, and
    with this process. For the demo, the labs and their tests.

    Its lines go to `gateway.log` in the home. Raises CannotRun when it does not start.
    """
    import httpx

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return bool(httpx.get(f"{url}/readyz", timeout=2).status_code == 200)
        except httpx.HTTPError:
            return False

    settings.home.mkdir(parents=True, exist_ok=True)
    log_path = settings.home / "gateway.log"
    command = [sys.executable, "-m", "llmops.cli", "serve", "--port", str(port)]
    environment = {**os.environ, "LLMOPS_HOME": str(settings.home)}
    with log_path.open("w") as log, running(command, env=environment, stdout=log, stderr=log) as process:
        deadline = time.monotonic() + STARTUP_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise CannotRun(f"the gateway did not start; read {log_path}")
            time.sleep(0.2)
        yield url

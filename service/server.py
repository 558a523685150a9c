"""Runs the gateway under uvicorn: on loopback, with one process or several."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from llmops.errors import CannotRun, UsageError
from llmops.settings import Settings

DRAIN_SECONDS = 30
"""How long requests under way may go on after SIGTERM."""


def run(make_app: Callable[[], FastAPI], *, host: str = "127.0.0.1", port: int = 8000, workers: int = 1) -> None:
    """Serves until SIGTERM or SIGINT, then drains: no new connections, and up to DRAIN_SECONDS for open requests.

    make_app: makes the app. With several workers each is a process of its own, which cannot be handed the app; they
    all call `app_from_environment` instead.

    Raises:
        UsageError: a host beyond loopback, a port outside 0–65535, or fewer than one worker.
        CannotRun: the port is taken, or the app did not start.
    """
    if workers < 1:
        raise UsageError("--workers: must be 1 or more")
    with listen(host, port) as listener:
        if workers > 1:
            many = _config("service.server:app_from_environment", workers)
            Multiprocess(many, sockets=[listener]).run()
            return
        server = uvicorn.Server(_config(make_app))
        server.run(sockets=[listener])
        if not server.started:
            raise CannotRun("the gateway did not start; the lines above say why")


def app_from_environment() -> FastAPI:
    """The app as `LLMOPS_*` variables describe it: what each worker process makes for itself."""
    # Imported here, so that embedding the gateway does not need a registry.
    from llmops.engines.opening import open_engine
    from llmops.production_log import ProductionLog
    from llmops.registry import Registry
    from service.app import create_app

    settings = Settings.from_environment()
    log = ProductionLog(settings.resolved_log_url)
    return create_app(settings, Registry(settings), lambda model: open_engine(model, settings), log)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on a loopback address. Raises UsageError and CannotRun as `run` says."""
    if not 0 <= port <= 65535:
        raise UsageError("--port: must be from 0 to 65535")
    address = _loopback(host)
    listener = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotRun(f"port {port} is taken; choose another with --port") from error
        raise CannotRun(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def _loopback(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise UsageError(f"--host: {host!r} is not an IP address") from error
    if not address.is_loopback:
        raise UsageError("serving beyond loopback needs keys, which this version does not have")
    return address


def _config(app: Callable[[], FastAPI] | str, workers: int = 1) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=True,
        workers=workers,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        # The production log is the record of requests; uvicorn's goes to stdout, which belongs to --json.
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )

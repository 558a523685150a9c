"""How the gateway's app is run under uvicorn: the listening socket, time-outs and draining.

Beyond loopback it listens only with keys.
"""

from __future__ import annotations

import errno
import ipaddress
import math
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from llmops.errors import CannotRun, UsageError
from llmops.settings import Settings
from service.slow_clients import with_header_timeout


def run(make_app: Callable[[], FastAPI], settings: Settings, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves an app in this process until SIGTERM or SIGINT, then drains: no new connections, and up to
    `settings.drain_seconds` for open requests. For embedding; `serve` is how `llmops serve` runs.

    Raises:
        UsageError: a host beyond loopback, or a port outside 0–65535.
        CannotRun: the port is taken, or the app did not start.
    """
    with listen(host, port) as listener:
        server = uvicorn.Server(uvicorn_config(make_app, settings))
        server.run(sockets=[listener])
        if not server.started:
            raise CannotRun("the gateway did not start; the lines above say why")


def listen(host: str, port: int, has_keys: bool = False) -> socket.socket:
    """A listening socket; without keys, on a loopback address. Raises UsageError and CannotRun as `run` says."""
    if not 0 <= port <= 65535:
        raise UsageError("--port: must be from 0 to 65535")
    address = check_bind(host, has_keys)
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


def uvicorn_config(app: Callable[[], FastAPI] | str, settings: Settings, workers: int = 1) -> uvicorn.Config:
    """How uvicorn serves the gateway. app: makes it, or names what does, for workers of their own process."""
    return uvicorn.Config(
        app,
        factory=True,
        workers=workers,
        loop="uvloop",
        http=with_header_timeout(settings.header_timeout),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who a caller is, its key says
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
    )


IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_bind(host: str, has_keys: bool) -> IPAddress:
    """The address to listen on.

    has_keys: whether a live key exists, so that strangers can be told from users.

    Raises:
        UsageError: `host` is no IP address, or lies beyond loopback and there is no key.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise UsageError(f"--host: {host!r} is not an IP address") from error
    if not address.is_loopback and not has_keys:
        raise UsageError(f"--host {host}: serving beyond loopback needs keys; make one with `llmops keys create`")
    return address

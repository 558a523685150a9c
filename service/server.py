"""How the gateway's app is run under uvicorn: the listening socket, time-outs, draining, and the workers' supervisor.

Beyond loopback it listens only with keys.
"""

import ctypes
import errno
import ipaddress
import logging
import math
import pickle
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from llmops.errors import CannotRun, UsageError
from llmops.processes import is_frozen
from llmops.settings import Settings
from service.slow_clients import with_header_timeout

logger = logging.getLogger("llmops.service")

LOOK_SECONDS = 0.1
"""Pause between two looks at the workers."""

PING_SECONDS = 1.0
FROZEN_SECONDS = 1.0
"""A worker that is stopped (SIGSTOP) for so long is killed: its clients wait, and get no more of their share."""

STARTUP_SECONDS = 120.0
"""How long a worker may take until it answers at all."""

HUNG_SECONDS = 30.0
"""How long a worker may be busy without answering: beside busy engines it is slow; only one that hangs is killed."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""Pause after a worker that could not start, doubled each time."""

REQUEST_SECONDS = 0.5
"""How long the request of a connection that has just been accepted may take to arrive, before workers end."""

KILL_MARGIN_SECONDS = 45.0
"""Beyond draining: how long a worker may take to write its log and close before it is killed."""

_SO_ATTACH_FILTER = 26  # Linux's; Python has no name for it


def bound_socket(host: str, port: int, has_keys: bool = False) -> socket.socket:
    """A socket at that address. The first worker that can answer listens on it; until then connections are refused, so
    that a proxy asks another gateway.

    has_keys: whether a live key exists, so that strangers can be told from users; without one, only loopback will do.

    Raises:
        UsageError: a host that is no IP address, or beyond loopback without a key; a port outside 0–65535.
        CannotRun: the port is taken.
    """
    if not 0 <= port <= 65535:
        raise UsageError("--port: must be from 0 to 65535")
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise UsageError(f"--host: {host!r} is not an IP address") from error
    if not address.is_loopback and not has_keys:
        raise UsageError(f"--host {host}: serving beyond loopback needs keys; make one with `llmops keys create`")
    listener = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(address), port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotRun(f"port {port} is taken; choose another with --port") from error
        raise CannotRun(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listener


def uvicorn_config(make_app: Callable[[], FastAPI], settings: Settings, workers: int = 1) -> uvicorn.Config:
    """How uvicorn serves the gateway."""
    return uvicorn.Config(
        make_app,
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


@dataclass
class _Sight:
    """What was last seen of a worker, by `time.monotonic`. asked_at: of a question not yet answered."""

    asked_at: float | None = None
    heard_at: float | None = None
    frozen_since: float | None = None


class Workers(Multiprocess):
    """The workers of one gateway: replaces those that die, hang or are frozen, and ends them all in time.

    uvicorn's own supervisor asks one worker after the other and waits up to 30 s for each answer: it sees no death
    meanwhile, no signal either, and waits for ever for a frozen worker to end. Here nothing waits for a worker.

    A worker that cannot start ends the gateway only when none ever could: later its log or registry may be away for a
    while, and it is tried again after a pause.

    drain_seconds: how long requests may go on when all are to end. on_serving: called once, when the first worker
    answers requests.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        sockets: list[socket.socket],
        *,
        drain_seconds: float,
        on_serving: Callable[[], None] = lambda: None,
    ):
        super().__init__(config, sockets)
        self._drain_seconds, self._on_serving = drain_seconds, on_serving
        self._sights: dict[Process, _Sight] = {}
        self._served = False
        self._next_start, self._pause = 0.0, FIRST_PAUSE_SECONDS
        self.failed_to_start = False

    def run(self) -> None:
        """Serves until told to stop; returns when every worker has ended."""
        self.init_processes()
        self._sights = {process: _Sight() for process in self.processes}
        while not self.should_exit.wait(LOOK_SECONDS):
            self.handle_signals()
            self.keep_subprocess_alive()
        self._end_all()

    def keep_subprocess_alive(self) -> None:
        """One look at each worker; waits for none."""
        for position, process in enumerate(list(self.processes)):
            if self.should_exit.is_set():
                return
            if process.exitcode is None:
                self._sights.setdefault(process, _Sight())
            why = self._fault(process)
            if why is None:
                continue
            if (sight := self._sights.pop(process, None)) is not None:
                process.kill()
                process.join()
                logger.warning("worker %s %s", process.pid, why)
                self._put_off(process, failed=sight.heard_at is None)
            if time.monotonic() >= self._next_start and not self.should_exit.is_set():
                self.processes[position] = replacement = Process(self.config, self.sockets)
                self._sights[replacement] = _Sight()
                replacement.start()

    def _put_off(self, process: Process, *, failed: bool) -> None:
        """After a start that failed the next waits; the other workers answer meanwhile."""
        failed |= process.exitcode == STARTUP_FAILURE
        if process.exitcode == STARTUP_FAILURE and not self._served:
            self.failed_to_start = True
            self.should_exit.set()
        elif failed:
            self._next_start = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        else:
            self._pause = FIRST_PAUSE_SECONDS

    def _fault(self, process: Process) -> str | None:
        """Why a worker must be replaced; None: it lives, as far as it has been asked."""
        now = time.monotonic()
        if (code := process.exitcode) is not None:
            return f"ended with code {code}"
        sight = self._sights[process]
        sight.frozen_since = (sight.frozen_since or now) if is_frozen(process.pid or 0) else None
        if sight.frozen_since is not None and now - sight.frozen_since >= FROZEN_SECONDS:
            return f"was stopped for {FROZEN_SECONDS:g} s and is replaced"
        try:
            self._listen(process, sight, now)
        except (OSError, EOFError, pickle.UnpicklingError):
            return "answers no more"
        patience = STARTUP_SECONDS if sight.heard_at is None else HUNG_SECONDS
        if sight.asked_at is not None and now - sight.asked_at > patience:
            return f"did not answer for {patience:g} s and is replaced"
        return None

    def _listen(self, process: Process, sight: _Sight, now: float) -> None:
        if process.parent_conn.poll(0):
            started = process.parent_conn.recv() is True
            sight.asked_at, sight.heard_at = None, now
            if started and not self._served:
                self._served = True
                self._on_serving()
        pause = PING_SECONDS if self._served else LOOK_SECONDS
        if sight.asked_at is None and (sight.heard_at is None or now - sight.heard_at >= pause):
            process.parent_conn.send(b"ping")
            sight.asked_at = now

    def _end_all(self) -> None:
        """Lets the workers drain. The frozen ones cannot, and are killed; so are those that take too long."""
        for listener in self.sockets:
            _empty_queue(listener)
        self.terminate_all()
        for listener in self.sockets:  # open here, it would take connections that no worker accepts
            listener.close()
        give_up_at = time.monotonic() + self._drain_seconds + KILL_MARGIN_SECONDS
        while alive := [process for process in self.processes if process.exitcode is None]:
            late = time.monotonic() > give_up_at
            for process in alive:
                if late or is_frozen(process.pid or 0):
                    logger.warning("worker %s is killed: it %s", process.pid, "took too long" if late else "is frozen")
                    process.process.kill()
            time.sleep(LOOK_SECONDS / 2)
        self.join_all()


def _empty_queue(listener: socket.socket) -> None:
    """Lets the workers accept every connection that was made, and receive its request: those still in the queue would
    be reset with the listener, and a proxy must not send a POST again.

    No connection is made meanwhile. A client's first packet is dropped; it sends it again after a second and is
    refused, so it knows that nothing was received. Only Linux can do this; elsewhere some connections may be reset.
    """
    if sys.platform != "linux":
        return
    keep_nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0 bytes of a packet
    program = struct.pack("HP", 1, ctypes.addressof(keep_nothing))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        give_up_at = time.monotonic() + REQUEST_SECONDS
        while _queued(listener) and time.monotonic() < give_up_at:
            time.sleep(LOOK_SECONDS / 10)
    except OSError as error:  # a sandbox without these options
        logger.info("connections that no worker has accepted are reset: %s", error.strerror)
        return
    time.sleep(REQUEST_SECONDS)


def _queued(listener: socket.socket) -> int:
    """Connections that nobody has accepted yet: of a listening socket, the kernel says so in `tcpi_unacked`."""
    return int(struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28), 24)[0])

"""What tests of telling and acting share: findings, a clock, and receivers that are real servers."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from monitoring.act.actions import MonitorAction
from monitoring.act.alarm_book import Finding
from monitoring.act.policy import Situation

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at.timestamp()

    def move(self, **by: float) -> datetime:
        self.at += timedelta(**by)
        return self.at


def finding(what: str = "output.refusal", release: str | None = "assistant@2", **changed: Any) -> Finding:
    given: dict[str, Any] = {"kind": "sequential", "why": f"{what} rose", "side": "output", "rows": ("r1", "r2")}
    return Finding("assistant", what, release=release, **{**given, **changed})


@dataclass
class Received:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def threads_at_once(*works: Callable[[], Any]) -> None:
    """Runs each in a thread of its own, begun at the same moment, and waits for all."""
    start = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> None:
        start.wait()
        work()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@dataclass
class Receiver:
    """An HTTP server that keeps what is posted. answers: status codes to give in turn; 200 when there are no more."""

    url: str = ""
    got: list[Received] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    retry_after: str | None = None


@contextmanager
def http_receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.got.append(Received(self.path, dict(self.headers), body))
            status = receiver.answers.pop(0) if receiver.answers else 200
            self.send_response(status)
            if status >= 300 and receiver.retry_after:
                self.send_header("Retry-After", receiver.retry_after)
            if status in (301, 302, 307):
                self.send_header("Location", f"{receiver.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Mailbox:
    """An SMTP server's side: what it was told. refuse: the command it answers with an error.

    It knows EHLO, STARTTLS where a context is given, AUTH, DATA and QUIT, and says yes to everything else.
    """

    context: ssl.SSLContext | None = None
    port: int = 0
    mails: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    refuse: str = ""

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        encrypted = False
        writer.write(b"220 test\r\n")
        while line := (await reader.readline()).decode().strip():
            verb = line.split()[0].upper()
            reply = "550 refused, token s3cret" if verb == self.refuse else self._reply(verb, line, encrypted)
            writer.write(reply.encode() + b"\r\n")
            await writer.drain()
            if verb == "STARTTLS" and self.context is not None:
                await writer.start_tls(self.context)
                encrypted = True
            elif verb == "DATA" and reply.startswith("354"):
                self.mails.append(await _until_dot(reader))
                self.encrypted.append(encrypted)
                writer.write(b"250 taken\r\n")
            elif verb == "QUIT":
                break
        writer.close()

    def _reply(self, verb: str, line: str, encrypted: bool) -> str:
        if verb == "AUTH":
            self.logins.append(line.split()[-1])
        offered = "250-STARTTLS\r\n" if self.context is not None and not encrypted else ""
        known = {"EHLO": f"250-test\r\n{offered}250 AUTH PLAIN LOGIN", "STARTTLS": "220 go", "AUTH": "235 welcome",
                 "DATA": "354 go on", "QUIT": "221 bye"}  # fmt: skip
        return known.get(verb, "250 ok")


async def _until_dot(reader: asyncio.StreamReader) -> str:
    lines = []
    while (text := (await reader.readline()).decode()) not in (".\r\n", ""):
        lines.append(text)
    return "".join(lines)


@contextmanager
def smtp_receiver(context: ssl.SSLContext | None = None) -> Iterator[Mailbox]:
    """A running SMTP server."""
    box = Mailbox(context)
    ready, loop, stopped = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(box.converse, "127.0.0.1", 0)
        box.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stopped.wait()
        server.close()
        await server.wait_closed()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield box
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()


class NotingActuator:
    """Acts on nothing and notes what it was asked for. failures: raised one after the other, in place of acting."""

    def __init__(self, situation: Situation) -> None:
        self.now = situation
        self.did: list[tuple[str, str]] = []
        self.recorded: list[str] = []
        self.failures: list[Exception] = []
        self.record_failures: list[Exception] = []

    def situation(self, app: str) -> Situation:
        return self.now

    def record(self, action: MonitorAction, outcome: Mapping[str, Any]) -> str | None:
        if self.record_failures:
            raise self.record_failures.pop(0)
        self.recorded.append(action.key)
        return f"run-{len(self.recorded)}"

    def stop_canary(self, action: MonitorAction) -> Mapping[str, Any]:
        if self.failures:
            raise self.failures.pop(0)
        self.did.append((action.kind, action.release))
        return {"did": action.kind}

    roll_back = re_evaluate = retrain = stop_canary

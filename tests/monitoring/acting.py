"""What tests of telling and acting share: findings, a clock, and receivers that are real servers."""

from __future__ import annotations

import json
import socketserver
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from monitoring.act.actions import MonitorAction
from monitoring.act.alarm_book import Finding
from monitoring.act.policy import Situation
from tests.moments import START


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


@dataclass
class Receiver:
    """An HTTP server that keeps what is posted. answers: status codes to give in turn; 200 when there are no more."""

    url: str = ""
    got: list[Received] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    retry_after: str | None = None


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """Serves in a thread until the block ends. Yields the port."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


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

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        receiver.url = f"http://127.0.0.1:{port}"
        yield receiver


@dataclass
class Mailbox:
    """An SMTP server's side: what it was told. refuse: the command it answers with an error."""

    port: int = 0
    mails: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    refuse: str = ""


@contextmanager
def smtp_receiver(context: ssl.SSLContext | None = None) -> Iterator[Mailbox]:
    """A running SMTP server, which knows EHLO, STARTTLS where a context is given, AUTH, DATA and QUIT, and says yes to
    everything else."""
    box = Mailbox()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            encrypted = False
            self.say("220 test")
            while line := self.rfile.readline().decode().strip():
                verb = line.split()[0].upper()
                offered = "250-STARTTLS\r\n" if context is not None and not encrypted else ""
                known = {"EHLO": f"250-test\r\n{offered}250 AUTH PLAIN LOGIN", "STARTTLS": "220 go",
                         "AUTH": "235 welcome", "DATA": "354 go on", "QUIT": "221 bye"}  # fmt: skip
                if verb == box.refuse:
                    self.say("550 refused, token s3cret")
                    continue
                self.say(known.get(verb, "250 ok"))
                if verb == "AUTH":
                    box.logins.append(line.split()[-1])
                elif verb == "STARTTLS" and context is not None:
                    self.request = context.wrap_socket(self.request, server_side=True)
                    self.setup()
                    encrypted = True
                elif verb == "DATA":
                    box.mails.append("".join(iter(lambda: self.rfile.readline().decode(), ".\r\n")))
                    box.encrypted.append(encrypted)
                    self.say("250 taken")

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def say(self, reply: str) -> None:
            self.wfile.write(reply.encode() + b"\r\n")

    class Server(socketserver.ThreadingTCPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that does not trust it goes away."""

    with serving(Server(("127.0.0.1", 0), Handler)) as box.port:
        yield box


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

    def carry_out(self, action: MonitorAction) -> Mapping[str, Any]:
        if self.failures:
            raise self.failures.pop(0)
        self.did.append((action.kind, action.release))
        return {"did": action.kind}

"""What tests of telling and acting share: findings, a clock, and receivers that are real servers."""

import asyncio
import socketserver
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from monitoring.act.actions import MonitorAction
from monitoring.act.alarm_book import Sighting
from monitoring.act.policy import Situation
from tests.engines.upstream_server import Seen, Send, reply, serving
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


def finding(what: str = "output.refusal", release: str | None = "assistant@2", **changed: Any) -> Sighting:
    given: dict[str, Any] = {"kind": "sequential", "why": f"{what} rose", "side": "output", "rows": ("r1", "r2")}
    return Sighting("assistant", what, release=release, **{**given, **changed})


class Receiver:
    """An HTTP server that keeps what is posted. answers: status codes to give in turn; 200 when there are no more."""

    def __init__(self) -> None:
        self.url, self.got, self.answers = "", list[Seen](), list[int]()
        self.retry_after = "0"

    async def behave(self, seen: Seen, send: Send) -> bool:
        self.got.append(seen)
        status = self.answers.pop(0) if self.answers else 200
        headers = f"retry-after: {self.retry_after}\r\nlocation: {self.url}/elsewhere\r\n" if status >= 300 else ""
        return await reply(status, b"", headers)(seen, send)


@contextmanager
def http_receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with serving(receiver.behave) as server:
        receiver.url = server.url.removesuffix("/v1")
        yield receiver


@contextmanager
def dribbling_receiver(first: bytes, pause: float) -> Iterator[str]:
    """A server that answers with `first` and then, for ever, with more of it. Yields its address."""

    async def behave(_: Seen, send: Send) -> bool:
        await send(first)
        while True:
            await asyncio.sleep(pause)
            await send(b"x" * 1000 if pause < 0.01 else b"x")

    with serving(behave) as server:
        yield server.url


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

    with Server(("127.0.0.1", 0), Handler) as server:
        box.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield box
        finally:
            server.shutdown()
            thread.join()


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

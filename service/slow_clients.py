"""Clients that send as slowly as they can (slow loris), or send headers without end: they get a deadline and a bound.

uvicorn closes idle keep-alive connections, but waits for ever for the rest of a request that has begun, and for a first
one; and it puts no bound on what comes before a body.
"""

import asyncio
import functools
from typing import Any

import httptools
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.error_map import ApiError

MAX_HEADER_BYTES = 65_536

STALLED_SECONDS = 30.0
"""How long a client may read nothing while a reply waits for it. Its request holds a place in the engine meanwhile."""


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a deadline for a request's headers, and a bound on everything that is no body.

    The deadline runs from the connection, and on a kept-alive one from the first byte after the last reply. Past it the
    client gets 408, past MAX_HEADER_BYTES 431, and the connection is closed. `with_header_timeout` sets it.

    A client that has stopped reading is cut off after STALLED_SECONDS. Offers to upgrade the protocol are not taken.
    A client of HTTP/1.0 knows no chunks: what has no length ends with the connection.
    """

    def __init__(self, *arguments: Any, header_timeout: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.header_timeout = header_timeout
        self._stalled: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._idle_bytes = 0  # received since the last that a request could use: a body, or the end of its headers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        self._forget_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        self._forget_stall()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        # Also for an empty line or the tail of a refused body, which stop uvicorn's own keep-alive clock.
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._start_clock()
        self._idle_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._idle_bytes > MAX_HEADER_BYTES:
            self._refuse(
                ApiError(431, f"the headers are larger than {MAX_HEADER_BYTES} bytes", code="headers_too_large")
            )

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            # Only now is there a request, which its own time-outs hold: until then the deadline stands.
            self._stop_clock()
            self._idle_bytes = 0

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets OpenAI's error shape too."""
        self._refuse(ApiError(400, msg, code="invalid_http"))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        super()._start_asgi_task(cycle, _until_closed(app, cycle) if cycle.scope["http_version"] < "1.1" else app)

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._parse_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Reads a request that offers another protocol (`Upgrade: h2c`, as Java's client does) as if it did not.

        The parser takes what follows such headers for the other protocol, even a body: uvicorn alone would answer
        without the body, and then take it for the next request.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.send_400_response("CONNECT is not supported")
            return
        kept = [(name, value) for name, value in self.headers if name not in (b"upgrade", b"connection")]
        if any(name == b"connection" and b"close" in value.lower() for name, value in self.headers):
            kept.append((b"connection", b"close"))
        lines = [b"%b %b HTTP/%b" % (method, self.url, version), *(b"%b: %b" % header for header in kept)]
        # A new parser: for the old one the connection may have ended with these headers (`close`), it skips the rest.
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parse(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def _forget_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _start_clock(self) -> None:
        self._deadline = self.loop.call_later(self.header_timeout, self._too_slow)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if self._idle_bytes == 0:  # who sent nothing asked nothing
            self.transport.close()
            return
        message = f"the request's headers did not arrive within {self.header_timeout:g} s"
        self._refuse(ApiError(408, message, code="request_timeout"))

    def _refuse(self, error: ApiError) -> None:
        self._stop_clock()
        if self.transport.is_closing():
            return
        open_cycle = self.cycle is not None and not self.cycle.response_complete
        # In the middle of a reply a status line would be read as part of it.
        if not self.pipeline and not (open_cycle and self.cycle.response_started):
            body = error.body()
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[error.status] + head + body)
        if open_cycle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


def with_header_timeout(seconds: float) -> Any:
    """What makes the protocol with that deadline, for `uvicorn.Config(http=…)`; it can be sent to another process."""
    return functools.partial(PatientProtocol, header_timeout=seconds)


def _until_closed(app: Any, cycle: Any) -> Any:
    """The app, its replies without a length sent as they are: uvicorn would send them in chunks to HTTP/1.0 too."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        measured = False

        async def send_plain(message: Message) -> None:
            nonlocal measured
            if message["type"] == "http.response.start":
                measured = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                cycle.chunked_encoding = None if measured else False
            elif not measured:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plain)

    return answer

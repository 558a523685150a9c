"""The outermost layers of the gateway, as plain ASGI: request ids, version headers, the access log, last-resort errors;
the size and deadline of bodies.

Not Starlette's BaseHTTPMiddleware, which hides a client's departure from the code that streams.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmops.random_ids import random_id
from service.error_map import CLIENT_CLOSED, error_response, report_failure
from service.tracing import Tracing

_KNOWN_PARTS = frozenset({"chat", "completions", "responses", "embeddings", "models", "feedback", "predict"})
_OWN_ID = re.compile("req_[0-9a-f]{32}")
_SANE_ID = re.compile(rb"[ -~]{1,128}\Z")

ACCESS = "llmops.access"
"""The logger of the line that each request gets."""
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})
_LONGEST_PATH = 200


class RequestContext:
    """Gives each request its id and the time of its arrival (`at` by the clock, `start` for measuring).

    The id, and what the request's state collects in `reply_headers`, stand on whatever reply it gets. An exception that
    nothing else turned into a reply gets the one of `service.error_map`.

    refused: counts, by status, requests to `/v1` that failed before they reached a model (`reached_model` in the
    state).
    tracing: each request to `/v1` gets a span, which ends with the `record` in its state, if there is one;
    `upstream_headers` in the state hand its context on.
    """

    def __init__(self, app: ASGIApp, refused: Callable[[int], None], tracing: Tracing) -> None:
        self._app, self._refused, self._tracing = app, refused, tracing
        self._logger = logging.getLogger(ACCESS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        state["request_id"] = sent.decode("ascii") if _SANE_ID.match(sent) else new_request_id()
        reply = _Reply(state, send, bodiless=scope["method"] == "HEAD")
        state["reply_headers"] = []
        state["at"], state["start"] = datetime.now(UTC), time.perf_counter()
        try:
            if scope["path"].startswith("/v1/"):
                await self._traced(scope, receive, reply)
            else:
                await self._answer(scope, receive, reply)
        finally:
            if self._logger.isEnabledFor(logging.INFO):
                self._log(scope, reply.status or CLIENT_CLOSED)

    async def _traced(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        state = scope["state"]
        # The path as traces name it: what a client can make up stays out.
        parts = (part if part in _KNOWN_PARTS else "…" for part in scope["path"].split("/", 4)[2:4])
        span = self._tracing.begin(scope["headers"], f"{scope['method']} /v1/{'/'.join(parts)}")
        state["upstream_headers"] = span.headers
        try:
            await self._answer(scope, receive, reply)
        finally:
            span.end(state.get("record"), status=reply.status or CLIENT_CLOSED)
            if reply.status >= 400 and "reached_model" not in state:
                self._refused(reply.status)

    async def _answer(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        if scope["method"] == "HEAD":  # as load balancers and old clients expect (RFC 9110, 9.3.2)
            scope = {**scope, "method": "GET"}
        try:
            await self._app(scope, receive, reply.send)
        except Exception as error:  # noqa: BLE001  the last resort; reported, and answered while that is possible
            report_failure(error, scope["state"]["request_id"])
            if not reply.status:
                await error_response(error)(scope, receive, reply.send)

    def _log(self, scope: Scope, status: int) -> None:
        """One line for each request, when its reply has ended; probes and scrapes that went well are left out.

        Nothing that a client wrote is logged, but for the path without its query and a request id of its own.
        """
        if status == 200 and scope["path"] in _QUIET:
            return
        state = scope["state"]
        names = dict(state["reply_headers"])
        # As it came, percent-encoded: decoded, it might hold a line break.
        path = scope.get("raw_path", b"")[:_LONGEST_PATH].decode("latin-1")
        # Made by hand: `Logger.info` would walk the stack to find who called it, which costs as much as the rest.
        record = logging.LogRecord(ACCESS, logging.INFO, "", 0, "%s %s %d", (scope["method"], path, status), None)
        record.__dict__.update(
            request_id=state["request_id"],
            method=scope["method"],
            path=path,
            status=status,
            latency_ms=round((time.perf_counter() - state["start"]) * 1000, 3),
            release=_text(names.get(b"x-llmops-release")),
            model=_text(names.get(b"x-llmops-model")),
            key_id=getattr(state.get("caller"), "id", None) or None,
        )
        self._logger.handle(record)


class _Reply:
    """What goes out for one request. status: 0 until it has begun. bodiless: the body is left out."""

    __slots__ = ("_bodiless", "_send", "_state", "status")

    def __init__(self, state: dict[str, Any], send: Send, bodiless: bool) -> None:
        self.status = 0
        self._state, self._send, self._bodiless = state, send, bodiless

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            # The state's id: a guard may have put another one in place of the client's own.
            own = [(b"x-request-id", self._state["request_id"].encode()), *self._state["reply_headers"]]
            message = {**message, "headers": [*message.get("headers", ()), *own]}
        elif self._bodiless:
            message = {**message, "body": b""}
        await self._send(message)


class BodyLimits:
    """ASGI layer: refuses a body of more than `most` bytes with 413, by its announced length or as it arrives, and with
    408 one that has not arrived whole `seconds` after its headers."""

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self._app, self._most, self._seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        received = int(announced) if announced.isdigit() and int(announced) > self._most else 0
        deadline = asyncio.get_running_loop().time() + self._seconds
        whole = False

        # FastAPI reads the body, and lets only its own exception through.
        async def receive_within_limits() -> Message:
            nonlocal received, whole
            if whole:
                return await receive()
            if received <= self._most:
                try:
                    async with asyncio.timeout_at(deadline):
                        message = await receive()
                except TimeoutError as error:
                    slow = f"the body did not arrive within {self._seconds:g} s"
                    raise HTTPException(408, slow, headers={"connection": "close"}) from error
                received += len(message.get("body", b""))
            if received > self._most:
                raise HTTPException(413, f"the body is larger than {self._most} bytes")
            whole = not message.get("more_body", False)
            return message

        await self._app(scope, receive_within_limits, send)


def new_request_id() -> str:
    """An id of the gateway's own."""
    return f"req_{random_id()}"


def is_own_request_id(request_id: str) -> bool:
    """Whether the id has the form of `new_request_id`: a client that sends such a one can say nothing by it but digits
    from 0 to f."""
    return _OWN_ID.fullmatch(request_id) is not None


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")

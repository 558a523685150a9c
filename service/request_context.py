"""The outermost layer of the gateway, as plain ASGI: request ids, version headers, body limit, last-resort errors.

Not Starlette's BaseHTTPMiddleware, which hides a client's departure from the code that streams.
"""

from __future__ import annotations

import re
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.error_map import api_error, report_failure

_SANE_ID = re.compile(rb"[ -~]{1,128}\Z")


class RequestContext:
    """Gives each request its id and the time of its arrival (`at` by the clock, `start` for measuring).

    The id, and what the request's state collects in `reply_headers`, stand on whatever reply it gets.
    An exception that nothing else turned into a reply becomes a 500 with a fixed text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"], state["reply_headers"] = request_id, []
        state["at"], state["start"] = datetime.now(UTC), time.perf_counter()
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = [(b"x-request-id", request_id.encode()), *state["reply_headers"]]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001  the last resort; reported, and answered while that is possible
            report_failure(error, request_id)
            if not started:
                await api_error(error).response()(scope, receive, send_with_headers)


class BodyLimit:
    """Refuses bodies of more than `most` bytes with 413, by their announced length or as they arrive."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            if announced.isdigit() and int(announced) > self._most:
                raise self._too_large()
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most:
                raise self._too_large()
            return message

        await self._app(scope, receive_within_limit, send)

    def _too_large(self) -> HTTPException:
        # FastAPI reads the body and lets only its own exception through.
        return HTTPException(413, f"the body is larger than {self._most} bytes")


def _request_id(scope: Scope) -> str:
    sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return sent.decode("ascii") if _SANE_ID.match(sent) else f"req_{uuid.uuid4().hex}"

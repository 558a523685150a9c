"""A line in the server's own log for each request, with its id and without what was asked or answered."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

ACCESS = "llmops.access"
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})
_LONGEST_PATH = 200


class AccessLog:
    """ASGI layer around RequestContext, and so around everything: one line for each request, when its reply has ended.

    Probes and scrapes that went well are left out. Nothing that a client wrote is logged, but for the path without its
    query and a request id of its own.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._logger = logging.getLogger(ACCESS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._logger.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        status = 499  # nothing was sent: the client left before
        start = time.perf_counter()

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception:
            status = 500
            raise
        finally:
            if status != 200 or scope["path"] not in _QUIET:
                self._log(scope, status, time.perf_counter() - start)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        state: Mapping[str, Any] = scope.get("state", {})
        names = dict(state.get("reply_headers", ()))
        caller = state.get("caller")
        # Made by hand: `Logger.info` would walk the stack to find who called it, which costs as much as the rest.
        record = logging.LogRecord(ACCESS, logging.INFO, "", 0, "%s %s %d", None, None)
        # As it came, percent-encoded: decoded, it might hold a line break.
        path = scope.get("raw_path", b"")[:_LONGEST_PATH].decode("latin-1")
        record.args = (scope["method"], path, status)
        record.__dict__.update(
            request_id=state.get("request_id"),
            method=scope["method"],
            path=path,
            status=status,
            latency_ms=round(seconds * 1000, 3),
            release=_text(names.get(b"x-llmops-release")),
            model=_text(names.get(b"x-llmops-model")),
            key_id=getattr(caller, "key_id", None),
        )
        self._logger.handle(record)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")

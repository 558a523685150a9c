"""Errors as the client sees them: one table from llmops' error tree to HTTP, in OpenAI's shape."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from llmops.errors import (
    ContextTooLong,
    EngineBusy,
    EngineError,
    EngineRejected,
    EngineTimeout,
    EngineUnavailable,
    LlmopsError,
    SchemaNotFollowed,
    StoreUnavailable,
    UnknownVersion,
    UsageError,
)

logger = logging.getLogger("llmops.service")

CLIENT_CLOSED = 499
"""The status logged for a client that went before its answer."""

RETRY_SECONDS = 1.0
UNEXPECTED = "the gateway failed on this request; its x-request-id finds the cause in the gateway's log"


class ApiError(Exception):
    """A reply that is an error. `message` is for the client: it names no paths, hosts or other internals.

    retry_after: seconds after which the same request may succeed; None when it makes no sense to say.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.retry_after = param, code, retry_after

    def body(self) -> bytes:
        """OpenAI's error object, as JSON."""
        error: dict[str, Any] = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})

    def renamed(self, names: Mapping[str, str]) -> ApiError:
        """The same error; where its field, or what that field is in, has another name on a route, it says that one."""
        param, message = self.param or "", self.message
        for name, here in names.items():
            if param == name or param.startswith((f"{name}.", f"{name}[")):
                there, param = param, here + param.removeprefix(name)
                if message.startswith(f"{there}:"):
                    message = param + message.removeprefix(there)
                elif message.startswith(f"{name}:"):
                    message = here + message.removeprefix(name)
                about: dict[str, Any] = {"kind": self.kind, "code": self.code, "retry_after": self.retry_after}
                return ApiError(self.status, message, param=param, **about)
        return self

    def response(self) -> Response:
        headers = {} if self.retry_after is None else {"retry-after": str(max(1, math.ceil(self.retry_after)))}
        return Response(self.body(), self.status, headers, "application/json")


class _Row(NamedTuple):
    """How one class of errors is answered. `message` replaces the error's own, which was written for the operator."""

    status: int
    kind: str
    code: str | None = None
    message: str | None = None
    retry_after: float | None = None


_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 408: "request_timeout", 413: "body_too_large"}
_BAD, _UPSTREAM = "invalid_request_error", "server_error"
_TABLE: dict[type[BaseException], _Row] = {
    UsageError: _Row(400, _BAD),
    UnknownVersion: _Row(404, _BAD, "not_found"),
    StoreUnavailable: _Row(503, _UPSTREAM, "store_unavailable", "the gateway's store cannot be reached", RETRY_SECONDS),
    EngineRejected: _Row(400, _BAD, "engine_rejected"),
    ContextTooLong: _Row(400, _BAD, "context_length_exceeded"),
    EngineUnavailable: _Row(503, _UPSTREAM, "engine_unavailable", "the model is not available now", RETRY_SECONDS),
    EngineBusy: _Row(429, "rate_limit_error", "overloaded", "too many requests wait for the model", RETRY_SECONDS),
    EngineTimeout: _Row(504, "timeout_error", "timeout", "the model gave no whole answer in time"),
    SchemaNotFollowed: _Row(502, _UPSTREAM, "response_format_not_followed"),
    EngineError: _Row(502, _UPSTREAM, "engine_error", "the model failed on this request"),
    Exception: _Row(500, _UPSTREAM, "internal_error", UNEXPECTED),
}


def api_error(error: Exception) -> ApiError:
    """The reply for any exception: the table's row for the nearest class of its ancestry."""
    if isinstance(error, ApiError):
        return error
    row = next(_TABLE[kind] for kind in type(error).__mro__ if kind in _TABLE)
    param = getattr(error, "param", None) or ("messages" if isinstance(error, ContextTooLong) else None)
    retry_after = getattr(error, "retry_after", None) or row.retry_after
    message = row.message or str(error)
    if row.message and (reason := getattr(error, "reason", None)):
        message = f"{message}: {reason}"
    return ApiError(row.status, message, kind=row.kind, param=param, code=row.code, retry_after=retry_after)


def error_response(error: Exception) -> Response:
    """The whole reply for any exception, also for those of the framework."""
    if not isinstance(error, HTTPException):
        return api_error(error).response()
    message = "there is no such route; /docs lists those there are" if error.status_code == 404 else str(error.detail)
    response = ApiError(error.status_code, message, code=_HTTP_CODES.get(error.status_code)).response()
    response.headers.update(error.headers or {})
    return response


def report_failure(error: Exception, request_id: str) -> None:
    """Tells the server's log about failures on our side, with what the client is not told.

    Of an unexpected exception the place is logged but not its text, which may quote what the client sent.
    """
    if isinstance(error, LlmopsError):
        if api_error(error).status >= 500:
            logger.warning("request %s: %s: %s", request_id, type(error).__name__, error)
    elif not isinstance(error, (ApiError, HTTPException)):
        place = "".join(traceback.format_tb(error.__traceback__))
        logger.error("request %s: unexpected %s\n%s", request_id, type(error).__name__, place)

"""What an upstream's refusal means: from an HTTP status to llmops' error tree."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import orjson

from llmops.engines.openai_format import error_message
from llmops.errors import ContextTooLong, EngineError, EngineRejected, EngineTimeout, EngineUnavailable


def refusal(status: int, headers: Mapping[str, str], content: bytes) -> EngineError:
    """The error for a reply that is no answer. headers: looked up in lower case."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    detail = error if isinstance(error, dict) else {}
    message = f"upstream answered {status}: {error_message(body)}"
    if detail.get("code") == "context_length_exceeded":
        return ContextTooLong(message, param="messages")
    if status in (408, 504):
        return EngineTimeout(message)
    if status in (429, 502, 503):
        return EngineUnavailable(message, retry_after=retry_seconds(headers.get("retry-after")))
    if status < 400 or status in (401, 403, 404):  # a redirect, or a 2xx that is none of OpenAI's: the wrong address
        return EngineUnavailable(message, lasting=True)
    param = detail.get("param")
    if status < 500:
        return EngineRejected(message, param=param if isinstance(param, str) else None)
    return EngineError(message)


def retry_seconds(text: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks to wait: a number, or the time until a date; None when it says neither,
    or a time that has passed."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return seconds if math.isfinite(seconds) and seconds >= 0 else None

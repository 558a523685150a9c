"""Whether an OpenAI-compatible server can be asked (its key, and one short request before a long run relies on it), and
what its refusals mean, as a status or inside a reply: from there to llmops' error tree."""

import math
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from llmops.engines.upstream_wire import UpstreamJson
from llmops.errors import ContextTooLong, EngineError, EngineRejected, EngineTimeout, EngineUnavailable

_TYPES = {
    "timeout": 504, "ratelimit": 429, "overloaded": 503, "unavailable": 503, "badrequest": 400, "invalidrequest": 400,
    "validation": 400, "template": 400, "contextlength": 400,
}  # fmt: skip
"""What servers call the kinds of errors, without word breaks, and the status of each."""
_OURS = frozenset({401, 402, 403, 404, 405, 407})
"""What is wrong with the gateway's key, account, address or proxy, and not with the request."""
_UNOFFICIAL = frozenset({520, 521, 522, 523, 529})
"""Of a proxy whose server does not answer it (Cloudflare's), and of one that is overloaded (Anthropic's)."""
_LISTS = ("detail", "errors")
"""Where servers on FastAPI, and Cloudflare's, tell what is wrong: of each fault the place and a message."""
_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""Two names of one field: reasoning models of OpenAI's refuse the older one, servers of before 2024 the newer one."""
_SPARE: Mapping[str, Any] = {"top_p": 1, "temperature": 1, "stream_options": {"include_usage": True}}
"""Fields that change no answer where they have this value, so that a server which refuses them is asked without."""
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size_error"
    r"|maximum context length|longer than the model's context length|longer than the maximum model length"
)
"""The codes of OpenAI and llama.cpp, and where the code says no more than 400 (vLLM, SGLang), the message's words."""
_UNKNOWN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|not permitted|not allowed|unexpected|extra_", re.IGNORECASE
)


def refusal(status: int, headers: Mapping[str, str], content: bytes, who: str = "upstream") -> EngineError:
    """The error for a reply whose status says that it is no answer. headers: looked up in lower case. who: answered."""
    try:
        body = UpstreamJson().read(content, "an error")
    except EngineError:  # plain text, as servers on axum send it of a body that they cannot read; but no proxy's page
        text = content.decode(errors="replace").strip()
        body = {"error": " ".join(text.split())} if text.isprintable() and not text.startswith("<") else None
    return _error(status, unwrapped(body), f"{who} answered {status}", retry_seconds(headers.get("retry-after")))


def unwrapped(body: object) -> object:
    """An error that came in a list of one, as Gemini's compatible route sends it; anything else as it is."""
    if isinstance(body, list) and len(body) == 1 and isinstance(body[0], dict) and body[0].get("error"):
        return body[0]
    return body


def reported(body: Mapping[str, Any]) -> EngineError | None:
    """The failure that an event, or a reply of status 200, tells of; None when it tells of none."""
    if not body.get("error"):
        told = body.get("object") == "error" or body.get("type") == "error" or body.keys() & {"message", *_LISTS}
        if not told or "choices" in body:
            return None
    return failure(body)


def failure(body: object) -> EngineError:
    """The error for a body that is known to tell of a failure, of the status that it names or its type stands for."""
    detail = _detail(body)
    named = (str(detail.get(name)) for name in ("code", "status", "status_code", "http_code"))
    status = next((int(text) for text in named if re.fullmatch("[45][0-9][0-9]", text)), None)
    if status is None:
        kinds = [str(detail.get(name) or "").replace("_", "").lower() for name in ("type", "code", "error_type")]
        status = next((each for name, each in _TYPES.items() if any(name in kind for kind in kinds)), 500)
    # A bad gateway further on: nothing says that this upstream is gone.
    return _error(500 if status == 502 else status, body, "the upstream failed", None)


def error_message(body: object) -> str:
    """What an error object of OpenAI's shape, or of another server's, says; short enough for a line."""
    if not isinstance(body, dict):
        return "no message"
    error = body.get("error")
    message = error.get("message") if isinstance(error, dict) else error if isinstance(error, str) else None
    message = message or body.get("message") or next((body[name] for name in _LISTS if body.get(name)), None)
    return _in_words(message or "no message")[:300]


def _in_words(said: Any) -> str:
    if isinstance(said, list):
        return "; ".join(map(_in_words, said))
    if not isinstance(said, dict):
        return str(said)
    if "detail" in said:
        return _in_words(said["detail"])
    place = ".".join(map(str, said["loc"])) if isinstance(said.get("loc"), list) else ""
    return ": ".join(filter(None, (place, str(said.get("msg") or said.get("message") or said))))


def _error(status: int, body: object, what: str, retry_after: float | None) -> EngineError:
    said = error_message(body)
    message = f"{what}: {said}"
    detail = _detail(body)
    if any(
        _TOO_LONG.search(str(text)) for text in (detail.get("code"), detail.get("type"), said if status == 400 else "")
    ):
        return ContextTooLong(message, param="messages")
    if status in (408, 504):
        return EngineTimeout(message, reason=said)
    if status in (429, 502, 503) or status in _UNOFFICIAL:
        return EngineUnavailable(message, retry_after=retry_after, reason=said)
    if status < 400 or status in _OURS:  # below: a redirect, or a 2xx that is none of OpenAI's: the wrong address
        return EngineUnavailable(message, lasting=True)  # and no reason: it is about the gateway's key and address
    param = detail.get("param")
    if status < 500:
        return EngineRejected(message, param=param if isinstance(param, str) else None)
    return EngineError(message, reason=said)


def _detail(body: object) -> Mapping[str, Any]:
    """The object that tells of the error: OpenAI's `error`, or, as vLLM and others have it, the body itself."""
    if not isinstance(body, dict):
        return {}
    error = body.get("error")
    return error if isinstance(error, dict) else body


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


class SentFields:
    """The fields of one server. It forgets nothing, and may be shared by threads."""

    def __init__(self) -> None:
        self._refused: frozenset[str] = frozenset()

    def fitted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request without what the server has refused, or with it by its other name."""
        fitted = dict(body)
        for name in self._refused & body.keys():
            if name in _LIMITS:
                fitted[_LIMITS[name]] = fitted.pop(name)
            elif _SPARE[name] == body[name]:
                del fitted[name]
        return fitted

    def learn(self, sent: Mapping[str, Any], status: int, content: bytes) -> bool:
        """Takes note of a refusal; whether the same request can be sent otherwise now.

        sent: the body that was refused. content: what the server said.
        """
        if status not in (400, 422):
            return False
        said = content.decode(errors="replace")
        if not _UNKNOWN.search(said):
            return False
        for name in sent.keys() & {*_LIMITS, *_SPARE}:
            other = _LIMITS.get(name)
            free = other not in self._refused if other is not None else _SPARE[name] == sent[name]
            if free and re.search(rf"\b{name}\b", said):
                self._refused |= {name}
                return True
        return False


CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 10.0
_AWAY = frozenset({502, 503, 504})


def check_reachable(what: str, base_url: str, key: str | None = None) -> None:
    """Asks for the server's list of models. Not every server has one, so any answer will do but that of a proxy for a
    server that is away, or of one that refuses the key.

    what: how the error calls it. key: sent as a bearer token.

    Raises EngineUnavailable: naming the address, and why it cannot be reached.
    """
    import httpx

    headers = {"authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    try:
        status = httpx.get(f"{base_url}/models", headers=headers, timeout=limits).status_code
    except httpx.ConnectTimeout as error:
        why = f"no connection within {CONNECT_SECONDS:g} s"
        raise EngineUnavailable(f"{what} at {base_url} cannot be reached: {why}") from error
    except httpx.TimeoutException as error:
        raise EngineUnavailable(f"{what} at {base_url} does not answer: nothing within {ANSWER_SECONDS:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error) or type(error).__name__
        raise EngineUnavailable(f"{what} at {base_url} cannot be reached: {why}; is it running?") from error
    if status in _AWAY:
        raise EngineUnavailable(f"{what} at {base_url} is not available: it answered {status}")
    if status in (401, 403):
        raise EngineUnavailable(f"{what} at {base_url} refuses the key: it answered {status}", lasting=True)


def read_key(variable: str, what: str) -> str:
    """The API key that an environment variable of the user's choice holds.

    what: the server, as the error calls it.

    Raises EngineUnavailable: it holds no key, or one that no header can: the HTTP client's own error would show it.
    """
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise EngineUnavailable(f"{what}: the environment variable {variable} holds no key")
    return key

"""Any OpenAI-compatible server as an engine: vLLM, llama-server, TGI, another gateway, a hosted model."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx

from llmops.engines.openai_format import chat_body
from llmops.engines.protocol import EXTRAS, Chunk, EngineIdentity, GenerationRequest, Usage
from llmops.errors import ContextTooLong, EngineError, EngineRejected, EngineTimeout, EngineUnavailable


def identity(base_url: str, model: str) -> EngineIdentity:
    """What this engine will be, known before it connects."""
    return EngineIdentity("openai", base_url.rstrip("/"), {"model": model})


class OpenAIEngine:
    """Streams from `base_url` + `/chat/completions`, asking for `model`.

    key_variable: name of the environment variable that holds the API key; the key itself is never stored or logged.
    timeout: seconds until the first byte, and between two bytes. slots: requests sent side by side.
    """

    def __init__(
        self, base_url: str, model: str, *, key_variable: str | None = None, timeout: float = 120.0, slots: int = 16
    ) -> None:
        """Makes the client; connects on the first request. Raises EngineUnavailable when the key is not set."""
        self._base_url, self._model, self._slots = base_url.rstrip("/"), model, slots
        headers = {}
        if key_variable:
            # The one reading of the environment outside Settings: the variable's name is the user's to choose.
            key = os.environ.get(key_variable, "").strip()
            # A key that no header can hold must fail here: the HTTP client's own error would show it.
            if not key or not key.isascii() or not key.isprintable():
                raise EngineUnavailable(f"{self._base_url}: the environment variable {key_variable} holds no key")
            headers["authorization"] = f"Bearer {key}"
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            limits=httpx.Limits(max_connections=slots, max_keepalive_connections=slots),
        )

    @property
    def identity(self) -> EngineIdentity:
        return identity(self._base_url, self._model)

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def honours(self) -> frozenset[str]:
        return EXTRAS

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        finish_reason: str | None = None
        usage = Usage(0, 0)
        try:
            async with self._client.stream(
                "POST", f"{self._base_url}/chat/completions", json={**chat_body(request), "model": self._model}
            ) as response:
                if response.status_code != 200:
                    raise _translate(response, await response.aread())
                async for line in response.aiter_lines():
                    event = _event(line)
                    if event is None:
                        continue
                    for choice in event.get("choices") or ():
                        finish_reason = choice.get("finish_reason") or finish_reason
                        if text := (choice.get("delta") or {}).get("content"):
                            yield Chunk(text)
                    if counted := event.get("usage"):
                        usage = Usage(counted.get("prompt_tokens") or 0, counted.get("completion_tokens") or 0)
        except httpx.TimeoutException as error:
            raise EngineTimeout(f"{self._base_url}: no answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineUnavailable(f"{self._base_url}: {type(error).__name__}: {error}") from error
        if finish_reason is None:
            raise EngineUnavailable(f"{self._base_url}: the stream ended before the answer did")
        yield Chunk("", finish_reason, usage)

    async def close(self) -> None:
        await self._client.aclose()


def _event(line: str) -> Mapping[str, Any] | None:
    """One parsed SSE data line; None for blank lines, comments and `[DONE]`. Raises EngineError."""
    if not line.startswith("data:"):
        return None
    data = line[5:].strip()
    if data == "[DONE]" or not data:
        return None
    try:
        event = json.loads(data)
    except ValueError as error:
        raise EngineError("the upstream sent an event that is not JSON") from error
    if not isinstance(event, dict):
        raise EngineError("the upstream sent an event that is not an object")
    if "error" in event:
        raise EngineError(f"the upstream failed: {_message(event)}")
    if not _well_formed(event):
        raise EngineError("the upstream sent an event that is not of OpenAI's shape")
    return event


def _well_formed(event: Mapping[str, Any]) -> bool:
    choices = event.get("choices") or []
    if not isinstance(choices, list) or not isinstance(event.get("usage") or {}, dict):
        return False
    deltas = [choice.get("delta") or {} if isinstance(choice, dict) else None for choice in choices]
    return all(isinstance(delta, dict) and isinstance(delta.get("content") or "", str) for delta in deltas)


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "no message")[:300]


def _translate(response: httpx.Response, content: bytes) -> EngineError:
    try:
        body: Any = json.loads(content)
    except ValueError:
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    detail = error if isinstance(error, dict) else {}
    status, message = response.status_code, f"upstream answered {response.status_code}: {_message(body)}"
    if detail.get("code") == "context_length_exceeded":
        return ContextTooLong(message, param="messages")
    if status in (408, 504):
        return EngineTimeout(message)
    if status in (429, 503, 502):
        return EngineUnavailable(message, retry_after=_seconds(response.headers.get("retry-after")))
    if status in (401, 403, 404):
        return EngineUnavailable(message, lasting=True)
    return EngineRejected(message, param=detail.get("param")) if status < 500 else EngineError(message)


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None

"""A stub upstream: an OpenAI-compatible chat server that answers at once; plain ASGI, so that it costs next to nothing.

    python -m benchmarks.gateway.upstream PORT

It answers `WORDS`, streamed in one event a word or whole. `GET /seen` counts the requests that it began, by the
`user` field they carried: how often the gateway asked for each.
"""

from __future__ import annotations

import collections
import sys
from typing import Any

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

WORDS = (
    *("The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "near"),
    *("the", "quiet", "river", "bank", "today", "and", "all", "is", "well", "."),
)
USAGE = {"prompt_tokens": 24, "completion_tokens": len(WORDS), "total_tokens": 24 + len(WORDS)}
_seen: collections.Counter[str] = collections.Counter()


def _chunk(delta: dict[str, Any], finish: str | None = None, usage: bool = False) -> bytes:
    body: dict[str, Any] = {"id": "chatcmpl-stub", "object": "chat.completion.chunk", "created": 1, "model": "stub"}
    body["choices"] = [] if usage else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + orjson.dumps({**body, "usage": USAGE} if usage else body) + b"\n\n"


_message = {"role": "assistant", "content": " ".join(WORDS)}
_WHOLE = orjson.dumps(
    {
        "id": "chatcmpl-stub",
        "object": "chat.completion",
        "created": 1,
        "model": "stub",
        "choices": [{"index": 0, "message": _message, "finish_reason": "stop", "logprobs": None}],
        "usage": USAGE,
    }
)
_STREAM = (
    _chunk({"role": "assistant", "content": ""}),
    *(_chunk({"content": f"{word} "}) for word in WORDS),
    _chunk({}, "stop"),
    _chunk({}, usage=True),
    b"data: [DONE]\n\n",
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application."""
    if scope["method"] == "GET":
        await _whole(send, orjson.dumps(_seen))
        return
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    request = orjson.loads(body)
    _seen[str(request.get("user"))] += 1
    if not request.get("stream"):
        await _whole(send, _WHOLE)
        return
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for event in _STREAM:
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _whole(send: Send, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", access_log=False, lifespan="off")

"""A stub upstream for evaluations: an OpenAI-compatible server that says the question back, after a moment.

    python -m benchmarks.evaluation.echo_upstream PORT SECONDS PLACES

`GET /seen` gives how often each last message was asked.
"""

from __future__ import annotations

import asyncio
import collections
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

MANY = 10_000
"""Places, where their number is no matter."""


def app(seconds: float, places: int) -> ASGIApp:
    """The ASGI application; each answer takes so many seconds, and one of so many places."""
    seen: collections.Counter[str] = collections.Counter()
    free = asyncio.Semaphore(places)

    async def reply(send: Send, value: object) -> None:
        body = orjson.dumps(value)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET":
            return await reply(send, seen)
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        asked = orjson.loads(body)["messages"][-1]["content"]
        seen[asked] += 1
        async with free:
            await asyncio.sleep(seconds)
        words = len(asked.split())
        said = {"role": "assistant", "content": f"You said: {asked}"}
        choice = {"index": 0, "message": said, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": words, "completion_tokens": words + 2, "total_tokens": 2 * words + 2}
        head = {"id": "chatcmpl-echo", "object": "chat.completion", "created": 1, "model": "echo"}
        return await reply(send, {**head, "choices": [choice], "usage": usage})

    return serve


@contextmanager
def echo_upstream(port: int, seconds: float, places: int = MANY) -> Iterator[str]:
    """The server as a process of its own; gives its base URL."""
    command = [sys.executable, "-m", "benchmarks.evaluation.echo_upstream", str(port), str(seconds), str(places)]
    url = f"http://127.0.0.1:{port}/v1"
    with subprocess.Popen(command) as process:
        try:
            while process.poll() is None:
                try:
                    times_asked(url)
                    break
                except OSError:
                    time.sleep(0.05)
            yield url
        finally:
            process.terminate()


def times_asked(url: str) -> dict[str, int]:
    """How often each last message was asked."""
    with urllib.request.urlopen(f"{url}/seen", timeout=30) as reply:  # noqa: S310 - our own loopback address
        counts: dict[str, int] = orjson.loads(reply.read())
    return counts


if __name__ == "__main__":
    uvicorn.run(
        app(float(sys.argv[2]), int(sys.argv[3])),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        access_log=False,
        lifespan="off",
    )

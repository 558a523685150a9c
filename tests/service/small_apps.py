"""Apps for workers to serve, which load nothing else: a worker is started again and again."""

import asyncio
import os
from pathlib import Path


async def app(scope, receive, send):
    """Answers with its process id."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


async def held_app(scope, receive, send):
    """Answers when the file exists that the path names."""
    while not Path(scope["path"]).exists():  # noqa: ASYNC110, ASYNC240  of another process
        await asyncio.sleep(0.01)
    await app(scope, receive, send)


async def no_app(scope, receive, send):
    """Does not start."""
    raise RuntimeError("no")

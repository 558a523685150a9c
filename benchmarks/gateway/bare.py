"""The floor of a Python gateway: FastAPI and aiohttp, passing through. No key, no limit, no prompt, no log.

UPSTREAM=http://127.0.0.1:PORT python -m uvicorn benchmarks.gateway.bare:app --port PORT --no-access-log
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

UPSTREAM = f"{os.environ.get('UPSTREAM', '')}/v1/chat/completions"
HEADERS = {"content-type": "application/json", "authorization": "Bearer upstream"}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        app.state.session = session
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    """Looks into the body, as any gateway must, and sends it on."""
    body = json.loads(await request.body())
    reply = await request.app.state.session.post(UPSTREAM, data=json.dumps(body).encode(), headers=HEADERS)
    if not body.get("stream"):
        content = await reply.read()
        json.loads(content)
        return Response(content, reply.status, media_type="application/json")

    async def pieces() -> AsyncIterator[bytes]:
        try:
            async for piece in reply.content.iter_any():
                yield piece
        finally:
            reply.close()

    return StreamingResponse(pieces(), reply.status, media_type="text/event-stream")

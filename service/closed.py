"""What a worker serves whose log cannot be opened: refusals, until it is started again and looks anew."""

from __future__ import annotations

import asyncio
import os
import signal

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llmops.errors import StoreUnavailable
from service.error_map import api_error

LOOK_AGAIN_SECONDS = 10.0


def closed_app(problem: StoreUnavailable) -> FastAPI:
    """An app that answers 503 to everything but `/livez`, and ends its worker after a moment, so that the next one
    tries again. Nobody is told the problem: who may be cannot be known."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def refuse(request: Request, _: object) -> Response:
        if request.url.path == "/livez":
            return JSONResponse({"status": "alive"})
        if request.url.path == "/readyz":
            return JSONResponse({"status": "not ready"}, 503)
        return api_error(problem).response()

    async def end() -> None:
        await asyncio.sleep(LOOK_AGAIN_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    async def begin() -> None:
        app.state.ending = asyncio.create_task(end(), name="look again")

    app.router.on_startup.append(begin)
    return app

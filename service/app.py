"""The gateway as a FastAPI app. `create_app` is the one way to make it; importing does nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response

import llmops
from llmops.errors import LlmopsError
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from service.chat import chat_router
from service.engine_pool import EngineOpener
from service.error_map import ApiError, api_error, report_failure
from service.gateway import Gateway
from service.health import health_router
from service.model_list import model_list_router
from service.request_context import BodyLimit, RequestContext
from service.schemas import first_problem
from service.snapshot import ReleaseSource

__all__ = ["create_app"]


def create_app(settings: Settings, source: ReleaseSource, open_engine: EngineOpener, log: ProductionLog) -> FastAPI:
    """An app that serves `source`'s releases with the engines that `open_engine` opens, recording into `log`.

    Nothing runs until the app's lifespan starts; when it ends, engines are closed and the log's queue is written.
    The caller keeps `log` and closes it.
    """
    gateway = Gateway(settings, source, open_engine, log)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    app = FastAPI(title="llmops gateway", version=llmops.__version__, lifespan=lifespan)
    app.state.gateway = gateway
    for router in (chat_router(gateway), model_list_router(gateway), health_router(gateway)):
        app.include_router(router)
    _answer_errors(app)
    app.add_middleware(BodyLimit, most=settings.max_body_bytes)
    app.add_middleware(RequestContext)  # added last, so outermost
    return app


def _answer_errors(app: FastAPI) -> None:
    """Gives every error OpenAI's shape."""

    @app.exception_handler(ApiError)
    @app.exception_handler(LlmopsError)
    async def _raised(request: Request, error: Exception) -> Response:
        report_failure(error, request.state.request_id)
        return api_error(error).response()

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        param, message = first_problem(error.errors())
        return ApiError(400, message, param=param).response()

    @app.exception_handler(StarletteHTTPException)
    async def _http(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(error.status_code)
        response = ApiError(error.status_code, str(error.detail), code=code).response()
        response.headers.update(error.headers or {})
        return response

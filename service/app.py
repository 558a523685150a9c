"""The gateway as a FastAPI app. `create_app` is the one way to make it; importing does nothing."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

import llmops
from llmops.errors import LlmopsError, StoreUnavailable
from service.access import AccessCheck
from service.error_map import ApiError, api_error, error_response, report_failure
from service.gateway import Gateway
from service.json_route import JsonRoute, JsonRoutes
from service.request_context import BodyLimits, RequestContext
from service.routes.about import add_api_reference, health_router, model_list_router
from service.routes.chat import chat_router, completions_router
from service.routes.embeddings import embeddings_router
from service.routes.feedback import feedback_router
from service.routes.page import page_router
from service.routes.predict import predict_router
from service.routes.responses import responses_router
from service.schemas import first_problem

__all__ = ["create_app"]

LOOK_AGAIN_SECONDS = 10.0


def create_app(gateway: Gateway) -> FastAPI:
    """The gateway's app. Nothing runs until its lifespan starts; when that ends, engines are closed and the log's queue
    is written."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with gateway.running():
            yield

    about = {"title": "llmops gateway", "version": llmops.__version__}
    app = GatewayApp(gateway, **about, lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    # A redirect would name what the Host header says, and `http` behind a proxy that ends TLS: keys would follow it.
    app.router.redirect_slashes = False
    app.state.gateway = gateway
    routers = (
        chat_router(gateway),
        completions_router(gateway),
        responses_router(gateway),
        embeddings_router(gateway),
        predict_router(gateway),
        model_list_router(gateway),
        feedback_router(gateway),
        page_router(gateway),
        health_router(gateway),
    )
    for router in routers:
        # Not include_router, which wraps each route in a second one that every request would pass through.
        app.router.routes.extend(router.routes)
    add_api_reference(app, gateway)

    @app.exception_handler(ApiError)
    @app.exception_handler(LlmopsError)
    @app.exception_handler(HTTPException)
    async def _raised(request: Request, error: Exception) -> Response:
        report_failure(error, request.state.request_id)
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        param, message = first_problem(error.errors())
        return ApiError(400, message, param=param).response()

    return app


class GatewayApp(FastAPI):
    """FastAPI behind the gateway's own layers, which requests to the routes that ask models pass through alone."""

    def __init__(self, gateway: Gateway, **options: Any) -> None:
        super().__init__(**options)
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not FastAPI's own: its telemetry hooks, which nobody hears here, cost every request a few percent.
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        gateway, settings = self._gateway, self._gateway.settings
        routes = (route for route in self.router.routes if isinstance(route, JsonRoute))
        app: ASGIApp = JsonRoutes(routes, super().build_middleware_stack())
        app = BodyLimits(app, settings.max_body_bytes, settings.body_timeout)
        if gateway.access is not None:
            app = AccessCheck(app, gateway.access)
        return RequestContext(app, gateway.metrics.refused, gateway.tracing)


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

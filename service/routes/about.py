"""What the gateway says of itself: health and metrics, every name of a model, and the API reference."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from llmops.errors import StoreUnavailable
from llmops.keys import Key
from llmops.models.sources import EMBEDDING_MODEL
from llmops.processes import run_blocking
from service.access import ANONYMOUS, is_open, require
from service.gateway import Gateway
from service.routes.predict import typed_paths
from service.schemas import ErrorReply
from service.snapshot import unknown_model


def health_router(gateway: Gateway) -> APIRouter:
    """The health routes of one gateway."""
    router = APIRouter(tags=["health"])

    @router.get("/livez")
    async def livez() -> dict[str, str]:
        """200 as long as the process answers."""
        return {"status": "alive"}

    @router.get("/readyz", response_class=JSONResponse)
    async def readyz(request: Request) -> Response:
        """200 when requests can be served well, else 503 with the reasons; warnings, such as a registry that cannot be
        read while its last releases are served, do not turn traffic away. Reasons and warnings hold paths and upstream
        URLs: where keys exist, more than the status is for keys of all apps and admins'."""
        problems = gateway.problems()
        told: dict[str, object] = {"status": "not ready" if problems else "ready"}
        caller = gateway.caller_of(request.scope)
        if caller is not None and caller.sees_details:
            keeper, age = gateway.keeper, gateway.keeper.age
            told |= {
                "reasons": problems,
                "warnings": gateway.warnings(),
                "snapshot": {
                    "age_seconds": None if age is None else round(age, 3),
                    "last_error": keeper.last_error,
                    "held_back": list(keeper.held_back),
                },
                "engines": {
                    "loaded": gateway.pool.loaded,
                    "failures": dict(gateway.pool.failures),
                    "modes": gateway.pool.modes,
                },
                "tabular": {"loaded": gateway.tabular.loaded, "failures": dict(gateway.tabular.failures)},
                "log": {"failure": gateway.log.failure, "lost": gateway.log.lost},
            }
        return JSONResponse(told, 503 if problems else 200)

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus' text format."""
        text = await run_blocking(gateway.metrics.text, name="read metrics")
        return Response(text, media_type=gateway.metrics.content_type)

    return router


class ModelCard(BaseModel):
    """One name in OpenAI's shape. created: seconds since the epoch, of a release or a tabular model; 0 for what keeps
    no time."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "llmops"


class ModelCards(BaseModel):
    """All names."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def model_list_router(gateway: Gateway) -> APIRouter:
    """The model routes of one gateway."""
    router = APIRouter(tags=["models"], responses={"4XX": {"model": ErrorReply}, "5XX": {"model": ErrorReply}})

    @router.get("/v1/models")
    async def list_models(request: Request) -> ModelCards:
        """Apps and tabular models by alias and version, model versions, and the embedding model: what the key opens."""
        caller: Key = getattr(request.state, "caller", ANONYMOUS)
        cards = [card for card, app in _cards(gateway) if caller.may_use(app)]
        return ModelCards(data=sorted(cards, key=lambda card: card.id))

    @router.get("/v1/models/{model}")
    async def get_model(model: str, request: Request) -> ModelCard:
        """One of them."""
        caller: Key = getattr(request.state, "caller", ANONYMOUS)
        cards = list(_cards(gateway))
        for card, app in cards:
            if card.id == model:
                require(caller, app)
                return card
        raise unknown_model(model, [card.id for card, app in cards if caller.may_use(app)])

    return router


def _cards(gateway: Gateway) -> Iterator[tuple[ModelCard, str | None]]:
    """Every name, and the app that a key must open to use it."""
    snapshot = gateway.keeper.snapshot
    for name, target in snapshot.targets.items():
        release = target.release
        if release is None:
            yield ModelCard(id=name), None
        else:
            yield ModelCard(id=name, created=int(release.created_at)), release.app
    for name, version in snapshot.tabular.items():
        yield ModelCard(id=name, created=int(version.created_at)), version.name
    if gateway.embed is not None:
        yield ModelCard(id=EMBEDDING_MODEL), None


ASSETS = "/docs/assets"
_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "A gateway key, as `llmops keys create` printed it."}
}


def add_api_reference(app: FastAPI, gateway: Gateway) -> None:
    """Adds `/docs` and `/openapi.json` to an app that was made without pages of its own.

    Swagger UI comes from files on this machine; FastAPI's own page loads it from afar. The document has, beside
    FastAPI's, each tabular model that the caller may ask, with its rows typed; and where keys exist, what needs one.
    """
    app.mount(ASSETS, StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"))

    @app.get("/docs", include_in_schema=False)
    def reference() -> HTMLResponse:
        """The page."""
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{app.title}: reference",
            swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}/swagger-ui.css",
            swagger_favicon_url="/page/icon.svg",
        )

    @app.get("/openapi.json", include_in_schema=False)
    async def document(request: Request) -> JSONResponse:
        """The document for one caller; strangers get it too, but no names of models."""
        openapi, caller = app.openapi(), gateway.caller_of(request.scope)
        paths = dict(openapi["paths"])
        with contextlib.suppress(StoreUnavailable):
            champions = gateway.keeper.snapshot.tabular_champions.items()
            paths |= typed_paths(openapi, [m for name, m in champions if caller is not None and caller.may_use(name)])
        openapi = {**openapi, "paths": paths}
        if gateway.access is not None and gateway.access.key_exists:
            for path, operations in paths.items():
                if not is_open(path):
                    paths[path] = {method: {**each, "security": [{"key": []}]} for method, each in operations.items()}
            openapi["components"] = {**openapi["components"], "securitySchemes": _SCHEMES}
        return JSONResponse(openapi)

"""`GET /docs`: the reference in Swagger UI, from files on this machine; FastAPI's own page loads them from afar.

`GET /openapi.json` is FastAPI's document, and in it each tabular model that the caller may ask, with its rows typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse, JSONResponse
from starlette.staticfiles import StaticFiles

from llmops.errors import StoreUnavailable
from service.access import is_open
from service.caller import Caller
from service.gateway import Gateway
from service.predict_schema import typed_paths

ASSETS = "/docs/assets"
_SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "A gateway key, as `llmops keys create` printed it."}
}
_NEEDED: Mapping[str, Any] = {"security": [{"key": []}]}


def add_reference(app: FastAPI, gateway: Gateway) -> None:
    """Adds the page, its files and the document to an app that was made without pages of its own."""
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
        """The document."""
        found = _with_models(app.openapi(), gateway, gateway.caller_of(request.scope))
        needs_key = gateway.access is not None and gateway.access.key_exists
        return JSONResponse(_with_keys(found) if needs_key else found)


def _with_keys(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with keys, which Swagger UI asks for by its button "Authorize"; each operation that needs one says
    so."""
    paths = {
        path: operations if is_open(path) else {method: {**each, **_NEEDED} for method, each in operations.items()}
        for path, operations in document["paths"].items()
    }
    return {**document, "paths": paths, "components": {**document["components"], "securitySchemes": _SCHEMES}}


def _with_models(document: dict[str, Any], gateway: Gateway, caller: Caller | None) -> dict[str, Any]:
    """The document for one caller; strangers (None) get it too, but no names of models."""
    try:
        champions = gateway.keeper.snapshot.tabular_champions
    except StoreUnavailable:
        return document
    open_to_caller = [each for name, each in champions.items() if caller is not None and caller.may_use(name)]
    return {**document, "paths": {**document["paths"], **typed_paths(document, open_to_caller)}}

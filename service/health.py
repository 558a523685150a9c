"""What a supervisor, a load balancer and Prometheus ask."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from llmops.processes import run_blocking
from service.gateway import Gateway


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
            told |= _details(gateway, problems)
        return JSONResponse(told, 503 if problems else 200)

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus' text format."""
        text = await run_blocking(gateway.metrics.text, name="read metrics")
        return Response(text, media_type=gateway.metrics.content_type)

    return router


def _details(gateway: Gateway, problems: list[str]) -> dict[str, object]:
    keeper, pool, log = gateway.keeper, gateway.pool, gateway.log
    age = keeper.age
    return {
        "reasons": problems,
        "warnings": gateway.warnings(),
        "snapshot": {
            "age_seconds": None if age is None else round(age, 3),
            "last_error": keeper.last_error,
            "held_back": list(keeper.held_back),
        },
        "engines": {"loaded": pool.loaded, "failures": dict(pool.failures), "modes": pool.modes},
        "tabular": {"loaded": gateway.tabular.loaded, "failures": dict(gateway.tabular.failures)},
        "log": {"failure": log.failure, "lost": log.lost},
    }

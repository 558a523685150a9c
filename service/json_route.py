"""A FastAPI route that takes one pydantic model from the body and hands on to an ASGI app: the routes that ask models.

The path may end with a parameter, such as `/v1/predict/{model}`.

It is documented as any other route, but read without FastAPI's machinery for dependencies. The body is parsed once,
strictly: what is not JSON by the letter (NaN, halves of surrogate pairs, invalid UTF-8, very deep nesting) is refused.
"""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import orjson
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from service.error_map import ApiError
from service.schemas import first_problem

_JSON = b"application/json"


class JsonRoute(APIRoute):
    """Use as `APIRouter(route_class=JsonRoute)`; the endpoint is a plain function of the body, after the path's
    parameter where it has one, that returns an ASGI app.

    The scope's state has the raw `body` by then, which Idempotency-Key compares.
    """

    def __init__(self, path: str, endpoint: Callable[..., ASGIApp], **options: Any) -> None:
        # FastAPI would take the return annotation for the shape of the reply; `responses` says that.
        super().__init__(path, endpoint, **{**options, "response_model": None})
        *self._of_path, body = inspect.signature(endpoint, eval_str=True).parameters.values()
        self._model: type[BaseModel] = body.annotation
        self._endpoint = endpoint

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await self.answer(scope, receive, send)
        else:
            await super().handle(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a POST. Raises ApiError 400 for a body that is not right, and what the endpoint's app raises."""
        raw = await read_body(receive)
        if raw is None:
            return
        scope["state"]["body"] = raw
        content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        body = parse_body(self._model, raw, content_type)
        last_part = (scope["path"].rpartition("/")[2],) if self._of_path else ()
        await self._endpoint(*last_part, body)(scope, receive, send)


class JsonRoutes:
    """An ASGI app in front of FastAPI's: hands requests to JsonRoutes to them at once, and all others on.

    FastAPI's own layers and its search for the route cost as much as everything that the gateway does for a request.
    """

    def __init__(self, routes: Iterable[JsonRoute], others: ASGIApp) -> None:
        # A path such as `/v1/predict/{model}` is found by what comes before its parameter.
        self._routes, self._others = {route.path.partition("{")[0]: route for route in routes}, others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = None
        if scope["type"] == "http" and scope["method"] == "POST":
            route = self._routes.get(scope["path"])
            if route is None or route.path != scope["path"]:
                before, _, last_part = scope["path"].rpartition("/")
                route = self._routes.get(f"{before}/") if last_part else None
        await (self._others if route is None else route.answer)(scope, receive, send)


async def read_body(receive: Receive) -> bytes | None:
    """The whole body; None when the client went before its end."""
    pieces = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def parse_body(model: type[BaseModel], raw: bytes, content_type: bytes) -> BaseModel:
    """The checked body. Raises ApiError 400 naming the field at fault.

    A browser asks before it sends JSON to another site, and not before it sends plain text: hence the content type.
    """
    kind = content_type.partition(b";")[0].strip().lower()
    if kind != _JSON and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise ApiError(400, "the body must be a JSON object, sent with content-type: application/json")
    if not raw.strip():
        needed = " and ".join(name for name, field in model.model_fields.items() if field.is_required())
        raise ApiError(400, f"the body is empty: it must be a JSON object with {needed or 'the fields of this route'}")
    try:
        values = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error.msg} at character {error.pos}") from error
    try:
        return model.model_validate(values)
    except ValidationError as error:
        param, message = first_problem(error.errors(include_url=False, include_input=False), within=0)
        raise ApiError(400, message, param=param) from error

"""What a field of the chat request is called on another route, for the errors that name it."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from service.error_map import ApiError


def renamed(problem: ApiError, names: Mapping[str, str]) -> ApiError:
    """The same error; where its field, or what that field is in, has another name here, it says that one."""
    param, message = problem.param or "", problem.message
    for name, here in names.items():
        if param == name or param.startswith((f"{name}.", f"{name}[")):
            there, param = param, here + param.removeprefix(name)
            if message.startswith(f"{there}:"):
                message = param + message.removeprefix(there)
            elif message.startswith(f"{name}:"):
                message = here + message.removeprefix(name)
            return ApiError(
                problem.status,
                message,
                kind=problem.kind,
                param=param,
                code=problem.code,
                retry_after=problem.retry_after,
            )
    return problem


def renaming(app: ASGIApp, names: Mapping[str, str]) -> ASGIApp:
    """The app, with the errors that it raises renamed."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except ApiError as problem:
            raise renamed(problem, names) from problem

    return call

"""What the OpenAPI document says of the replies of routes that write them by themselves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from service.reply_schemas import ErrorReply

_EVENT = {
    "type": "object",
    "description": "One server-sent event; `data` is JSON, or `[DONE]` at the end.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}


def replies(whole: type[BaseModel], *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: the whole reply, the events of a streamed one where the route `streams`, and errors."""
    good: dict[str, Any] = {"model": whole}
    if streams:
        good["content"] = {"text/event-stream": {"schema": _EVENT}}
    return {200: good, "4XX": {"model": ErrorReply}, "5XX": {"model": ErrorReply}}

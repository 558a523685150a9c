"""Kinds of fields, and how much of a thing one request may hold: text, fields that are taken only with a value which
changes nothing, and free JSON of a bounded depth."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from llmops.engines.answer import MOST_TOOL_CALLS
from llmops.json_schema import MOST_NESTED, is_shallow

MOST_MESSAGES = 256

MOST_ANSWERS = 16
"""The largest `n`."""

MOST_TOOLS = MOST_TOOL_CALLS
"""Tools that a request may offer, and calls that a turn sent back may hold."""


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no character") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
"""Text that can be sent, stored and read back: JSON's escapes can spell what UTF-8 cannot."""


class StrictBody(BaseModel):
    """A part of a request in which nothing unknown, and nothing of another type, is taken."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def only(allowed: str) -> WrapValidator:
    """For `Annotated[T | None, only("…")]`: whatever is not a T is refused with that text."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(allowed) from None

    return WrapValidator(check)


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    if not is_shallow(value):
        raise ValueError(f"is nested more than {MOST_NESTED} levels deep")
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_shallow)]
"""Any JSON object, such as a schema, up to a depth."""

"""What is wrong with a field of a request: errors that name it by its path in the body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import PydanticCustomError

KIND_TAGS = frozenset(
    {"<text>", "<list>", "<object>", "<message>", "<function_call>", "<function_call_output>",
     "<custom_tool_call>", "<text_part>", "<refusal>", "<reasoning>", "<other_part>"}
)  # fmt: skip
"""What other routes' bodies tag the kinds of a value with, in the places that pydantic reports."""

_SEVERAL_KINDS = ("content", "tool_choice", "stop")


def field_fault(field: str, problem: str) -> PydanticCustomError:
    """An error of one field found when all were read; `first_problem` puts the field into its path."""
    return PydanticCustomError("field_fault", "{problem}", {"field": field, "problem": problem})


def first_problem(errors: Sequence[Mapping[str, Any]], *, within: int = 1) -> tuple[str | None, str]:
    """The field at fault and what is wrong with it, from pydantic's list of errors.

    within: how many steps of each error's place lead to the body itself: FastAPI puts `body` before all of them.
    """
    # An unknown field explains the errors it causes elsewhere (an image part has no text), so it comes first.
    error = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    if error["type"] == "json_invalid":
        return None, f"the body is not JSON: {error['ctx']['error']} at character {error['loc'][-1]}"
    path = _without_tags(error["loc"][within:])
    if error["type"] == "field_fault":
        path = [*path, error["ctx"]["field"]]
    if not path and error["type"] in ("model_type", "model_attributes_type", "missing"):
        return None, "the body must be a JSON object, sent with content-type: application/json"
    if not path:  # the body as a whole, such as one of several fields that is missing
        return None, str(error["msg"]).removeprefix("Value error, ")
    param = field_path(path)
    problem = "unknown field" if error["type"] == "extra_forbidden" else str(error["msg"]).removeprefix("Value error, ")
    return param, f"{param}: {problem}"


def _without_tags(loc: Sequence[str | int]) -> list[str | int]:
    """Drops what pydantic puts after fields of several kinds: which of them the value was read as."""
    kept = [part for before, part in zip((None, *loc), loc, strict=False) if before not in _SEVERAL_KINDS]
    return [part for part in kept if part not in KIND_TAGS and part != "[key]"]


def field_path(parts: Sequence[str | int]) -> str:
    """`messages[0].content`, as OpenAI writes paths."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:100]}" for part in parts)
    return text.removeprefix(".").encode(errors="backslashreplace").decode()

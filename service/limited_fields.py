"""Kinds of fields: those taken only with a value which changes nothing, and free JSON of a bounded depth."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError, ValidatorFunctionWrapHandler, WrapValidator


def only(allowed: str) -> WrapValidator:
    """For `Annotated[T | None, only("…")]`: whatever is not a T is refused with that text."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(allowed) from None

    return WrapValidator(check)


MOST_NESTED = 100
"""Levels of a JSON schema: far more than any engine takes, and few enough to be written and logged everywhere."""


def is_shallow(value: dict[str, Any] | list[Any]) -> bool:
    """Whether JSON is nested at most `MOST_NESTED` levels deep."""
    level: list[Any] = [value]
    for _ in range(MOST_NESTED):
        inner = [item for each in level for item in (each.values() if isinstance(each, dict) else each)]
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return True
    return False


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    if not is_shallow(value):
        raise ValueError(f"is nested more than {MOST_NESTED} levels deep")
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_shallow)]
"""Any JSON object, such as a schema, up to a depth."""

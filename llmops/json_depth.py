"""How deep JSON is nested: what is deeper than any use of it cannot be written everywhere, and is refused."""

from __future__ import annotations

from typing import Any

MOST_NESTED = 100
"""Levels of a JSON schema, or of a server's reply: far more than any has, and few enough to be written and logged."""


def is_shallow(value: dict[str, Any] | list[Any]) -> bool:
    """Whether JSON is nested at most `MOST_NESTED` levels deep."""
    level: list[Any] = [value]
    for _ in range(MOST_NESTED):
        inner = [item for each in level for item in (each.values() if isinstance(each, dict) else each)]
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return True
    return False

"""The objects of scikit-learn that a fitted estimator is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def parts_of(estimator: Any) -> Iterator[Any]:
    """The estimator and every scikit-learn object it holds, fitted or not, each once and after its holder."""
    seen: set[int] = set()
    waiting = [estimator]
    while waiting:
        part = waiting.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            waiting += held_by(part)


def held_by(part: Any) -> Iterator[Any]:
    """The scikit-learn objects that `part` holds itself, however deep in lists and mappings."""
    for value in getattr(part, "__dict__", {}).values():
        yield from _within(value)


def _within(value: Any) -> Iterator[Any]:
    if type(value).__module__.startswith("sklearn."):
        yield value
        return
    inner: Iterable[Any] = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list | tuple | set):
        inner = value
    elif getattr(getattr(value, "dtype", None), "kind", "") == "O" and value.ndim:
        inner = value.flat
    for item in inner:
        yield from _within(item)

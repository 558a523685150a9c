"""JSON values compared: by type and value, leaf by leaf.

Types are JSON's, which knows one kind of number: 1 and 1.0 are the same value, true and "1" are others. Whole numbers
of any size are compared exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from llmops.evaluation.scorers.normalisation import normalise

Path = tuple[str | int, ...]
Leaf = tuple[Path, str, Any]
"""Where a leaf stands, its JSON type, and its value as compared."""


def normal_text(text: str) -> str:
    """A text normalised; as it is where nothing but marks would be left out of it."""
    return normalise(text) or text.strip()


def leaves(value: Any, text: Callable[[str], str] = normal_text) -> Iterator[Leaf]:
    """Every leaf of a JSON value; an empty object or list is one. Goes as deep as the value does without recursion.
    text: what texts are compared as."""
    waiting: list[tuple[Path, Any]] = [((), value)]
    while waiting:
        path, item = waiting.pop()
        if isinstance(item, dict) and item:
            waiting += [((*path, name), below) for name, below in item.items()]
        elif isinstance(item, list) and item:
            waiting += [((*path, position), below) for position, below in enumerate(item)]
        else:
            yield path, *_comparable(item, text)


def same_json(got: Any, expected: Any) -> bool:
    """Whether two JSON values are the same, texts after normalisation."""
    return Counter(leaves(got)) == Counter(leaves(expected))


def aligned(got: Any, expected: Any) -> tuple[Any, Any]:
    """Both values with the items of their lists in such an order that items which are most alike, by the share of their
    leaves that they have in common, stand at the same place. Greedy: the most alike pair first."""
    if isinstance(got, dict) and isinstance(expected, dict):
        pairs = {name: aligned(got[name], expected[name]) for name in got.keys() & expected.keys()}
        return (
            {name: pairs[name][0] if name in pairs else value for name, value in got.items()},
            {name: pairs[name][1] if name in pairs else value for name, value in expected.items()},
        )
    if not isinstance(got, list) or not isinstance(expected, list):
        return got, expected
    chosen: list[tuple[int, int]] = []
    left, right = set(range(len(got))), set(range(len(expected)))
    for _, i, j in sorted(_alike(got, expected), key=lambda pair: -pair[0]):
        if i in left and j in right:
            chosen.append((i, j))
            left.remove(i)
            right.remove(j)
    matched = [aligned(got[i], expected[j]) for i, j in chosen]
    return (
        [one for one, _ in matched] + [got[i] for i in sorted(left)],
        [other for _, other in matched] + [expected[j] for j in sorted(right)],
    )


def _alike(got: list[Any], expected: list[Any]) -> Iterator[tuple[float, int, int]]:
    """How alike each item of one list is to each of the other, 0 to 1, with their places."""
    first, second = [Counter(leaves(one)) for one in got], [Counter(leaves(other)) for other in expected]
    nested = [_holds_list(one) for one in got]
    for i, one in enumerate(got):
        for j, other in enumerate(expected):
            a, b = first[i], second[j]
            if nested[i] and _holds_list(other):
                a, b = (Counter(leaves(side)) for side in aligned(one, other))
            yield 2 * (a & b).total() / (a.total() + b.total()), i, j


def _holds_list(value: Any) -> bool:
    return any(isinstance(step, int) for path, _, _ in leaves(value) for step in path)


def path_text(path: Path) -> str:
    """A path as people write it: `items[0].name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or "the value"


def _comparable(leaf: Any, text: Callable[[str], str]) -> tuple[str, Any]:
    """A leaf's JSON type, and its value as compared; an empty object or list is all said by its type."""
    if isinstance(leaf, str):
        return "text", text(leaf)
    if isinstance(leaf, bool) or leaf is None:
        return "boolean" if leaf is not None else "null", leaf
    if isinstance(leaf, int | float):
        return "number", leaf
    return type(leaf).__name__, None

"""Two eval runs joined row by row, as a stream: rows wait only while the other run has not come to them yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest

from llmops.errors import CannotRun
from llmops.evaluation.results import RowResult

Pair = tuple[RowResult, RowResult]


def paired(a: Iterable[RowResult], b: Iterable[RowResult]) -> Iterator[Pair]:
    """The rows that both runs have, joined on row id. Runs of one eval set have them in one order, and nothing waits.

    Raises:
        CannotRun: a row id stands for different inputs, expectations or contexts in the two runs, or they share no row.
    """
    waiting_a: dict[str, RowResult] = {}
    waiting_b: dict[str, RowResult] = {}
    found = False
    for left, right in zip_longest(a, b):
        for pair in _meet(left, right, waiting_a, waiting_b):
            found = True
            yield _checked(pair)
    if not found:
        raise CannotRun("the two runs share no row; compare runs of the same suite")


def _meet(
    left: RowResult | None, right: RowResult | None, waiting_a: dict[str, RowResult], waiting_b: dict[str, RowResult]
) -> Iterator[Pair]:
    if left is not None and right is not None and left.row.id == right.row.id:
        yield left, right
        return
    if left is not None:
        waiting_a[left.row.id] = left
    if right is not None:
        waiting_b[right.row.id] = right
    for row_id in dict.fromkeys(result.row.id for result in (left, right) if result is not None):
        if row_id in waiting_a and row_id in waiting_b:
            yield waiting_a.pop(row_id), waiting_b.pop(row_id)


def _checked(pair: Pair) -> Pair:
    left, right = (result.row for result in pair)
    for what, one, other in (
        ("inputs", dict(left.inputs), dict(right.inputs)),
        ("expectations", dict(left.expectations), dict(right.expectations)),
        ("contexts", left.contexts, right.contexts),
    ):
        if one != other:
            raise CannotRun(f"row {left.id!r} has different {what} in the two runs; run both on the same eval set")
    return pair

"""Going through a run's rows for what a scorer says of all of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import RowResult
from llmops.evaluation.scorers.protocol import MissingExpectation

T = TypeVar("T")


def judgeable(results: Iterable[RowResult], expected: Callable[[EvalRow], T]) -> Iterator[tuple[RowResult, T]]:
    """Each row with what `expected` reads in it.

    A row without that cannot be judged and is left out; it is counted where it got no score. A row whose generation
    failed stays, with its empty text, so that failures lower a run's figures.
    """
    for result in results:
        try:
            found = expected(result.row)
        except MissingExpectation:
            continue
        yield result, found

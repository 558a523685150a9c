"""Which rows of a large eval set MLflow shows one by one."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import TypeVar

from llmops.evaluation.results import Results, RowResult

MAX_TRACED_ROWS = 5000
"""Above it, MLflow gets a sample of the rows; all rows are in the run's `rows.jsonl` and count in its metrics."""

RULE_ALL, RULE_SAMPLE = "all", "smallest sha256 of the row id"

T = TypeVar("T")


def rank(row_id: str) -> str:
    """Rows with the smallest rank are chosen: the same ones in every run of the same rows."""
    return hashlib.sha256(row_id.encode(errors="surrogatepass")).hexdigest()


def sampled(rows: Iterable[tuple[str, T]], limit: int = MAX_TRACED_ROWS) -> list[T]:
    """Of (row id, item) pairs, the items of the `limit` smallest ranks, in the order given. Holds no more of them."""
    numbered = ((rank(row_id), number, item) for number, (row_id, item) in enumerate(rows))
    chosen = heapq.nsmallest(limit, numbered, key=itemgetter(0, 1))
    return [item for _, _, item in sorted(chosen, key=itemgetter(1))]


def traced(results: Results, limit: int) -> Iterator[tuple[int, RowResult]]:
    """The rows that become traces, each with its number in the run. Reads the results twice, and keeps ids alone."""
    chosen = None if len(results) <= limit else set(sampled(((r.row.id, r.row.id) for r in results), limit))
    for number, result in enumerate(results):
        if chosen is None or result.row.id in chosen:
            yield number, result

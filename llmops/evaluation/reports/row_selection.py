"""Which of any number of rows a report shows: one pass, and no more of them in memory than are shown."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from llmops.evaluation.reports.contents import Row
from llmops.evaluation.reports.wording import gain
from llmops.pages.numbers import count

Order = Callable[[Row], float]


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows shown, in order, of all there are. changes: b − a of every row scored on both sides, by metric, but for
    metrics of truth values."""

    rows: tuple[Row, ...]
    total: int
    changed: int
    changes: dict[str, array[float]]

    def sentence(self, first: str) -> str:
        """What was left out, given which rows come first; empty when nothing was."""
        if len(self.rows) == self.total:
            return ""
        left_out = self.changed - sum(bool(row["change"]) for row in self.rows)
        cut = f"{count(left_out)} changed rows are left out" if left_out else "every changed row is among them"
        return f"{count(len(self.rows))} of {count(self.total)} rows are shown, {first} first; {cut}."


def most_changed(row: Row) -> float:
    """Orders rows by the size of the primary metric's change, whatever its direction."""
    return -abs(row["change"] or 0.0)


def worst_first(higher_is_better: bool | None) -> Order:
    """Orders rows by loss in the primary metric, the greatest first; by size when neither direction is better."""

    def order(row: Row) -> float:
        gained = gain(row["change"], higher_is_better)
        return most_changed(row) if gained is None else gained

    return order


def select(rows: Iterable[Row], limit: int, order: Order) -> Selection:
    """The first `limit` rows in the order given; among equals failed rows come first, then the eval set's order."""
    total = changed = 0
    changes: dict[str, array[float]] = {}

    def seen() -> Iterator[tuple[int, Row]]:
        nonlocal total, changed
        for row in rows:
            total += 1
            changed += bool(row["change"])
            _note_changes(row, changes)
            yield total, row

    def rank(numbered: tuple[int, Row]) -> tuple[float, bool, int]:
        position, row = numbered
        return order(row), not has_failed(row), position

    chosen = tuple(row for _, row in heapq.nsmallest(limit, seen(), key=rank))
    return Selection(chosen, total, changed, changes)


def has_failed(row: Row) -> bool:
    """Whether one of the answers is missing."""
    return bool(row.get("error_a") or row.get("error_b"))


def _note_changes(row: Row, changes: dict[str, array[float]]) -> None:
    for name, score in row["scores"].items():
        a, b = score["a"], score["b"]
        if a is not None and b is not None and not (isinstance(a, bool) and isinstance(b, bool)):
            changes.setdefault(name, array("d")).append(b - a)

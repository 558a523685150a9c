"""Numbers and verdicts in words, and which of any number of rows are shown: the same in every kind of report."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from llmops.evaluation.comparison import Comparison
from llmops.evaluation.gate import ALPHA, Verdict
from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.reports.contents import Leaderboard, LeaderboardCell, Row
from llmops.pages.numbers import count, counted, interval, number, probability, share, signed

SIGN_OF_OUTCOME = {"pass": "✓", "fail": "✕", "inconclusive": "?"}
P_VALUES = (
    "p is adjusted over the metrics (Holm), but not for the deciding one, which was chosen beforehand; "
    "intervals are of 95 % each."
)
FAILED_IN_DIFFERENCES = (
    "Some rows failed: in a difference, and in the means beside it, such a row counts as the scorer's worst value, or "
    "without one as the worst seen; a mean of one run alone is that of its scored rows."
)


class Effect(Enum):
    """What a difference says of b: the end of its sentence, and the sign in front of it."""

    BETTER = "better", "▲"
    WORSE = "worse", "▼"
    CHANGED = "changed", "◆"
    UNDECIDED = "no clear difference", "○"

    def __init__(self, words: str, mark: str) -> None:
        self.words, self.mark = words, mark


def effect(metric: MetricComparison, *, chosen_beforehand: bool) -> Effect:
    """Better or worse when significant; changed when significant and neither direction is better."""
    p_value = metric.p_value if chosen_beforehand else metric.p_adjusted
    if p_value >= ALPHA:
        return Effect.UNDECIDED
    gained = gain(metric.difference, metric.higher_is_better)
    if gained is None:
        return Effect.CHANGED
    return Effect.BETTER if gained > 0 else Effect.WORSE


def gain(change: float | None, higher_is_better: bool | None) -> float | None:
    """A change with the sign turned so that more is better; None when there is none, or no direction is better."""
    if change is None or higher_is_better is None:
        return None
    return change if higher_is_better else -change


def direction(higher_is_better: bool | None) -> str:
    """The direction that is better, in words."""
    if higher_is_better is None:
        return "neither direction is better"
    return "higher is better" if higher_is_better else "lower is better"


def interval_told(metric: MetricComparison) -> str:
    """The interval of a difference, with what limits it: `none (one pair says nothing about others)`."""
    note = metric.note
    shown = interval(metric.ci95, of_difference=True) if metric.ci95 or not note else "none"
    return f"{shown} ({note})" if note else shown


def summary(name: str, metric: MetricComparison, *, chosen_beforehand: bool) -> str:
    """One metric in a sentence."""
    p_value = probability(metric.p_value if chosen_beforehand else metric.p_adjusted)
    told = effect(metric, chosen_beforehand=chosen_beforehand).words
    means = f"{name} {number(metric.a)} → {number(metric.b)}: {signed(metric.difference)}"
    return f"{means}, 95 % interval {interval_told(metric)}, {p_value}: {told}"


def outcomes(metric: MetricComparison) -> str:
    """What became of the rows: `6 lost · 100 tied · 14 won`, and how many of these failed on either side."""
    words = ("down", "the same", "up") if metric.higher_is_better is None else ("lost", "tied", "won")
    amounts = (metric.losses, metric.ties, metric.wins)
    told = [f"{count(amount)} {word}" for amount, word in zip(amounts, words, strict=True)]
    failed = ((metric.failed_a, "A"), (metric.failed_b, "B"))
    return " · ".join([*told, *(f"{count(rows)} failed in {side}" for rows, side in failed if rows)])


def sentences(comparison: Comparison) -> list[str]:
    """What is to be said of the comparison as a whole: failed rows, noise, what is not compared, what so many rows can
    show."""
    told = []
    if any(metric.failed_a or metric.failed_b for metric in comparison.metrics.values()):
        told.append(FAILED_IN_DIFFERENCES)
    if (noise := comparison.noise) is not None:
        low, high = noise.noise.ci95
        told.append(
            f"{counted(noise.changed, 'answer')} changed; noise alone would change about {noise.expected:,.1f}: asked"
            f" again with nothing changed, the engine answers {share(noise.noise.share)} of the rows differently"
            f" (95 % interval {share(low)} to {share(high)})."
        )
    told += [
        f"{name} is not compared: {apart.reason}; of {counted(apart.n, 'row')} {count(apart.failed_a)} "
        f"failed in A and {count(apart.failed_b)} in B."
        for name, apart in comparison.not_compared.items()
    ]
    return told + [f"{name}: {sentence}." for name, sentence in comparison.power.items()]


def failed_in_pairs(board: Leaderboard) -> str | None:
    """How rows that failed count in a leaderboard's differences, which then are none of its means; None without any."""
    return FAILED_IN_DIFFERENCES if any(cell["n_failed"] for cell in board["cells"]) else None


def further_reasons(verdict: Verdict) -> list[str]:
    """Those that no check gives: all of them where it names no checks."""
    told = {check.detail for check in verdict.checks}
    return [reason for reason in verdict.reasons if reason not in told]


def cell_figures(cell: LeaderboardCell) -> list[str]:
    """Rows that failed (have no score, with an answer or without), answers that were cut off, and empty ones, each with
    its share of all rows."""
    answers = cell["answers"]
    amounts = (cell["n_failed"], answers["cut_off"], answers["empty"])
    return [f"{count(amount)} ({share(amount / (answers['rows'] or 1))})" if amount else "0" for amount in amounts]


def rank(rank_range: Sequence[int]) -> str:
    """`1`, or `1–3` where the data leave it open."""
    best, worst = rank_range
    return str(best) if best == worst else f"{best}–{worst}"


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
        left_out = self.changed - sum(bool(row.change) for row in self.rows)
        cut = f"{count(left_out)} changed rows are left out" if left_out else "every changed row is among them"
        return f"{count(len(self.rows))} of {count(self.total)} rows are shown, {first} first; {cut}."


def most_changed(row: Row) -> float:
    """Orders rows by the size of the primary metric's change, whatever its direction."""
    return -abs(row.change or 0.0)


def worst_first(higher_is_better: bool | None) -> Callable[[Row], float]:
    """Orders rows by loss in the primary metric, the greatest first; by size when neither direction is better."""
    if higher_is_better is None:
        return most_changed
    return lambda row: gain(row.change, higher_is_better) or 0.0


def select(rows: Iterable[Row], limit: int, order: Callable[[Row], float]) -> Selection:
    """The first `limit` rows in the order given, in one pass and with no more of them in memory than are shown; among
    equals failed rows come first, then the eval set's order."""
    total = changed = 0
    changes: dict[str, array[float]] = {}

    def seen() -> Iterator[tuple[int, Row]]:
        nonlocal total, changed
        for row in rows:
            total += 1
            changed += bool(row.change)
            for name in row.scores:
                a, b = row.a.scores[name].value, row.b.scores[name].value
                if a is not None and b is not None and not (isinstance(a, bool) and isinstance(b, bool)):
                    changes.setdefault(name, array("d")).append(b - a)
            yield total, row

    def rank(numbered: tuple[int, Row]) -> tuple[float, bool, int]:
        position, row = numbered
        return order(row), not (row.a.output.error or row.b.output.error), position

    chosen = tuple(row for _, row in heapq.nsmallest(limit, seen(), key=rank))
    return Selection(chosen, total, changed, changes)

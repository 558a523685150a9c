"""Numbers and verdicts in words, the same in every kind of report."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from llmops.evaluation.gate import ALPHA
from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.reports.contents import (
    ComparisonContents,
    Leaderboard,
    LeaderboardCell,
    Noise,
    Outcome,
    Report,
    VerdictContents,
)
from llmops.pages.numbers import count, counted, interval, number, probability, share, signed

SIGN_OF_OUTCOME: dict[Outcome, str] = {"pass": "✓", "fail": "✕", "inconclusive": "?"}
P_VALUES = (
    "p is adjusted over the metrics (Holm), but not for the deciding one, which was chosen beforehand; "
    "intervals are of 95 % each."
)
FAILED_IN_DIFFERENCES = (
    "Some rows failed: in a difference, and in the means beside it, such a row counts as the scorer's worst value, or "
    "without one as the worst seen; a mean of one run alone is that of its scored rows."
)


class Standing(Enum):
    """What a difference says of b; the value is the sentence's end, the mark the sign that stands for it."""

    BETTER = "better"
    WORSE = "worse"
    CHANGED = "changed"
    UNDECIDED = "no clear difference"

    @property
    def mark(self) -> str:
        return {"BETTER": "▲", "WORSE": "▼", "CHANGED": "◆", "UNDECIDED": "○"}[self.name]


def standing(metric: MetricComparison, *, chosen_beforehand: bool) -> Standing:
    """Better or worse when significant; changed when significant and neither direction is better."""
    p_value = metric.p_value if chosen_beforehand else metric.p_adjusted
    if p_value >= ALPHA:
        return Standing.UNDECIDED
    gained = gain(metric.difference, metric.higher_is_better)
    if gained is None:
        return Standing.CHANGED
    return Standing.BETTER if gained > 0 else Standing.WORSE


def gain(change: float | None, higher_is_better: bool | None) -> float | None:
    """A change with the sign turned so that more is better; None when there is none, or no direction is better."""
    if change is None or higher_is_better is None:
        return None
    return change if higher_is_better else -change


def primary_direction(report: Report) -> bool | None:
    """Whether more of the deciding metric is better; None when it was not compared, or neither direction is."""
    metric = report["comparison"]["metrics"].get(report["primary"])
    return metric.higher_is_better if metric else None


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
    p_value = metric.p_value if chosen_beforehand else metric.p_adjusted
    return (
        f"{name} {number(metric.a)} → {number(metric.b)}: {signed(metric.difference)}, 95 % interval "
        f"{interval_told(metric)}, {probability(p_value)}: "
        f"{standing(metric, chosen_beforehand=chosen_beforehand).value}"
    )


def outcomes(metric: MetricComparison) -> str:
    """What became of the rows: `6 lost · 100 tied · 14 won`, and how many of these failed on either side."""
    words = ("down", "the same", "up") if metric.higher_is_better is None else ("lost", "tied", "won")
    amounts = (metric.losses, metric.ties, metric.wins)
    told = [f"{count(amount)} {word}" for amount, word in zip(amounts, words, strict=True)]
    failed = ((metric.failed_a, "A"), (metric.failed_b, "B"))
    return " · ".join([*told, *(f"{count(rows)} failed in {side}" for rows, side in failed if rows)])


def sentences(comparison: ComparisonContents) -> list[str]:
    """What is to be said of the comparison as a whole: noise, what is not compared, what so many rows can show."""
    noise, apart = comparison.get("noise"), comparison.get("not_compared", {})
    not_compared = [
        f"{name} is not compared: {found.reason}; of {counted(found.n, 'row')} {count(found.failed_a)} "
        f"failed in A and {count(found.failed_b)} in B."
        for name, found in apart.items()
    ]
    return [
        *([FAILED_IN_DIFFERENCES] if any(map(_has_failed_rows, comparison["metrics"].values())) else []),
        *([noise_sentence(noise)] if noise else []),
        *not_compared,
        *comparison.get("power", ()),
    ]


def _has_failed_rows(metric: MetricComparison) -> bool:
    return bool(metric.failed_a or metric.failed_b)


def failed_in_pairs(board: Leaderboard) -> str | None:
    """How rows that failed count in a leaderboard's differences, which then are none of its means; None without any."""
    return FAILED_IN_DIFFERENCES if any(cell["n_failed"] for cell in board["cells"]) else None


def further_reasons(verdict: VerdictContents) -> list[str]:
    """Those that no check gives: all of them where it names no checks."""
    told = {check["detail"] for check in verdict.get("checks", ())}
    return [reason for reason in verdict["reasons"] if reason not in told]


def cell_figures(cell: LeaderboardCell) -> tuple[str, str, str]:
    """Rows that failed (have no score, with an answer or without), answers that were cut off, and empty ones, each with
    its share of all rows."""
    answers = cell["answers"]
    rows = answers["rows"] or 1
    amounts = (cell["n_failed"], answers["cut_off"], answers["empty"])
    figures = (f"{count(amount)} ({share(amount / rows)})" if amount else "0" for amount in amounts)
    failed, cut_off, empty = figures
    return failed, cut_off, empty


def noise_sentence(noise: Noise) -> str:
    """How many answers changed against how many would by noise alone."""
    return (
        f"{counted(noise['changed'], 'answer')} changed; noise alone would change about "
        f"{noise['expected_changed']:,.1f}: asked again with nothing changed, the engine answers "
        f"{share(noise['flip_share'])} of the rows differently "
        f"(95 % interval {share(noise['ci95'][0])} to {share(noise['ci95'][1])})."
    )


def rank(rank_range: Sequence[int]) -> str:
    """`1`, or `1–3` where the data leave it open."""
    best, worst = rank_range
    return str(best) if best == worst else f"{best}–{worst}"

"""What a report is made of: runs, their comparison, the gate's verdict and rows; and a suite's leaderboard.

Everything is said of `b`, the challenger, against `a`: a difference is b − a. Texts may hold anything at all: whoever
shows them escapes them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from llmops.evaluation.comparison import Comparison
from llmops.evaluation.gate import Verdict
from llmops.evaluation.results import Metric, RowResult
from llmops.generation import Message


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs.

    name: what it is called in tables (`qa@2,smollm2@1`).
    prompt_text: its rendered turns, where they are known.
    metrics: by scorer.
    cost: in US dollars.
    seconds: wall time of generating.
    """

    name: str
    run_id: str
    prompt: str
    model: str
    release: str | None
    params: Mapping[str, Any]
    prompt_text: Sequence[Message] | None
    metrics: Mapping[str, Metric]
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row in both runs. change: b − a of the primary metric, a missing score counted as the scorer's worst; None
    when the row cannot be compared."""

    a: RowResult
    b: RowResult
    change: float | None

    @property
    def id(self) -> str:
        """The row's."""
        return self.a.row.id

    @property
    def scores(self) -> list[str]:
        """Names of the scores that the row has in both runs."""
        return [name for name in self.a.scores if name in self.b.scores]


@dataclass(frozen=True, slots=True)
class RunReport:
    """A run with its verdict, None without a gate; alone it is what is known of an app's first release.

    created: ISO 8601. primary: the metric that decides. b: the run.
    """

    title: str
    suite: str
    created: str
    primary: str
    b: Side
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Report(RunReport):
    """A run compared with another, `a`.

    rows: read once by each output, in any number; give a collection, or something whose iterator starts anew, to write
    more than one output.
    """

    a: Side
    comparison: Comparison
    rows: Iterable[Row]

    @property
    def primary_direction(self) -> bool | None:
        """Whether more of the deciding metric is better; None when it was not compared, or neither direction is."""
        metric = self.comparison.metrics.get(self.primary)
        return metric.higher_is_better if metric else None


class LeaderboardCell(TypedDict):
    """One cell's standing on the primary metric. answers: as `AnswerCounts.to_json` counts them. rank_range: the best
    and the worst rank that the data allow."""

    name: str
    mean: float | None
    ci95: Sequence[float] | None
    n_scored: int
    n_failed: int
    answers: Mapping[str, Any]
    tokens_out: int | None
    cost: float | None
    latency_ms_p50: float | None
    rank_range: Sequence[int]


class LeaderboardPair(TypedDict):
    """Two cells compared on the primary metric. difference, ci95: by how much `better` is ahead, never negative.
    real: whether the difference is significant after correction, whatever the failed rows would have scored."""

    better: str
    worse: str
    difference: float
    ci95: Sequence[float] | None
    p_adjusted: float
    real: bool


class Leaderboard(TypedDict):
    """The cells of one suite, best first. rows: how many each was given."""

    suite: str
    rows: int
    primary: str
    cells: Sequence[LeaderboardCell]
    pairs: Sequence[LeaderboardPair]

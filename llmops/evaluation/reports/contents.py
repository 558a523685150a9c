"""What a report is made of: plain JSON values, given a shape that the type checker holds, and compared metrics.

Everything is said of `b`, the challenger, against `a`: a difference is b − a. Numbers are finite; a value that does not
exist is None. Texts may hold anything at all: whoever shows them escapes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

from llmops.evaluation.metric_comparison import MetricComparison, NotCompared

Outcome = Literal["pass", "fail", "inconclusive"]


class Turn(TypedDict):
    """One message of a prompt."""

    role: str
    content: str


class Answers(TypedDict):
    """What became of a run's rows (`results.AnswerCounts.to_json`)."""

    rows: int
    failed: int
    cut_off: int
    empty: int


class MetricSummary(TypedDict):
    """One scorer over one run (`results.Metric.to_json`)."""

    mean: float | None
    n_scored: int
    n_failed: int
    ci95: Sequence[float] | None


class Side(TypedDict):
    """One of the two runs. name: what it is called in tables (`qa@2,smollm2@1`). prompt_text: its rendered turns.
    cost: in US dollars. seconds: wall time of generating."""

    name: str
    run_id: str
    prompt: str
    model: str
    release: str | None
    params: Mapping[str, Any]
    prompt_text: Sequence[Turn] | None
    metrics: Mapping[str, MetricSummary]
    tokens_in: NotRequired[int | None]
    tokens_out: NotRequired[int | None]
    cost: NotRequired[float | None]
    seconds: NotRequired[float | None]


class Noise(TypedDict):
    """How often the engine answers differently when nothing was changed (`noise.Noise`). flip_share, ci95: the share of
    answers that do. expected_changed: answers that noise alone would change here. changed: answers that did change."""

    flip_share: float
    ci95: Sequence[float]
    expected_changed: float
    changed: int


class ComparisonContents(TypedDict):
    """Two runs, row by row (`comparison.Comparison.to_json`, but that its metrics are objects). rows_told: what became
    of the rows of both, in a sentence. slices: by `tag=value`, by metric. power: sentences."""

    a: str
    b: str
    rows: int
    rows_told: NotRequired[str]
    metrics: Mapping[str, MetricComparison]
    slices: Mapping[str, Mapping[str, MetricComparison]]
    noise: NotRequired[Noise | None]
    power: NotRequired[Sequence[str]]
    not_compared: NotRequired[Mapping[str, NotCompared]]


class Check(TypedDict):
    """One rule of the gate and what became of it."""

    name: str
    kind: str
    metric: str
    outcome: Outcome
    detail: str


class VerdictContents(TypedDict):
    """The gate's verdict with a sentence for everything it looked at."""

    verdict: Outcome
    reasons: Sequence[str]
    checks: NotRequired[Sequence[Check]]


class RowScore(TypedDict):
    """One metric of one row in both runs; None where there is no score."""

    a: bool | float | None
    b: bool | float | None
    rationale_a: NotRequired[str]
    rationale_b: NotRequired[str]


class Row(TypedDict):
    """One row with both answers. change: b − a of the primary metric, a missing score counted as the scorer's worst;
    None when the row cannot be compared."""

    id: str
    inputs: Mapping[str, Any]
    expectations: Mapping[str, Any]
    tags: Mapping[str, str]
    contexts: NotRequired[Sequence[str]]
    output_a: str
    output_b: str
    error_a: NotRequired[str | None]
    error_b: NotRequired[str | None]
    scores: Mapping[str, RowScore]
    change: float | None


class Judged(TypedDict):
    """A run with its verdict, if it has one; alone it is what is known of an app's first release. created: ISO 8601.
    primary: the metric that decides. b: the run. verdict: None without a gate."""

    title: str
    suite: str
    created: str
    primary: str
    b: Side
    verdict: VerdictContents | None


class Report(Judged):
    """A run compared with another, `a`.

    rows: read once by each output, in any number; give a collection, or something whose iterator starts anew, to write
    more than one output.
    """

    a: Side
    comparison: ComparisonContents
    rows: Iterable[Row]


class LeaderboardCell(TypedDict):
    """One cell's standing on the primary metric. rank_range: the best and the worst rank that the data allow."""

    name: str
    mean: float | None
    ci95: Sequence[float] | None
    n_scored: int
    n_failed: int
    answers: Answers
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

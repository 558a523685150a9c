"""What an evaluation yields: outputs, scores and failures for every row, and their summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmops.evaluation.eval_set import EvalRow

ScoreValue = bool | float


@dataclass(frozen=True, slots=True)
class Output:
    """What a cell answered to one row. error: why there is no answer; the text is then empty."""

    text: str
    finish_reason: str = "stop"
    tokens_in: int = 0
    tokens_out: int = 0
    latency_ms: float = 0.0
    first_token_ms: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """One scorer's judgement of one output: a value with a rationale, or an error. Exactly one of both is set."""

    value: ScoreValue | None = None
    rationale: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row, what was answered, and its scores by scorer name."""

    row: EvalRow
    output: Output
    scores: Mapping[str, Score]

    def to_json(self) -> dict[str, Any]:
        return {
            **self.row.to_json(),
            "output": asdict(self.output),
            "scores": {name: asdict(score) for name, score in self.scores.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RowResult:
        row = EvalRow(values["id"], values["inputs"], values["expectations"], tuple(values["contexts"]), values["tags"])
        scores = {name: Score(**score) for name, score in values["scores"].items()}
        return cls(row, Output(**values["output"]), scores)


@dataclass(frozen=True, slots=True)
class Metric:
    """Summary of one scorer over a run. mean, ci95: over the scored rows. n_failed: rows without a score."""

    mean: float | None
    n_scored: int
    n_failed: int
    ci95: tuple[float, float] | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "ci95": list(self.ci95) if self.ci95 else None}


@dataclass(frozen=True, slots=True)
class EvalReport:
    """One cell's results. generated, from_cache: how its outputs came about. seconds: wall time of generating."""

    results: Sequence[RowResult]
    metrics: Mapping[str, Metric]
    generated: int
    from_cache: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens by wall time of this run; 0 when everything came from the cache."""
        tokens = sum(result.output.tokens_out for result in self.results)
        return tokens / self.seconds if self.generated and self.seconds > 0 else 0.0

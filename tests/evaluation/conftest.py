"""Made-up scorers, caches and samples of paired differences, and what a simulated rate may be."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import Output, Score


@dataclass(frozen=True)
class MadeUpScorer:
    """A scorer whose judgement is the function given."""

    name: str
    judge: Callable[[EvalRow, Output], Score] = lambda _row, output: Score(float(len(output.text)))
    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] | None = None

    def score(self, row: EvalRow, output: Output) -> Score:
        return self.judge(row, output)


@dataclass(frozen=True)
class MadeUpJudge(MadeUpScorer):
    """One whose scores are kept, and which remembers the rows that it was asked about."""

    identity: Mapping[str, Any] = field(default_factory=lambda: {"judge": "made up"})
    side_by_side: int = 2
    asked: list[str] = field(default_factory=list)

    def score(self, row: EvalRow, output: Output) -> Score:
        self.asked.append(row.id)
        return super().score(row, output)


@pytest.fixture
def scorer() -> type[MadeUpScorer]:
    return MadeUpScorer


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[GenerationCache]:
    opened = GenerationCache(tmp_path / "cache")
    yield opened
    opened.close()


def most(repetitions: int, rate: float) -> float:
    """The share that a true rate of `rate` stays below in all but one of 1,000 simulations."""
    return float(stats.binom.ppf(0.999, repetitions, rate)) / repetitions


def least(repetitions: int, rate: float) -> float:
    """The share that a true rate of `rate` stays above in all but one of 1,000 simulations."""
    return float(stats.binom.ppf(0.001, repetitions, rate)) / repetitions


def frequency(repetitions: int, seed: int, found: Callable[[Any], bool]) -> float:
    """The share of so many draws from one generator in which it was found."""
    generator = np.random.default_rng(seed)
    return sum(bool(found(generator)) for _ in range(repetitions)) / repetitions


def holds(interval: tuple[float, float] | None, truth: float) -> bool:
    """Whether there is an interval, and the truth lies in it."""
    return interval is not None and interval[0] <= truth <= interval[1]


def few_losses(generator: Any, n: int) -> Any:
    """One row in twelve loses half its score, the others nothing."""
    return generator.choice([-0.5, 0.0], n, p=[1 / 12, 11 / 12])

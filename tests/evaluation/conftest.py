"""Made-up scorers, rows and caches for the evaluation room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

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


@pytest.fixture
def scorer() -> type[MadeUpScorer]:
    return MadeUpScorer


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[GenerationCache]:
    opened = GenerationCache(tmp_path / "cache")
    yield opened
    opened.close()

"""Successive halving, and what it makes of candidates that are all as good as the current prompt."""

import asyncio

import numpy as np
import pytest
from scipy import stats

from llmops.errors import UsageError
from llmops.evaluation.comparison import Comparison
from llmops.evaluation.gate import GateInput, GateRules, decide
from llmops.evaluation.metric_comparison import PairedScores
from llmops.evaluation.results import AnswerCounts, Metric
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.statistics import sign_test_p
from llmops.optimizing.race import Rung, cost, race, ranked, schedule

CORRECT = make_scorer("correct", "contains", {})


def test_a_race_is_the_largest_that_the_budget_pays_for():
    rungs = schedule(1000, 48, 600)
    assert [rung.rows for rung in rungs] == [12, 24, 48]
    assert [rung.candidates for rung in rungs] == [
        rungs[0].candidates,
        -(-rungs[0].candidates // 2),
        -(-rungs[0].candidates // 4),
    ]
    one_more = [Rung(-(-(rungs[0].candidates + 1) // 2**n), rung.rows) for n, rung in enumerate(rungs)]
    assert cost(rungs) + 48 <= 600 < cost(one_more) + 48
    assert schedule(3, 48, 10**6)[0] == Rung(3, 12)
    with pytest.raises(UsageError, match="need 96"):
        schedule(10, 48, 95)


def chosen(scores: np.ndarray, budget: int) -> int:
    """The winner among candidates whose scores are known beforehand (one line each)."""
    rungs = schedule(len(scores), scores.shape[1], budget)

    async def score(positions, first, last):
        return scores[list(positions), first:last]

    lengths = [0] * rungs[0].candidates
    means = asyncio.run(race(rungs, score, lengths))
    return ranked(means, range(len(means)), lengths)[0]


def test_the_best_candidate_wins_and_no_row_is_asked_for_twice():
    scores = np.zeros((16, 40))
    scores[11] = 1
    asked = []

    async def score(positions, first, last):
        asked.extend((position, row) for position in positions for row in range(first, last))
        return scores[list(positions), first:last]

    rungs = schedule(16, 40, 10**4)
    means = asyncio.run(race(rungs, score, list(range(16, 0, -1))))
    assert means[11] == [1.0] * len(rungs)
    assert len(asked) == len(set(asked)) == cost(rungs)
    assert [len(each) for each in means].count(len(rungs)) == rungs[-1].candidates
    assert ranked(means, range(16), list(range(16, 0, -1)))[:2] == [11, 15]  # of the others, the shortest


def verdict(before: np.ndarray, after: np.ndarray) -> str:
    """The gate's, of the paired scores of two prompts."""
    metric = PairedScores.of(CORRECT, before.tolist(), after.tolist()).compared()
    answers = AnswerCounts(len(before))
    comparison = Comparison("a", "b", len(before), {"correct": metric}, {}, (), answers_a=answers, answers_b=answers)
    metrics = [{"correct": Metric.of(values.tolist(), 0)} for values in (before, after)]
    return decide(GateRules("correct"), GateInput(metrics[1], comparison, answers, champion=metrics[0])).verdict


def optimised(chance: np.random.Generator, candidates: int, selection: int, held_out: int) -> tuple[str, str]:
    """Verdicts on the rows that chose and on held-out rows, where every candidate is as good as the current prompt:
    each row is answered right with a chance of its own, whoever is asked."""
    rows = chance.random(selection + held_out)
    scores = (chance.random((candidates + 1, len(rows))) < rows).astype(float)
    best = 1 + chosen(scores[1:, :selection], 10**6)
    return tuple(verdict(scores[0, part], scores[best, part]) for part in (slice(selection), slice(selection, None)))


@pytest.mark.parametrize(("candidates", "selection", "held_out", "runs"), [(64, 48, 60, 300), (1000, 40, 40, 60)])
def test_of_equal_candidates_hardly_any_gets_past_the_gate(candidates, selection, held_out, runs):
    chance = np.random.default_rng(7)
    by_selection, by_held_out = zip(
        *(optimised(chance, candidates, selection, held_out) for _ in range(runs)), strict=True
    )
    passed = by_held_out.count("pass")
    # Were one in twenty of all optimisations to pass, more than this would once in a thousand times.
    assert passed <= stats.binom.ppf(0.999, runs, 0.05)
    # By the rows that chose, the same gate takes many for better: that is what held-out rows are for.
    assert stats.binomtest(by_selection.count("pass"), runs, 0.05, alternative="greater").pvalue < 1e-6


def test_the_gates_of_the_simulation_are_exact_tests():
    before, after = np.array([0.0] * 40), np.array([1.0] * 6 + [0.0] * 34)
    assert verdict(before, after) == "pass"
    assert sign_test_p(6, 0) < 0.05 < sign_test_p(5, 0)
    assert verdict(before, np.array([1.0] * 5 + [0.0] * 35)) == "inconclusive"

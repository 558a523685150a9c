"""A verdict never hides a failure: simulated gates of every way in which rows can be missing. None of them passes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.evaluation.comparison import compare
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.gate import GateInput, GateRules, Verdict, decide, slice_metrics
from llmops.evaluation.paired_tests import FEWEST_CLUSTERS
from llmops.evaluation.results import AnswerCounts, Metric, Output, RowResult, Score
from llmops.evaluation.runner import RunSummary
from llmops.evaluation.scorers.protocol import Scorer, limits_of
from tests.evaluation.conftest import MadeUpScorer

RIGHT = MadeUpScorer("right", limits=(0.0, 1.0))
REFUSAL = MadeUpScorer("refusal", higher_is_better=False, worst=1.0, limits=(0.0, 1.0))
LATENCY = MadeUpScorer("latency_ms", higher_is_better=False, worst=None, limits=(0.0, math.inf))
WORDS = MadeUpScorer("words", higher_is_better=None, worst=None, limits=(0.0, math.inf))
SCORERS = (RIGHT, REFUSAL, LATENCY, WORDS)

Run = Sequence[RowResult]


def run(scores: Mapping[str, Sequence[bool | float]], *, cluster: int = 1, parts: int = 2) -> list[RowResult]:
    """A run whose rows have these scores. cluster: rows of one source. parts: slices `part=0`, `part=1` …"""
    return [
        RowResult(
            EvalRow(f"r{i}", {"q": f"{i}?", "source": f"s{i // cluster}"}, tags={"part": str(i % parts)}),
            Output("an answer", latency_ms=1.0),
            {name: Score(values[i]) for name, values in scores.items()},
        )
        for i in range(len(next(iter(scores.values()))))
    ]


def unanswered(result: RowResult) -> RowResult:
    """The row, had the engine failed."""
    failed = {name: Score(error="generation failed: out of order") for name in result.scores}
    return replace(result, output=Output("", error="out of order"), scores=failed)


def unscored(result: RowResult, scorer: str) -> RowResult:
    """The row, had one scorer failed."""
    return replace(result, scores={**result.scores, scorer: Score(error="the judge is away")})


def metrics_of(results: Run, scorers: Sequence[Scorer], cluster_by: str | None = None) -> dict[str, Metric]:
    summary = RunSummary(scorers, cluster_by)
    for result in results:
        summary.add(result)
    return summary.metrics()


def gate(
    rules: GateRules,
    a: Run | None,
    b: Run,
    *,
    untrusted: Mapping[str, str] | None = None,
    cluster_by: str | None = None,
    sequential_seed: int | None = None,
) -> Verdict:
    """What the gate says of `b` against the champion `a`, as `Evaluations.gate` asks it; only of the scorers that the
    rules name, which saves time. sequential_seed: of runs that were stopped early."""
    scorers = [scorer for scorer in SCORERS if scorer.name in set(rules.scorers)]
    wanted = {name: list(floors) for name, floors in rules.slice_floors.items()}
    comparison = None
    if a is not None:
        comparison = compare("app@1", a, "app@2", b, scorers, cluster_by=cluster_by, sequential_seed=sequential_seed)
    facts = GateInput(
        metrics=metrics_of(b, scorers, cluster_by),
        comparison=comparison,
        answers=AnswerCounts.of(result.output for result in b),
        champion=metrics_of(a, scorers, cluster_by) if a is not None else {},
        slices=slice_metrics(b, wanted),
        untrusted=untrusted or {},
        limits={scorer.name: limits_of(scorer) for scorer in SCORERS},
    )
    return decide(rules, facts)


UNTRUSTED = {"right": "κ 0.61 is not surely 0.9 or more"}

Made = tuple[GateRules, Run, Run]


def good(rng: np.random.Generator, rows: int, clusters: int | None = None) -> Made:
    """A challenger that is right everywhere, fast and never refuses, against a champion that is right half of the time;
    and rules, drawn at random, that it passes."""
    scores = [
        {
            RIGHT.name: (rng.random(rows) < share).tolist(),
            REFUSAL.name: [False] * rows,
            LATENCY.name: rng.gamma(20.0, milliseconds / 20.0, rows).tolist(),
            WORDS.name: rng.integers(5, 15, rows).astype(float).tolist(),
        }
        for share, milliseconds in ((0.5, 400.0), (1.1, 100.0))
    ]
    a, b = (run(each, cluster=rows // clusters if clusters else 1) for each in scores)
    primary, rule = rng.choice([RIGHT.name, LATENCY.name]), rng.choice(["better", "not-worse"])
    margin = float(rng.uniform(0.02, 0.2))
    return GateRules(
        str(primary),
        str(rule),
        margin,
        floors={RIGHT.name: 0.5} if rng.random() < 0.5 else {},
        ceilings={REFUSAL.name: 0.1, LATENCY.name: 300.0} if rng.random() < 0.5 else {},
        not_worse={RIGHT.name: margin} if rng.random() < 0.5 else {},
        slice_floors={"part=1": {RIGHT.name: 0.5}} if rng.random() < 0.5 else {},
    ), a, b  # fmt: skip


def share_of(rng: np.random.Generator, results: Run, share: float) -> set[int]:
    """Rows drawn at random: that share of them, rounded up."""
    return set(rng.permutation(len(results))[: int(np.ceil(share * len(results)))].tolist())


def with_failures(rng: np.random.Generator, results: Run, share: float, scorer: str | None = None) -> Run:
    """scorer: the one that fails; None: the engine does."""
    chosen = share_of(rng, results, share)
    return [
        (unanswered(result) if scorer is None else unscored(result, scorer)) if i in chosen else result
        for i, result in enumerate(results)
    ]


def one_side(rng: np.random.Generator, change: Callable[[Run], Run], a: Run, b: Run) -> tuple[Run, Run]:
    side = rng.integers(3)
    return (change(a) if side != 1 else a), (change(b) if side != 0 else b)


def failed_side(rng: np.random.Generator) -> Verdict:
    rules, a, b = good(rng, int(rng.integers(20, 60)))
    share = float(rng.uniform(0.11, 1.0))
    return gate(rules, *one_side(rng, lambda side: with_failures(rng, side, share), a, b))


def unmatched_rows(rng: np.random.Generator) -> Verdict:
    """At least two rows stay in both runs: without any there is no comparison, and that is an error."""
    rules, a, b = good(rng, int(rng.integers(20, 60)))
    missing = share_of(rng, a[2:], float(rng.uniform(0.15, 1.0)))

    def cut(side: Run) -> Run:
        return [*side[:2], *(result for i, result in enumerate(side[2:]) if i not in missing)]

    return gate(rules, *((cut(a), b) if rng.random() < 0.5 else (a, cut(b))))


def few_clusters(rng: np.random.Generator) -> Verdict:
    clusters = int(rng.integers(1, FEWEST_CLUSTERS))
    rules, a, b = good(rng, 15 * clusters, clusters)
    return gate(rules, a, b, cluster_by="inputs.source")


def untrusted_judge(rng: np.random.Generator) -> Verdict:
    rules, a, b = good(rng, int(rng.integers(20, 60)))
    return gate(GateRules(RIGHT.name, rules.rule, rules.margin, rules.floors), a, b, untrusted=UNTRUSTED)


def failed_latency_rows(rng: np.random.Generator) -> Verdict:
    rules, a, b = good(rng, int(rng.integers(20, 60)))
    further = {"not_worse": {LATENCY.name: 50.0}} if rng.random() < 0.5 else {"ceilings": {LATENCY.name: 300.0}}
    b = with_failures(rng, b, float(rng.uniform(0.001, 1.0)), None if rng.random() < 0.5 else LATENCY.name)
    return gate(GateRules(LATENCY.name, rules.rule, rules.margin, **further), a, b)


def metric_that_failed_everywhere(rng: np.random.Generator) -> Verdict:
    rules, a, b = good(rng, int(rng.integers(20, 60)))
    rules = GateRules(RIGHT.name, rules.rule, rules.margin, rules.floors, not_worse={LATENCY.name: 50.0})
    return gate(rules, *one_side(rng, lambda side: with_failures(rng, side, 1.0, RIGHT.name), a, b))


def first_release_that_failed(rng: np.random.Generator) -> Verdict:
    rules, _, b = good(rng, int(rng.integers(20, 60)))
    return gate(rules, None, with_failures(rng, b, float(rng.uniform(0.11, 1.0))))


EDGES = (
    failed_side, unmatched_rows, few_clusters, untrusted_judge, failed_latency_rows, metric_that_failed_everywhere,
    first_release_that_failed,
)  # fmt: skip


@pytest.mark.parametrize("gates", [25, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.__name__)
def test_no_gate_passes_where_rows_are_missing_or_cannot_be_relied_on(edge, gates):
    """Nor does any fail: the challenger is better wherever it was measured."""
    rng = np.random.default_rng(20_261_201)
    outcomes = [edge(rng).verdict for _ in range(gates)]
    assert set(outcomes) == {"inconclusive"}


def test_the_same_gates_pass_where_nothing_is_missing():
    rng = np.random.default_rng(20_261_201)
    outcomes = [gate(*good(rng, int(rng.integers(20, 60)))).verdict for _ in range(25)]
    assert set(outcomes) == {"pass"}


# One of each kind, with its reason


def plain(right: float, latency_ms: float = 100.0, rows: int = 120, *, refusal: float = 0.0, cluster: int = 1) -> Run:
    """A run whose first rows are right, and whose last ones refuse, in these shares."""
    return run(
        {
            RIGHT.name: [i < right * rows for i in range(rows)],
            REFUSAL.name: [i >= (1 - refusal) * rows for i in range(rows)],
            LATENCY.name: [latency_ms] * rows,
        },
        cluster=cluster,
    )


def broken(results: Run, rows: int) -> Run:
    """The first rows failed."""
    return [unanswered(result) if i < rows else result for i, result in enumerate(results)]


BETTER, NOT_WORSE = GateRules(RIGHT.name), GateRules(RIGHT.name, "not-worse", 0.05)


@pytest.mark.parametrize(
    ("rules", "a", "b", "reason"),
    [
        (BETTER, broken(plain(0.5), 120), plain(0.5), "right was scored in no row (120 failed) of app@1"),
        (
            NOT_WORSE, broken(plain(0.5), 120), broken(plain(0.5), 120),
            "right was scored in no row (120 failed) of app@1; right was scored in no row (120 failed) of app@2",
        ),
        (
            GateRules(LATENCY.name), plain(0.5, 400.0), broken(plain(0.5), 90),
            "app@2, 90 of 120 rows failed: significantly better, but a row that failed could have had any value",
        ),
        (
            GateRules(LATENCY.name), plain(0.5, 400.0), broken(plain(0.5), 1),
            "app@2, 1 of 120 rows failed: significantly better, but a row that failed could have had any value",
        ),
        (
            GateRules(RIGHT.name, ceilings={REFUSAL.name: 0.1}), plain(0.2), broken(plain(1.0), 100),
            "refusal is 0, at or below its ceiling of 0.1, 100 of 120 rows failed, at most 10 % may",
        ),
        (
            BETTER, broken(plain(1.0), 12), plain(1.0),
            "app@1, 12 of 120 rows failed: significantly better, but what the failed rows would have scored decides it",
        ),
        (
            BETTER, plain(1.0), broken(plain(1.0), 12),
            "app@2, 12 of 120 rows failed: significantly worse, but what the failed rows would have scored decides it",
        ),
        (BETTER, plain(0.2, rows=200), plain(1.0, rows=200)[:25], "app@1: 200 rows, none failed, cut off or empty"),
        (NOT_WORSE, plain(0.5, rows=60, cluster=30), plain(1.0, rows=60, cluster=30), "2 clusters are too few"),
    ],
)  # fmt: skip
def test_what_is_missing_leaves_the_verdict_open_and_stands_in_a_reason(rules, a, b, reason):
    found = gate(rules, a, b, cluster_by="inputs.source" if "cluster" in reason else None)
    assert found.verdict == "inconclusive"
    assert reason in "\n".join(found.reasons)


@pytest.mark.parametrize(
    ("a", "b"), [(plain(1.0), broken(plain(0.5), 12)), (broken(plain(1.0), 6), broken(plain(0.5), 60))]
)
def test_a_loss_that_no_value_of_the_failed_rows_could_undo_is_a_failure(a, b):
    assert gate(BETTER, a, b).verdict == gate(NOT_WORSE, a, b).verdict == "fail"


def test_what_became_of_both_sides_rows_stands_in_every_verdict():
    cut = [replace(result, output=Output("an ans", "length")) for result in plain(0.5)[:86]]
    blank = [replace(result, output=Output(" \n")) for result in plain(0.5)[86:88]]
    found = gate(BETTER, plain(0.5), [*cut, *blank, *plain(0.5)[88:]])
    assert found.checks[-1].detail == (
        "120 rows are in both runs; app@1: 120 rows, none failed, cut off or empty; "
        "app@2: of 120 rows 86 cut off at max_tokens (71.7 %), 2 empty (1.67 %)"
    )


@pytest.mark.parametrize(
    ("rules", "a", "b"),
    [
        (BETTER, broken(plain(1.0), 12), plain(1.0)),
        (BETTER, broken(plain(1.0), 120), plain(1.0)),
        (GateRules(RIGHT.name, "not-worse", 0.3), broken(plain(1.0), 120), plain(1.0)),
        # A failed row has no latency that would pass.
        (GateRules(RIGHT.name, not_worse={LATENCY.name: 50.0}), plain(0.5), broken(plain(1.0), 1)),
        (GateRules(RIGHT.name, ceilings={LATENCY.name: 300.0}), plain(0.5), broken(plain(1.0), 1)),
    ],
)
def test_whoever_failed_lets_nobody_pass_in_runs_that_were_stopped_early_either(rules, a, b):
    alone = GateRules(RIGHT.name, rules.rule, rules.margin)
    assert gate(alone, plain(0.5), plain(1.0), sequential_seed=0).verdict == "pass"
    assert gate(rules, a, b, sequential_seed=0).verdict == "inconclusive"


def test_failed_rows_that_decide_nothing_or_that_a_suite_allows_do_not_hold_a_release_up():
    assert gate(BETTER, broken(plain(0.5), 6), broken(plain(1.0), 6)).verdict == "pass"
    rules = GateRules(RIGHT.name, "not-worse", 0.05, most_failed=0.5)
    a, b = plain(0.5), broken(plain(1.0), 40)
    assert (gate(rules, a, b).verdict, gate(NOT_WORSE, a, b).verdict) == ("pass", "inconclusive")


# Whatever the shape of the runs: to fail never helps


@st.composite
def shapes(draw: st.DrawFn) -> tuple[GateRules, list[RowResult], list[RowResult]]:
    """Two runs of few rows and rules near what they reach, so that every outcome is met; some rows failed already."""
    rows = draw(st.integers(20, 36))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sides = []
    for share in draw(st.tuples(st.floats(0.2, 1), st.floats(0.2, 1))):
        right = rng.random(rows) < share
        partly = np.where(right, 1.0, rng.random(rows).round(1))
        made = run(
            {
                RIGHT.name: right.tolist() if draw(st.booleans()) else partly.tolist(),
                REFUSAL.name: (rng.random(rows) < 0.05).tolist(),
                LATENCY.name: rng.gamma(2.0, 50.0, rows).tolist(),
            }
        )
        sides.append(with_failures(rng, made, draw(st.sampled_from([0.0, 0.03, 0.08]))))
    near = st.floats(0.2, 1)
    rules = GateRules(
        draw(st.sampled_from([RIGHT.name, REFUSAL.name, LATENCY.name])),
        draw(st.sampled_from(["better", "not-worse"])),
        draw(st.sampled_from([0.02, 0.1, 0.4, 60.0])),
        floors=draw(st.dictionaries(st.just(RIGHT.name), near)),
        ceilings=draw(st.dictionaries(st.sampled_from([REFUSAL.name, LATENCY.name]), st.sampled_from([0.1, 100.0]))),
        not_worse=draw(st.dictionaries(st.sampled_from([RIGHT.name, REFUSAL.name]), st.sampled_from([0.1, 0.4]))),
        slice_floors=draw(st.dictionaries(st.just("part=0"), st.dictionaries(st.just(RIGHT.name), near))),
    )
    return rules, *sides


@given(
    shape=shapes(),
    place=st.integers(0, 19),
    of_scorer=st.booleans(),
    of_champion=st.booleans(),
    stopped=st.sampled_from([None, 0]),
)
@settings(derandomize=True)
def test_no_row_that_fails_turns_a_verdict_into_a_pass(shape, place, of_scorer, of_champion, stopped):
    """Neither in full runs nor in those that were stopped early."""
    rules, a, b = shape
    before = gate(rules, a, b, sequential_seed=stopped).verdict
    side = a if of_champion else b
    side[place] = unscored(side[place], rules.primary) if of_scorer else unanswered(side[place])
    after = gate(rules, a, b, sequential_seed=stopped).verdict
    assert after != "pass" or before == "pass"

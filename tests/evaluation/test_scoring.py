"""Scoring: in order, a batch at a time; what was paid for is kept; a crash is a record of the rows it happened in."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmops.evaluation import statistics
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import Output, RowResult, RunFindings, Score, StoredResults
from llmops.evaluation.runner import Answered, Summary, findings, score_rows


@dataclass
class Judge:
    """A scorer whose scores are kept, and that remembers what it was asked."""

    name: str = "judge"
    identity: dict[str, Any] = field(default_factory=lambda: {"model": "big", "rubric": "kind?"})
    side_by_side: int = 2
    higher_is_better: bool | None = True
    worst: float | None = 0.0
    asked: list[str] = field(default_factory=list)
    failing: bool = False

    def score(self, row: EvalRow, output: Output) -> Score:
        self.asked.append(row.id)
        if self.failing:
            return Score(error="the judge is ill")
        return Score(len(output.text) / 10, "because", label="fair")


@dataclass
class Model:
    """A scorer that takes many rows at a time."""

    name: str = "similarity"
    higher_is_better: bool | None = True
    worst: float | None = 0.0
    batches: list[int] = field(default_factory=list)
    made: Any = None

    def score(self, row: EvalRow, output: Output) -> Score:
        raise AssertionError("asked for one row")

    def score_many(self, rows: Sequence[EvalRow], outputs: Sequence[Output]) -> list[Score]:
        self.batches.append(len(rows))
        if self.made is not None:
            return list(self.made(rows, outputs))
        return [Score(float(row.id.removeprefix("r"))) for row in rows]


def answered(n: int, failed: Sequence[int] = ()) -> list[Answered]:
    return [
        (
            EvalRow(f"r{i}", {"q": f"question {i}"}, {"answers": [str(i)]}, tags={"passage": str(i // 4)}),
            Output("", finish_reason="error", error="gone") if i in failed else Output(f"answer {i}", "stop", 3, 2),
        )
        for i in range(n)
    ]


def scored(pairs: Iterable[Answered], scorer: Any, cache: GenerationCache) -> list[Score]:
    return [result.scores[scorer.name] for result in score_rows(pairs, [scorer], cache)]


# Kept scores


def test_a_kept_score_is_asked_for_once_also_when_the_cache_is_opened_again(tmp_path):
    found, judges = [], [Judge(), Judge()]
    for judge in judges:
        opened = GenerationCache(tmp_path)
        found += [scored(answered(5), judge, opened) for _ in range(2)]
        opened.close()
    assert (sorted(judges[0].asked), judges[1].asked) == ([f"r{i}" for i in range(5)], [])
    assert found[0][0] == Score(0.8, "because", label="fair")
    assert found == found[:1] * 4


def test_a_failure_is_not_kept(cache: GenerationCache) -> None:
    assert {score.error for score in scored(answered(3), Judge(failing=True), cache)} == {"the judge is ill"}
    recovered = Judge()
    assert {score.error for score in scored(answered(3), recovered, cache)} == {None}
    assert len(recovered.asked) == 3


@pytest.mark.parametrize(
    ("row", "output", "identity"),
    [
        ({}, {}, {"model": "bigger"}),
        ({}, {}, {"model": "big", "rubric": "kind!"}),
        ({"inputs": {"q": "another"}}, {}, None),
        ({"expectations": {"answers": ["1"]}}, {}, None),
        ({"contexts": ("passage",)}, {}, None),
        ({}, {"text": "another answer"}, None),
    ],
)
def test_whatever_can_change_a_score_asks_again(cache, row, output, identity):
    base: dict[str, Any] = {"id": "r", "inputs": {"q": "question"}, "expectations": {"answers": ["0"]}}
    scored([(EvalRow(**base), Output("answer"))], Judge(), cache)
    judge = Judge(identity=identity) if identity else Judge()
    scored([(EvalRow(**{**base, **row}), Output(**{"text": "answer", **output}))], judge, cache)
    assert judge.asked == ["r"]


def test_what_a_judge_does_not_see_does_not_ask_again(cache: GenerationCache) -> None:
    scored([(EvalRow("r", {"q": "?"}), Output("answer", latency_ms=3.0))], Judge(), cache)
    judge = Judge(name="the same judge under another name")
    scored([(EvalRow("other", {"q": "?"}, tags={"topic": "sums"}), Output("answer", "length", 9, 9))], judge, cache)
    assert judge.asked == []


@pytest.mark.parametrize("side_by_side", [1, 3])
def test_a_judge_is_asked_side_by_side_and_no_more(cache: GenerationCache, side_by_side: int) -> None:
    together = threading.Barrier(side_by_side)
    lock, running, most = threading.Lock(), 0, 0

    class Counting(Judge):
        def score(self, row: EvalRow, output: Output) -> Score:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            together.wait(timeout=5)  # passes only when as many are asked at the same time
            with lock:
                running -= 1
            return super().score(row, output)

    found = scored(answered(9), Counting(side_by_side=side_by_side), cache)

    assert {score.error for score in found} == {None}
    assert most == side_by_side


def test_a_judge_is_not_asked_about_failed_generations_and_its_crash_is_a_record_of_that_row(cache):
    class Fragile(Judge):
        def score(self, row: EvalRow, output: Output) -> Score:
            made = super().score(row, output)
            if row.id == "r1":
                raise KeyError("verdict")
            return made

    judge = Fragile()
    found = scored(answered(4, failed=[2]), judge, cache)
    assert [score.error for score in found] == [None, "KeyError: 'verdict'", "generation failed: gone", None]
    assert sorted(judge.asked) == ["r0", "r1", "r3"]


# Batches


@pytest.mark.parametrize(("n", "failed", "batches"), [(150, [10], [63, 64, 22]), (3, [0, 1, 2], [])])
def test_a_batch_scorer_gets_many_rows_at_a_time_and_every_row_its_own_score(cache, n, failed, batches):
    model = Model()
    found = scored(answered(n, failed=failed), model, cache)
    assert model.batches == batches
    assert [score.value for score in found] == [None if i in failed else float(i) for i in range(n)]
    assert {found[i].error for i in failed} == {"generation failed: gone"}


@pytest.mark.parametrize(
    ("made", "error"),
    [
        (lambda rows, outputs: 1 / 0, "ZeroDivisionError"),
        (lambda rows, outputs: [Score(1.0)], "ValueError"),
        (lambda rows, outputs: [Score(1.0)] * 9, "ValueError"),
        (lambda rows, outputs: [None] * len(rows), "AttributeError"),
    ],
    ids=["crash", "too few", "too many", "no scores"],
)
def test_a_batch_that_cannot_be_scored_is_an_error_of_each_row(cache: GenerationCache, made: Any, error: str) -> None:
    found = scored(answered(4, failed=[1]), Model(made=made), cache)
    assert found[1].error == "generation failed: gone"
    assert all(str(found[i].error).startswith(error) and found[i].value is None for i in (0, 2, 3))


def test_what_is_no_number_is_an_error_in_a_batch_too(cache: GenerationCache) -> None:
    found = scored(answered(2), Model(made=lambda rows, outputs: [Score(float("nan")), Score(0.5)]), cache)
    assert found[0].value is None
    assert found[0].error
    assert found[1] == Score(0.5)


# Streaming


def test_rows_are_taken_a_batch_at_a_time(cache: GenerationCache, scorer: Any) -> None:
    taken = 0

    def source() -> Iterator[Answered]:
        nonlocal taken
        for pair in answered(500):
            taken += 1
            yield pair

    results = score_rows(source(), [scorer("length")], cache)
    assert taken == 0
    next(results)
    first = taken
    for _ in range(64):
        next(results)

    assert (first, taken) == (64, 128)


def test_results_stand_in_the_order_of_the_rows(cache: GenerationCache, scorer: Any) -> None:
    pairs = answered(130)
    found = list(score_rows(pairs, [scorer("length"), Judge(), Model()], cache))
    assert [(result.row, result.output) for result in found] == pairs
    assert all(result.scores.keys() == {"length", "judge", "similarity"} for result in found)


# Summary


def summary(values: Sequence[Score], clusters: Sequence[str | None] | None = None, ids: Any = None) -> Any:
    made = Summary([Judge()], "tags.passage" if clusters else None)
    for i, value in enumerate(values):
        passage = clusters[i] if clusters else None
        row = EvalRow(ids[i] if ids else f"r{i}", {"q": "?"}, tags={"passage": passage} if passage else {})
        made.add(RowResult(row, Output("answer", "stop", 3, 2), {"judge": value}))
    return made.metrics()["judge"]


def test_a_summary_counts_scored_and_failed_rows(scorer):
    made = Summary([scorer("x")])
    for score in (Score(0.5), Score(error="no"), Score(1.0)):
        made.add(RowResult(EvalRow("r", {"q": "?"}), Output("a", "stop", 3, 2), {"x": score}))
    metric = made.metrics()["x"]
    assert (metric.mean, metric.n_scored, metric.n_failed) == (0.75, 2, 1)
    assert (made.tokens_in, made.tokens_out) == (9, 6)
    in_clusters = summary([Score(0.25), Score(error="no"), Score(0.75)], ["a", "b", "c"])
    assert (in_clusters.mean, in_clusters.n_scored, in_clusters.n_failed) == (0.5, 2, 1)


@pytest.mark.parametrize("ids", [None, ["w", "x", "y", "z", "a", *"bcdefgh"]], ids=["other ids", "an id as a cluster"])
def test_a_row_without_a_cluster_stands_for_itself(ids):
    found = summary([Score(float(i % 3)) for i in range(12)], ["a"] * 4 + [None] * 8, ids)
    alone = ["a"] * 4 + [f"row {i}" for i in range(4, 12)]
    assert found.ci95 == statistics.mean_interval([float(i % 3) for i in range(12)], alone)


@pytest.mark.parametrize("boolean", [True, False])
def test_clusters_widen_the_interval(boolean: bool) -> None:
    truth = [i // 4 % 2 == 0 for i in range(40)]  # rows of one passage agree
    scores = [Score(value if boolean else float(value)) for value in truth]
    passages = [str(i // 4) for i in range(40)]
    alone, together = summary(scores), summary(scores, passages)
    assert alone.mean == together.mean == 0.5
    assert together.ci95[1] - together.ci95[0] > 1.5 * (alone.ci95[1] - alone.ci95[0])
    values = truth if boolean else [float(value) for value in truth]
    assert together.ci95 == statistics.mean_interval(values, passages)


# Findings


class Macro(Judge):
    """A scorer that says something of the whole run."""

    def findings(self, results: Iterable[RowResult]) -> RunFindings:
        ids = [result.row.id for result in results]
        return RunFindings({"rows": float(len(ids))}, {"ids.txt": " ".join(ids).encode()})


def test_what_a_scorer_says_of_the_whole_run_arrives(cache: GenerationCache, scorer: Any, tmp_path: Path) -> None:
    results = StoredResults(tmp_path)
    for result in score_rows(answered(3), [Macro(name="macro")], cache):
        results.append(result)
    found = findings(results, [Macro(name="macro"), Macro(name="again"), scorer("plain")])
    assert found.keys() == {"macro", "again"}
    assert found["macro"] == found["again"] == RunFindings({"rows": 3.0}, {"ids.txt": b"r0 r1 r2"})

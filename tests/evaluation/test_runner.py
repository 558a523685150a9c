"""The runner: every row becomes a record, in order, and nothing finished is made twice."""

import asyncio
import math
import threading
import tracemalloc
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import EngineRejected, EngineTimeout, EngineUnavailable, StoreUnavailable
from llmops.evaluation import statistics
from llmops.evaluation.eval_set import EvalRow, Rows
from llmops.evaluation.generating import Generated, Retries, Task
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import EvalReport, Metric, Output, RowResult, RunFindings, Score, StoredResults
from llmops.evaluation.runner import Answered, RunSummary, findings, generate_all, score_all, score_rows
from llmops.generation import GenerationParameters, GenerationRequest
from llmops.prompt_file import parse_prompt
from tests.evaluation.conftest import MadeUpJudge, MadeUpScorer

QUICK = Retries(attempts=3, first_wait=0.001, longest_wait=0.001)
TEMPLATE = parse_prompt("---\ninput_variable: question\n---\n# user\nQ: {{ question }}\n")


def rows(n: int) -> list[EvalRow]:
    return [EvalRow(f"r{i}", {"question": f"number {i}"}, {"answers": [str(i)]}) for i in range(n)]


def task(engine: FakeEngine, given: Iterable[EvalRow], seed: int | None = None, **parameters: Any) -> Task:
    chosen = GenerationParameters(**parameters)
    return Task(TEMPLATE, chosen, "sha", engine.identity, given, seed)


def giving(engine: FakeEngine) -> Callable[[], Awaitable[FakeEngine]]:
    async def give() -> FakeEngine:
        return engine

    return give


async def never() -> FakeEngine:
    raise AssertionError("the engine was asked for")


async def evaluate(one: Task, give: Any, scorers: Any, cache: Any, *progress: Any, by: Any = None) -> EvalReport:
    """One cell alone."""
    [made] = await generate_all([one], give, cache, *progress, retries=QUICK)
    return await score_all(one, made, scorers, cache, by)


def run(engine: FakeEngine, given: Iterable[EvalRow], scorers: Sequence[Any], cache: GenerationCache) -> EvalReport:
    return asyncio.run(evaluate(task(engine, given), giving(engine), scorers, cache))


def failing_on(*questions: str, error: Exception) -> Callable[[GenerationRequest], str]:
    def answer(request: GenerationRequest) -> str:
        asked = request.messages[-1]["content"].removeprefix("Q: ")
        if asked in questions:
            raise error
        return f"answer to {asked}"

    return answer


def test_answers_and_scores_stand_in_the_order_of_the_rows_as_often_as_they_are_read(cache, scorer):
    order = [3, 1, 2, 0]
    given = [rows(4)[i] for i in order]
    report = run(FakeEngine(lambda request: request.messages[-1]["content"]), given, [scorer("length")], cache)
    assert [result.row for result in report.results] == given
    assert [result.output.text for result in report.results] == [f"Q: number {i}" for i in order]
    assert [result.scores["length"].value for result in report.results] == [11.0] * 4
    assert (report.generated, report.from_cache, len(report.results)) == (4, 0, 4)
    assert all(left == right for left, right in zip(report.results, report.results, strict=True))


def test_outputs_carry_what_the_engine_reported_and_a_latency_holds_no_waiting_for_a_slot(cache):
    engine = FakeEngine(lambda _request: "one two three four", slots=1, word_seconds=0.01)
    report = asyncio.run(evaluate(task(engine, rows(8), max_tokens=3), giving(engine), [], cache))
    found = [result.output for result in report.results]
    for output in found:
        assert (output.text, output.finish_reason) == ("one two three", "length")
        assert (output.tokens_in, output.tokens_out) == (3, 3)
        assert 0 < output.first_token_ms < output.latency_ms
        assert output.latency_ms >= 30
    assert report.tokens_per_second == pytest.approx(24 / report.seconds)
    assert report.seconds > 0.24
    assert sorted(output.latency_ms for output in found)[4] < 120


def test_a_second_run_generates_nothing_and_never_asks_for_the_engine(cache, scorer):
    engine, given = FakeEngine(), rows(5)
    first = run(engine, given, [scorer("length")], cache)
    second = asyncio.run(evaluate(task(engine, given), never, [scorer("length")], cache))
    assert (second.generated, second.from_cache) == (0, 5)
    assert list(second.results) == list(first.results)
    assert second.metrics == first.metrics
    assert second.tokens_per_second is None


def test_only_missing_rows_are_generated_and_tokens_counted_over_all_answers_and_those_made_now(cache):
    engine, seen = FakeEngine(lambda _request: "one two three"), list[tuple[int, int]]()
    run(engine, rows(2), [], cache)
    made = evaluate(task(engine, rows(5)), giving(engine), [], cache, lambda done, all_: seen.append((done, all_)))
    report = asyncio.run(made)
    assert (report.generated, report.from_cache, len(engine.requests)) == (3, 2, 5)
    assert (report.tokens_in, report.tokens_out, report.generated_tokens) == (15, 15, 9)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_seed_is_an_independent_run_and_reaches_the_engine_else_the_parameters_own_does(cache):
    engine = FakeEngine()
    for of_run, parameters in ((None, {}), (7, {}), (7, {}), (None, {"seed": 5})):
        one = replace(task(engine, rows(2), of_run), parameters=GenerationParameters(**parameters))
        asyncio.run(evaluate(one, giving(engine), [], cache))
    assert [request.parameters.seed for request in engine.requests] == [None, None, 7, 7, 5, 5]


@pytest.mark.parametrize("error", [EngineRejected("no such field"), EngineTimeout("too slow")])
def test_a_request_that_fails_becomes_records_and_the_others_go_on(cache, scorer, error):
    engine = FakeEngine(failing_on("number 1", error=error))
    report = run(engine, rows(4), [scorer("length"), scorer("same")], cache)
    failed = list(report.results)[1]
    assert (failed.output.text, failed.output.finish_reason, failed.output.error) == ("", "error", str(error))
    assert failed.scores == {name: Score(error=f"generation failed: {error}") for name in ("length", "same")}
    for metric in report.metrics.values():
        assert (metric.n_scored, metric.n_failed) == (3, 1)
    assert len(report.results) == 4


def test_a_failure_is_not_cached_and_is_tried_again(cache):
    given = rows(3)
    run(FakeEngine(failing_on("number 1", error=EngineTimeout("too slow"))), given, [], cache)
    engine = FakeEngine()
    report = run(engine, given, [], cache)
    assert [request.messages[-1]["content"] for request in engine.requests] == ["Q: number 1"]
    assert (report.generated, report.from_cache) == (1, 2)
    assert [result.output.error for result in report.results] == [None] * 3


def test_an_engine_that_goes_away_ends_the_run_and_finished_rows_are_not_made_twice(cache):
    given = rows(6)
    gone = EngineUnavailable("upstream is gone")
    dying = FakeEngine(failing_on("number 3", "number 4", "number 5", error=gone), slots=1)
    with pytest.raises(EngineUnavailable, match="upstream is gone"):
        run(dying, given, [], cache)
    engine = FakeEngine(slots=1)
    report = run(engine, given, [], cache)
    assert {request.messages[-1]["content"] for request in dying.requests} == {f"Q: number {i}" for i in range(5)}
    assert sorted(request.messages[-1]["content"] for request in engine.requests) == [
        "Q: number 3",
        "Q: number 4",
        "Q: number 5",
    ]
    assert (report.generated, report.from_cache) == (3, 3)


def test_an_engine_that_is_gone_or_cannot_be_loaded_and_a_cache_that_cannot_be_written_are_one_plain_error(cache):
    engine = FakeEngine(slots=4, failure=EngineUnavailable("gone", retry_after=2))

    async def broken() -> FakeEngine:
        raise EngineUnavailable("not installed")

    with pytest.raises(EngineUnavailable) as caught:
        run(engine, rows(8), [], cache)
    assert caught.value.retry_after == 2
    with pytest.raises(EngineUnavailable, match="not installed"):
        asyncio.run(evaluate(task(engine, rows(1)), broken, [], cache))
    cache.close()
    with pytest.raises(StoreUnavailable, match="generation cache"):
        run(FakeEngine(), rows(3), [], cache)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, ZeroDivisionError("division by zero")])
def test_a_scorer_that_crashes_or_gives_no_number_becomes_a_record_and_the_others_score(cache, scorer, value):
    def odd(row: EvalRow, output: Output) -> Score:
        if row.id == "r1" and isinstance(value, Exception):
            raise value
        return Score(value if row.id == "r1" else 0.5)

    report = run(FakeEngine(), rows(3), [scorer("odd", odd), scorer("length")], cache)
    found = list(report.results)[1].scores
    assert (found["odd"].value, found["length"].error) == (None, None)
    assert found["odd"].error
    if isinstance(value, Exception):
        assert found["odd"].error == "ZeroDivisionError: division by zero"
    metric = report.metrics["odd"]
    assert (metric.mean, metric.n_scored, metric.n_failed, report.metrics["length"].n_failed) == (0.5, 2, 1, 0)


def test_means_and_intervals_are_those_of_the_scores_and_without_any_score_there_are_none(cache, scorer):
    values = [0.0, 0.25, 0.5, 1.0]
    by_row = scorer("share", lambda row, output: Score(values[int(row.id[1:])]))
    truth = scorer("right", lambda row, output: Score(row.id != "r0"))
    nothing = scorer("nothing", lambda row, output: Score(error="no expectation"))
    # A scorer may run an event loop of its own.
    looping = scorer("looping", lambda row, output: asyncio.run(asyncio.sleep(0, Score(0.5))))
    metrics = run(FakeEngine(), rows(4), [by_row, truth, nothing, looping], cache).metrics
    assert (metrics["looping"].mean, metrics["looping"].n_failed) == (0.5, 0)
    assert metrics["share"].mean == pytest.approx(0.4375)
    # t(0.975, 3) = 3.18245, standard deviation 0.42696; no value is below the scorer's worst.
    assert metrics["share"].ci95 == pytest.approx((0.0, 0.4375 + 0.67939), abs=1e-4)
    assert metrics["right"].mean == 0.75
    assert metrics["right"].ci95 == pytest.approx((0.30064, 0.95441), abs=1e-4)
    assert metrics["nothing"] == Metric(None, 0, 4, None)


def test_clusters_widen_the_intervals(cache, scorer):
    given = [EvalRow(f"r{i}", {"question": f"number {i}"}, tags={"passage": str(i // 4)}) for i in range(24)]
    truths = [i // 4 % 2 == 0 for i in range(24)]  # rows of one passage agree
    right = scorer("right", lambda row, _output: Score(truths[int(row.id[1:])]))
    engine = FakeEngine()
    alone, together = (
        asyncio.run(evaluate(task(engine, given), giving(engine), [right], cache, by=by)).metrics["right"]
        for by in (None, "tags.passage")
    )
    assert alone.mean == together.mean == 0.5
    assert alone.ci95 == statistics.mean_interval(truths)
    assert together.ci95 == statistics.mean_interval(truths, [row.tags["passage"] for row in given])
    assert together.ci95[1] - together.ci95[0] > 1.3 * (alone.ci95[1] - alone.ci95[0])


# Many rows


def test_memory_does_not_grow_with_the_rows(cache, scorer):
    n, characters = 500, 20_000  # 10 MB of inputs, and as much of answers

    def source() -> Iterator[EvalRow]:
        return (EvalRow(f"r{i}", {"question": f"{i}".rjust(characters, "x")}) for i in range(n))

    engine = FakeEngine(lambda request: request.messages[-1]["content"][::-1])
    engine.requests = deque(maxlen=0)  # the fake engine's own memory
    run(engine, rows(2), [scorer("length")], cache)  # loads what statistics need
    tracemalloc.start()
    try:
        report = run(engine, Rows(source), [scorer("length")], cache)
        read = sum(1 for _ in report.results)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (read, report.metrics["length"].mean) == (n, characters + len("Q: "))
    assert peak < 8e6


# Scoring: in order, a batch at a time; what was paid for is kept; a crash is a record of the rows it happened in


def fair(_row: EvalRow, output: Output) -> Score:
    return Score(len(output.text) / 10, "because", label="fair")


def made_judge(judge: Callable[[EvalRow, Output], Score] = fair, name: str = "judge", **changed: Any) -> MadeUpJudge:
    return MadeUpJudge(name, judge, **{"identity": {"model": "big", "rubric": "kind?"}, **changed})


@dataclass(frozen=True)
class Model(MadeUpScorer):
    """A scorer that takes many rows at a time."""

    name: str = "similarity"
    batches: list[int] = field(default_factory=list)
    made: Any = lambda rows, _outputs: [Score(float(row.id.removeprefix("r"))) for row in rows]

    def score(self, row: EvalRow, output: Output) -> Score:
        raise AssertionError("asked for one row")

    def score_many(self, rows: Sequence[EvalRow], outputs: Sequence[Output]) -> list[Score]:
        self.batches.append(len(rows))
        return list(self.made(rows, outputs))


def answers(n: int, failed: Sequence[int] = ()) -> list[Answered]:
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


def test_a_kept_score_is_asked_for_once_also_when_the_cache_is_opened_again_and_a_failure_is_not_kept(tmp_path):
    ill, well, again = made_judge(lambda *_: Score(error="the judge is ill")), made_judge(), made_judge()
    found = []
    for judges in ([ill, well, well], [again, again]):
        with closing(GenerationCache(tmp_path)) as opened:
            found += [scored(answers(5), judge, opened) for judge in judges]
    assert {score.error for score in found[0]} == {"the judge is ill"}
    assert (sorted(well.asked), again.asked) == ([f"r{i}" for i in range(5)], [])
    assert found[1][0] == Score(0.8, "because", label="fair")
    assert found[1:] == found[1:2] * 4


@pytest.mark.parametrize(
    ("row", "output", "judge", "asked"),
    [
        ({}, {}, {"identity": {"model": "bigger"}}, ["r"]),
        ({}, {}, {"identity": {"model": "big", "rubric": "kind!"}}, ["r"]),
        ({"inputs": {"q": "another"}}, {}, {}, ["r"]),
        ({"expectations": {"answers": ["1"]}}, {}, {}, ["r"]),
        ({"contexts": ("passage",)}, {}, {}, ["r"]),
        ({}, {"text": "another answer"}, {}, ["r"]),
        # What a judge does not see.
        (
            {"id": "other", "tags": {"topic": "sums"}},
            {"finish_reason": "length", "tokens_in": 9},
            {"name": "again"},
            [],
        ),
    ],
)
def test_whatever_can_change_a_score_asks_again_and_nothing_else_does(cache, row, output, judge, asked):
    base = {"id": "r", "inputs": {"q": "question"}, "expectations": {"answers": ["0"]}}
    scored([(EvalRow(**base), Output("answer", latency_ms=3.0))], made_judge(), cache)
    again = made_judge(**judge)
    scored([(EvalRow(**{**base, **row}), Output(**{"text": "answer", **output}))], again, cache)
    assert again.asked == asked


@pytest.mark.parametrize("side_by_side", [1, 3])
def test_a_judge_is_asked_side_by_side_and_no_more(cache, side_by_side):
    together = threading.Barrier(side_by_side)
    lock, running, most = threading.Lock(), 0, 0

    def counted(row: EvalRow, output: Output) -> Score:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(timeout=60)  # passes only when as many are asked at the same time
        with lock:
            running -= 1
        return fair(row, output)

    found = scored(answers(9), made_judge(counted, side_by_side=side_by_side), cache)

    assert {score.error for score in found} == {None}
    assert most == side_by_side


def test_a_judge_is_not_asked_about_failed_generations_and_its_crash_is_a_record_of_that_row(cache):
    def fragile(row: EvalRow, output: Output) -> Score:
        if row.id == "r1":
            raise KeyError("verdict")
        return fair(row, output)

    judge = made_judge(fragile)
    found = scored(answers(4, failed=[2]), judge, cache)
    assert [score.error for score in found] == [None, "KeyError: 'verdict'", "generation failed: gone", None]
    assert sorted(judge.asked) == ["r0", "r1", "r3"]


# Batches


@pytest.mark.parametrize(("n", "failed", "batches"), [(150, [10], [63, 64, 22]), (3, [0, 1, 2], [])])
def test_a_batch_scorer_gets_many_rows_at_a_time_and_every_row_its_own_score(cache, n, failed, batches):
    model = Model()
    found = scored(answers(n, failed=failed), model, cache)
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
        (lambda rows, outputs: [Score(float("nan"))] * len(rows), "the scorer gave nan, which is no score"),
    ],
    ids=["crash", "too few", "too many", "no scores", "no numbers"],
)
def test_a_batch_that_cannot_be_scored_is_an_error_of_each_row(cache, made, error):
    found = scored(answers(4, failed=[1]), Model(made=made), cache)
    assert found[1].error == "generation failed: gone"
    assert all(str(found[i].error).startswith(error) and found[i].value is None for i in (0, 2, 3))


# Streaming


def test_rows_are_taken_a_batch_at_a_time_and_results_stand_in_their_order(cache, scorer):
    pairs, taken = answers(130), []

    def source() -> Iterator[Answered]:
        for pair in pairs:
            taken.append(pair)
            yield pair

    results = score_rows(source(), [scorer("length"), made_judge(), Model()], cache)
    assert taken == []
    found = [next(results)]
    assert len(taken) == 64
    found += [next(results) for _ in range(64)]
    assert len(taken) == 128
    found += results
    assert [(result.row, result.output) for result in found] == pairs
    assert all(result.scores.keys() == {"length", "judge", "similarity"} for result in found)


# Summary


@pytest.mark.parametrize("ids", [None, ["w", "x", "y", "z", "a", *"bcdefgh"]], ids=["other ids", "an id as a cluster"])
def test_a_summary_counts_rows_and_tokens_and_a_row_without_a_cluster_stands_for_itself(scorer, ids):
    made = RunSummary([scorer("x")], "tags.passage")
    for i in range(12):
        row = EvalRow(ids[i] if ids else f"r{i}", {"q": "?"}, tags={"passage": "a"} if i < 4 else {})
        made.add(RowResult(row, Output("a", "stop", 3, 2), {"x": Score(float(i % 3))}))
    made.add(RowResult(EvalRow("r", {"q": "?"}), Output("a", "stop", 3, 2), {"x": Score(error="no")}))
    metric = made.metrics()["x"]
    assert (metric.mean, metric.n_scored, metric.n_failed) == (1.0, 12, 1)
    report = made.report([], Generated())
    assert (report.tokens_in, report.tokens_out) == (39, 26)
    alone = ["a"] * 4 + [f"row {i}" for i in range(4, 12)]
    assert metric.ci95 == statistics.mean_interval([float(i % 3) for i in range(12)], alone)


# Findings


class Macro(MadeUpJudge):
    """A scorer that says something of the whole run."""

    def findings(self, results: Iterable[RowResult]) -> RunFindings:
        ids = [result.row.id for result in results]
        return RunFindings({"rows": float(len(ids))}, {"ids.txt": " ".join(ids).encode()})


def test_what_a_scorer_says_of_the_whole_run_arrives(cache, scorer, tmp_path):
    results = StoredResults(tmp_path)
    for result in score_rows(answers(3), [Macro(name="macro")], cache):
        results.append(result)
    found = findings(results, [Macro(name="macro"), Macro(name="again"), scorer("plain")])
    assert found.keys() == {"macro", "again"}
    assert found["macro"] == found["again"] == RunFindings({"rows": 3.0}, {"ids.txt": b"r0 r1 r2"})

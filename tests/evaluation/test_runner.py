"""The runner: every row becomes a record, in order, and nothing finished is made twice."""

from __future__ import annotations

import asyncio
import math
import tracemalloc
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import BadFile, EngineRejected, EngineTimeout, EngineUnavailable, StoreUnavailable
from llmops.evaluation.eval_set import EvalRow, Rows
from llmops.evaluation.generating import Retries, Task
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import EvalReport, Metric, Output, Score
from llmops.evaluation.runner import evaluate
from llmops.generation import GenerationParameters, GenerationRequest
from llmops.prompt_file import parse_prompt

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


def run(engine: FakeEngine, given: Iterable[EvalRow], scorers: Sequence[Any], cache: GenerationCache) -> EvalReport:
    return asyncio.run(evaluate(task(engine, given), giving(engine), scorers, cache, retries=QUICK))


def failing_on(*questions: str, error: Exception) -> Callable[[GenerationRequest], str]:
    def answer(request: GenerationRequest) -> str:
        asked = request.messages[-1]["content"].removeprefix("Q: ")
        if asked in questions:
            raise error
        return f"answer to {asked}"

    return answer


def test_answers_and_scores_stand_in_the_order_of_the_rows(cache: GenerationCache, scorer: Any) -> None:
    order = [3, 1, 2, 0]
    given = [rows(4)[i] for i in order]
    report = run(FakeEngine(lambda request: request.messages[-1]["content"]), given, [scorer("length")], cache)
    assert [result.row for result in report.results] == given
    assert [result.output.text for result in report.results] == [f"Q: number {i}" for i in order]
    assert [result.scores["length"].value for result in report.results] == [11.0] * 4
    assert (report.generated, report.from_cache) == (4, 0)


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_exactly_the_engines_slots_are_kept_full(cache: GenerationCache, slots: int) -> None:
    engine = FakeEngine(slots=slots, word_seconds=0.002)
    run(engine, rows(24), [], cache)
    assert engine.most_in_flight == slots
    assert len(engine.requests) == 24


def test_outputs_carry_what_the_engine_reported(cache: GenerationCache) -> None:
    engine = FakeEngine(lambda _request: "one two three four", word_seconds=0.01)
    report = asyncio.run(evaluate(task(engine, rows(1), max_tokens=3), giving(engine), [], cache))
    output = next(iter(report.results)).output
    assert (output.text, output.finish_reason, output.tokens_in, output.tokens_out) == ("one two three", "length", 3, 3)
    assert 0 < output.first_token_ms < output.latency_ms
    assert output.latency_ms >= 30
    assert report.tokens_per_second == pytest.approx(3 / report.seconds)


def test_a_latency_is_the_engines_and_holds_no_waiting_for_a_slot(cache: GenerationCache) -> None:
    engine = FakeEngine(lambda _request: "word", slots=1, word_seconds=0.02)
    report = run(engine, rows(10), [], cache)
    latencies = sorted(result.output.latency_ms for result in report.results)
    assert report.seconds > 0.2
    assert latencies[5] < 100


def test_a_second_run_generates_nothing_and_never_asks_for_the_engine(cache: GenerationCache, scorer: Any) -> None:
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


def test_rows_with_the_same_prompt_are_generated_once(cache):
    engine, twins = FakeEngine(), [EvalRow("a", {"question": "same"}), EvalRow("b", {"question": "same"})]
    report = run(engine, twins, [], cache)
    assert [result.output.text for result in report.results] == ["You said: Q: same"] * 2
    assert (len(engine.requests), report.generated, report.from_cache) == (1, 1, 1)


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


def test_a_failure_is_not_cached_and_is_tried_again(cache: GenerationCache) -> None:
    given = rows(3)
    run(FakeEngine(failing_on("number 1", error=EngineTimeout("too slow"))), given, [], cache)
    engine = FakeEngine()
    report = run(engine, given, [], cache)
    assert [request.messages[-1]["content"] for request in engine.requests] == ["Q: number 1"]
    assert (report.generated, report.from_cache) == (1, 2)
    assert [result.output.error for result in report.results] == [None] * 3


def test_an_engine_that_goes_away_ends_the_run_and_finished_rows_are_not_made_twice(cache: GenerationCache) -> None:
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


def test_an_engine_that_goes_away_under_many_requests_or_cannot_be_loaded_is_one_plain_error(cache):
    engine = FakeEngine(slots=4, failure=EngineUnavailable("gone", retry_after=2))

    async def broken() -> FakeEngine:
        raise EngineUnavailable("not installed")

    with pytest.raises(EngineUnavailable) as caught:
        run(engine, rows(8), [], cache)
    assert caught.value.retry_after == 2
    with pytest.raises(EngineUnavailable, match="not installed"):
        asyncio.run(evaluate(task(engine, rows(1)), broken, [], cache))


def test_a_cache_that_cannot_be_written_is_one_plain_error(tmp_path: Path) -> None:
    class Full(GenerationCache):
        def put(self, key: str, output: Output) -> None:
            raise StoreUnavailable("generation cache: disk full")

    full = Full(tmp_path)
    try:
        with pytest.raises(StoreUnavailable, match="disk full"):
            run(FakeEngine(), rows(3), [], full)
    finally:
        full.close()


@pytest.mark.parametrize("inputs", [{"topic": "x"}, {"question": "x", "context": "y"}])
def test_a_row_that_does_not_fit_the_prompt_ends_the_run_before_generating(cache, inputs):
    given = [*rows(2), EvalRow("odd", inputs)]
    with pytest.raises(BadFile, match="'odd' does not fit the prompt"):
        asyncio.run(evaluate(task(FakeEngine(), given), never, [], cache))


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


def test_a_metric_without_any_score_has_no_mean(cache: GenerationCache, scorer: Any) -> None:
    nothing = scorer("nothing", lambda row, output: Score(error="no expectation"))
    assert run(FakeEngine(), rows(2), [nothing], cache).metrics["nothing"] == Metric(None, 0, 2, None)


def test_means_and_intervals_are_those_of_the_scores(cache: GenerationCache, scorer: Any) -> None:
    values = [0.0, 0.25, 0.5, 1.0]
    by_row = scorer("share", lambda row, output: Score(values[int(row.id[1:])]))
    truth = scorer("right", lambda row, output: Score(row.id != "r0"))
    metrics = run(FakeEngine(), rows(4), [by_row, truth], cache).metrics
    assert metrics["share"].mean == pytest.approx(0.4375)
    # t(0.975, 3) = 3.18245, standard deviation 0.42696; no value is below the scorer's worst.
    assert metrics["share"].ci95 == pytest.approx((0.0, 0.4375 + 0.67939), abs=1e-4)
    assert metrics["right"].mean == 0.75
    assert metrics["right"].ci95 == pytest.approx((0.30064, 0.95441), abs=1e-4)


def test_scorers_may_run_an_event_loop_of_their_own(cache: GenerationCache, scorer: Any) -> None:
    async def judged() -> float:
        return 0.5

    looping = scorer("looping", lambda row, output: Score(asyncio.run(judged())))

    assert run(FakeEngine(), rows(2), [looping], cache).metrics["looping"].n_failed == 0


def test_clusters_reach_the_intervals(cache: GenerationCache, scorer: Any) -> None:
    given = [EvalRow(f"r{i}", {"question": f"number {i}"}, tags={"passage": str(i // 4)}) for i in range(24)]
    right = scorer("right", lambda row, _output: Score(int(row.tags["passage"]) % 2 == 0))
    engine = FakeEngine()
    alone, together = (
        asyncio.run(evaluate(task(engine, given), giving(engine), [right], cache, cluster_by=by)).metrics["right"]
        for by in (None, "tags.passage")
    )
    assert alone.mean == together.mean == 0.5
    assert alone.ci95 is not None
    assert together.ci95 is not None
    assert together.ci95[1] - together.ci95[0] > 1.3 * (alone.ci95[1] - alone.ci95[0])


# Many rows


def test_results_can_be_gone_through_again_and_side_by_side(cache: GenerationCache, scorer: Any) -> None:
    report = run(FakeEngine(), rows(30), [scorer("length")], cache)
    first = list(report.results)
    assert len(first) == len(report.results) == 30
    assert list(report.results) == first
    assert all(left == right for left, right in zip(report.results, report.results, strict=True))


def test_memory_does_not_grow_with_the_rows(cache: GenerationCache, scorer: Any) -> None:
    n, characters = 1000, 20_000  # 20 MB of inputs, and as much of answers

    def source() -> Iterator[EvalRow]:
        return (EvalRow(f"r{i}", {"question": f"{i}".rjust(characters, "x")}) for i in range(n))

    engine = FakeEngine(lambda request: request.messages[-1]["content"][::-1])
    engine.requests = Forgetful()  # the fake engine's own memory
    run(engine, rows(2), [scorer("length")], cache)  # loads what statistics need
    tracemalloc.start()
    try:
        report = run(engine, Rows(source), [scorer("length")], cache)
        read = sum(1 for _ in report.results)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (read, report.metrics["length"].mean) == (n, characters + len("Q: "))
    assert peak < 12e6


class Forgetful(list[Any]):
    """A list that keeps nothing."""

    def append(self, item: Any) -> None:
        """Forgets it."""

"""Finished generations are kept by everything that can change their text."""

import dataclasses
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmops.engines.protocol import EngineIdentity
from llmops.errors import StoreUnavailable
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.generation_cache import GenerationCache, generation_key, noise_key
from llmops.evaluation.results import AnswerCounts, Noise, Output, RowResult, Score, StoredResults
from llmops.generation import GenerationParameters, GenerationRequest, Message

PARAMETERS = GenerationParameters(max_tokens=16, temperature=0.5)
REQUEST = GenerationRequest(
    (Message(role="system", content="Be terse."), Message(role="user", content="Hi")), PARAMETERS
)
ENGINE = EngineIdentity("fake", "1", {"slots": 4})
OUTPUT = Output("Hällo\n\u2028 there", "length", 12, 34, 56.789, 1.5)


@pytest.fixture
def elsewhere(cache: GenerationCache) -> Iterator[GenerationCache]:
    """The same cache as another process sees it."""
    opened = GenerationCache(cache.folder)
    yield opened
    opened.close()


def key(
    request: GenerationRequest = REQUEST, sha256: str = "abc", engine: EngineIdentity = ENGINE, seed: Any = None
) -> str:
    return generation_key(request, sha256, engine, seed)


def with_parameters(**changed: Any) -> GenerationRequest:
    return GenerationRequest(REQUEST.messages, dataclasses.replace(PARAMETERS, **changed))


def test_the_same_generation_has_the_same_key_and_choices_are_part_of_it():
    again = GenerationRequest(tuple(Message(**message) for message in REQUEST.messages), PARAMETERS)
    assert key() == key(again, engine=EngineIdentity("fake", "1", {"slots": 4}))
    keys = {generation_key(REQUEST, "abc", ENGINE, None, choices) for choices in (None, (), ("a", "b"), ("b", "a"))}
    assert len(keys) == 4


CHANGES = {
    "max_tokens": 17, "temperature": 0.6, "top_p": 0.9, "stop": ("\n",), "seed": 1,
    "response_format": {"type": "json_object"},
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"request": GenerationRequest((REQUEST.messages[0], Message(role="user", content="Hi!")), PARAMETERS)},
        {"request": GenerationRequest((REQUEST.messages[0], Message(role="assistant", content="Hi")), PARAMETERS)},
        {"request": GenerationRequest(REQUEST.messages[1:], PARAMETERS)},
        {"request": GenerationRequest(REQUEST.messages[::-1], PARAMETERS)},
        *({"request": with_parameters(**{name: value})} for name, value in CHANGES.items()),
        {"sha256": "abd"},
        {"engine": EngineIdentity("other", "1", {"slots": 4})},
        {"engine": EngineIdentity("fake", "2", {"slots": 4})},
        {"engine": EngineIdentity("fake", "1", {"slots": 5})},
        {"seed": 0},
        {"seed": 1},
    ],
)
def test_the_key_changes_with_each_component_and_every_parameter(changed):
    assert key(**changed) != key()
    assert CHANGES.keys() == {field.name for field in dataclasses.fields(GenerationParameters)}


@pytest.mark.parametrize("output", [OUTPUT, Output("b", "stop", 5, 4, 1.5, 1.5, choice_logprobs=[-3.25, -0.1])])
def test_an_output_comes_back_whole_elsewhere_and_later_too_until_another_takes_its_place(cache, elsewhere, output):
    cache.put("k", output)
    assert (cache.get("k"), elsewhere.get("k"), cache.get("other")) == (output, output, None)
    cache.put("k", Output("later"))
    cache.close()
    reopened = GenerationCache(cache.folder)
    assert reopened.get("k") == Output("later")
    reopened.close()


def test_what_cannot_be_opened_or_written_is_an_unavailable_store(tmp_path):
    closed = GenerationCache(tmp_path / "closed")
    closed.close()
    (tmp_path / "file").write_text("")
    (tmp_path / "generations.db").write_bytes(b"no database, but long enough to be looked at" * 100)
    for fail in (
        lambda: GenerationCache(tmp_path / "file" / "cache"),
        lambda: GenerationCache(tmp_path),
        lambda: closed.put("k", OUTPUT),
    ):
        with pytest.raises(StoreUnavailable, match="generation cache"):
            fail()


# Failures


FAILED = Output("", finish_reason="error", error="gone")


def test_a_failure_is_an_outcome_of_this_process_alone_until_it_is_forgotten_or_an_answer_takes_its_place(
    cache, elsewhere
):
    assert (cache.outcome("k"), cache.holds("k")) == (None, False)
    for name in ("k", "failed"):
        cache.put(name, FAILED)
    assert (cache.outcome("k"), cache.get("k"), cache.holds("k"), elsewhere.outcome("k")) == (FAILED, None, False, None)
    cache.put("k", OUTPUT)
    assert cache.outcome("k") == cache.get("k") == OUTPUT
    cache.put("failed too", FAILED)
    for name in ("failed", "k"):
        cache.forget_failure(name)
    assert [cache.outcome(name) for name in ("failed", "failed too", "k")] == [None, FAILED, OUTPUT]
    assert cache.holds("k")


# Scores


@pytest.mark.parametrize("value", [True, False, 0.25, 3])
def test_a_score_comes_back_whole_unless_it_is_an_error(cache, elsewhere, value):
    score = Score(value, "Because.\n\u2028 só", label="fair")
    cache.put("k", OUTPUT)  # scores and outputs of one key do not meet
    cache.put_score("k", Score(error="no verdict"))
    assert cache.get_score("k") is None
    cache.put_score("k", score)
    kept = elsewhere.get_score("k")
    assert (kept, type(kept.value)) == (score, type(value))  # true must not come back as 1
    assert cache.get_score("other") is None


def test_scores_may_be_kept_from_many_threads(cache):
    def keep(number: int) -> Score | None:
        cache.put_score(str(number), Score(number / 100))
        return cache.get_score(str(number))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(keep, range(100))) == [Score(number / 100) for number in range(100)]


# Noise


def test_noise_is_kept_by_both_engines_weights_and_rows(cache):
    served = EngineIdentity("fake", "1", {"slots": 16})
    cache.put_noise(noise_key("abc", ENGINE, served, "rows"), Noise(32, 3))
    assert cache.get_noise(noise_key("abc", EngineIdentity("fake", "1", {"slots": 4}), served, "rows")) == Noise(32, 3)
    for other in (
        noise_key("abd", ENGINE, served, "rows"),
        noise_key("abc", EngineIdentity("fake", "1", {"slots": 5}), served, "rows"),
        noise_key("abc", EngineIdentity("fake", "2", {"slots": 4}), served, "rows"),
        noise_key("abc", ENGINE, ENGINE, "rows"),
        noise_key("abc", ENGINE, served, "other rows"),
    ):
        assert cache.get_noise(other) is None
        cache.put_noise(other, Noise(32, 0))
        cache.put_noise(other, Noise(32, 1))
        assert cache.get_noise(other) == Noise(32, 1)


# What an evaluation yields: answers counted row by row, whatever scorers say; noise; rows that wait on disk


CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("output", "counted"),
    [
        (Output("Paris"), AnswerCounts(1)),
        (Output("Par", "length"), AnswerCounts(1, cut_off=1)),
        (Output("Par", "MAX_TOKENS"), AnswerCounts(1, cut_off=1)),
        (Output("Par", "model_length"), AnswerCounts(1, cut_off=1)),
        (Output("Paris", off_format="it is not JSON"), AnswerCounts(1, off_format=1)),
        (Output("", error="timed out"), AnswerCounts(1, failed=1)),
        (Output("", "length", error="timed out"), AnswerCounts(1, failed=1)),
        (Output(" \n\t"), AnswerCounts(1, empty=1)),
        (Output("", "length", reasoning="Let me think"), AnswerCounts(1, cut_off=1, empty=1)),
        (Output("", "tool_calls", tool_calls=[CALL]), AnswerCounts(1)),
        (Output("", refusal="I can't help with that."), AnswerCounts(1)),
        (Output("Paris", None), AnswerCounts(1)),
    ],
)
def test_a_row_failed_was_cut_off_or_empty_or_none_of_it(output, counted):
    assert AnswerCounts.of([output]) == counted


def test_counts_are_told_with_their_shares_and_read_back():
    found = AnswerCounts.of(
        [Output("x", "length")] * 86 + [Output("")] * 2 + [Output("", error="no")] + [Output("x")] * 11
    )
    assert found == AnswerCounts(100, failed=1, cut_off=86, empty=2)
    assert found.sentence() == (
        "of 100 rows 1 failed (1 %), 86 cut off at max_tokens (86 %), 2 empty (2 %)"
    )  # fmt: skip
    assert AnswerCounts.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert AnswerCounts(1).sentence() == "1 row, none failed, cut off or empty"
    assert AnswerCounts().share(0) == 0.0


@pytest.mark.parametrize(
    ("n", "flips", "share", "ci95"),
    [
        (30, 0, 0.0, (0.0, 1 - 0.025 ** (1 / 30))),
        (30, 30, 1.0, (0.025 ** (1 / 30), 1.0)),
        (20, 5, 0.25, (0.08657, 0.49105)),  # Clopper–Pearson, R: binom.test(5, 20)
    ],
)
def test_the_share_of_answers_that_flip_has_clopper_and_pearsons_interval(n, flips, share, ci95):
    assert (Noise(n, flips).share, Noise(n, flips).ci95) == (share, pytest.approx(ci95, abs=1e-5))
    told = json.loads(json.dumps(Noise(n, flips).to_json()))
    assert told == {"n": n, "flips": flips, "flip_share": share, "ci95": list(Noise(n, flips).ci95)}
    assert Noise(0, 0).share == 0.0


def test_results_on_disk_are_read_as_often_as_asked_and_leave_no_file_behind(tmp_path):
    results = StoredResults(tmp_path)
    made = [RowResult(EvalRow(f"r{i}", {"q": "ü\u2028" * 40_000}), Output("a\nb"), {"x": Score(0.5)}) for i in range(3)]
    for number, result in enumerate(made, 1):
        results.append(result)
        assert list(results) == made[:number]
        assert len(results) == number
    assert list(tmp_path.iterdir()) == []

"""Finished generations are kept by everything that can change their text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from llmops.engines.protocol import EngineIdentity
from llmops.errors import StoreUnavailable
from llmops.evaluation.generation_cache import GenerationCache, generation_key, noise_key
from llmops.evaluation.results import Noise, Output, Score
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


def test_the_same_generation_has_the_same_key() -> None:
    again = GenerationRequest(tuple(Message(**message) for message in REQUEST.messages), PARAMETERS)
    assert key() == key(again, engine=EngineIdentity("fake", "1", {"slots": 4}))


@pytest.mark.parametrize(
    "changed",
    [
        {"request": GenerationRequest((REQUEST.messages[0], Message(role="user", content="Hi!")), PARAMETERS)},
        {"request": GenerationRequest((REQUEST.messages[0], Message(role="assistant", content="Hi")), PARAMETERS)},
        {"request": GenerationRequest(REQUEST.messages[1:], PARAMETERS)},
        {"request": GenerationRequest(REQUEST.messages[::-1], PARAMETERS)},
        {"request": with_parameters(max_tokens=17)},
        {"request": with_parameters(temperature=0.6)},
        {"request": with_parameters(top_p=0.9)},
        {"request": with_parameters(stop=("\n",))},
        {"request": with_parameters(seed=1)},
        {"request": with_parameters(response_format={"type": "json_object"})},
        {"sha256": "abd"},
        {"engine": EngineIdentity("other", "1", {"slots": 4})},
        {"engine": EngineIdentity("fake", "2", {"slots": 4})},
        {"engine": EngineIdentity("fake", "1", {"slots": 5})},
        {"seed": 0},
        {"seed": 1},
    ],
)
def test_the_key_changes_with_each_component(changed: dict[str, Any]) -> None:
    assert key(**changed) != key()


def test_every_generation_parameter_is_part_of_the_key() -> None:
    changes = {
        "max_tokens": 1,
        "temperature": 1.0,
        "top_p": 0.1,
        "stop": ("x",),
        "seed": 9,
        "response_format": {"a": 1},
    }
    assert changes.keys() == {field.name for field in dataclasses.fields(GenerationParameters)}
    assert len({key(with_parameters(**{name: value})) for name, value in changes.items()} | {key()}) == len(changes) + 1


def test_choices_are_part_of_the_key():
    keys = {generation_key(REQUEST, "abc", ENGINE, None, choices) for choices in (None, (), ("a", "b"), ("b", "a"))}
    assert len(keys) == 4


@pytest.mark.parametrize("output", [OUTPUT, Output("b", "stop", 5, 4, 1.5, 1.5, choice_logprobs=(-3.25, -0.1))])
def test_an_output_comes_back_whole_elsewhere_too_until_another_takes_its_place(cache, elsewhere, output):
    cache.put("k", output)
    assert (cache.get("k"), elsewhere.get("k"), cache.get("other")) == (output, output, None)
    cache.put("k", Output("later"))
    assert cache.get("k") == Output("later")


def test_outputs_are_kept_across_reopening(tmp_path):
    for kept in (None, OUTPUT):
        opened = GenerationCache(tmp_path / "cache")
        assert opened.get("k") == kept
        opened.put("k", OUTPUT)
        opened.close()


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


def test_a_failure_is_an_outcome_of_this_process_alone_until_an_answer_takes_its_place(cache, elsewhere):
    assert (cache.outcome("k"), cache.holds("k")) == (None, False)
    cache.put("k", FAILED)
    assert (cache.outcome("k"), cache.get("k"), cache.holds("k"), elsewhere.outcome("k")) == (FAILED, None, False, None)
    cache.put("k", OUTPUT)
    assert cache.outcome("k") == cache.get("k") == OUTPUT
    assert cache.holds("k")


def test_a_failure_is_forgotten_when_asked(cache):
    for key_, output in (("failed", FAILED), ("failed too", FAILED), ("finished", OUTPUT)):
        cache.put(key_, output)
    for key_ in ("failed", "finished"):
        cache.forget_failure(key_)
    assert [cache.outcome(key_) for key_ in ("failed", "failed too", "finished")] == [None, FAILED, OUTPUT]


# Scores


@pytest.mark.parametrize("value", [True, False, 0.25, 3])
def test_a_score_comes_back_whole(cache, elsewhere, value):
    score = Score(value, "Because.\n\u2028 só", label="fair")
    cache.put("k", OUTPUT)  # scores and outputs of one key do not meet
    assert cache.get_score("k") is None
    cache.put_score("k", score)
    kept = elsewhere.get_score("k")
    assert (kept, type(kept.value)) == (score, type(value))  # true must not come back as 1
    assert cache.get_score("other") is None


def test_a_score_with_an_error_is_not_kept(cache):
    cache.put_score("k", Score(error="no verdict"))
    assert cache.get_score("k") is None


def test_scores_may_be_kept_from_many_threads(cache: GenerationCache) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def keep(number: int) -> Score | None:
        cache.put_score(str(number), Score(number / 100))
        return cache.get_score(str(number))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(keep, range(100))) == [Score(number / 100) for number in range(100)]


# Noise


def test_noise_is_kept_by_both_engines_weights_and_rows(cache: GenerationCache) -> None:
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

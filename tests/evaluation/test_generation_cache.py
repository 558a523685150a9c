"""Finished generations are kept by everything that can change their text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from llmops.engines.protocol import EngineIdentity, GenerationParameters, GenerationRequest, Message
from llmops.errors import StoreUnavailable
from llmops.evaluation.generation_cache import GenerationCache, generation_key
from llmops.evaluation.results import Output

PARAMETERS = GenerationParameters(max_tokens=16, temperature=0.5)
REQUEST = GenerationRequest(
    (Message(role="system", content="Be terse."), Message(role="user", content="Hi")), PARAMETERS
)
ENGINE = EngineIdentity("fake", "1", {"slots": 4})
OUTPUT = Output("Hällo\n\u2028 there", "length", 12, 34, 56.789, 1.5)


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


def test_an_output_comes_back_whole(cache: GenerationCache) -> None:
    cache.put("k", OUTPUT)

    assert cache.get("k") == OUTPUT
    assert cache.get("other") is None


def test_outputs_are_kept_across_reopening(tmp_path: Path) -> None:
    first = GenerationCache(tmp_path / "cache")
    first.put("k", OUTPUT)
    first.close()

    second = GenerationCache(tmp_path / "cache")
    kept = second.get("k")
    second.close()

    assert kept == OUTPUT


def test_an_output_is_readable_elsewhere_before_the_cache_is_closed(cache: GenerationCache, tmp_path: Path) -> None:
    cache.put("k", OUTPUT)

    other = GenerationCache(tmp_path / "cache")
    seen = other.get("k")
    other.close()

    assert seen == OUTPUT


def test_a_second_output_of_a_key_takes_the_place_of_the_first(cache: GenerationCache) -> None:
    cache.put("k", OUTPUT)
    cache.put("k", Output("later"))

    assert cache.get("k") == Output("later")


def test_a_folder_that_cannot_be_made_is_an_unavailable_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreUnavailable, match="generation cache"):
        GenerationCache(tmp_path / "file" / "cache")


def test_a_file_that_is_no_database_is_an_unavailable_store(tmp_path: Path) -> None:
    (tmp_path / "generations.db").write_bytes(b"no database, but long enough to be looked at" * 100)

    with pytest.raises(StoreUnavailable, match="generation cache"):
        GenerationCache(tmp_path)


def test_a_closed_cache_is_an_unavailable_store(tmp_path: Path) -> None:
    cache = GenerationCache(tmp_path)
    cache.close()

    with pytest.raises(StoreUnavailable, match="generation cache"):
        cache.put("k", OUTPUT)

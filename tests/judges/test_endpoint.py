"""Endpoints are checked field by field, and never hold the key."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.errors import EngineUnavailable, UsageError
from llmops.judges.client import JudgeEndpoint

LEAST = {"name": "mine", "base_url": "http://127.0.0.1:8000/v1", "model": "m"}


def test_the_least_is_a_name_an_address_and_a_model() -> None:
    endpoint = JudgeEndpoint.from_mapping(LEAST)
    assert endpoint == JudgeEndpoint("mine", "http://127.0.0.1:8000/v1", "m")
    assert endpoint.read_key() is None


def test_a_slash_at_the_end_of_the_address_makes_no_other_judge() -> None:
    with_slash = JudgeEndpoint.from_mapping({**LEAST, "base_url": "http://127.0.0.1:8000/v1/"})
    assert with_slash.identity == JudgeEndpoint.from_mapping(LEAST).identity


def test_a_null_takes_the_default() -> None:
    assert JudgeEndpoint.from_mapping({**LEAST, "timeout": None, "key_variable": None}).timeout == 60.0


@pytest.mark.parametrize("field", sorted(LEAST))
def test_a_field_without_a_default_is_needed(field: str) -> None:
    with pytest.raises(UsageError, match=f"^{field}: is missing"):
        JudgeEndpoint.from_mapping({name: value for name, value in LEAST.items() if name != field})


def test_an_unknown_field_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"^api_key: unknown key; known: base_url, key_variable, max_tokens"):
        JudgeEndpoint.from_mapping({**LEAST, "api_key": "secret"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", 3),
        ("model", " "),
        ("base_url", "127.0.0.1:8000"),
        ("base_url", "file:///etc/passwd"),
        ("base_url", "http://user:secret@host/v1"),
        ("base_url", "http://host/v1?key=secret"),
        ("base_url", "http://[broken/v1"),
        ("base_url", 8000),
        ("key_variable", ""),
        ("timeout", 0),
        ("timeout", float("inf")),
        ("timeout", float("nan")),
        ("timeout", True),
        ("timeout", "60"),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("side_by_side", 0),
        ("side_by_side", True),
        ("retries", -1),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_fields_name(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{field}: must be ") as refused:
        JudgeEndpoint.from_mapping({**LEAST, field: value})
    assert "secret" not in str(refused.value)


def test_the_key_comes_from_its_variable_and_stays_out_of_identity_and_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", " s3cret\n")
    endpoint = JudgeEndpoint.from_mapping({**LEAST, "key_variable": "MY_KEY"})
    assert endpoint.read_key() == "s3cret"
    assert "s3cret" not in repr(endpoint) + repr(endpoint.identity)
    assert endpoint.identity == {"base_url": LEAST["base_url"], "model": "m"}


@pytest.mark.parametrize("value", [None, "", " ", "ключ", "two\nlines"])
def test_a_variable_without_a_key_is_named_and_its_value_is_not_shown(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(EngineUnavailable) as refused:
        JudgeEndpoint.from_mapping({**LEAST, "key_variable": "MY_KEY"}).read_key()
    assert str(refused.value) == "judge mine: the environment variable MY_KEY holds no key"

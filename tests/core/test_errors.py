from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmops import errors
from llmops.errors import BadFile, ContextTooLong, EngineRejected, EngineUnavailable, LlmopsError


def test_each_kind_has_the_exit_code_of_the_contract():
    codes = {"UsageError": 2, "GateRefused": 1}
    assert {name: getattr(errors, name).exit_code for name in errors.__all__} == {
        name: codes.get(name, 3) for name in errors.__all__
    }


def test_every_error_of_the_module_is_public_and_in_the_tree():
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert defined == set(errors.__all__)
    assert all(issubclass(getattr(errors, name), LlmopsError) for name in defined)


def test_the_tree_drawn_in_the_docstring_is_the_tree_of_classes():
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]*)([A-Z]\w+)\b", line):
            depth, name = len(found[1]), found[2]
            if not hasattr(errors, name):
                continue
            above = [item for item in above if item[0] < depth]
            if above:
                drawn[name] = above[-1][1]
            above.append((depth, name))
    real = {name: getattr(errors, name).__bases__[0].__name__ for name in errors.__all__ if name != "LlmopsError"}
    assert drawn == real


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ({}, "a/b.md: is wrong"),
        ({"line": 3}, "a/b.md:3: is wrong"),
        ({"field": "name"}, "a/b.md: name: is wrong"),
        ({"line": 3, "field": "name"}, "a/b.md:3: name: is wrong"),
    ],
)
def test_a_bad_files_text_starts_with_what_is_known_of_the_place(place, text):
    error = BadFile("a/b.md", "is wrong", **place)
    assert str(error) == text
    assert error.path == Path("a/b.md")
    assert (error.line, error.field, error.problem) == (place.get("line"), place.get("field"), "is wrong")


def test_engine_errors_can_say_when_to_come_back_and_which_field_is_at_fault():
    assert EngineUnavailable("busy", retry_after=2.5).retry_after == 2.5
    assert EngineUnavailable("busy").retry_after is None
    assert str(EngineUnavailable("busy", retry_after=2.5)) == "busy"
    for kind in (EngineRejected, ContextTooLong):
        assert (kind("too long", param="messages").param, kind("too long").param) == ("messages", None)
        assert str(kind("too long", param="messages")) == "too long"

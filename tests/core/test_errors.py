from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmops import errors
from llmops.errors import BadFile, ContextTooLong, EngineRejected, EngineUnavailable, LlmopsError

KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}


def test_every_error_is_in_one_tree_and_has_the_exit_code_of_the_contract():
    assert all(issubclass(kind, LlmopsError) for kind in KINDS.values())
    assert {name: kind.exit_code for name, kind in KINDS.items() if kind.exit_code != 3} == {
        "UsageError": 2,
        "GateRefused": 1,
    }


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
    assert drawn == {name: kind.__bases__[0].__name__ for name, kind in KINDS.items() if name != "LlmopsError"}


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

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
    assert (str(error), error.path, error.problem) == (text, Path("a/b.md"), "is wrong")
    assert (error.line, error.field) == (place.get("line"), place.get("field"))


def test_engine_errors_can_say_when_to_come_back_and_which_field_is_at_fault():
    busy = EngineUnavailable("busy", retry_after=2.5)
    assert (str(busy), busy.retry_after, EngineUnavailable("busy").retry_after) == ("busy", 2.5, None)
    for kind in (EngineRejected, ContextTooLong):
        refused = kind("too long", param="messages")
        assert (str(refused), refused.param, kind("too long").param) == ("too long", "messages", None)

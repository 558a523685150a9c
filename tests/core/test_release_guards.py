from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import UsageError
from llmops.versions import check_guards, parse_guards, shown_guards

TEXTS = st.lists(
    st.sampled_from(
        ["redact-pii", "redact-pii-engine", "block=(?i)secret", "block=\\d{16}", "block=a=b", "max-output=64"]
    )
)


def test_guards_of_the_command_line():
    texts = ["redact-pii", "block=b", "block=a=(?i)x", "block=b", "max-output=64"]
    assert parse_guards(texts) == {"redact_log": True, "block": ["a=(?i)x", "b"], "max_output": 64}
    assert parse_guards(["redact-pii-engine"]) == {"redact_log": True, "redact_engine": True}
    assert parse_guards([]) == {}


@given(TEXTS)
def test_what_is_shown_can_be_given_again(texts):
    guards = parse_guards(texts)
    assert parse_guards(shown_guards(guards)) == guards
    assert check_guards(guards) == guards


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("block=(", "block: '\\(' is not a regular expression: missing \\)"),
        ("block=", "block: must be a regular expression of one character or more"),
        ("max-output=0", "max-output: must be a whole number of 1 or more"),
        ("max-output=many", "max-output: must be a whole number"),
        ("redact", "--guard redact: unknown guard; there is redact-pii, redact-pii-engine, block=REGEX"),
        ("max-output", "--guard max-output: unknown guard"),
    ],
)
def test_a_wrong_guard_is_named(text, problem):
    with pytest.raises(UsageError, match=problem):
        parse_guards([text])


@pytest.mark.parametrize(
    ("guards", "problem"),
    [
        ({"redact_log": "yes"}, "redact_log: must be true or false"),
        ({"block": "x"}, "block: must be a list"),
        ({"max_output": True}, "max-output: must be a whole number"),
        ({"speed": 1}, "speed: unknown guard"),
    ],
)
def test_guards_made_in_python_are_checked_too(guards, problem):
    with pytest.raises(UsageError, match=problem):
        check_guards(guards)


def test_guards_that_guard_nothing_are_no_guards():
    assert check_guards({"redact_log": False, "block": []}) == {}

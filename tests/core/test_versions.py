from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import UsageError
from llmops.generation import GenerationParameters
from llmops.hashing import content_hash
from llmops.prompt_file import parse_prompt
from llmops.versions import (
    ModelVersion,
    PromptVersion,
    Ref,
    Release,
    check_guards,
    parse_guards,
    release_content,
    shown_guards,
)

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
ALIASES = st.from_regex(r"[A-Za-z_-][A-Za-z0-9_-]{0,10}", fullmatch=True)
PROMPT = parse_prompt("---\ninput_variable: q\n---\n# user\n{{ q }}")


def test_a_ref_is_read_in_its_three_forms_and_versions_name_themselves():
    for text, ref in (
        ("qa", Ref("qa")),
        ("qa@3", Ref("qa", version=3)),
        ("qa@champion", Ref("qa", alias="champion")),
        ("smollm2-135m_instruct.v2@12", Ref("smollm2-135m_instruct.v2", version=12)),
        ("qa@v3", Ref("qa", alias="v3")),
    ):
        assert Ref.parse(text) == ref
    prompt, model = PromptVersion("qa", 2, PROMPT), ModelVersion("tiny", 3, "file:x", "gguf", "0" * 64, Path("x"))
    release = Release("assistant", 4, prompt, model, GenerationParameters())
    assert (prompt.ref, model.ref, release.ref, release.app) == ("qa@2", "tiny@3", "assistant@4", "assistant")
    assert prompt.uri == "prompts:/qa/2"


@given(NAMES, st.none() | st.integers(min_value=0) | ALIASES)
def test_a_ref_and_its_text_are_each_others_inverse(name, selector):
    ref = Ref(
        name,
        version=selector if isinstance(selector, int) else None,
        alias=selector if isinstance(selector, str) else None,
    )
    assert Ref.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text", ["", "@1", "qa@", "qa@1@2", "qa 1", "../qa", ".qa", "qa@1.5", "qa/x", "qa@1\n", "qa\n", "é", "qa@²"]
)
def test_other_text_is_refused_and_shown(text):
    with pytest.raises(UsageError) as caught:
        Ref.parse(text)
    assert str(caught.value) == f"{text!r} is not NAME, NAME@VERSION or NAME@ALIAS"


def identity(*content: Any) -> str:
    return content_hash(release_content(*content))


@pytest.mark.parametrize(
    "content",
    [
        ("qa@2", "m@1", GenerationParameters()),
        ("qa@1", "m@2", GenerationParameters()),
        ("m@1", "qa@1", GenerationParameters()),
        ("qa@1", "m@1", GenerationParameters(max_tokens=5)),
        ("qa@1", "m@1", GenerationParameters(temperature=0.1)),
        ("qa@1", "m@1", GenerationParameters(top_p=0.9)),
        ("qa@1", "m@1", GenerationParameters(stop=("x",))),
        ("qa@1", "m@1", GenerationParameters(seed=0)),
        ("qa@1", "m@1", GenerationParameters(response_format={"type": "json_object"})),
        ("qa@1", "m@1", GenerationParameters(), {"redact_log": True}),
    ],
)
def test_any_change_makes_another_release_and_the_same_content_in_other_words_the_same(content):
    plain = identity("qa@1", "m@1", GenerationParameters())
    assert identity(*content) != plain == identity("qa@1", "m@1", GenerationParameters(), {})
    one, other = GenerationParameters(stop=("\n",)), GenerationParameters.from_mapping({"stop": "\n"})
    assert identity("qa@1", "m@1", one) == identity("qa@1", "m@1", other)


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
def test_guards_made_in_python_are_checked_too_and_those_that_guard_nothing_are_none(guards, problem):
    with pytest.raises(UsageError, match=problem):
        check_guards(guards)
    assert check_guards({"redact_log": False, "block": []}) == {}

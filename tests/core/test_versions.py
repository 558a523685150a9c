from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import UsageError
from llmops.generation import GenerationParameters
from llmops.prompt_file import parse_prompt
from llmops.versions import ModelVersion, PromptVersion, Ref, Release, release_content_hash

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
ALIASES = st.from_regex(r"[A-Za-z_-][A-Za-z0-9_-]{0,10}", fullmatch=True)
PROMPT = parse_prompt("---\ninput_variable: q\n---\n# user\n{{ q }}")


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("qa", Ref("qa")),
        ("qa@3", Ref("qa", version=3)),
        ("qa@champion", Ref("qa", alias="champion")),
        ("smollm2-135m_instruct.v2@12", Ref("smollm2-135m_instruct.v2", version=12)),
        ("qa@v3", Ref("qa", alias="v3")),
    ],
)
def test_a_ref_is_read_in_its_three_forms(text, ref):
    assert Ref.parse(text) == ref


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


def test_versions_name_themselves():
    prompt = PromptVersion("qa", 2, PROMPT)
    model = ModelVersion("tiny", 3, "file:x", "gguf", "0" * 64, Path("x"))
    release = Release("assistant", 4, prompt, model, GenerationParameters())
    assert (prompt.ref, model.ref, release.ref) == ("qa@2", "tiny@3", "assistant@4")
    assert prompt.uri == "prompts:/qa/2"


def test_the_same_content_is_the_same_release():
    one = release_content_hash("qa@1", "m@1", GenerationParameters(stop=("\n",)))
    assert one == release_content_hash("qa@1", "m@1", GenerationParameters.from_mapping({"stop": "\n"}))


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
    ],
)
def test_any_change_makes_another_release(content):
    assert release_content_hash(*content) != release_content_hash("qa@1", "m@1", GenerationParameters())


def test_guards_change_a_release_only_where_there_are_any():
    plain = release_content_hash("qa@1", "m@1", GenerationParameters())
    assert release_content_hash("qa@1", "m@1", GenerationParameters(), {}) == plain
    assert release_content_hash("qa@1", "m@1", GenerationParameters(), {"redact_log": True}) != plain

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmops import prompt_file
from llmops.errors import BadFile, UsageError
from llmops.generation import GenerationParameters
from llmops.prompt_file import PromptTemplate, load_prompt_folder, parse_prompt

Q = "---\ninput_variable: question\n"
HEAD = Q + "---\n"
ASK = "---\n# user\n{{ question }}"
FULL = """---
description: Terse answers.
input_variable: question
parameters: {max_tokens: 24, temperature: 0.5, stop: ["\\n"]}
response_format: {type: json_object}
---

# system
Answer as {{ persona }}.

Be brief.

# user
2+2?

# assistant
4

# user
{{question}}
"""
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
# Text that neither opens a turn nor looks like a placeholder.
PLAIN = st.text(st.characters(exclude_characters="{}#\r", exclude_categories=["Cs"]), max_size=30)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
BRACY = st.lists(st.sampled_from(["{", "}", "{{", "}}", " ", "\n", "a", "b_1", "1", "%", "{{ a }}"]), max_size=14)


def error_of(text: str) -> BadFile:
    with pytest.raises(BadFile) as caught:
        parse_prompt(text, "prompts/qa/v1.md")
    return caught.value


@pytest.mark.parametrize("text", [FULL, FULL.replace("\n", "\r\n")], ids=["unix", "windows"])
def test_a_full_file_is_read(text):
    template = parse_prompt(text)
    assert template.description == "Terse answers."
    assert template.input_variable == "question"
    assert template.variables == {"persona", "question"}
    assert template.parameters == GenerationParameters(
        max_tokens=24, temperature=0.5, stop=("\n",), response_format={"type": "json_object"}
    )
    assert [turn["role"] for turn in template.turns] == ["system", "user", "assistant", "user"]
    assert template.turns[0]["content"].split() == ["Answer", "as", "{{", "persona", "}}.", "Be", "brief."]
    messages = template.render({"persona": "a cook", "question": "Why?"})
    filled = [message["content"].replace("\r", "") for message in messages]
    assert filled == ["Answer as a cook.\n\nBe brief.", "2+2?", "4", "Why?"]


def test_all_but_placeholders_and_turns_is_text():
    for text, filled in (
        ("{{ question }} I said {{question}}", "Why? I said Why?"),
        ("## system\n# user guide\n{{ question }}", "## system\n# user guide\nWhy?"),
        ('{"a": {"b": 1}} {{ question }}', '{"a": {"b": 1}} Why?'),
    ):
        assert parse_prompt(f"{HEAD}# user\n{text}").render({"question": "Why?"})[0]["content"] == filled


@given(st.text())
def test_text_that_comes_through_a_variable_is_never_expanded(value):
    template = parse_prompt(HEAD + "# system\n{{ other }}\n\n# user\n{{ question }}")
    for text in (value, "{{ other }}" + value, "{{ question }}", r"\1 \g<0>"):
        filled = template.render({"question": text, "other": text})
        assert [message["content"] for message in filled] == [text, text]


@given(PLAIN, PLAIN, NAMES)
def test_a_template_that_is_written_out_is_read_back(system, user, name):
    text = f"---\ninput_variable: {name!r}\n---\n# system\n{system}\n\n# user\n{user}{{{{ {name} }}}}"
    template = parse_prompt(text)
    assert template == PromptTemplate(
        (
            {"role": "system", "content": system.strip()},
            {"role": "user", "content": (user + f"{{{{ {name} }}}}").strip()},
        ),
        name,
    )
    assert [m["content"] for m in template.render({name: "!"})] == [system.strip(), (user + "!").strip()]


def template_or_error(text: str) -> PromptTemplate | BadFile:
    try:
        return parse_prompt(text, "p.md")
    except BadFile as error:
        return error


@given(BRACY)
def test_any_braces_give_exactly_their_variables_or_a_bad_file_with_its_line(pieces):
    text = HEAD + "# user\n" + "".join(pieces) + "\n{{ question }}"
    template = template_or_error(text)
    if isinstance(template, BadFile):
        assert 5 <= template.line <= len(text.split("\n"))
        assert template.field
        assert "\n" not in str(template)
    else:
        assert template.variables == set(re.findall(r"\{\{\s*(\w+)\s*\}\}", text))
        filled = template.render(dict.fromkeys(template.variables, ""))[0]["content"]
        assert "{{" not in filled


@given(ANY_TEXT)
def test_any_text_is_a_template_or_a_bad_file(text):
    for candidate in (text, f"---\n{text}\n---\n# user\n{{{{ q }}}}", HEAD + text):
        result = template_or_error(candidate)
        if isinstance(result, BadFile):
            assert result.line is not None
            assert str(result).startswith(f"p.md:{result.line}: ")
        else:
            assert result.variables


@pytest.mark.parametrize(
    ("text", "line", "field", "problem"),
    [
        ("# user\n{{ question }}", 1, None, "must start with front matter"),
        ("", 1, None, "must start with front matter"),
        (Q + "", 1, None, "not closed"),
        ("---\n" + ASK, 1, None, "must be a mapping"),
        ("---\n- a\n" + ASK, 1, None, "must be a mapping"),
        (Q + "x: [1,\n" + ASK, 3, None, "front matter"),
        ("---\ndescription: 2026-13-45\n---\n# user\n{{ q }}", 1, None, "front matter"),
        (Q + "temprature: 1\n" + ASK, 3, "temprature", "unknown key"),
        ("---\n1: a\nb: c\n" + ASK, 2, "1", "unknown key"),
        ("---\ndescription: a\n" + ASK, 1, "input_variable", "must name the variable"),
        ("---\ninput_variable: two words\n" + ASK, 2, "input_variable", "must name the variable"),
        ("---\ninput_variable: 3\n" + ASK, 2, "input_variable", "must name the variable"),
        (HEAD + "# system\n{{ question }}\n\n# user\nHello", 2, "input_variable", "last turn must hold {{ question }}"),
        ("---\ninput_variable: a\ninput_variable: question\n" + ASK, 3, None, "stands twice"),
        (Q + "parameters: 3\n" + ASK, 3, "parameters", "mapping"),
        (Q + "parameters: {max_token: 3}\n" + ASK, 3, "max_token", "unknown parameter"),
        (Q + "parameters: {temperature: 3}\n" + ASK, 3, "temperature", "must be a number from 0 to 2"),
        (Q + "response_format: json\n" + ASK, 3, "response_format", "must be an object"),
        (HEAD + "\nHello\n# user\n{{ question }}", 5, None, "text before the first turn"),
        (HEAD, 4, None, "holds no turn"),
        (
            HEAD + "# user\n{{ question }}\n# system\nx\n# user\n{{ question }}",
            6,
            None,
            "system turn must be the first",
        ),
        (HEAD + "# user\n{{ question }}\n# assistant\nx", 6, None, "last turn must be `# user`"),
        (HEAD + "# user\n{{ question }}\n{{ two words }}", 6, "{{ two words }}", "one variable name"),
        (HEAD + "# user\n{{ question|upper }}", 5, "{{ question|upper }}", "one variable name"),
        (HEAD + "# user\n{{ }}\n{{ question }}", 5, "{{ }}", "one variable name"),
        (HEAD + "# user\n{{ question }}\n{{ open", 6, "{{", "unclosed placeholder"),
        (HEAD + "# user\n{{ question }}\n\n{% if x %}", 7, "{%", "template logic"),
        (HEAD + "# user\n{{\nquestion }}\n{# note #}", 7, "{#", "template logic"),
    ],
)
def test_an_error_names_file_line_and_field(text, line, field, problem):
    error = error_of(text)
    assert (error.line, error.field) == (line, field)
    assert problem in error.problem
    assert str(error).startswith(f"prompts/qa/v1.md:{line}: {field}: " if field else f"prompts/qa/v1.md:{line}: ")
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"question": "x"}, "persona: the prompt needs this variable"),
        ({}, "persona: the prompt needs this variable"),
        (
            {"question": "x", "persona": "y", "tone": "z"},
            "tone: the prompt has no such variable; it has persona, question",
        ),
        ({"question": "x", "persona": 3}, "persona: a prompt variable must be text, not int"),
    ],
)
def test_rendering_names_the_variable_at_fault(variables, message):
    with pytest.raises(UsageError) as caught:
        parse_prompt(FULL).render(variables)
    assert str(caught.value) == message


def chat(*texts: str) -> list[dict[str, str]]:
    """What users and assistants said in turn."""
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]


def test_a_conversation_keeps_its_earlier_turns_before_the_filled_one():
    given = chat("Hi {{ persona }}", "Hello", "Why?")
    messages = parse_prompt(FULL).render_conversation(given, {"persona": "a cook"})
    assert messages[0] == {"role": "system", "content": "Answer as a cook.\n\nBe brief."}
    assert list(messages[1:]) == chat("2+2?", "4", "Hi {{ persona }}", "Hello", "Why?")


@pytest.mark.parametrize(
    ("conversation", "variables", "message"),
    [
        ([], {"persona": "x"}, "messages: the last message must be the user's"),
        (chat("a", "b"), {"persona": "x"}, "messages: the last message must be the user's"),
        (chat("a"), None, "persona: the prompt needs this variable"),
        (
            chat("a"),
            {"persona": "x", "question": "y"},
            "question: filled by the last user message, not by prompt_variables",
        ),
    ],
)
def test_a_conversation_that_cannot_be_wrapped_names_the_field(conversation, variables, message):
    with pytest.raises(UsageError) as caught:
        parse_prompt(FULL).render_conversation(conversation, variables)
    assert str(caught.value) == message


def test_the_content_hash_leaves_out_the_description_only():
    base = parse_prompt(FULL).content_hash
    assert parse_prompt(FULL.replace("Terse answers.", "Other words.")).content_hash == base
    renamed = FULL.replace("input_variable: question", "input_variable: persona").replace("{{question}}", "{{persona}}")
    changes = [("Be brief", "Be long"), ("24", "25"), ("# assistant\n4", "# assistant\nfour"), ("0.5", "0.4")]
    for text in (renamed, *(FULL.replace(*change) for change in changes)):
        assert parse_prompt(text).content_hash != base, text


def test_a_folder_gives_its_versions_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 1):
        (tmp_path / f"v{number}.md").write_text(HEAD + f"# user\n{number} {{{{ question }}}}")
    (tmp_path / "notes.txt").write_text("not a prompt")
    found = [(path.name, template.turns[0]["content"][:2].strip()) for path, template in load_prompt_folder(tmp_path)]
    assert found == [("v1.md", "1"), ("v2.md", "2"), ("v10.md", "10")]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        *(
            ({"v1.md": FULL, name: FULL}, f"{re.escape(name)}: prompt files are named v1.md")
            for name in ("final.md", "v0.md", "v01.md", "V1.md", "v1.1.md")
        ),
        ({}, r"write v1\.md"),
        (None, r"none: cannot be read"),
        ({"v1.md": FULL.encode("utf-16")}, r"v1\.md: cannot be read"),
        ({"v1.md": FULL, "v2.md": HEAD + "# user\nno placeholder"}, r"v2\.md:2: input_variable"),
    ],
)
def test_a_folder_that_cannot_be_read_names_the_file_at_fault(tmp_path, files, problem):
    for name, content in (files or {}).items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadFile, match=problem):
        load_prompt_folder(tmp_path / "none" if files is None else tmp_path)


def test_the_reference_page_names_every_key_and_parameter_and_its_example_is_read():
    page = (Path(__file__).parents[2] / "docs" / "prompts.md").read_text(encoding="utf-8")
    example = page.partition("```markdown\n")[2].partition("```")[0]
    read = parse_prompt(example)
    assert (read.input_variable, read.variables) == ("question", {"language", "question"})
    assert set(yaml.safe_load(example.split("---")[1])) == prompt_file._KEYS
    for name in (*prompt_file._KEYS, *GenerationParameters.__dataclass_fields__):
        assert f"| `{name}` |" in page


@pytest.mark.parametrize(
    ("schema", "place", "problem"),
    [
        ('{"type": "frobnicate"}', ".type", "not a valid JSON schema"),
        ('{"properties": {"a": {"minLenght": 3}}}', ".properties.a.minLenght", "did you mean minLength?"),
        ('{"$ref": "#/$defs/none"}', "", "not a valid JSON schema"),
    ],
)
def test_a_schema_that_is_none_is_refused_whatever_engine_will_answer(schema, place, problem):
    form = f'{{"type": "json_schema", "json_schema": {{"name": "x", "schema": {schema}}}}}'
    text = Q + f"response_format: {form}\n" + ASK
    with pytest.raises(BadFile, match=re.escape(problem)) as caught:
        parse_prompt(text, "v1.md")
    assert str(caught.value).startswith(f"v1.md:3: response_format.json_schema.schema{place}: ")


@pytest.mark.parametrize(
    "head",
    [
        # What no local engine enforces, an upstream may.
        'response_format: {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"type": "null"}}}}',
        "parameters: {response_format: {type: json_object}}",
    ],
)
def test_a_response_format_for_an_upstream_or_among_the_parameters_is_kept(head):
    assert parse_prompt(f"{Q}{head}\n{ASK}").parameters.response_format["type"].startswith("json_")

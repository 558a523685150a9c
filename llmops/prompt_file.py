"""Prompt templates: `prompts/<name>/v1.md` files, strict about variables.

A file is YAML front matter and a list of turns:

    ---
    description: Terse answers, with examples.
    input_variable: question
    parameters: {max_tokens: 24, temperature: 0}
    ---
    # system
    Answer in a few words.

    # user
    {{ question }}

A line that is exactly `# system`, `# user` or `# assistant` opens a turn; the last turn is the user's and holds the
input variable. `{{ name }}` is the only syntax: no logic, so a template can be diffed, hashed and trusted.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from llmops.errors import BadFile, CannotRun, EngineRejected, UsageError
from llmops.generation import GenerationParameters, Message
from llmops.hashing import content_hash
from llmops.json_schema import KEYWORDS, AnswerSchema, refuse_keywords, schema_of
from llmops.text_io import read_text

_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_BLANK = "."  # what stands for a variable while the template alone is read
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TURN = re.compile(r"# (system|user|assistant)\s*\Z")
_FILE_NAME = re.compile(r"v([1-9][0-9]*)\.md\Z")
_KEYS = {"description", "input_variable", "parameters", "response_format"}


class _FrontMatter(yaml.SafeLoader):
    """YAML that refuses a name which stands twice in a mapping: its last value would win, unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value}: stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class PromptTemplate:
    """Turns with `{{ variable }}` placeholders, and the generation parameters they were written for."""

    turns: tuple[Message, ...]
    input_variable: str
    parameters: GenerationParameters = GenerationParameters()
    description: str = ""

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names that `render` needs."""
        return frozenset(name for turn in self.turns for name in _PLACEHOLDER.findall(turn["content"]))

    @property
    def content_hash(self) -> str:
        """Identity of everything that can change an answer; the description is left out."""
        return content_hash(
            {
                "turns": [dict(turn) for turn in self.turns],
                "input_variable": self.input_variable,
                "parameters": self.parameters.to_mapping(),
            }
        )

    @cached_property
    def shared_prefix(self) -> tuple[Message, ...]:
        """The template with nothing in it: what is made of it begins as this does."""
        return self.render(dict.fromkeys(self.variables, _BLANK))

    def render(self, variables: Mapping[str, str]) -> tuple[Message, ...]:
        """Fills every placeholder once; text that comes in through a variable is never expanded again. Raises
        UsageError: a variable is missing, unknown, or not text; names it."""
        needed = self.variables
        if missing := sorted(needed - variables.keys()):
            raise UsageError(f"{missing[0]}: the prompt needs this variable")
        if unknown := sorted(variables.keys() - needed):
            raise UsageError(f"{unknown[0]}: the prompt has no such variable; it has {', '.join(sorted(needed))}")
        for name, value in variables.items():
            if not isinstance(value, str):
                raise UsageError(f"{name}: a prompt variable must be text, not {type(value).__name__}")
        return tuple(
            Message(role=turn["role"], content=_PLACEHOLDER.sub(lambda found: variables[found[1]], turn["content"]))
            for turn in self.turns
        )

    def render_conversation(
        self, conversation: Sequence[Message], variables: Mapping[str, str] | None = None
    ) -> tuple[Message, ...]:
        """Wraps a chat: the template's own leading turns (system text, examples) come first, then the conversation's
        earlier turns, then the template's last turn, filled by the last user message. Raises UsageError: as `render`;
        or the conversation does not end with a user message."""
        if not conversation or conversation[-1]["role"] != "user":
            raise UsageError("messages: the last message must be the user's")
        given = dict(variables or {})
        if self.input_variable in given:
            raise UsageError(f"{self.input_variable}: filled by the last user message, not by prompt_variables")
        filled = self.render({**given, self.input_variable: conversation[-1]["content"]})
        return (*filled[:-1], *conversation[:-1], filled[-1])


def instruction_of(template: PromptTemplate) -> str:
    """The system turn's text; empty where there is none."""
    first = template.turns[0]
    return first["content"] if first["role"] == "system" else ""


def examples_of(template: PromptTemplate) -> tuple[Message, ...]:
    """The turns between the system turn and the last one."""
    return template.turns[bool(instruction_of(template)) : -1]


def assembled(template: PromptTemplate, instruction: str, examples: Iterable[Message]) -> PromptTemplate:
    """The template with that system turn and those examples."""
    system = [Message(role="system", content=instruction)] if instruction else []
    return replace(template, turns=(*system, *examples, template.turns[-1]))


def parse_prompt(text: str, path: Path | str = "<prompt>") -> PromptTemplate:
    """Reads a prompt file's text. Raises BadFile naming line and field."""
    head, body, first_line = _split_front_matter(text, path)

    def at(field: str, problem: str) -> BadFile:
        """Names the line of the front matter on which the field's own name stands as a key; 1: none does."""
        key = re.compile(rf"""(^|[\s{{,"']){re.escape(field.rpartition(".")[2])}["']?\s*:""")
        lines = enumerate(text.split("\n")[: first_line - 1], 1)
        return BadFile(path, problem, line=next((number for number, each in lines if key.search(each)), 1), field=field)

    if unknown := sorted(str(key) for key in head.keys() - _KEYS):
        raise at(unknown[0], f"unknown key; known: {', '.join(sorted(_KEYS))}")
    turns = _parse_turns(body, path, first_line)
    input_variable = head.get("input_variable")
    if not isinstance(input_variable, str) or not _NAME.match(input_variable):
        raise at("input_variable", "must name the variable that the user's message fills")
    if input_variable not in _PLACEHOLDER.findall(turns[-1]["content"]):
        raise at("input_variable", f"the last turn must hold {{{{ {input_variable} }}}}")
    given = head.get("parameters") or {}
    if not isinstance(given, dict):
        raise at("parameters", "must be a mapping")
    if "response_format" in head:
        given = {**given, "response_format": head["response_format"]}
    try:
        parameters = GenerationParameters.from_mapping(given)
    except UsageError as error:
        name, _, problem = str(error).partition(": ")
        raise at(name, problem) from error
    if parameters.response_format is not None:
        schema = schema_of(parameters.response_format)
        try:  # whatever engine will be asked: it is chosen later
            AnswerSchema(schema)
            refuse_keywords(schema, KEYWORDS)
        except EngineRejected as error:
            name, _, problem = str(error).partition(": ")
            raise at(name, problem) from error
    return PromptTemplate(turns, input_variable, parameters, str(head.get("description") or ""))


def format_prompt(template: PromptTemplate) -> str:
    """The text of a file that `parse_prompt` reads as this template. Raises UsageError: there is none, because a turn
    begins or ends with white space, or holds a placeholder's braces or a line that opens a turn."""
    given = template.parameters.to_mapping()
    defaults = GenerationParameters().to_mapping()
    head: dict[str, Any] = {"description": template.description} if template.description else {}
    head["input_variable"] = template.input_variable
    response_format = given.pop("response_format")
    parameters = {name: value for name, value in given.items() if value != defaults[name]}
    head |= {"parameters": parameters} if parameters else {}
    head |= {"response_format": response_format} if response_format is not None else {}
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)
    turns = "\n\n".join(f"# {turn['role']}\n{turn['content']}" for turn in template.turns)
    text = f"---\n{front}---\n{turns}\n"
    try:
        same = parse_prompt(text).content_hash == template.content_hash
    except BadFile as error:
        raise UsageError(f"no prompt file can hold this: {error.problem}") from error
    if not same:
        raise UsageError("no prompt file can hold this: a turn's text would be read otherwise")
    return text


def load_prompt_folder(folder: Path) -> list[tuple[Path, PromptTemplate]]:
    """The `v<N>.md` files of one prompt in the order of N. Raises BadFile."""
    numbered = []
    try:
        files = list(folder.iterdir())
    except OSError as error:
        raise BadFile(folder, f"cannot be read: {error.strerror}") from error
    for path in files:
        if found := _FILE_NAME.match(path.name):
            numbered.append((int(found[1]), path))
        elif path.suffix == ".md":
            raise BadFile(path, "prompt files are named v1.md, v2.md, …")
    if not numbered:
        raise BadFile(folder, "holds no prompt file; write v1.md")
    return [(path, parse_prompt(read_text(path), path)) for _, path in sorted(numbered)]


def write_next(folder: Path, template: PromptTemplate) -> Path:
    """The file of that prompt: the one that is there, or a new version. Raises BadFile, CannotRun."""
    known = load_prompt_folder(folder) if folder.is_dir() else []
    for path, there in known:
        if there.content_hash == template.content_hash:
            return path
    number = max((int(path.stem.removeprefix("v")) for path, _ in known), default=0) + 1
    path, scratch = folder / f"v{number}.md", folder / f".v{number}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch.write_text(format_prompt(template), encoding="utf-8")
        try:
            path.hardlink_to(scratch)  # fails where somebody else has just written it
        finally:
            scratch.unlink()
    except OSError as error:
        raise CannotRun(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _split_front_matter(text: str, path: Path | str) -> tuple[dict[str, Any], list[str], int]:
    """Front matter, body lines, and the number of the body's first line."""
    lines = text.split("\n")
    if lines[0].strip() != "---":
        raise BadFile(path, "must start with front matter between two --- lines", line=1)
    end = next((number for number, line in enumerate(lines[1:], 1) if line.strip() == "---"), None)
    if end is None:
        raise BadFile(path, "front matter is not closed by a --- line", line=1)
    try:
        head = yaml.load("\n".join(lines[1:end]), _FrontMatter)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that YAML's own types refuse
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 2 if mark is not None else 1
        problem = getattr(error, "problem", None) or "not YAML"
        raise BadFile(path, f"front matter: {problem}", line=line) from error
    if not isinstance(head, dict):
        raise BadFile(path, "front matter must be a mapping", line=1)
    return head, lines[end + 1 :], end + 2


def _parse_turns(body: Sequence[str], path: Path | str, first_line: int) -> tuple[Message, ...]:
    opened: list[tuple[str, int, list[str]]] = []
    for number, line in enumerate(body, first_line):
        if found := _TURN.match(line):
            opened.append((found[1], number, []))
        elif opened:
            opened[-1][2].append(line)
        elif line.strip():
            raise BadFile(path, "text before the first turn; open one with `# system` or `# user`", line=number)
    if not opened:
        raise BadFile(path, "holds no turn; write `# user` and the text", line=first_line)
    for position, (role, number, content) in enumerate(opened):
        if role == "system" and position > 0:
            raise BadFile(path, "the system turn must be the first", line=number)
        _check_placeholders(content, path, number + 1)
    if opened[-1][0] != "user":
        raise BadFile(path, "the last turn must be `# user`", line=opened[-1][1])
    return tuple(Message(role=role, content="\n".join(content).strip()) for role, _, content in opened)


def _check_placeholders(lines: Sequence[str], path: Path | str, first_line: int) -> None:
    text = "\n".join(lines)
    for found in _PLACEHOLDER.finditer(text):
        if not _NAME.match(found[1]):
            line = first_line + text.count("\n", 0, found.start())
            shown = " ".join(found[0].split())
            raise BadFile(path, "a placeholder holds one variable name and nothing else", line=line, field=shown)
    left = _PLACEHOLDER.sub(lambda found: "\n" * found[0].count("\n"), text)
    for mark in ("{{", "{%", "{#"):
        if mark in left:
            line = first_line + left.count("\n", 0, left.index(mark))
            raise BadFile(
                path, "unclosed placeholder, or template logic, which is not supported", line=line, field=mark
            )

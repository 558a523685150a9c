"""How many ways an answer's grammar may branch: llama.cpp weighs each of them for each token of the vocabulary.

One decoding loop serves every request, so all of them wait meanwhile. Measured with 49,000 tokens: 0.45 s a token with
300 values to choose from, 2 s with 1,000, and with 2,500 or more minutes, in which nothing can be cancelled. A pattern
whose repeated parts hold repeated parts does the same with thirty characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from llmops.engines.protocol import GenerationRequest
from llmops.errors import EngineRejected

MOST_CHOICES = 256

MOST_PATTERN_PARTS = 128
"""Characters and classes of all patterns together, each as often as it may be repeated; without a bound, once."""

_BRANCHING = ("enum", "anyOf", "oneOf", "properties")
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:[:=!]|<[=!]|<\w+>)|[(){]|.", re.DOTALL)
_BOUNDS = re.compile(r"\{(\d{1,9})(?:,(\d{0,9}))?\}")


def check_schemas(request: GenerationRequest) -> None:
    """Raises EngineRejected when the schemas of the answer, or of the tools, are more than the engine can bear."""
    parts = {"response_format": request.parameters.response_format, "tools": request.extras.get("tools")}
    for param, part in parts.items():
        if not part:
            continue
        if (found := choices(part)) > MOST_CHOICES:
            problem = f"{param}: its schemas list {found} values, alternatives and properties; at most {MOST_CHOICES}"
            raise EngineRejected(problem, param=param)
        if sum(map(pattern_parts, _patterns(part))) > MOST_PATTERN_PARTS:
            problem = (
                f"{param}: its patterns match more than {MOST_PATTERN_PARTS} characters and classes, repetitions "
                "counted; bound a text with maxLength instead"
            )
            raise EngineRejected(problem, param=param)


def choices(schema: Any) -> int:
    """Values, alternatives and properties that a schema lists, at any depth."""
    return sum(
        len(part[name]) for part in _objects(schema) for name in _BRANCHING if isinstance(part.get(name), (list, dict))
    )


def pattern_parts(pattern: str) -> int:
    """Characters and classes that a regular expression holds, each as often as it may be repeated."""
    open_groups: list[int] = []
    total = last = position = 0  # last: the size of what a quantifier would repeat
    while position < len(pattern):
        bounds = _BOUNDS.match(pattern, position)
        if bounds is not None:
            times = int(bounds[2] or bounds[1])
            total += last * (max(times, 1) - 1)
            last, position = last * max(times, 1), bounds.end()
            continue
        token = _TOKEN.match(pattern, position)
        text = token[0] if token is not None else pattern[position]
        position += len(text)
        if text.startswith("("):
            open_groups.append(total)
            last = 0
        elif text == ")" and open_groups:
            last = total - open_groups.pop()
        elif text not in "*+?^$|":
            total, last = total + 1, 1
    return total


def _patterns(schema: Any) -> Iterator[str]:
    for part in _objects(schema):
        if isinstance(part.get("pattern"), str):
            yield part["pattern"]


def _objects(schema: Any) -> Iterator[dict[Any, Any]]:
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            waiting += part

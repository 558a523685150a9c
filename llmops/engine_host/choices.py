"""How many ways an answer's grammar may branch: llama.cpp weighs each of them for each token of the vocabulary.

One decoding loop serves every request, so all of them wait meanwhile. Measured with 49,000 tokens: 0.45 s a token with
300 values to choose from, 2 s with 1,000, and with 2,500 or more minutes, in which nothing can be cancelled.
"""

from __future__ import annotations

from typing import Any

from llmops.engines.protocol import GenerationRequest
from llmops.errors import EngineRejected

MOST_CHOICES = 256

_BRANCHING = ("enum", "anyOf", "oneOf", "properties")


def check_choices(request: GenerationRequest) -> None:
    """Raises EngineRejected when the schemas of the answer, or of the tools, list more than MOST_CHOICES together."""
    parts = {"response_format": request.parameters.response_format, "tools": request.extras.get("tools")}
    for param, part in parts.items():
        if part and (found := choices(part)) > MOST_CHOICES:
            problem = f"{param}: its schemas list {found} values, alternatives and properties; at most {MOST_CHOICES}"
            raise EngineRejected(problem, param=param)


def choices(schema: Any) -> int:
    """Values, alternatives and properties that a schema lists, at any depth."""
    count, waiting = 0, [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            count += sum(len(part[name]) for name in _BRANCHING if isinstance(part.get(name), (list, dict)))
            waiting += part.values()
        elif isinstance(part, (list, tuple)):
            waiting += part
    return count

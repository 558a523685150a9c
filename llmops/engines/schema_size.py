"""How large a schema of an answer may be: engines compile it where every request waits, and weigh what it leaves open
for each token.

Measured with 49,000 tokens of vocabulary. llama.cpp with llguidance: 5,000 values to choose from 0.02 s to compile and
nothing a token, 20,000 0.1 s and 0.01 s a token; 1,000 alternatives 0.1 to 0.3 s; with more than 498 properties of one
object that may be left out it gives up at the first token. (llama.cpp's own GBNF, which served before: 0.45 s a token
with 300 values, minutes with 2,500.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmops.answer_schema import ROOT, refuse, subschemas

MOST_VALUES = 5_000
"""Values of all `enum` together."""
MOST_BRANCHES = 1_000
"""Alternatives and properties of all parts together."""
MOST_PROPERTIES = 400
"""Properties of one object."""


def check_size(schema: Mapping[str, Any]) -> None:
    """Raises EngineRejected when the schema is more than the engine can bear, naming the part that exceeds a bound."""
    values = branches = 0
    for place, part in subschemas(schema):
        values += _length(part, "enum")
        properties = _length(part, "properties")
        branches += properties + _length(part, "anyOf") + _length(part, "oneOf") + _length(part, "allOf")
        if values > MOST_VALUES:
            refuse(f"{place}.enum", f"the schema lists more than {MOST_VALUES} values")
        if properties > MOST_PROPERTIES:
            refuse(f"{place}.properties", f"an object may have at most {MOST_PROPERTIES} properties")
        if branches > MOST_BRANCHES:
            refuse(ROOT, f"the schema lists more than {MOST_BRANCHES} alternatives and properties")


def _length(part: Mapping[str, Any], keyword: str) -> int:
    value = part.get(keyword)
    return len(value) if isinstance(value, (list, tuple, Mapping)) else 0

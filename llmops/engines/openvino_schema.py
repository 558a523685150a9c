"""The JSON schemas that OpenVINO enforces: XGrammar drops what it cannot enforce with a line on stderr, or without one.

Tried with openvino-genai 2026.4.1 on SmolLM2-135M, and taken but not kept: `multipleOf`, bounds of decimals, a length
beside a pattern or a format, keywords beside a `$ref`, two parts under `allOf`, bounds where no type stands, and names
that are required but not described, or described beside patterns of names. `oneOf` is read as `anyOf`. A pattern may
let a quote or the end of a line into the text as it is, which is then no JSON. `false` as a schema, and some patterns,
fail in the step that all requests share. A number may have an exponent of any length: one beyond every number (1e999)
is found when the answer is held against its schema.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmops.answer_schema import (
    ANNOTATIONS,
    ENFORCEABLE,
    AnswerSchema,
    rebuilt,
    refuse,
    refuse_keywords,
    schema_of,
    subschemas,
    with_format_as_pattern,
)
from llmops.engines.llamacpp_grammar import grammar_of

_ENFORCED = ENFORCEABLE - {"multipleOf", "minProperties", "maxProperties", "additionalItems"}
_FORMATS = frozenset({"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"})
_MOST_REPEATED = 1_000
"""Characters that a pattern or a length may ask for: XGrammar writes each out, once for each schema, in the step that
all requests share. With 49,000 tokens of vocabulary 20 take it 0.7 s, 500 to 5,000 some 10 s, as its own lengths do."""
_BOUNDS = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_NEEDS_NO_ESCAPE = r'[^"\\\x00-\x1f]'
_TYPE_OF: Mapping[str, str] = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), "integer"),
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format"), "string"),
    **dict.fromkeys(("items", "prefixItems", "minItems", "maxItems"), "array"),
    **dict.fromkeys(("properties", "required", "additionalProperties", "patternProperties"), "object"),
}
"""The type that must stand beside a keyword, alone, for it to be kept."""

_PLAIN = r"[A-Za-z0-9_@:/#,;=~!% .&<>-]"
_PATTERN = re.compile(
    rf"\^?(?:(?![.]){_PLAIN}|\\[d./+*?()|^$-]|\[(?:{_PLAIN}|\\[d.-]|[+*])+\]|\((?!\?)|[)|*+?]|\{{\d+(?:,\d*)?\}})*\$?"
)
"""Patterns whose texts need no escape in JSON, of what XGrammar reads as everybody else does."""


def enforced_schema(response_format: Mapping[str, Any]) -> tuple[str, AnswerSchema]:
    """The schema to hand over, and what to hold answers against.

    Raises:
        EngineRejected: it is not valid, too large, or OpenVINO does not enforce the whole of it.
    """
    schema = schema_of(response_format)
    refuse_keywords(schema, _ENFORCED, "openvino")
    # What llguidance finds, XGrammar would have to find too: parts that nothing satisfies, alternatives that overlap,
    # references that lead nowhere.
    checked = grammar_of(response_format, "openvino").schema
    for place, part in subschemas(schema):
        for keyword in _dropped(part):
            refuse(f"{place}.{keyword}", "the openvino engine cannot enforce this keyword here")
    return json.dumps(rebuilt(schema, _with_pattern)), checked


def _with_pattern(part: Mapping[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """Formats as patterns; lengths too: XGrammar lets the end of a line into a text of a given length as it is."""
    made = with_format_as_pattern(part, made)
    if not {"minLength", "maxLength"} & made.keys():
        return made
    rest = {name: value for name, value in made.items() if name not in ("minLength", "maxLength")}
    return {**rest, "pattern": f"^{_NEEDS_NO_ESCAPE}{{{made.get('minLength', 0)},{made.get('maxLength', '')}}}$"}


def _dropped(part: Mapping[str, Any]) -> Iterator[str]:
    """Keywords of one part that XGrammar takes and does not keep."""
    rules = part.keys() - ANNOTATIONS - {"$defs", "definitions"}
    for keyword in ("$ref", "allOf", "anyOf", "oneOf", "enum", "const"):
        if keyword in rules and rules - {keyword, "type"}:
            yield keyword
    yield from (keyword for keyword in part if part.get("type") != _TYPE_OF.get(keyword, part.get("type")))
    if not str(part.get("$ref", "#/")).startswith("#/"):
        yield "$ref"
    if len(part.get("allOf", ())) > 1:
        yield "allOf"
    yield from _dropped_of_texts(part)
    properties, patterns = part.get("properties", {}), part.get("patternProperties", {})
    if set(part.get("required", ())) - properties.keys() or (patterns and part.get("required")):
        yield "required"
    if False in properties.values():
        yield "properties"
    if patterns and (properties or False in patterns.values()):
        yield "patternProperties"
    if isinstance(part.get("items"), (list, tuple)):
        yield "items"


def _dropped_of_texts(part: Mapping[str, Any]) -> Iterator[str]:
    pattern, kind = part.get("pattern"), part.get("format")
    if pattern is not None or kind is not None:
        yield from (keyword for keyword in ("minLength", "maxLength") if keyword in part)
    if pattern is not None and (kind is not None or not _PATTERN.fullmatch(pattern) or _splits(pattern)):
        yield "pattern"
    if kind is not None and kind not in _FORMATS:
        yield "format"
    yield from (keyword for keyword in ("minLength", "maxLength") if part.get(keyword, 0) > _MOST_REPEATED)
    bounds = (int(high or low) for low, high in _BOUNDS.findall(pattern or ""))
    if math.prod(bounds) > _MOST_REPEATED:
        yield "pattern"


def _splits(pattern: str) -> bool:
    """Whether a pattern is several at its top level, `a|b`."""
    depth = 0
    for part in re.findall(r"\\.|\[(?:\\.|[^\]])*\]|.", pattern):
        depth += {"(": 1, ")": -1}.get(part, 0)
        if part == "|" and depth == 0:
            return True
    return False

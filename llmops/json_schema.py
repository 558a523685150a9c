"""JSON schemas: checked ones, with their formats, and those that answers must follow.

JSON Schema leaves it to the validator whether `format` is checked; unchecked, {"format": "date"} lets "tomorrow"
through. Here every format is checked that the library knows in any draft, and one that it doesn't know is an error.

Of an answer's schema an engine enforces a keyword, or the request is refused by the keyword's name and place. No engine
is trusted blindly: every answer is held against its schema before its end is sent.
"""

import functools
import json
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import aclosing
from difflib import get_close_matches
from typing import Any, NoReturn

from llmops.errors import EngineRejected, SchemaNotFollowed, UsageError, first_line
from llmops.generation import Chunk, GenerationRequest

MOST_NESTED = 100
"""Levels of a JSON schema, or of a server's reply: far more than any has, and few enough to be written and logged."""

# What drafts after the fourth added. The library checks them only in the drafts that name them, while schemas without
# a draft, or with an old one, use them all the same.
_LATER_FORMATS = (
    "duration", "idn-hostname", "iri", "iri-reference", "json-pointer", "relative-json-pointer", "uri-reference",
    "uri-template", "uuid",
)  # fmt: skip
_UNKNOWN_FORMAT = re.compile(r"Unknown format: ('.*?')")


def schema_validator(schema: Mapping[str, Any], *, linear_patterns: bool = False) -> Any:
    """A `jsonschema_rs` validator that checks formats and fetches nothing. linear_patterns: patterns take linear time
    whatever the text, and know no look-arounds.

    Raises UsageError: not a JSON schema, a reference to another address, or a format that nothing here can check; the
    text starts with the place of the fault, `schema.properties.day.format: `, as far as it is known.
    """
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(
            dict(schema),
            formats=_later_formats(),
            validate_formats=True,
            ignore_unknown_formats=False,
            # Without it a reference to another document would be fetched: from any address that a client names.
            offline=True,
            pattern_options=jsonschema_rs.RegexOptions() if linear_patterns else None,
        )
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        place = f"schema{steps(getattr(error, 'instance_path', ()))}"
        line = first_line(error)[:300]
        if unknown := _UNKNOWN_FORMAT.match(line):
            raise UsageError(f"{place}: nothing here can check the format {unknown[1]}; leave it out") from error
        raise UsageError(f"{place}: not a valid JSON schema: {line}") from error


def steps(path: Iterable[str | int]) -> str:
    """A path into a JSON value as text: `.properties.a[0]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step[:100]}" for step in path)


@functools.cache
def _later_formats() -> dict[str, Callable[[str], bool]]:
    import jsonschema_rs

    return {
        name: jsonschema_rs.Draft202012Validator({"format": name}, validate_formats=True).is_valid
        for name in _LATER_FORMATS
    }


def is_shallow(value: dict[str, Any] | list[Any]) -> bool:
    """Whether JSON is nested at most `MOST_NESTED` levels deep."""
    level: list[Any] = [value]
    for _ in range(MOST_NESTED):
        inner = [item for each in level for item in (each.values() if isinstance(each, dict) else each)]
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return True
    return False


ANNOTATIONS = frozenset(
    {"$schema", "$id", "id", "$anchor", "$comment", "title", "description", "default", "examples", "example",
     "deprecated", "readOnly", "writeOnly", "discriminator", "xml", "externalDocs"}
)  # fmt: skip
"""Keywords of JSON Schema and of OpenAPI that say nothing about which values are valid."""

_NOT_ENFORCED = frozenset(
    {"not", "if", "then", "else", "contains", "minContains", "maxContains", "propertyNames", "uniqueItems",
     "dependencies", "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties",
     "contentEncoding", "contentMediaType", "contentSchema", "$dynamicRef", "$dynamicAnchor", "$recursiveRef",
     "$recursiveAnchor", "$vocabulary"}
)  # fmt: skip
"""Keywords of JSON Schema besides those that some engine here enforces."""

_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
ENFORCEABLE = frozenset(
    {"type", "const", "enum", "allOf", "anyOf", "oneOf", "$ref", "$defs", "definitions", "properties", "required",
     "additionalProperties", "patternProperties", "minProperties", "maxProperties", "items", "additionalItems",
     "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "pattern", "format", *_NUMBERS}
)  # fmt: skip

KEYWORDS = ENFORCEABLE | _NOT_ENFORCED

_HOLD_ONE = frozenset(
    {"additionalProperties", "additionalItems", "items", "not", "if", "then", "else", "contains", "propertyNames",
     "unevaluatedItems", "unevaluatedProperties", "contentSchema"}
)  # fmt: skip
_HOLD_SEVERAL = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_HOLD_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})

ROOT = "response_format.json_schema.schema"


def schema_of(response_format: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema that a checked response format asks for."""
    if response_format["type"] == "json_object":
        return {"type": "object"}
    schema: Mapping[str, Any] = response_format["json_schema"]["schema"]
    return schema


def subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schema and every one inside it, outer ones first, each with its place, such as `ROOT.properties.age`."""
    waiting: deque[tuple[str, Any]] = deque([(ROOT, schema)])
    while waiting:
        place, part = waiting.popleft()
        if isinstance(part, Mapping):  # true and false are schemas too, and hold nothing
            yield place, part
            waiting += _inside(place, part)


def _inside(place: str, part: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword, value in part.items():
        if keyword in _HOLD_SEVERAL and isinstance(value, (list, tuple)):
            yield from ((f"{place}.{keyword}[{at}]", each) for at, each in enumerate(value))
        elif keyword in _HOLD_ONE:
            yield f"{place}.{keyword}", value
        elif keyword in _HOLD_NAMED and isinstance(value, Mapping):
            yield from ((f"{place}.{keyword}.{name[:100]}", each) for name, each in value.items())


def rebuilt(part: Any, change: Callable[[Mapping[str, Any], dict[str, Any]], dict[str, Any]]) -> Any:
    """A copy of a schema in which every one inside it, and itself, is what `change` makes of it: of what it was, and of
    its copy with those inside it changed already."""
    if not isinstance(part, Mapping):
        return part
    made: dict[str, Any] = {}
    for keyword, value in part.items():
        if keyword in _HOLD_SEVERAL and isinstance(value, (list, tuple)):
            made[keyword] = [rebuilt(each, change) for each in value]
        elif keyword in _HOLD_ONE:
            made[keyword] = rebuilt(value, change)
        elif keyword in _HOLD_NAMED and isinstance(value, Mapping):
            made[keyword] = {name: rebuilt(each, change) for name, each in value.items()}
        else:
            made[keyword] = value
    return change(part, made)


_DATE = (
    r"([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
    r"|[0-9]{2}(0[48]|[2468][048]|[13579][26])-02-29)"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_PATTERNS: Mapping[str, str] = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "ipv4": rf"^{_OCTET}(\.{_OCTET}){{3}}$",
    "uri": r"^[a-z][a-z0-9+.-]*://[A-Za-z0-9]+(-[A-Za-z0-9]+|\.[A-Za-z0-9]+)*(:[0-9]{1,4})?([/?][A-Za-z0-9/._~=&:@+,;!-]*)?$",
}


def with_format_as_pattern(_: Mapping[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """For `rebuilt`: a format as a pattern of texts that have it, where engines know the format not or not exactly.

    XGrammar has dates such as the 31st of June, octets such as 084 and seconds such as 60; llguidance has no `uri`,
    which Pydantic and Zod write for every kind of URL, and no end to the digits of a second.
    """
    if made.get("format") not in _PATTERNS or "pattern" in made:
        return made
    rest = {name: value for name, value in made.items() if name != "format"}
    return {**rest, "pattern": _PATTERNS[made["format"]]}


def refuse_keywords(schema: Mapping[str, Any], enforced: Collection[str], engine: str = "") -> None:
    """Raises EngineRejected for the first keyword that is neither enforced nor an annotation.

    enforced: what `engine` does enforce. A vendor's own keywords (`x-…`) are annotations; those that would turn a
    grammar compiler's checks off are not.
    """
    for place, part in subschemas(schema):
        for keyword in part:
            vendor = keyword.startswith("x-") and keyword != "x-guidance"
            if not (keyword in enforced or keyword in ANNOTATIONS or vendor):
                refuse(f"{place}.{keyword[:100]}", _why(keyword, engine))


def _why(keyword: str, engine: str) -> str:
    if keyword in KEYWORDS or keyword == "x-guidance":
        return f"the {engine} engine cannot enforce this keyword; leave it out"
    if keyword == "nullable":
        return 'no keyword of JSON Schema; write "type": [..., "null"]'
    alike = get_close_matches(keyword, KEYWORDS, n=1)
    return "no keyword of JSON Schema" + (f"; did you mean {alike[0]}?" if alike else "; leave it out")


def refuse(place: str, why: str) -> NoReturn:
    """Raises EngineRejected, for what stands at a place of the schema."""
    raise EngineRejected(f"{place}: {why}", param=place)


Follows = Callable[[str], bool]


class AnswerSchema:
    """A schema, ready to hold answers against."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Raises EngineRejected: it is no valid JSON schema, refers to what is not in it, or has an unknown format."""
        try:
            self._validator = schema_validator(schema, linear_patterns=True)
        except UsageError as error:
            place, _, problem = str(error).partition(": ")
            refuse(ROOT + place.removeprefix("schema"), problem)

    def problem(self, answer: str) -> str | None:
        """Which rule of the schema a finished answer breaks; None when it follows.

        Nothing of the answer is told, not even names of its properties: the text goes where answers must not be kept.
        """
        try:
            value = json.loads(answer, parse_constant=_no_json)  # keeps whole numbers of any size, as orjson does not
        except (ValueError, RecursionError):
            return "it is not JSON"
        broken = next(iter(self._validator.iter_errors(value)), None)
        return None if broken is None else f"it breaks {ROOT}{steps(broken.schema_path)}"


async def following(
    chunks: AsyncGenerator[Chunk, None], schema: AnswerSchema, request: GenerationRequest, begins: Follows | None = None
) -> AsyncGenerator[Chunk, None]:
    """The chunks of answers, each held against the schema before its end is passed on.

    begins: whether a text that was cut off (finish reason `length`) can be the beginning of an answer; None: not known.

    Raises SchemaNotFollowed: an answer does not follow the schema.
    """
    texts: dict[int, list[str]] = {}
    async with aclosing(chunks):
        async for chunk in chunks:
            pieces = texts.setdefault(chunk.index, [])
            pieces.append(chunk.text)
            if chunk.finish_reason == "stop":
                if (problem := schema.problem("".join(pieces))) is not None:
                    stopped = "; a stop string may have ended it" if request.parameters.stop else ""
                    raise SchemaNotFollowed(f"the answer does not follow the response format: {problem}{stopped}")
            elif chunk.finish_reason == "length" and begins is not None and not begins("".join(pieces)):
                raise SchemaNotFollowed("the answer, cut off at max_tokens, does not begin as the response format asks")
            yield chunk


def _no_json(constant: str) -> NoReturn:
    raise ValueError(constant)

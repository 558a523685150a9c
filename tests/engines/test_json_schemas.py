import asyncio
import importlib.util
import json
import re
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.engines.llamacpp import LlamaCppEngine
from llmops.engines.openvino import OpenVinoEngine
from llmops.engines.protocol import generate
from llmops.engines.schemas import MOST_BRANCHES, MOST_PROPERTIES, MOST_VALUES, enforced_schema, grammar_of
from llmops.errors import EngineRejected, SchemaNotFollowed
from llmops.generation import Chunk, Usage
from llmops.json_schema import ANNOTATIONS, ENFORCEABLE, KEYWORDS, AnswerSchema, following

pytestmark = pytest.mark.anyio
ROOT = "response_format.json_schema.schema"
INTEGER, WORDS = {"type": "integer"}, {"type": "string", "maxLength": 3}


def obj(properties: dict, **more) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties), **more}


def form(schema: dict) -> dict:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


ENFORCED = {
    "number within bounds": {"type": "number", "minimum": 3, "maximum": 5},
    "number within bounds, inside": obj({"a": obj({"x": {"type": "number", "minimum": 3, "maximum": 5}})}),
    "number within exclusive bounds": {"type": "number", "exclusiveMinimum": 3, "exclusiveMaximum": 4},
    "integer within bounds": {"type": "integer", "minimum": 3, "maximum": 5},
    "integer within exclusive bounds": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    "bounds without a type": obj({"a": {"enum": [1, 7]}, "b": {"type": ["integer", "null"], "minimum": 2}}),
    "multiple of a whole number": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 100},
    "multiple of a half": {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 100},
    "number without bounds": {"type": "number"},
    "integer without bounds": INTEGER,
    "pattern": {"type": "string", "pattern": r"^ab\d$"},
    "pattern of alternatives": {"type": "string", "pattern": "^(foo|ba[rz]{2,3})$"},
    "pattern and length": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
    "length": {"type": "string", "minLength": 2, "maxLength": 4},
    "number of items": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3},
    "items by place": {"type": "array", "prefixItems": [{"type": "boolean"}, WORDS], "items": False},
    "required properties": obj({"zz": {"type": "boolean"}, "b": {"type": "null"}}),
    "property that must not be": {"type": "object", "properties": {"a": False, "b": {"type": "boolean"}}},
    "property that may be anything": obj({"a": {"type": ["boolean", "null"]}}, additionalProperties=False),
    "number of named properties": {**obj({"a": INTEGER}), "additionalProperties": False, "minProperties": 1},
    "enum": {"enum": [1, "a", None, {"a": 1}]},
    "const": {"const": {"a": [1, "x", None]}},
    "anyOf": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
    "allOf of bounds": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
    "allOf of objects": {"allOf": [obj({"a": {"type": "null"}}), obj({"b": {"type": "null"}})], "maxProperties": 2},
    "oneOf of kinds": {"oneOf": [{"type": "null"}, {"type": "boolean"}]},
    "oneOf told apart by a constant": {"oneOf": [obj({"k": {"const": "a"}}), obj({"k": {"const": "b"}})]},
    "$ref into $defs": {"$defs": {"a": {"enum": [1, 2]}}, "$ref": "#/$defs/a"},
    "$ref beside bounds": {"$defs": {"a": INTEGER}, "$ref": "#/$defs/a", "minimum": 3, "maximum": 4},
    "$ref into definitions": {"definitions": {"a": {"type": "boolean"}}, "$ref": "#/definitions/a"},
    "annotations": {"type": "boolean", "title": "t", "description": "d", "default": True, "$comment": "c", "x-own": 1},
    "format date": {"type": "string", "format": "date"},
    "format ipv4": {"type": "string", "format": "ipv4"},
    "format uuid": {"type": "string", "format": "uuid"},
    "format uri": {"type": "string", "format": "uri", "maxLength": 30},
}

REFUSED = {
    "not": ({"type": "string", "not": {"const": "a"}}, ".not"),
    "uniqueItems": (obj({"a": {"type": "array", "uniqueItems": True}}), ".properties.a.uniqueItems"),
    "contains": ({"type": "array", "contains": {"const": 1}}, ".contains"),
    "minContains": ({"type": "array", "minContains": 2}, ".minContains"),
    "propertyNames": ({"type": "object", "propertyNames": {"pattern": "^a"}}, ".propertyNames"),
    "dependentRequired": (obj({"q": {"dependentRequired": {"a": ["b"]}}}), ".properties.q.dependentRequired"),
    "dependentSchemas": ({"dependentSchemas": {"a": {}}}, ".dependentSchemas"),
    "if": ({"if": {"type": "string"}, "then": {"minLength": 2}}, ".if"),
    "unevaluatedProperties": ({"type": "object", "unevaluatedProperties": False}, ".unevaluatedProperties"),
    "contentEncoding": ({"type": "string", "contentEncoding": "base64"}, ".contentEncoding"),
    "keyword inside anyOf": ({"anyOf": [INTEGER, {"not": INTEGER}]}, ".anyOf[1].not"),
    "keyword inside $defs": ({"$defs": {"a": {"not": {}}}, "$ref": "#/$defs/a"}, ".$defs.a.not"),
    "keyword that does not exist": (obj({"a": {"type": "string", "minLenght": 3}}), ".properties.a.minLenght"),
    "OpenAPI's nullable": ({"type": "string", "nullable": True}, ".nullable"),
    "what turns checks off": ({"type": "string", "x-guidance": {"lenient": True}}, ".x-guidance"),
    "oneOf of overlapping kinds": ({"oneOf": [INTEGER, {"type": "number"}]}, ".oneOf"),
    "format without a grammar": (obj({"a": {"type": "string", "format": "regex"}}), ".properties.a.format"),
    "unknown format": ({"type": "string", "format": "frobnicate"}, ".format"),
    "word boundary in a pattern": (obj({"a": {"type": "string", "pattern": r"\bx"}}), ".properties.a.pattern"),
    "look-ahead in a pattern": ({"type": "string", "pattern": "^(?=a)b"}, ".pattern"),
    "step of very many states": ({"type": "integer", "multipleOf": 1_000_003}, ".multipleOf"),
    "steps that multiply": ({"allOf": [{**INTEGER, "multipleOf": 997}, {"multipleOf": 991}]}, ".allOf[1].multipleOf"),
    "number of free properties": ({"type": "object", "minProperties": 2}, ".minProperties"),
    "what nothing satisfies": (obj({"a": {"type": "integer", "minimum": 5, "maximum": 3}}), ".properties.a"),
    "bound beyond 64 bits": ({"type": "integer", "minimum": 10**20}, ""),
    "no such type": ({"type": "frobnicate"}, ".type"),
    "no such definition": ({"$ref": "#/nowhere"}, ""),
    "too many values": ({"enum": list(range(MOST_VALUES + 1))}, ".enum"),
    "too many properties": ({"properties": {str(n): {} for n in range(MOST_PROPERTIES + 1)}}, ".properties"),
    "too many alternatives": ({"anyOf": [{"const": n} for n in range(MOST_BRANCHES + 1)]}, ""),
    "what grows beyond bounds": (
        {"allOf": [{"anyOf": [{"properties": {f"a{i}{j}": INTEGER}} for i in range(5)]} for j in range(5)]},
        "",
    ),
}

NOT_BY_OPENVINO = {
    "number within bounds": ".minimum",
    "number within bounds, inside": ".properties.a.properties.x.minimum",
    "number within exclusive bounds": ".exclusiveMinimum",
    "bounds without a type": ".properties.b.minimum",
    "multiple of a whole number": ".multipleOf",
    "multiple of a half": ".multipleOf",
    "pattern and length": ".maxLength",
    "property that must not be": ".properties",
    "number of named properties": ".minProperties",
    "allOf of bounds": ".allOf",
    "allOf of objects": ".maxProperties",
    "$ref beside bounds": ".$ref",
    "format uri": ".maxLength",
}


@pytest.fixture(scope="module")
def engine(tiny_gguf):
    """Random weights: what it says without a grammar is no JSON."""
    engine = LlamaCppEngine(tiny_gguf, slots=1, context=2_000, threads=1)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(scope="module")
def openvino(byte_level_gguf):
    engine = OpenVinoEngine(byte_level_gguf, slots=1, context=2_000, threads=1)
    yield engine
    asyncio.run(engine.close())


@pytest.mark.parametrize("schema", ENFORCED.values(), ids=ENFORCED)
async def test_llama_cpp_enforces_the_keyword(engine, ask, schema):
    answer = await generate(engine, ask(max_tokens=400, response_format=form(schema)))
    assert answer.finish_reason == "stop"
    assert AnswerSchema(schema).problem(answer.text) is None


@pytest.mark.parametrize(("schema", "place"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_enforced_is_refused_by_name_and_place(schema, place):
    with pytest.raises(EngineRejected) as caught:
        grammar_of(form(schema))
    assert caught.value.param == ROOT + place
    assert str(caught.value).startswith(f"{ROOT}{place}: ")
    with pytest.raises(EngineRejected, match=r"^response_format\.json_schema\.schema"):
        enforced_schema(form(schema))  # which OpenVINO cannot either


@pytest.mark.parametrize("name", ENFORCED)
async def test_openvino_enforces_the_keyword_or_refuses_it_by_name(openvino, ask, name):
    wanted = ask(max_tokens=100, temperature=1.0, seed=3, response_format=form(ENFORCED[name]))
    if name in NOT_BY_OPENVINO:
        with pytest.raises(EngineRejected) as caught:
            await generate(openvino, wanted)
        assert caught.value.param == ROOT + NOT_BY_OPENVINO[name]
        return
    try:
        answer = await generate(openvino, wanted)
    except SchemaNotFollowed:
        assert name == "number without bounds"  # whose exponent the random model wrote to beyond every number
        return
    if answer.finish_reason == "stop":  # else the random model wrote spaces, or digits, without an end
        assert AnswerSchema(ENFORCED[name]).problem(answer.text) is None


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "string", "pattern": r"^\s$"}, ".pattern"),
        ({"type": "string", "pattern": "^a|b$"}, ".pattern"),
        ({"type": "string", "pattern": '^"$'}, ".pattern"),
        ({"type": "string", "pattern": "^[^a]$"}, ".pattern"),
        ({"type": "string", "pattern": "^.$"}, ".pattern"),
        ({"type": "string", "pattern": "(?i)^abc$"}, ".pattern"),
        ({"type": "string", "pattern": "^1", "format": "date"}, ".pattern"),
        ({"type": "object", "properties": {"b": INTEGER}, "required": ["zz"]}, ".required"),
        ({"$defs": {"a": {"$anchor": "x", "type": "null"}}, "$ref": "#x"}, ".$ref"),
        ({"type": "string", "maxLength": 5_000}, ".maxLength"),
        ({"type": "string", "pattern": "^([a-z]{100}){100}$"}, ".pattern"),
        ({"minimum": 3}, ".minimum"),
        ({"type": ["integer", "string"], "maximum": 3}, ".maximum"),
        ({"anyOf": [INTEGER], "maxLength": 3}, ".anyOf"),
    ],
)
def test_openvino_refuses_what_xgrammar_takes_and_does_not_keep(schema, place):
    with pytest.raises(EngineRejected) as caught:
        enforced_schema(form(schema))
    assert caught.value.param == ROOT + place
    for plain in ("^ab\\d{2,4}$", "[a-z_]+@[a-z.]+", "^(foo|ba[rz])?-x$", "^\\(\\d+\\)$"):
        assert enforced_schema(form({"type": "string", "pattern": plain}))


def test_grammars_are_checked_by_the_version_that_llama_cpp_contains():
    """By that of derivre, its part for regular expressions, which both binaries name: no other number is in them."""

    def inside(package: str) -> set[bytes]:
        (library,) = Path(importlib.util.find_spec(package).origin).parent.glob("*.so")
        return set(re.findall(rb"/derivre-([0-9.]+)/", library.read_bytes()))

    assert inside("llguidance") == inside("xllamacpp") != set()


def test_every_keyword_of_json_schema_is_enforced_or_refused():
    tried = {word for schema in ENFORCED.values() for word in _keywords(schema)}
    refused = {place.rpartition(".")[2] for _, place in REFUSED.values()}
    untried = ENFORCEABLE - tried - {"patternProperties", "additionalItems", "items"}
    assert untried == set()
    for keyword in KEYWORDS - ENFORCEABLE - refused:
        with pytest.raises(EngineRejected, match=r"schema\.\$?\w+: "):
            grammar_of(form({keyword: {}}))
    assert KEYWORDS.isdisjoint(ANNOTATIONS)


def _keywords(schema: object) -> set[str]:
    if isinstance(schema, dict):
        return set(schema).union(*map(_keywords, schema.values()))
    return set().union(*map(_keywords, schema)) if isinstance(schema, list) else set()


async def test_a_schema_may_refer_to_itself(engine, ask):
    node = obj({"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}})
    schema = {"$defs": {"node": node}, "$ref": "#/$defs/node"}
    chunks = [chunk async for chunk in engine.stream(ask(max_tokens=60, response_format=form(schema)))]
    if chunks[-1].finish_reason == "stop":  # else the random model went on to deeper ones
        assert AnswerSchema(schema).problem("".join(chunk.text for chunk in chunks)) is None


async def test_an_answer_that_is_cut_off_is_the_beginning_of_one_that_follows(engine, ask):
    wanted = form(obj({"words": {"type": "string", "minLength": 300}}))
    answer = await generate(engine, ask(max_tokens=40, response_format=wanted))
    assert answer.finish_reason == "length"
    assert answer.text.lstrip("{ \n\t").startswith('"words"')


async def test_an_object_without_a_word_about_others_has_its_named_properties_alone(engine, ask):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}}
    answer = await generate(engine, ask(max_tokens=100, response_format=form(schema)))
    assert set(json.loads(answer.text)) <= {"a"}
    free = await generate(engine, ask(max_tokens=40, response_format={"type": "json_object"}))
    assert free.text.startswith("{")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": INTEGER}, "additionalProperties": {"type": "null"}},
        {"allOf": [obj({"a": INTEGER}), obj({"b": INTEGER})]},
        {"$defs": {"a": obj({"a": INTEGER})}, "allOf": [{"$ref": "#/$defs/a"}, obj({"b": INTEGER})]},
        {"properties": {"b": INTEGER}, "anyOf": [obj({"a": INTEGER}), {"required": ["b"]}]},
        {"type": "object", "properties": {"a": INTEGER}, "patternProperties": {"^b": INTEGER}},
    ],
)
def test_an_object_that_says_more_of_others_stays_open(schema):
    assert grammar_of(form(schema)).begins('{"a": 1, "b": ') or grammar_of(form(schema)).begins('{"b": 1, "a": ')


NAMED = obj({"not": INTEGER, "properties": obj({"x": INTEGER}), "required": {"type": "boolean"}})
VALUES = {"enum": [{"not": 1}], "default": {"uniqueItems": True}}


@pytest.mark.parametrize(
    ("schema", "text", "begins"),
    [
        (NAMED, '{"not": 1, "properties": {"x": 2}, "required": true}', True),  # properties called as keywords are
        (VALUES, '{"not":1}', True),  # what stands in values is no keyword
        *((obj({"a": INTEGER}), text, False) for text in ("Here you are: {}", '{"a": "x"', '{"b": 1', "[1")),
    ],
)
def test_a_grammar_tells_how_an_answer_can_begin(schema, text, begins):
    assert grammar_of(form(schema)).begins(text) is begins


@pytest.mark.parametrize(
    ("answer", "follows"),
    [("1" * 400, True), ("3.0", True), ("1e999", False), ("NaN", False), ("-Infinity", False), ("00.5", False)],
)
def test_numbers_are_read_as_json_has_them(answer, follows):
    assert (AnswerSchema({"type": "number"}).problem(answer) is None) is follows


def test_formats_of_every_draft_are_checked_and_an_unknown_one_is_refused_at_its_place():
    assert AnswerSchema({"format": "uuid"}).problem('"no uuid"') == f"it breaks {ROOT}.format"
    assert AnswerSchema({"$schema": "http://json-schema.org/draft-07/schema#", "format": "duration"}).problem('"1h"')
    with pytest.raises(EngineRejected, match="nothing here can check the format 'phone'") as caught:
        AnswerSchema(obj({"a": {"anyOf": [{"type": "null"}, {"type": "string", "format": "phone"}]}}))
    assert caught.value.param == f"{ROOT}.properties.a.anyOf[1].format"


def test_a_schema_elsewhere_is_not_fetched():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = threading.Event()

        def watch() -> None:
            try:
                listener.accept()[0].close()
                asked.set()
            except OSError:
                pass

        threading.Thread(target=watch, daemon=True).start()
        with pytest.raises(EngineRejected, match="not a valid JSON schema"):
            grammar_of(form({"$ref": f"http://127.0.0.1:{listener.getsockname()[1]}/schema"}))
        assert not asked.is_set()


async def saying(*chunks: Chunk):
    for chunk in chunks:
        yield chunk


DAY = obj({"day": {"type": "string", "format": "date"}})


@pytest.mark.parametrize(
    ("schema", "chunks", "problem"),
    [
        (
            DAY,
            [Chunk('{"day":'), Chunk('"tomorrow"}'), Chunk("", "stop")],
            rf"it breaks {ROOT}\.properties\.day\.format$",
        ),
        # Each of several answers is held against the schema.
        (
            INTEGER,
            [Chunk("1"), Chunk("x", index=1), Chunk("", "stop"), Chunk("", "stop", Usage(1, 1), 1)],
            "it is not JSON$",
        ),
        # Prose that is cut off is not the beginning of JSON.
        (INTEGER, [Chunk("The answer"), Chunk("", "length")], "cut off at max_tokens"),
        ({"type": "object"}, [Chunk('{"a": '), Chunk("", "stop")], "not JSON; a stop string may have ended it$"),
    ],
    ids=["format", "several", "cut off", "stop string"],
)
async def test_an_answer_that_breaks_its_schema_is_never_sent_to_its_end(ask, schema, chunks, problem):
    request = ask(stop="}") if "stop string" in problem else ask()
    grammar = grammar_of(form(schema))
    answer = following(saying(*chunks), grammar.schema, request, grammar.begins)
    assert [await anext(answer) for _ in chunks[:-1]] == chunks[:-1]
    with pytest.raises(SchemaNotFollowed, match=problem):
        await anext(answer)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYWORDS, "a"]), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_whatever_stands_for_a_schema_is_taken_or_refused(value):
    refused = None
    try:
        grammar_of(form({"properties": value, **(value if isinstance(value, dict) else {})}))
    except EngineRejected as error:
        refused = error.param
    assert refused is None or refused.startswith(ROOT)

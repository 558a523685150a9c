from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.engine_host.schema_size import MOST_PATTERN_PARTS, check_schemas, pattern_parts
from llmops.engines.protocol import GenerationParameters, GenerationRequest
from llmops.errors import EngineRejected

UUID = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


def asking_for(schema):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return GenerationRequest((), GenerationParameters.from_mapping({"response_format": form}))


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("", 0),
        ("^abc$", 3),
        (r"^\d{4}-\d\d?$", 7),
        ("[a-z]*", 1),
        ("[]{3}]{2}", 2),
        (r"[\]{9}]", 1),
        ("(ab|c){3}x", 10),
        ("(?:a{2}b){3}", 9),
        ("(a{0,30}x?){0,30}", 930),
        ("a{,5}", 5),
        (UUID, 36),
    ],
)
def test_a_pattern_counts_what_it_may_repeat(pattern, parts):
    assert pattern_parts(pattern) == parts


@given(st.text("ab(){}[]\\*+?|^$,0123456789:", max_size=60))
def test_any_text_has_a_size(pattern):
    assert pattern_parts(pattern) >= 0


def test_a_pattern_that_would_hold_up_everybody_is_refused_by_the_name_of_its_field():
    nested = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^([a-z]{0,30}x?){0,30}$"}}}
    with pytest.raises(EngineRejected, match=f"more than {MOST_PATTERN_PARTS} characters") as raised:
        check_schemas(asking_for(nested))
    assert raised.value.param == "response_format"


def test_usual_patterns_pass():
    check_schemas(asking_for({"properties": {"id": {"pattern": UUID}, "day": {"pattern": r"^\d{4}-\d{2}-\d{2}$"}}}))

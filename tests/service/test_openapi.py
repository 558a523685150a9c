"""The OpenAPI document against a running gateway: schemathesis sends what it allows and what it does not."""

import collections
import copy

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def document(full_gateway):
    return full_gateway.http.get("/openapi.json").json()


@pytest.fixture(scope="module")
def answerable(document):
    """The document, narrowed to requests that can be answered: of models there are, ending with the user's turn."""
    document = copy.deepcopy(document)
    schemas = document["components"]["schemas"]
    served = {"enum": ["assistant", "assistant@champion", "assistant@1", "tiny@1"]}
    turn = {
        "type": "object",
        "properties": {"role": {"const": "user"}, "content": {"type": "string"}},
        "required": ["role", "content"],
        "additionalProperties": False,
    }
    for name in ("ChatRequest", "CompletionRequest", "ResponseRequest"):
        schemas[name]["properties"]["model"] = served
    schemas["EmbeddingRequest"]["properties"]["model"] = {"const": "all-minilm-l6-v2"}
    schemas["ChatRequest"]["properties"]["messages"] = {"type": "array", "minItems": 1, "maxItems": 3, "items": turn}
    asked = schemas["ResponseRequest"]
    asked["required"] = ["model", "input"]
    asked["properties"]["input"] = {"type": "string"}
    for name in ("ChatRequest", "CompletionRequest", "ResponseRequest"):
        for field in ("prompt_variables", "prompt", "tools", "logprobs", "top_logprobs", "include", "logit_bias"):
            if not (name == "CompletionRequest" and field == "prompt"):
                schemas[name]["properties"].pop(field, None)
    for path in document["paths"].values():
        for parameter in path.get("get", {}).get("parameters", ()):
            parameter["schema"] = served
    return document


def exercise(api, mode, examples, check):
    """Calls `check` with so many cases of each operation, the same ones each time."""
    for operation in (found.ok() for found in api.get_all_operations()):
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue
        strategy = operation.as_strategy(generation_mode=mode)
        chosen = settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        chosen(given(case=strategy)(check))()


@pytest.mark.parametrize("examples", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_what_the_document_allows_and_forbids_is_answered_as_it_says(full_gateway, document, answerable, examples):
    told = collections.Counter()

    def load(described):
        api = schemathesis.openapi.from_dict(described)
        api.config.update(base_url=full_gateway.url)
        # What breaks a bound of thousands is a body too large first, and is refused as such.
        refusals = api.config.checks.negative_data_rejection
        refusals.expected_statuses = [*refusals.expected_statuses, "413"]
        return api

    def answered(case):
        told[case.operation.path, case.call_and_validate(checks=CHECKS).status_code] += 1

    def refused(case):
        case.call_and_validate(checks=[*CHECKS, negative_data_rejection])

    exercise(load(document), GenerationMode.POSITIVE, examples // 2, answered)
    exercise(load(document), GenerationMode.NEGATIVE, examples // 2, refused)
    told.clear()
    exercise(load(answerable), GenerationMode.POSITIVE, examples, answered)
    asked = ("chat/completions", "completions", "responses", "embeddings", "models", "predict/bike")
    for path in (f"/v1/{each}" for each in asked):
        assert told[path, 200], f"no request to {path} was answered: {told}"

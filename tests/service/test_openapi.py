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

from tests.service.conftest import embed, release
from tests.service.tabular_models import Hours, version

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def gateway(serve_shared):
    models = {"tabular": [version(1, "champion")], "open_tabular": lambda _: Hours()}
    with serve_shared(release(1, "champion"), embed=embed, **models) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def document(gateway):
    return gateway.http.get("/openapi.json").json()


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


def all_kinds(url, document, answerable, examples):
    def load(described):
        api = schemathesis.openapi.from_dict(described)
        api.config.update(base_url=url)
        # What breaks a bound of thousands is a body too large first, and is refused as such.
        refusals = api.config.checks.negative_data_rejection
        refusals.expected_statuses = [*refusals.expected_statuses, "413"]
        return api

    told = collections.Counter()

    def answered(case):
        told[case.operation.path, case.call_and_validate(checks=CHECKS).status_code] += 1

    def refused(case):
        case.call_and_validate(checks=[*CHECKS, negative_data_rejection])

    exercise(load(document), GenerationMode.POSITIVE, examples // 2, answered)
    exercise(load(document), GenerationMode.NEGATIVE, examples // 2, refused)
    told.clear()
    exercise(load(answerable), GenerationMode.POSITIVE, examples, answered)
    return told


def test_what_the_document_allows_and_forbids_is_answered_as_it_says(gateway, document, answerable):
    told = all_kinds(gateway.url, document, answerable, 10)
    asked = ("chat/completions", "completions", "responses", "embeddings", "models", "predict/bike")
    for path in (f"/v1/{each}" for each in asked):
        assert told[path, 200], f"no request to {path} was answered: {told}"


@pytest.mark.slow
def test_hundreds_of_requests_to_each_route_are_answered_as_the_document_says(gateway, document, answerable):
    all_kinds(gateway.url, document, answerable, 300)

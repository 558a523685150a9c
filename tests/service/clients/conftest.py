"""One gateway for all clients: it says text back, and gives JSON where JSON is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmops.engines.fake import FakeEngine, echo
from llmops.engines.protocol import GenerationRequest

PERSON = {"name": "Ada", "age": 36}


def answer(request: GenerationRequest) -> str:
    return json.dumps(PERSON) if request.parameters.response_format else echo(request)


async def embed(texts: Any) -> tuple[list[list[float]], int]:
    """A vector that tells texts apart, and a token for each word."""
    vectors = [[float(len(text)), *[0.25] * 383] for text in texts]
    return vectors, sum(len(text.split()) for text in texts)


@pytest.fixture(scope="module")
def clients_gateway(serve_shared, release) -> Iterator[Any]:
    releases = [release(1), release(2, "champion"), release(3, tone="polite")]
    with serve_shared(*releases, engine=lambda model: FakeEngine(answer, name=model.ref), embed=embed) as gateway:
        yield gateway


@pytest.fixture
def base_url(clients_gateway) -> str:
    return f"{clients_gateway.url}/v1"

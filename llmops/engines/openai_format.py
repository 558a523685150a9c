"""OpenAI's chat request, as servers that speak it and llama.cpp itself take it."""

from __future__ import annotations

from typing import Any

from llmops.engines.protocol import GenerationRequest


def chat_body(request: GenerationRequest) -> dict[str, Any]:
    """The body of a streamed chat request that ends with token counts; parameters that are not set are left out."""
    parameters = request.parameters
    body: dict[str, Any] = {
        "messages": [dict(message) for message in request.messages],
        "max_tokens": parameters.max_tokens,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if parameters.stop:
        body["stop"] = list(parameters.stop)
    if parameters.seed is not None:
        body["seed"] = parameters.seed
    if parameters.response_format is not None:
        body["response_format"] = dict(parameters.response_format)
    return body

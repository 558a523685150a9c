"""The shapes of chat replies and errors, for the documentation; `replies` and `error_map` write the bytes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from service.schemas import ToolCall


class AssistantMessage(BaseModel):
    """The answer. content: null where the model only asks for tools, or refuses. What an upstream says beyond these
    (`reasoning_content`, `annotations` …) comes with it."""

    model_config = ConfigDict(extra="allow")

    role: Literal["assistant"] = "assistant"
    content: str | list[dict[str, Any]] | None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class TokenLogprobs(BaseModel):
    """How likely the answer's tokens were; entries as OpenAI has them."""

    content: list[dict[str, Any]] | None
    refusal: list[dict[str, Any]] | None = None


class Choice(BaseModel):
    """One of the `n` answers."""

    index: int
    message: AssistantMessage
    logprobs: TokenLogprobs | None = None
    finish_reason: str | None


class UsageCounts(BaseModel):
    """Tokens of one request, as far as they were counted; what an upstream says beyond these comes with it."""

    model_config = ConfigDict(extra="allow")

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class ChatCompletion(BaseModel):
    """The reply to a chat request that is not streamed. It documents the shape; `replies` writes the bytes."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: UsageCounts | None


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """Every error reply."""

    error: ErrorBody

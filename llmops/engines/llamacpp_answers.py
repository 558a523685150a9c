"""llama.cpp's stream of events as chunks: where it differs from what OpenAI says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmops.generation import UNKNOWN_USAGE, Chunk, Usage


class LlamaCppAnswers:
    """Reads the events of one request, which may have several answers side by side.

    llama.cpp counts the tokens of each answer by itself, somewhere in the stream; a chunk's usage is that of the whole
    request, and comes last. rivals: how many other tokens a log-probability is asked to name; llama.cpp may give more.
    """

    def __init__(self, rivals: int = 0) -> None:
        self._rivals = rivals
        self._usage = UNKNOWN_USAGE
        self._finish: Chunk | None = None

    def take(self, event: Mapping[str, Any]) -> Iterator[Chunk]:
        """The chunks of one event."""
        if usage := event.get("usage"):
            # The answers share one prompt.
            self._usage = Usage(usage["prompt_tokens"], (self._usage.tokens_out or 0) + usage["completion_tokens"])
        for choice in event.get("choices", ()):
            index, text = choice["index"], choice["delta"].get("content")
            # The first event of an answer has a role and no text.
            if text:
                yield Chunk(text, index=index, logprobs=self._logprobs(choice))
            if reason := choice.get("finish_reason"):
                if self._finish is not None:
                    yield self._finish
                self._finish = Chunk("", reason, index=index)

    def last(self) -> Chunk:
        """The chunk that ends the stream."""
        return dataclasses.replace(self._finish or Chunk("", "stop"), usage=self._usage)

    def _logprobs(self, choice: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        entries = (choice.get("logprobs") or {}).get("content") or ()
        return tuple(
            {**_entry(entry), "top_logprobs": [_entry(rival) for rival in entry["top_logprobs"][: self._rivals]]}
            for entry in entries
        )


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """As OpenAI has it, which gives no token ids."""
    return {name: entry[name] for name in ("token", "logprob", "bytes")}

"""The reference: a plain loop over the rows, one request at a time, on a server with one slot and no prompt cache.

Requests that are decoded together, and prompts that are read in pieces, are added up in another order, so a greedy
answer can leave the loop's at a token whose two best candidates are almost equally likely: a near-tie. The loop keeps
the candidates of every token, so that an answer that differs can be asked how near the tie was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.evaluation.outcome import Answer, AnswerKey
from benchmarks.evaluation.questions import MAX_TOKENS, PROMPTS, STOP, Question, contained
from benchmarks.evaluation.server import KEY, MODEL, serving

_CANDIDATES = 10
_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token. candidates: log-probability by text of the likeliest ones, itself among them, in nats."""

    text: str
    candidates: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reference:
    """The loop's answer to one row."""

    answer: Answer
    tokens: Sequence[Token]

    def parting(self, other: str) -> float:
        """How much likelier, in nats, the loop's token was than the one with which `other` leaves the loop's answer.

        0 for the same text; infinite when `other` leaves it with a token that was no candidate.
        """
        if other == self.answer.text:
            return 0.0
        before = ""
        gaps: list[float] = []
        for token in self.tokens:
            if not other.startswith(before):
                break
            gaps.append(_gap(token, other[len(before) :]))
            before += token.text
        # Two tokens can share their first letters: the last token that still fits may be one too late.
        return min(gaps[-2:], default=math.inf)


def _gap(token: Token, rest: str) -> float:
    """From the token to its likeliest other candidate that begins `rest`, or ends the answer when `rest` is empty."""
    others = [
        logprob
        for text, logprob in token.candidates.items()
        if text != token.text and (rest.startswith(text) if text and rest else not text.strip() and not rest)
    ]
    return token.candidates[token.text] - max(others) if others else math.inf


def plain_loop(gguf: Path, questions: Sequence[Question]) -> dict[AnswerKey, Reference]:
    """Answers every question under every prompt version, in order."""
    headers = {"authorization": f"Bearer {KEY}"}
    with (
        serving(gguf, slots=1, prompt_cache=False) as base_url,
        httpx.Client(headers=headers, timeout=_TIMEOUT) as client,
    ):
        return {
            (name, item.id): _reference(client, base_url, prompt, item)
            for name, prompt in PROMPTS.items()
            for item in questions
        }


def _reference(client: httpx.Client, base_url: str, prompt: str, question: Question) -> Reference:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt.replace("{{question}}", question.question)}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "stop": [STOP],
        "logprobs": True,
        "top_logprobs": _CANDIDATES,
    }
    response = client.post(f"{base_url}/chat/completions", json=body)
    response.raise_for_status()
    choice = response.json()["choices"][0]
    text: str = choice["message"]["content"]
    tokens = [_token(entry) for entry in choice["logprobs"]["content"]]
    return Reference(Answer(text, float(contained(question.answer, text))), tokens)


def _token(entry: Mapping[str, Any]) -> Token:
    candidates = {candidate["token"]: candidate["logprob"] for candidate in reversed(entry["top_logprobs"])}
    return Token(entry["token"], {**candidates, entry["token"]: entry["logprob"]})

"""Log-likelihoods of given answers with llama.cpp, which does not report those of a prompt's own tokens.

Each answer is walked token by token: the next token is forced by a bias, and the log-probability that is reported for
it is the one from before the bias. Answers that begin with the same tokens share that part of the walk, and the prompt
is read once, because the slot keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmops.engines.llamacpp_port import LlamaCppPort
from llmops.errors import EngineError, EngineRejected
from llmops.generation import Message

_FORCE = 1e4  # more than any two logits differ by
_WHOLE_VOCABULARY = 1_000_000

Complete = Callable[[dict[str, Any]], Mapping[str, Any]]


def loglikelihoods(
    port: LlamaCppPort, complete: Complete, messages: Sequence[Message], continuations: Sequence[str]
) -> tuple[list[float], int, int]:
    """For each continuation the summed log-probability of its tokens; and the tokens read: of the prompt, and walked.

    complete: sends one completion request to the engine and gives its reply; raises EngineError.

    Raises:
        EngineRejected: a continuation has no token. EngineError.
    """
    prompt = port.prompt(messages)
    context = port.tokens(prompt)
    whole = port.tokens("a")[-1]
    walked: dict[tuple[int, ...], float] = {}
    sums = []
    for text in continuations:
        own = tuple(port.tokens(prompt + text)[len(context) :])
        if not own:
            raise EngineRejected(f"the choice {text!r} has no token of its own", param="choices")
        for end in range(1, len(own) + 1):
            if own[:end] not in walked:
                walked[own[:end]] = _logprob(complete, [*context, *own[: end - 1]], own[end - 1], whole)
        sums.append(sum(walked[own[:end]] for end in range(1, len(own) + 1)))
    return sums, len(context), len(walked)


def _logprob(complete: Complete, before: list[int], token: int, whole: int) -> float:
    """Log-probability of `token` after the tokens `before`. whole: some token that is a whole character.

    Of a token that is only a part of a character llama.cpp tells nothing; it is then looked up among all tokens that
    might have stood in the place of `whole`.
    """
    told = _forced(complete, before, token, 1)
    if told is None:
        everything = _forced(complete, before, whole, _WHOLE_VOCABULARY)
        others = everything["top_logprobs"] if everything is not None else ()
        told = next((other for other in others if other["id"] == token), None)
    if told is None or told["id"] != token:
        raise EngineError(f"llama.cpp does not say how likely token {token} is")
    return float(told["logprob"])


def _forced(complete: Complete, before: list[int], token: int, told: int) -> Mapping[str, Any] | None:
    """What llama.cpp says of the token it was made to choose, and of the `told` likeliest; None when nothing."""
    body = {"prompt": before, "max_tokens": 1, "temperature": 0, "logprobs": told, "cache_prompt": True}
    logprobs = complete({**body, "logit_bias": [[token, _FORCE]]})["choices"][0]["logprobs"]
    found: Mapping[str, Any] | None = logprobs["content"][0] if logprobs else None
    return found

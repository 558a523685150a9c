"""Log-likelihoods of given answers with a transformers model, as lm-evaluation-harness computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmops.errors import ContextTooLong, EngineRejected


def loglikelihoods(
    model: Any, tokenizer: Any, device: str, prompt: str, continuations: Sequence[str]
) -> tuple[list[float], int, int]:
    """For each continuation the summed log-probability of its tokens after `prompt`; and the tokens read: of the
    prompt, of all continuations.

    The tokens of a continuation are those that `prompt + continuation` has beyond those of `prompt` alone. All of them
    are read in one padded batch.

    Raises:
        EngineRejected: a continuation has no token. ContextTooLong: the model's positions do not hold one.
    """
    import torch

    context = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole = [tokenizer(prompt + text, add_special_tokens=False)["input_ids"] for text in continuations]
    limit = getattr(model.config, "max_position_embeddings", None)
    for text, tokens in zip(continuations, whole, strict=True):
        if len(tokens) <= len(context):
            raise EngineRejected(f"the choice {text!r} has no token of its own", param="choices")
        if limit is not None and len(tokens) > limit:
            raise ContextTooLong(
                f"prompt and choice have {len(tokens)} tokens; the model holds {limit}", param="messages"
            )
    width = max(map(len, whole))
    padded = torch.tensor(
        [tokens + [tokenizer.pad_token_id] * (width - len(tokens)) for tokens in whole], device=device
    )
    mask = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens in whole], device=device)
    with torch.inference_mode():
        logits = model(input_ids=padded, attention_mask=mask).logits[:, len(context) - 1 : -1].float()
    logprobs = torch.log_softmax(logits, dim=-1)
    sums = []
    for row, tokens in enumerate(whole):
        own = torch.tensor(tokens[len(context) :], device=device)
        sums.append(float(logprobs[row, torch.arange(len(own), device=device), own].sum()))
    return sums, len(context), sum(len(tokens) - len(context) for tokens in whole)

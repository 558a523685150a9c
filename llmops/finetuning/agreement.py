"""Whether llama.cpp reads from the merged file what transformers computes: the two must agree token by token.

A file whose weights are in the wrong order loads without complaint and answers something else, so nothing is registered
before this was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from llmops.engines.llamacpp import LlamaCppEngine
from llmops.errors import CannotRun, Corrupted
from llmops.finetuning.lora import IGNORED, BaseModel
from llmops.finetuning.training_rows import TrainingRow
from llmops.generation import GenerationParameters, GenerationRequest, Message
from llmops.hashing import JsonData
from llmops.processes import run_async
from llmops.progress import ShowProgress

PROMPTS, TOKENS, RIVALS = 32, 16, 5
_CONTEXT = 4096
NEAR_TIE = 0.25
"""Nats between the two best tokens, below which the engines may choose differently: their arithmetic differs."""


@dataclass(frozen=True, slots=True)
class EngineAgreement(JsonData):
    """Greedy answers of llama.cpp, read again by transformers.

    tokens: compared. largest, mean: difference of a log-probability, in nats, among the likeliest RIVALS tokens of each
    position. near_ties: tokens where transformers would have chosen another one, by less than NEAR_TIE.
    """

    prompts: int
    tokens: int
    largest: float
    mean: float
    near_ties: int

    @property
    def text(self) -> str:
        """One sentence."""
        ties = f", {self.near_ties} chosen differently at near-ties" if self.near_ties else ", all chosen alike"
        return (f"llama.cpp and transformers agree on {self.tokens} tokens of {self.prompts} answers{ties}; "
                f"log-probabilities differ by {self.mean:.4f} on average, {self.largest:.3f} at most")  # fmt: skip


Told = tuple[str, float, dict[str, float]]
"""A token of an answer, its log-probability, and those of its rivals."""


def check_agreement(
    base: BaseModel,
    merged: Path,
    rows: Sequence[TrainingRow],
    shared_prefix: Sequence[Message],
    threads: int,
    show: ShowProgress,
) -> EngineAgreement:
    """Has llama.cpp answer greedily, as it does when it serves, and transformers read the answers.

    base: with the adapter. merged: the file, at float32. rows: whose prompts are answered. shared_prefix: the messages
    that they begin with.

    Raises Corrupted: the answers differ by more than a near-tie. CannotRun: none could be compared.
    """
    answers = run_async(lambda: _answers(merged, rows, tuple(shared_prefix), threads, show))
    texts = base.tokenizer.batch_decode([[token] for token in range(len(base.tokenizer))])
    ids = {text: token for token, text in enumerate(texts) if "\ufffd" not in text}  # whole characters
    differences: list[float] = []
    tokens = near_ties = 0
    for row, answer in zip(rows, answers, strict=True):
        encoded = base.encode(row)
        prompt = encoded.input_ids[: encoded.labels.count(IGNORED)]
        known = list(takewhile(lambda told: told[0] in ids, answer))
        read = _logprobs(base, prompt, [ids[told[0]] for told in known])
        for (text, own, rivals), logprobs in zip(known, read, strict=True):
            tokens += 1
            compared = {text: own, **{rival: value for rival, value in rivals.items() if rival in ids}}
            differences += [abs(value - float(logprobs[ids[each]])) for each, value in compared.items()]
            behind = float(logprobs.max() - logprobs[ids[text]])
            if behind > NEAR_TIE:
                raise Corrupted(
                    f"{merged.name}: in the answer to {row.id} llama.cpp says {text!r}, which transformers holds for "
                    f"less likely by {behind:.2f} nats: the merged weights are not what was trained"
                )
            near_ties += behind > 0
    if not tokens:
        raise CannotRun(f"{merged.name}: no answer of llama.cpp holds a token that could be compared")
    return EngineAgreement(len(rows), tokens, max(differences), sum(differences) / len(differences), near_ties)


async def _answers(
    merged: Path, rows: Sequence[TrainingRow], shared_prefix: tuple[Message, ...], threads: int, show: ShowProgress
) -> list[list[Told]]:
    engine = LlamaCppEngine(merged, slots=1, context=_CONTEXT, threads=threads, prompt_cache="template")
    answers: list[list[Told]] = []
    try:
        for row in rows:
            show("comparing with transformers", len(answers), len(rows))
            request = GenerationRequest(
                row.messages,
                GenerationParameters(max_tokens=TOKENS, temperature=0),
                {"logprobs": True, "top_logprobs": RIVALS},
                shared_prefix=shared_prefix,
            )
            text, told = "", list[Told]()
            async with aclosing(engine.stream(request)) as chunks:
                async for chunk in chunks:
                    text += chunk.text
                    for entry in chunk.logprobs:
                        rivals = {rival["token"]: rival["logprob"] for rival in entry["top_logprobs"]}
                        told.append((entry["token"], entry["logprob"], rivals))
            answers.append(_in_place(text, told))
    finally:
        await engine.close()
    return answers


def _in_place(text: str, told: Sequence[Told]) -> list[Told]:
    """The tokens up to the first that nothing was told of: a piece of a character."""
    placed, length = [], 0
    for each in told:
        if not text.startswith(each[0], length):
            break
        placed.append(each)
        length += len(each[0])
    return placed


def _logprobs(base: BaseModel, prompt: list[int], answer: list[int]) -> Any:
    """transformers' log-probabilities of every token at each position of the answer."""
    import torch

    if not answer:
        return []
    with torch.inference_mode():
        read = torch.tensor([prompt + answer], device=base.model.device)
        logits = base.model(input_ids=read).logits[0, len(prompt) - 1 : -1].float()
    return torch.log_softmax(logits, dim=-1).cpu()

"""Hugging Face transformers as an engine: the reference, for any model folder (or a GGUF, dequantised to float32).

Requests that wait together and share sampling parameters are decoded as one batch on one thread; each row leaves the
batch's stream when it ends, at its own token limit, or when its caller goes away.
"""

import asyncio
import math
import queue
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmops.engines.local import RequestUnderWay, from_thread
from llmops.engines.protocol import EngineIdentity, refuse_response_format
from llmops.errors import ContextTooLong, Corrupted, EngineError, EngineRejected, EngineUnavailable, first_line
from llmops.generation import Chunk, GenerationParameters, GenerationRequest, Message, Usage


def identity(slots: int) -> EngineIdentity:
    """What this engine will be, known before a model is loaded."""
    import torch

    build = f"transformers {version('transformers')}, torch {version('torch')}"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return EngineIdentity("transformers", build, {"slots": slots, "dtype": "float32", "device": device})


def load_pretrained(folder: Path, kind: str, no_packages: str, *, gguf_file: str | None = None) -> tuple[Any, Any]:
    """The tokenizer and the float32 model of a folder saved by `save_pretrained`, with safetensors weights or a GGUF.

    kind: transformers' class of the model. no_packages: what to say where torch or transformers is missing.

    Raises Corrupted: they cannot be loaded. EngineUnavailable: with `no_packages`.
    """
    try:
        import transformers
        from safetensors import SafetensorError
    except ImportError as error:
        raise EngineUnavailable(no_packages) from error
    source: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    weights: dict[str, Any] = source or {"use_safetensors": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **source)
        model = getattr(transformers, kind).from_pretrained(
            str(folder), dtype="float32", local_files_only=True, **weights
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise Corrupted(f"{folder}: transformers cannot load this model: {first_line(error)}") from error
    return tokenizer, model.eval()


@dataclass(eq=False)
class _Row(RequestUnderWay):
    """One row of a batch."""

    prompt: str = ""
    prompt_tokens: int = 0
    finish_reason: str | None = None


class TransformersEngine:
    """A folder saved by `save_pretrained` with safetensors weights and a tokenizer, or a folder and a GGUF's name."""

    def __init__(
        self, folder: Path, *, gguf_file: str | None = None, slots: int = 8, threads: int | None = None
    ) -> None:
        """Loads the model on the CPU at float32 (GPU when there is one). Raises Corrupted, EngineUnavailable."""
        no_packages = "the transformers engine needs the packages torch and transformers"
        self._tokenizer, self._model = load_pretrained(folder, "AutoModelForCausalLM", no_packages, gguf_file=gguf_file)
        if threads:
            import torch

            torch.set_num_threads(threads)
        self.identity, self.slots, self.supported_extras = identity(slots), slots, frozenset[str]()
        self._device = self.identity.settings["device"]
        self._model.to(self._device)
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._waiting: queue.Queue[_Row | None] = queue.Queue()
        self._thread = threading.Thread(target=self._serve, name="transformers", daemon=True)
        self._thread.start()

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        refuse_response_format("transformers", request.parameters.response_format)
        return from_thread(lambda send, cancelled: self._waiting.put(_Row(request, send, cancelled)))

    async def loglikelihoods(
        self, messages: Sequence[Message], continuations: Sequence[str]
    ) -> tuple[list[float], Usage]:
        return await asyncio.to_thread(self._loglikelihoods, GenerationRequest(tuple(messages)), continuations)

    async def close(self) -> None:
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)
        self._model = None

    def _serve(self) -> None:
        """The engine thread: takes what waits, batch by batch, until `close`."""
        left_over: list[_Row] = []
        while True:
            row = left_over.pop(0) if left_over else self._waiting.get()
            if row is None:
                return
            batch, left_over = self._gather(row, left_over)
            batch = [member for member in batch if not member.cancelled.is_set()]
            try:
                for part in self._parts(batch):
                    self._decode(part)
            except Exception as error:  # noqa: BLE001 - handed to the callers, who raise it
                for row in batch:
                    if row.finish_reason is None:
                        row.send(EngineError(f"transformers failed: {type(error).__name__}: {error}"))

    def _gather(self, first: _Row, left_over: list[_Row]) -> tuple[list[_Row], list[_Row]]:
        """Rows that wait now and can be decoded together with `first`; and the others."""
        candidates = list(left_over)
        with suppress(queue.Empty):
            while (row := self._waiting.get_nowait()) is not None:
                candidates.append(row)
            self._waiting.put(None)  # of `close`, which comes after all of them
        same = [row for row in candidates if _sampling(row) == _sampling(first)][: self.slots - 1]
        return [first, *same], [row for row in candidates if row not in same]

    def _decode(self, batch: list[_Row]) -> None:
        import torch

        texts = [row.prompt for row in batch]
        encoded = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(self._device)
        parameters = batch[0].request.parameters
        sampled = parameters.temperature > 0
        if sampled and parameters.seed is not None:
            torch.manual_seed(parameters.seed)
        prompt_length = encoded["input_ids"].shape[1]

        def stop_rows(ids: Any, _scores: Any, **_: Any) -> Any:
            for row, last in zip(batch, ids[:, -1].tolist(), strict=True):
                if ids.shape[1] > prompt_length and row.finish_reason is None:
                    self._take(row, last)
            return torch.tensor([row.finish_reason is not None for row in batch], device=ids.device)

        with torch.inference_mode():
            self._model.generate(
                **encoded,
                max_new_tokens=max(row.request.parameters.max_tokens for row in batch),
                do_sample=sampled,
                **({"temperature": parameters.temperature, "top_p": parameters.top_p} if sampled else _GREEDY),
                pad_token_id=self._tokenizer.pad_token_id,
                stopping_criteria=[stop_rows],
            )
        for row in batch:
            if row.finish_reason is None:
                self._end(row, "length")

    def _parts(self, batch: list[_Row]) -> Iterator[list[_Row]]:
        """The rows in parts, each of which the model's positions hold: a row that has ended goes on with its part, so
        that the longest prompt and the longest answer count, whosever they are. Rows that do not fit alone are told."""
        limit = getattr(self._model.config, "max_position_embeddings", None) or math.inf
        part: list[_Row] = []
        for row in batch:
            try:
                row.prompt = self._prompt(row.request)
            except Exception as error:  # noqa: BLE001 - a template raises what it likes; its neighbours must not fail
                row.send(EngineRejected(f"the model's chat template refuses the messages: {error}", param="messages"))
                continue
            row.prompt_tokens = len(self._tokenizer(row.prompt, add_special_tokens=False)["input_ids"])
            if _positions([row]) > limit:
                asked = (
                    f"the prompt has {row.prompt_tokens} tokens and asks for {row.request.parameters.max_tokens} more"
                )
                row.send(ContextTooLong(f"{asked}; the model holds {limit}", param="messages"))
            elif _positions([*part, row]) > limit:
                yield part
                part = [row]
            else:
                part.append(row)
        if part:
            yield part

    def _prompt(self, request: GenerationRequest) -> str:
        messages = [dict(message) for message in request.messages]
        if self._tokenizer.chat_template:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return "\n".join(f"{message['role']}: {message['content']}" for message in messages) + "\nassistant:"

    def _take(self, row: _Row, token: int) -> None:
        """Adds one decoded token to a row: sends the new text, or ends the row."""
        if row.cancelled.is_set():
            row.finish_reason = "cancelled"
            return
        configured = getattr(self._model.generation_config, "eos_token_id", None)
        if token in (*(configured if isinstance(configured, list) else [configured]), self._tokenizer.eos_token_id):
            self._end(row, "stop")
            return
        row.tokens.append(token)
        piece, stopped = row.text.grown(self._tokenizer.decode(row.tokens, skip_special_tokens=True))
        if piece:
            row.send(Chunk(piece))
        if stopped or len(row.tokens) >= row.request.parameters.max_tokens:
            self._end(row, "stop" if stopped else "length", by_stop_string=stopped)

    def _end(self, row: _Row, reason: str, *, by_stop_string: bool = False) -> None:
        """Ends the row's stream at once, whatever the rest of its batch still does."""
        row.finish_reason = reason
        if not by_stop_string:
            rest = row.text.ended(self._tokenizer.decode(row.tokens, skip_special_tokens=True))
            if rest:
                row.send(Chunk(rest))
        row.send(Chunk("", reason, Usage(row.prompt_tokens, len(row.tokens))))
        row.send(None)

    def _loglikelihoods(self, request: GenerationRequest, continuations: Sequence[str]) -> tuple[list[float], Usage]:
        """The tokens of a continuation are those that it adds to the prompt's. All are read in one padded batch. Raises
        EngineRejected: a continuation has no token. ContextTooLong: the model's positions do not hold one."""
        import torch

        prompt = self._prompt(request)
        context = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        whole = [self._tokenizer(prompt + text, add_special_tokens=False)["input_ids"] for text in continuations]
        limit = getattr(self._model.config, "max_position_embeddings", None)
        for text, tokens in zip(continuations, whole, strict=True):
            if len(tokens) <= len(context):
                raise EngineRejected(f"the choice {text!r} has no token of its own", param="choices")
            if limit is not None and len(tokens) > limit:
                problem = f"prompt and choice have {len(tokens)} tokens; the model holds {limit}"
                raise ContextTooLong(problem, param="messages")
        width, pad = max(map(len, whole)), self._tokenizer.pad_token_id
        padded = torch.tensor([tokens + [pad] * (width - len(tokens)) for tokens in whole], device=self._device)
        mask = torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens in whole], device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=padded, attention_mask=mask).logits[:, len(context) - 1 : -1].float()
        logprobs = torch.log_softmax(logits, dim=-1)
        sums = []
        for row, tokens in enumerate(whole):
            own = torch.tensor(tokens[len(context) :], device=self._device)
            sums.append(float(logprobs[row, torch.arange(len(own), device=self._device), own].sum()))
        return sums, Usage(len(context), sum(len(tokens) - len(context) for tokens in whole))


def _positions(rows: Sequence[_Row]) -> int:
    """Of the model, that decoding these rows together takes."""
    return max(row.prompt_tokens for row in rows) + max(row.request.parameters.max_tokens for row in rows)


# None in place of a number keeps transformers from warning that a sampling default of the model is unused.
_GREEDY: dict[str, Any] = {"temperature": None, "top_p": None, "top_k": None}


def _sampling(row: _Row) -> tuple[object, ...]:
    """What rows of one batch must share. A seeded sample is decoded alone, so that its neighbours cannot change it."""
    parameters: GenerationParameters = row.request.parameters
    alone = id(row) if parameters.temperature > 0 and parameters.seed is not None else None
    return (parameters.temperature, parameters.top_p if parameters.temperature > 0 else None, alone)

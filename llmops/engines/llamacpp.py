"""llama.cpp in this process, through the prebuilt xllamacpp wheel: the default engine for GGUF files.

Requests run on threads, one for each slot; llama.cpp batches the slots' decoding. Requests beyond the slots wait in
our own queue, where a cancelled one is dropped at once (llama.cpp cannot cancel what waits inside it).
"""

import asyncio
import dataclasses
import queue
import re
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llmops.engines.llamacpp_port import LlamaCppPort, Quiet, TemplateStates, loglikelihoods
from llmops.engines.local import check_gguf, from_thread
from llmops.engines.openai_format import chat_body
from llmops.engines.protocol import EngineIdentity
from llmops.engines.schemas import grammar_of
from llmops.engines.zeroed_memory import mapped, release_zeros
from llmops.errors import ContextTooLong, Corrupted, EngineError, EngineRejected, EngineUnavailable
from llmops.generation import UNKNOWN_USAGE, Chunk, GenerationRequest, Message, Usage
from llmops.json_schema import following

SUPPORTED_EXTRAS = frozenset({"n", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "logit_bias"})
"""What it was seen to obey. `n` is at most the slots. Penalties look back over 64 tokens, the prompt's among them.
Tokens that end in the middle of a character have no entry in `logprobs`. Not tools: a call that was required came as
prose."""
_MICRO_BATCH, _UNIFIED_CACHE = 512, False
"""Tokens of a prompt read together, and whether slots share one key-value cache: said to llama.cpp, since both change
the order of sums, and by that greedy answers where two tokens are almost equally likely."""
_FIELD = re.compile(r"Field '(\w+)'")  # how its refusals name the field at fault
_opening = threading.Lock()  # no other engine's new cache may be in use while memory is given back
_RANDOM_SEED = 2**32 - 1  # seeds have 32 bits, and this one, which -1 is too, stands for a new one each time


def identity(slots: int, context: int, prompt_cache: str = "no", weights: str = "stored") -> EngineIdentity:
    """What this engine will be, known before anything is loaded."""
    settings: dict[str, Any] = {"slots": slots, "context": context, "cache": prompt_cache, "weights": weights}
    settings |= {"micro_batch": _MICRO_BATCH, "unified_cache": _UNIFIED_CACHE}
    return EngineIdentity("llamacpp", f"xllamacpp {version('xllamacpp')}", settings)


class LlamaCppEngine:
    """One GGUF file, decoded by `slots` requests side by side, each with `context` tokens of its own.

    prompt_cache: `template`, every request starts from what was read of its template once, and from nothing else, so
    that an answer depends on template, request and what is decoded beside it. `slots`, a slot keeps whatever its next
    prompt begins with alike: less to read where prompts share a passage too, but a near-tie of a greedy answer can then
    fall either way, by what the slot answered before. `no`, every prompt is read whole.
    """

    def __init__(
        self, path: Path, *, slots: int, context: int, threads: int, prompt_cache: str = "no", weights: str = "stored"
    ) -> None:
        """Loads the file. weights: `wide` when `wide_path` chose it, else `stored`; for the identity alone. Raises
        Corrupted: it is no readable GGUF file. EngineUnavailable: xllamacpp is missing."""
        try:
            import xllamacpp
        except ImportError as error:
            raise EngineUnavailable("the llamacpp engine needs the package xllamacpp") from error
        check_gguf(path)
        self.identity, self.slots, self.supported_extras = (
            identity(slots, context, prompt_cache, weights),
            slots,
            SUPPORTED_EXTRAS,
        )
        self._prompt_cache = prompt_cache
        # The object also listens on a loopback port; a random key that only we know closes it.
        key = secrets.token_urlsafe(32)
        self._states, self._quiet = TemplateStates(), Quiet()
        parameters = _parameters(xllamacpp, path, slots, context, threads, key)
        parameters.slot_save_path = self._states.folder
        try:
            with _opening:
                before = mapped()
                self._server: Any = xllamacpp.Server(parameters)
                release_zeros(before)  # of the cache, which nobody uses yet
        except RuntimeError as error:
            self._states.remove()
            raise Corrupted(f"{path}: llama.cpp cannot load this file: {error}") from error
        self._port = LlamaCppPort(self._server.listening_address, key)
        self._free_slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(slots):
            self._free_slots.put(slot)
        self._threads = ThreadPoolExecutor(max_workers=slots, thread_name_prefix="llamacpp")

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        wanted = request.parameters.response_format
        grammar = await asyncio.to_thread(grammar_of, wanted) if wanted is not None else None
        chunks = self._answers(request, {} if grammar is None else {"grammar": grammar.text})
        if grammar is not None:
            chunks = following(chunks, grammar.schema, request, grammar.begins)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def _answers(self, request: GenerationRequest, grammar: Mapping[str, str]) -> AsyncGenerator[Chunk, None]:
        body = {**chat_body(request), **grammar, "cache_prompt": self._prompt_cache == "slots"}
        body.pop("response_format", None)  # it would win, silently, over the grammar that enforces it
        if "seed" in body:
            body["seed"] %= _RANDOM_SEED
        if body.get("logprobs"):
            body["top_logprobs"] = max(1, body.get("top_logprobs") or 0)  # asked for none, it gives no probabilities
        answers = LlamaCppAnswers(rivals=request.extras.get("top_logprobs") or 0)
        events: AsyncGenerator[Mapping[str, Any], None] = from_thread(
            lambda send, cancelled: self._threads.submit(self._run, body, request.shared_prefix, cancelled, send)
        )
        async with aclosing(events):
            async for event in events:
                for chunk in answers.take(event):
                    yield chunk
        yield answers.last()

    async def prime(self, messages: Sequence[Message]) -> None:
        """Reads the messages while nothing else is decoded, where the prompt cache keeps them."""
        if self._prompt_cache == "no":
            return
        # Into every slot where what was read of the last template may be all that a slot keeps.
        for slot in range(self.slots if self._prompt_cache == "slots" else 1):
            work = self._threads.submit(self._states.put, messages, slot, self._port, self._read)
            await asyncio.wrap_future(work)

    def _read(self, messages: Sequence[Message], slot: int) -> None:
        """On an engine thread: reads messages into a slot, whatever it held, as soon as nothing else is decoded. Raises
        EngineError."""
        body = {"messages": [dict(message) for message in messages], "max_tokens": 1, "temperature": 0}
        with self._quiet.alone():
            self._whole(self._server.handle_chat_completions, {**body, "cache_prompt": False, "id_slot": slot})

    async def loglikelihoods(
        self, messages: Sequence[Message], continuations: Sequence[str]
    ) -> tuple[list[float], Usage]:
        work = self._threads.submit(loglikelihoods, self._port, self._complete, messages, continuations)
        sums, tokens_in, tokens_out = await asyncio.wrap_future(work)
        return sums, Usage(tokens_in, tokens_out)

    def _complete(self, body: dict[str, Any]) -> Mapping[str, Any]:
        """On an engine thread: one completion. Raises EngineError."""
        with self._quiet.decoding():
            return self._whole(self._server.handle_completions, body)

    def _whole(self, ask: Callable[[dict[str, Any]], Mapping[str, Any]], body: dict[str, Any]) -> Mapping[str, Any]:
        """A reply that is not streamed. Raises EngineError."""
        try:
            reply = ask(body)
        except ValueError as error:
            raise EngineRejected(f"llama.cpp refused the request: {error}") from error
        if "error" in reply:
            raise _translate(reply["error"])
        return reply

    def _run(
        self,
        body: dict[str, Any],
        shared_prefix: Sequence[Message],
        cancelled: threading.Event,
        send: Callable[[Any], None],
    ) -> None:
        """On an engine thread: decodes one request, handing over chunks, then None; an error is handed over instead."""
        if cancelled.is_set():
            return

        def on_chunk(chunk: Mapping[str, Any]) -> bool:
            send(_translate(chunk["error"]) if "error" in chunk else chunk)
            return cancelled.is_set()

        slot = self._free_slots.get()  # there are as many as threads
        try:
            if self._prompt_cache == "template" and shared_prefix:
                self._states.put(shared_prefix, slot, self._port, self._read)
                body.update(id_slot=slot, cache_prompt=True)
            with self._quiet.decoding():
                self._server.handle_chat_completions(body, on_chunk)
        except EngineError as error:
            send(error)
        except ValueError as error:
            send(EngineRejected(f"llama.cpp refused the request: {error}"))
        except Exception as error:  # noqa: BLE001 - handed to the caller, who raises it
            send(EngineError(f"llama.cpp failed: {error}"))
        else:
            send(None)
        finally:
            self._free_slots.put(slot)

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        self._port.close()
        self._server = None
        self._states.remove()


def _parameters(xllamacpp: Any, path: Path, slots: int, context: int, threads: int, key: str) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_parallel = slots
    parameters.n_ctx = slots * context  # llama.cpp shares it out among the slots
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.n_ubatch, parameters.kv_unified = _MICRO_BATCH, _UNIFIED_CACHE
    parameters.verbosity = 0
    parameters.cache_ram_mib = 0  # else prompts of the past fill 8 GiB; what is worth keeping, `prime` keeps
    parameters.api_keys = [key]
    return parameters


def _translate(error: Mapping[str, Any]) -> EngineError:
    message = str(error.get("message", "unknown error"))
    if error.get("type") == "exceed_context_size_error":
        return ContextTooLong(
            f"the prompt has {error.get('n_prompt_tokens')} tokens, the engine's context holds {error.get('n_ctx')}",
            param="messages",
        )
    code = int(error.get("code") or 500)
    if not 400 <= code < 500:
        return EngineError(message)
    field = _FIELD.match(message)
    return EngineRejected(message, param=field[1] if field else None)


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

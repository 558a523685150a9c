"""OpenVINO's continuous batching, for GGUF files: the engine with the most tokens a second where many requests wait.

Its threads do not spin, so it keeps its speed on busy cores; one request alone is slower than with llama.cpp. One
thread of ours hands in requests, runs the scheduler step by step and reads what each step decoded.
"""

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmops.engines.local import RequestUnderWay, check_gguf, from_thread
from llmops.engines.protocol import EngineIdentity
from llmops.engines.schemas import enforced_schema
from llmops.errors import ContextTooLong, Corrupted, EngineError, EngineRejected, EngineUnavailable
from llmops.generation import Chunk, GenerationRequest, Usage
from llmops.json_schema import following

SUPPORTED_EXTRAS = frozenset({"presence_penalty", "frequency_penalty"})
_PACKAGE = "openvino-genai"
_MISSING = f"the openvino engine needs the package {_PACKAGE}: pip install 'llmops[openvino]'"

_CLEANING_STEPS = 3
_UNSETTLED = 16  # tokens at the end that are decoded again with each new one
_REASONS = {"STOP": "stop", "LENGTH": "length", "TOOL_CALL": "stop"}


def identity(slots: int, context: int, prompt_cache: str = "no", weights: str = "stored") -> EngineIdentity:
    """What this engine will be, known before anything is loaded. Raises EngineUnavailable."""
    try:
        build = f"{_PACKAGE} {version(_PACKAGE)}"
    except PackageNotFoundError as error:
        raise EngineUnavailable(_MISSING) from error
    settings = {"slots": slots, "context": context, "cache": prompt_cache, "weights": weights}
    return EngineIdentity("openvino", build, settings)


@dataclass(eq=False)
class _Row(RequestUnderWay):
    """schema: the JSON schema that the answer must follow, as text. handle: None before it begins and after its end.
    read: how many tokens are decoded for good, to `settled`."""

    schema: str | None = None
    handle: Any = None
    tokens_in: int = 0
    settled: str = ""
    read: int = 0


class OpenVinoEngine:
    """One GGUF file, decoded by `slots` requests side by side, each with `context` tokens of its own.

    prompt_cache: `slots`, the beginning that prompts share is read once and kept; otherwise every prompt is read whole.
    """

    def __init__(
        self, path: Path, *, slots: int, context: int, threads: int, prompt_cache: str = "no", weights: str = "stored"
    ) -> None:
        """Loads the file: seconds. weights: `wide` when `wide_path` chose it, else `stored`; for the identity alone.

        OpenVINO rounds the offsets of Q4_1 to whole steps, which costs SmolLM2 a third of its right answers: a file of
        that kind should be held wide.

        Raises Corrupted: it is no GGUF file that OpenVINO reads. EngineUnavailable: openvino-genai is missing.
        """
        try:
            import openvino_genai
        except ImportError as error:
            raise EngineUnavailable(_MISSING) from error
        check_gguf(path)
        self._genai: Any = openvino_genai
        self.identity, self.slots, self.supported_extras = (
            identity(slots, context, prompt_cache, weights),
            slots,
            SUPPORTED_EXTRAS,
        )
        self._context = context
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_seqs = slots
        scheduler.enable_prefix_caching = prompt_cache == "slots"
        try:
            self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(
                str(path), scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads}
            )
        except RuntimeError as error:
            raise Corrupted(f"{path}: OpenVINO cannot load this file: {_last_line(error)}") from error
        self._tokenizer = self._pipeline.get_tokenizer()
        self._ids = itertools.count()
        self._arrived: queue.Queue[_Row | None] = queue.Queue()
        self._open: list[_Row] = []
        self._thread = threading.Thread(target=self._serve, name="openvino", daemon=True)
        self._thread.start()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        wanted = request.parameters.response_format
        text, schema = await asyncio.to_thread(enforced_schema, wanted) if wanted is not None else (None, None)
        chunks: AsyncGenerator[Chunk, None] = from_thread(
            lambda send, cancelled: self._arrived.put(_Row(request, send, cancelled, text))
        )
        if schema is not None:
            chunks = following(chunks, schema, request)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def close(self) -> None:
        self._arrived.put(None)
        await asyncio.to_thread(self._thread.join)
        self._pipeline = self._tokenizer = None

    def _serve(self) -> None:
        """The engine thread: hands in what came, decodes a token of everything, until `close`."""
        closing = False
        while not (closing and not self._open):
            closing = self._take_in(wait=not self._open) or closing
            if not self._open:
                continue
            try:
                self._pipeline.step()
            except Exception as error:  # noqa: BLE001 - handed to the callers, who raise it
                for row in self._open:
                    with contextlib.suppress(RuntimeError):
                        row.handle.cancel()
                    row.send(EngineError(f"OpenVINO failed: {_last_line(error)}"))
                self._open = []
                self._clean()
                continue
            for row in self._open:
                self._read(row)
            self._open = [row for row in self._open if row.handle is not None]
            if not self._open:
                self._clean()

    def _take_in(self, *, wait: bool) -> bool:
        """Hands in the requests that arrived; whether `close` was called. wait: until there is one."""
        with contextlib.suppress(queue.Empty):
            while True:
                row = self._arrived.get(block=wait)
                wait = False
                if row is None:
                    return True
                if not row.cancelled.is_set():
                    self._begin(row)
        return False

    def _begin(self, row: _Row) -> None:
        try:
            messages = [{"role": turn["role"], "content": turn["content"]} for turn in row.request.messages]
            try:
                text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)
            except RuntimeError as error:
                problem = f"the model's chat template refuses the messages: {_last_line(error)}"
                raise EngineRejected(problem, param="messages") from error
            prompt = self._tokenizer.encode(text, add_special_tokens=False).input_ids  # of shape (1, tokens)
            row.tokens_in = prompt.shape[1]
            if row.tokens_in >= self._context:
                raise ContextTooLong(
                    f"the prompt has {row.tokens_in} tokens, the engine's context holds {self._context}",
                    param="messages",
                )
            row.handle = self._pipeline.add_request(next(self._ids), prompt, self._config(row))
        except EngineError as error:
            row.send(error)
        except Exception as error:  # noqa: BLE001 - handed to the caller, who raises it
            row.send(EngineRejected(f"OpenVINO refused the request: {_last_line(error)}"))
        else:
            self._open.append(row)

    def _config(self, row: _Row) -> Any:
        parameters, extras = row.request.parameters, row.request.extras
        config = self._genai.GenerationConfig()
        config.max_new_tokens = min(parameters.max_tokens, self._context - row.tokens_in)
        config.do_sample = parameters.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p = parameters.temperature, parameters.top_p
            if parameters.seed is not None:
                config.rng_seed = parameters.seed % 2**63
        if parameters.stop:
            config.stop_strings = set(parameters.stop)
            config.include_stop_str_in_output = True  # what comes before it is cut off here, as for every engine
        for name in SUPPORTED_EXTRAS & extras.keys():
            setattr(config, name, float(extras[name] or 0))
        if row.schema is not None:
            config.structured_output_config = self._genai.StructuredOutputConfig(json_schema=row.schema)
        return config

    def _read(self, row: _Row) -> None:
        """Hands on what the last step decoded; ends the row where it ended. A row that ended has no handle."""
        if row.cancelled.is_set():
            row.handle.cancel()
            row.handle = None
            return
        reason = None
        while row.handle.can_read():
            for output in row.handle.read().values():
                row.tokens += output.generated_ids
                reason = _REASONS.get(output.finish_reason.name, reason)
        if not row.tokens and reason is None:
            return
        ends = self._tokenizer.get_eos_token_id()
        shown = row.tokens[:-1] if reason == "stop" and row.tokens and row.tokens[-1] == ends else row.tokens
        text = self._decoded(row, shown)
        piece, stopped = row.text.grown(text)
        if reason is not None and not stopped:
            piece += row.text.ended(text)
        if piece:
            row.send(Chunk(piece))
        if reason is not None or stopped:
            row.send(Chunk("", "stop" if stopped else reason, Usage(row.tokens_in, len(row.tokens))))
            row.send(None)
            if reason is None:
                row.handle.stop()
            row.handle = None

    def _decoded(self, row: _Row, tokens: list[int]) -> str:
        """The answer so far. Only the last tokens are decoded anew: a token can change the text of its neighbours, not
        of those long before it."""
        text = row.settled + self._decode(tokens[row.read :])
        if len(tokens) - row.read > 2 * _UNSETTLED:
            # Cut where decoding in two parts gives the same, which is seen by doing so.
            cut = len(tokens) - _UNSETTLED
            head, tail = self._decode(tokens[row.read : cut]), self._decode(tokens[cut:])
            if row.settled + head + tail == text:
                row.settled, row.read = row.settled + head, cut
        return text

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens)) if tokens else ""

    def _clean(self) -> None:
        """What was cancelled leaves with the next step, which must not be that of other requests."""
        for _ in range(_CLEANING_STEPS):
            if not self._pipeline.has_non_finished_requests():
                return
            with contextlib.suppress(RuntimeError):
                self._pipeline.step()


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]

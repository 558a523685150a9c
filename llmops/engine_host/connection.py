"""The engine process's end of one worker's connection: one operation, cancelled when the worker closes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from llmops.engine_host.frames import Answer, BadFrame, FrameSplitter, Operation, operation, pack
from llmops.errors import EngineError, EngineUnavailable, LlmopsError

logger = logging.getLogger("llmops.engine_host")

Serve = Callable[[Operation, "Connection"], Coroutine[Any, Any, None]]


class Connection(asyncio.Protocol):
    """Reads one operation, lets `serve` answer it, and closes.

    Answers that are ready together leave in one write: at dozens of tokens a moment, system calls are what costs.
    """

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._splitter = FrameSplitter()
        self._task: asyncio.Task[None] | None = None
        self._unsent: list[bytes] = []
        self._flushing: asyncio.Handle | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def send(self, answer: Answer, *, within: float = 0.0) -> None:
        """Sends the answer, at the latest after `within` seconds, together with others that come until then."""
        self._unsent.append(pack(answer))
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.call_later(within, self._flush) if within else loop.call_soon(self._flush)

    async def ready(self) -> None:
        """Waits while the worker reads more slowly than answers come."""
        await self._writable.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._splitter.feed(data):
                if self._task is not None:
                    raise BadFrame("a second operation on one connection")
                self._task = asyncio.get_running_loop().create_task(self._run(operation(frame)))
        except BadFrame as error:
            logger.warning("a worker sent a bad frame: %s", error)
            self._cancel()
            self._end(EngineError(f"the engine process does not understand this request: {error}"))

    def eof_received(self) -> None:
        self._cancel()

    def connection_lost(self, _error: Exception | None) -> None:
        self._writable.set()
        self._cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, asked: Operation) -> None:
        try:
            await self._serve(asked, self)
        except asyncio.CancelledError:
            # Either the worker has gone, and hears nothing, or this process stops; nobody waits for this task.
            self._end(EngineUnavailable("the engine process is stopping", retry_after=1))
        except EngineError as error:
            self._end(error)
        except LlmopsError as error:
            self._end(EngineUnavailable(str(error)))
        except Exception as error:
            logger.exception("unexpected failure")
            self._end(EngineError(f"the engine process failed: unexpected {type(error).__name__}"))
        else:
            self._end()

    def _end(self, error: EngineError | None = None) -> None:
        if error is not None:
            self._unsent.append(pack(error))
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._unsent and not self._transport.is_closing():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

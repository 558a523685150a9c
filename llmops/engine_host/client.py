"""A worker's side of the engine process: an engine like any other, embeddings, and whether the process is well."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from llmops.engine_host.frames import (
    Answer,
    BadFrame,
    Embed,
    End,
    FrameSplitter,
    Load,
    Loaded,
    Operation,
    Ping,
    Pong,
    Started,
    Stream,
    Vectors,
    answer,
    pack,
)
from llmops.errors import EngineError, EngineRejected, EngineUnavailable
from llmops.generation import Chunk, GenerationRequest
from llmops.processes import run_blocking
from llmops.versions import ModelVersion

logger = logging.getLogger("llmops.engine_host")

RECONNECT_SECONDS = 0.2
"""Pause between two attempts to reach an engine process that is not there."""

RELOAD_SECONDS = 5.0
"""Pause after the engine process said that it cannot load the model."""

_PIECE = 65536
RETRY_SECONDS = 1.0
"""When a request may try again after the engine process has died: it is started again half a second later."""
PING_SECONDS = 2.0


class ModelHold:
    """A thread with an open connection: the engine process keeps the model loaded while the connection stands.

    When the process dies the thread waits for the next one and has it load the model, before any request asks.
    """

    def __init__(self, socket_path: Path, model: ModelVersion) -> None:
        self._path, self._model = socket_path, model
        self._change = threading.Condition()
        self._released = threading.Event()
        self._connection: socket.socket | None = None
        self._loaded: Loaded | None = None
        self._problem: EngineError | None = None
        self._thread = threading.Thread(target=self._run, name=f"hold {model.ref}", daemon=True)
        self._thread.start()

    def wait(self, timeout: float) -> Loaded:
        """What the engine is, once it is loaded. Raises EngineError: it cannot be, or not within `timeout` seconds."""
        with self._change:
            self._change.wait_for(lambda: self._loaded is not None or self._problem is not None, timeout)
            if self._loaded is not None:
                return self._loaded
            if self._problem is not None:
                raise self._problem
        raise EngineUnavailable(f"model {self._model.ref}: the engine process did not load it in {timeout:g} s")

    def release(self) -> None:
        """Lets the model go."""
        self._released.set()
        with self._change, contextlib.suppress(OSError):  # the process may have gone just now
            if self._connection is not None:
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        while not self._released.is_set():
            try:
                self._hold_once()
            except OSError:
                self._released.wait(RECONNECT_SECONDS)
            except EngineError as error:
                logger.warning("model %s: %s", self._model.ref, error)
                self._tell(problem=error)
                self._released.wait(getattr(error, "retry_after", None) or RELOAD_SECONDS)

    def _hold_once(self) -> None:
        """Until the connection ends. Raises OSError: nobody listens. EngineError: the model cannot be loaded."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._path))
            with self._change:
                self._connection = connection
            try:
                if self._released.is_set():
                    return
                connection.sendall(pack(Load(self._model)))
                splitter = FrameSplitter()
                while data := connection.recv(_PIECE):
                    for frame in splitter.feed(data):
                        self._take(answer(frame))
            except BadFrame as error:
                raise EngineError(f"the engine process sent a bad frame: {error}") from error
            finally:
                with self._change:
                    self._connection = None

    def _take(self, said: object) -> None:
        if isinstance(said, EngineError):
            raise said
        if isinstance(said, Loaded):
            self._tell(loaded=said)

    def _tell(self, *, loaded: Loaded | None = None, problem: EngineError | None = None) -> None:
        with self._change:
            self._loaded, self._problem = loaded or self._loaded, problem
            self._change.notify_all()


def open_remote(socket_path: Path, model: ModelVersion, timeout: float) -> RemoteEngine:
    """The model in the engine process, which loads it unless another worker had it loaded before. Blocking.

    timeout: seconds to wait for the process to listen and the model to load.

    Raises:
        EngineUnavailable: it cannot be loaded, or not in time.
    """
    hold = ModelHold(socket_path, model)
    try:
        return RemoteEngine(socket_path, model, hold.wait(timeout), hold)
    except EngineError:
        hold.release()
        raise


class RemoteEngine:
    """An engine in the engine process. It outlives that process: after a restart its next request works again.

    A request's first chunk has `queued_s`. Requests raise EngineUnavailable, with `retry_after`, while the process is
    down and when it dies in mid-stream, and EngineBusy when too many wait.
    """

    def __init__(self, socket_path: Path, model: ModelVersion, loaded: Loaded, hold: ModelHold) -> None:
        self._path, self._model, self._hold = socket_path, model, hold
        self.identity, self.slots, self.honours = loaded.identity, loaded.slots, loaded.honours

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        queued_s: float | None = None
        async with aclosing(_ask(self._path, Stream(self._model, request))) as answers:
            async for said in answers:
                if isinstance(said, Started):
                    queued_s = said.queued_s
                elif isinstance(said, Chunk):
                    if queued_s is not None:
                        said, queued_s = dataclasses.replace(said, queued_s=queued_s), None
                    yield said

    async def close(self) -> None:
        """Lets the model go; the engine process unloads it when no other worker holds it."""
        await run_blocking(self._hold.release, name=f"release {self._model.ref}")


async def embed(socket_path: Path, texts: Sequence[str]) -> tuple[list[list[float]], int]:
    """A vector of length 1 for each text, in order, and the tokens that the model read. Raises EngineError."""
    rows: list[list[float]] = []
    tokens = 0
    async with aclosing(_ask(socket_path, Embed(tuple(texts)))) as answers:
        async for said in answers:
            if isinstance(said, Vectors):
                rows += [list(row) for row in said.rows]
                tokens += said.tokens
    return rows, tokens


async def ping(socket_path: Path) -> Pong:
    """What the engine process has loaded and how much waits there. Raises EngineError."""
    try:
        async with asyncio.timeout(PING_SECONDS), aclosing(_ask(socket_path, Ping())) as answers:
            async for said in answers:
                if isinstance(said, Pong):
                    return said
    except TimeoutError as error:
        raise EngineUnavailable(f"the engine process does not answer within {PING_SECONDS:g} s") from error
    raise EngineError("the engine process did not answer a ping")


async def _ask(socket_path: Path, asked: Operation) -> AsyncGenerator[Answer, None]:
    """The answers to one operation. Closing it cancels the operation. Raises EngineError."""
    try:
        message = pack(asked)
    except BadFrame as error:
        raise EngineRejected(f"the request cannot be handed to the engine: {error}") from error
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket_path))
    except OSError as error:
        raise _down("is not running") from error
    splitter = FrameSplitter()
    try:
        writer.write(message)
        while data := await reader.read(_PIECE):
            for frame in splitter.feed(data):
                said = answer(frame)
                if isinstance(said, End):
                    return
                if isinstance(said, EngineError):
                    raise said
                yield said
    except BadFrame as error:
        raise EngineError(f"the engine process sent a bad frame: {error}") from error
    except OSError as error:
        raise _down("went away") from error
    finally:
        writer.transport.abort()
    raise _down("ended before its answer did")


def _down(what: str) -> EngineUnavailable:
    return EngineUnavailable(f"the engine process {what}", retry_after=RETRY_SECONDS)

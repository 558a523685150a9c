"""A worker's side of the engine process: an engine like any other, embeddings, and whether the process is well."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from llmops.engine_host import frames
from llmops.engine_host.frames import BadFrame, FrameSplitter, HostAnswer, Loaded, Pong, pack
from llmops.errors import EngineError, EngineRejected, EngineUnavailable
from llmops.generation import Chunk, GenerationRequest
from llmops.processes import run_blocking
from llmops.versions import ModelVersion

logger = logging.getLogger("llmops.engine_host")

RECONNECT_SECONDS = 0.2
"""Pause between two attempts to reach an engine process that is not there."""
RELOAD_SECONDS = 5.0
"""Pause after the engine process said that it cannot load the model."""
RETRY_SECONDS = 1.0
"""When a request may try again after the engine process has died: it is started again half a second later."""
PING_SECONDS = 2.0
_PIECE = 65536


class RemoteEngine:
    """A model in the engine process, which loads it unless another worker had it loaded before.

    A thread keeps a connection open, and the process keeps the model loaded while it stands. When the process dies the
    thread waits for the next one and has it load the model, before any request asks.

    A request's first chunk has `queued_s`. Requests raise EngineUnavailable, with `retry_after`, while the process is
    down and when it dies in mid-stream, and EngineBusy when too many wait.
    """

    _outcome: Loaded | EngineError | None = None  # of the first load

    def __init__(self, socket_path: Path, model: ModelVersion, timeout: float) -> None:
        """Blocks until the model is loaded, for at most `timeout` seconds. Raises EngineError: it is not."""
        self._path, self._model = socket_path, model
        self._change = threading.Condition()
        self._released = threading.Event()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._hold, name=f"hold {model.ref}", daemon=True)
        self._thread.start()
        with self._change:
            self._change.wait_for(lambda: self._outcome is not None, timeout)
            loaded = self._outcome
        if not isinstance(loaded, Loaded):
            self._release()
            problem = f"model {model.ref}: the engine process did not load it in {timeout:g} s"
            raise loaded or EngineUnavailable(problem)
        self.identity, self.slots, self.supported_extras = loaded.identity, loaded.slots, loaded.supported_extras

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        async with aclosing(_ask(self._path, frames.StreamAnswer(self._model, request))) as answers:
            async for said in answers:
                if isinstance(said, Chunk):
                    yield said

    async def close(self) -> None:
        """Lets the model go; the engine process unloads it when no other worker holds it."""
        await run_blocking(self._release, name=f"release {self._model.ref}")

    def _release(self) -> None:
        self._released.set()
        with self._change, contextlib.suppress(OSError):  # the process may have gone just now
            if self._connection is not None:
                self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _hold(self) -> None:
        """On the thread: one connection after another, until the model is let go."""
        while not self._released.is_set():
            try:
                self._hold_once()
            except OSError:
                self._released.wait(RECONNECT_SECONDS)
            except EngineError as error:
                logger.warning("model %s: %s", self._model.ref, error)
                self._tell(error)
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
                connection.sendall(pack(frames.LoadModel(self._model)))
                splitter = FrameSplitter(frames.answer)
                while data := connection.recv(_PIECE):
                    for said in splitter.feed(data):
                        if isinstance(said, EngineError):
                            raise said
                        if isinstance(said, Loaded):
                            self._tell(said)
            except BadFrame as error:
                raise EngineError(f"the engine process sent a bad frame: {error}") from error
            finally:
                with self._change:
                    self._connection = None

    def _tell(self, outcome: Loaded | EngineError) -> None:
        with self._change:
            self._outcome = self._outcome or outcome
            self._change.notify_all()


async def embed(socket_path: Path, texts: Sequence[str]) -> tuple[list[list[float]], int]:
    """A vector of length 1 for each text, in order, and the tokens that the model read. Raises EngineError."""
    rows: list[list[float]] = []
    tokens = 0
    async with aclosing(_ask(socket_path, frames.Embed(tuple(texts)))) as answers:
        async for said in answers:
            if isinstance(said, frames.Vectors):
                rows += [list(row) for row in said.rows]
                tokens += said.tokens
    return rows, tokens


async def ping(socket_path: Path) -> Pong:
    """What the engine process has loaded and how much waits there. Raises EngineError."""
    try:
        async with asyncio.timeout(PING_SECONDS), aclosing(_ask(socket_path, frames.Ping())) as answers:
            async for said in answers:
                if isinstance(said, Pong):
                    return said
    except TimeoutError as error:
        raise EngineUnavailable(f"the engine process does not answer within {PING_SECONDS:g} s") from error
    raise EngineError("the engine process did not answer a ping")


async def _ask(socket_path: Path, asked: frames.Operation) -> AsyncGenerator[HostAnswer, None]:
    """The answers to one operation. Closing it cancels the operation. Raises EngineError."""
    try:
        message = pack(asked)
    except BadFrame as error:
        raise EngineRejected(f"the request cannot be handed to the engine: {error}") from error
    try:
        reader, writer = await asyncio.open_unix_connection(str(socket_path))
    except OSError as error:
        raise _down("is not running") from error
    splitter = FrameSplitter(frames.answer)
    try:
        writer.write(message)
        while data := await reader.read(_PIECE):
            for said in splitter.feed(data):
                if isinstance(said, frames.End):
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

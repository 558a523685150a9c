"""The engine process: loads models and answers the gateway's workers over a Unix domain socket."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from llmops.engine_host import frames
from llmops.engine_host.frames import BadFrame, End, FrameSplitter, HostAnswer, Operation, pack
from llmops.engine_host.request_queue import STALL_SECONDS, Heartbeat, RequestQueue, end_process, lives
from llmops.engines.opening import EngineKey, EnginePool, engine_key, open_engine
from llmops.engines.protocol import Engine
from llmops.errors import EngineError, EngineUnavailable, LlmopsError
from llmops.processes import run_blocking
from llmops.settings import Settings
from llmops.versions import ModelVersion

Serve = Callable[[Operation, "Connection"], Coroutine[Any, Any, None]]
logger = logging.getLogger("llmops.engine_host")
Embedding = Callable[[Sequence[str]], tuple[frames.Rows, int]]
"""Texts to vectors, one for each; blocks. Raises LlmopsError."""
MOST_IDLE = 1
"""Models kept loaded that no worker holds; the workers themselves decide what is worth holding."""
WHOLE_SECONDS = 0.1
"""How long pieces of an answer that nobody reads before its end may wait to travel together."""
EMBEDDED_TOGETHER = 64
"""Texts embedded between two looks whether anybody still wants them."""
BACKLOG = 1024


class Connection(asyncio.Protocol):
    """Reads one operation, lets `serve` answer it, and closes.

    Answers that are ready together leave in one write: at dozens of tokens a moment, system calls are what costs.
    """

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._splitter = FrameSplitter(frames.operation)
        self._task: asyncio.Task[None] | None = None
        self._unsent: list[bytes] = []
        self._flushing: asyncio.Handle | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def send(self, answer: HostAnswer, *, within: float = 0.0) -> None:
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
            for asked in self._splitter.feed(data):
                if self._task is not None:
                    raise BadFrame("a second operation on one connection")
                self._task = asyncio.get_running_loop().create_task(self._run(asked))
        except BadFrame as error:
            logger.warning("a worker sent a bad frame: %s", error)
            self.eof_received()
            self._end(EngineError(f"the engine process does not understand this request: {error}"))

    def eof_received(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def connection_lost(self, _error: Exception | None) -> None:
        self._writable.set()
        self.eof_received()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

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


@dataclass(slots=True)
class Served:
    """One model's queue, and how often what happened to it and its requests since this process began."""

    model: ModelVersion
    queue: RequestQueue
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("loads", "failures", "finished", "cancelled", "failed"), 0)
    )


class EngineHost:
    """Engines for all workers of a gateway, each loaded once.

    open_engine: opens one model.
    embed: what answers embedding requests; None: nothing does.
    restarts: lives the process had before this one, told to whoever pings.
    """

    def __init__(
        self,
        settings: Settings,
        open_engine: Callable[[ModelVersion, Settings], Engine] = open_engine,
        embed: Embedding | None = None,
        restarts: int = 0,
    ) -> None:
        self._settings, self._open_engine, self._embed, self._restarts = settings, open_engine, embed, restarts
        self._pool = EnginePool(self._open, most_idle=MOST_IDLE)
        self._served: dict[EngineKey, Served] = {}
        self._embedding = RequestQueue(settings.engine_queue, slots=1)
        self._answering: set[asyncio.Task[Any]] = set()
        self._holding: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def listening(self, socket_path: Path) -> AsyncIterator[None]:
        """Takes connections while the block runs; then lets requests under way finish, for a while.

        The socket is for this user alone: whoever can connect may use the engines.
        """
        loop = asyncio.get_running_loop()
        with _listener(socket_path) as listener:
            server = await loop.create_unix_server(lambda: Connection(self._serve), sock=listener)
            watching = asyncio.create_task(self._watch(), name="watchdog")
            try:
                yield
            finally:
                watching.cancel()
                server.close()
                if self._answering:
                    await asyncio.wait(self._answering, timeout=self._settings.drain_seconds)
                rest = self._answering | self._holding
                for task in rest:
                    task.cancel()
                await asyncio.gather(*rest, return_exceptions=True)
                await self._pool.close()

    def report(self) -> dict[str, dict[str, Any]]:
        """By model ref: loaded; slots; waiting and running requests; loads and failures to load, and why the last one
        failed; requests finished, cancelled and failed."""
        loaded, failures = self._pool.loaded, self._pool.failures
        return {
            served.model.ref: {
                "loaded": served.model.ref in loaded,
                "slots": served.queue.slots,
                "waiting": served.queue.waiting,
                "running": served.queue.running,
                "failure": failures.get(served.model.ref),
                **served.counts,
            }
            for served in self._served.values()
        }

    async def _serve(self, asked: Operation, connection: Connection) -> None:
        group, task = self._holding if isinstance(asked, frames.LoadModel) else self._answering, asyncio.current_task()
        if task is not None:
            group.add(task)
            task.add_done_callback(group.discard)
        match asked:
            case frames.StreamAnswer():
                await self._stream(asked, connection)
            case frames.LoadModel():
                async with self._engine(asked.model) as engine:
                    connection.send(frames.Loaded(engine.identity, engine.slots, engine.supported_extras))
                    # Until the worker closes the connection, or dies.
                    await asyncio.get_running_loop().create_future()
            case frames.Embed():
                await self._vectors(asked.texts, connection)
            case frames.Ping():
                connection.send(frames.Pong(self.report(), self._restarts))
        connection.send(End())

    async def _stream(self, asked: frames.StreamAnswer, connection: Connection) -> None:
        served = self._served_for(asked.model)
        # Each of `n` answers is decoded in a slot of its own.
        with served.queue.place(width=asked.request.extras.get("n") or 1) as place:
            try:
                async with self._engine(asked.model) as engine:
                    await place.turn.wait()
                    served.heartbeat.begins(alone=served.queue.running == 1)
                    queued_s: float | None = place.age
                    async with aclosing(engine.stream(asked.request)) as chunks:
                        async for chunk in chunks:
                            served.heartbeat.beats()
                            # The first piece leaves at once, also of an answer that may come whole: it is timed.
                            within = WHOLE_SECONDS if asked.request.whole and queued_s is None else 0.0
                            said = chunk if queued_s is None else replace(chunk, queued_s=queued_s)
                            connection.send(said, within=within)
                            queued_s = None
                            await connection.ready()
            except asyncio.CancelledError:
                served.heartbeat.left()
                served.counts["cancelled"] += 1
                raise
            except Exception:
                served.counts["failed"] += 1
                raise
            served.counts["finished"] += 1

    async def _vectors(self, texts: Sequence[str], connection: Connection) -> None:
        if self._embed is None:
            raise EngineUnavailable("this engine process has no embedding model", lasting=True)
        with self._embedding.place() as place:
            await place.turn.wait()
            for start in range(0, len(texts), EMBEDDED_TOGETHER):
                part = texts[start : start + EMBEDDED_TOGETHER]
                connection.send(frames.Vectors(*await run_blocking(partial(self._embed, part), name="embed")))
                await connection.ready()

    @asynccontextmanager
    async def _engine(self, model: ModelVersion) -> AsyncIterator[Engine]:
        served = self._served_for(model)
        async with self._pool.lease(model) as engine:
            served.queue.open(engine.slots)
            yield engine

    def _served_for(self, model: ModelVersion) -> Served:
        key = engine_key(model)
        if key not in self._served:
            self._served[key] = Served(model, RequestQueue(self._settings.engine_queue))
        return self._served[key]

    def _open(self, model: ModelVersion) -> Engine:
        """On a loading thread."""
        served = self._served[engine_key(model)]
        try:
            engine = self._open_engine(model, self._settings)
        except Exception as error:
            served.counts["failures"] += 1
            logger.warning("model %s cannot be loaded: %s", model.ref, error)
            raise
        served.counts["loads"] += 1
        logger.info("model %s is loaded", model.ref)
        return engine

    async def _watch(self) -> None:
        """For ever: asks engines that are silent although they have work for a sign of life, and ends the process where
        one gives none."""
        while True:
            await asyncio.sleep(STALL_SECONDS / 10)
            for served in list(self._served.values()):
                if served.heartbeat.stalled(STALL_SECONDS, served.queue.running):
                    async with self._pool.lease(served.model) as engine:
                        alive = await lives(engine, STALL_SECONDS)
                    if alive:
                        served.heartbeat.beats()
                    else:
                        end_process(served.model.ref)


@contextmanager
def _listener(path: Path) -> Iterator[socket.socket]:
    """A listening socket that only this user can connect to, in a folder that only this user can enter."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # of a life that was killed
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        try:
            path.chmod(0o600)
            listener.listen(BACKLOG)
            yield listener
        finally:
            path.unlink(missing_ok=True)

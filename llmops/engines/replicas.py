"""Several engines behind one, a request goes to whichever is free: how engines of one slot, whose answers repeat,
use all cores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from llmops.engines.protocol import Engine, EngineIdentity, PrimingEngine, ScoringEngine
from llmops.errors import EngineRejected
from llmops.generation import Chunk, GenerationRequest, Message, Usage


class ReplicatedEngine:
    """Copies of one engine, each with a slot of its own. As an answer depends on its replica alone, and replicas are
    alike, the identity is that of one of them."""

    def __init__(self, replicas: Sequence[Engine]) -> None:
        self._replicas = list(replicas)
        self._idle: asyncio.Queue[Engine] | None = None

    @property
    def identity(self) -> EngineIdentity:
        return self._replicas[0].identity

    @property
    def slots(self) -> int:
        return sum(replica.slots for replica in self._replicas)

    @property
    def honours(self) -> frozenset[str]:
        return self._replicas[0].honours

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        async with self._free() as replica, aclosing(replica.stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def loglikelihoods(
        self, messages: Sequence[Message], continuations: Sequence[str]
    ) -> tuple[list[float], Usage]:
        """As `ScoringEngine`. Raises EngineRejected when the replicas give no log-probabilities."""
        async with self._free() as replica:
            if not isinstance(replica, ScoringEngine):
                raise EngineRejected(f"the {self.identity.name} engine gives no log-probabilities")
            return await replica.loglikelihoods(messages, continuations)

    async def prime(self, messages: Sequence[Message]) -> None:
        """As `PrimingEngine`, for every replica that can."""
        for replica in self._replicas:
            if isinstance(replica, PrimingEngine):
                await replica.prime(messages)

    async def close(self) -> None:
        for replica in self._replicas:
            await replica.close()

    @asynccontextmanager
    async def _free(self) -> AsyncIterator[Engine]:
        if self._idle is None:
            self._idle = asyncio.Queue()
            for replica in self._replicas:
                for _ in range(replica.slots):
                    self._idle.put_nowait(replica)
        replica = await self._idle.get()
        try:
            yield replica
        finally:
            self._idle.put_nowait(replica)

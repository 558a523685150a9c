"""Several engines as one: upstream servers, chosen by weight among the healthy ones and replaced while nothing of the
answer has come; and copies of a local engine."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, asynccontextmanager

from llmops.engines.protocol import Engine, EngineIdentity, PrefixCachingEngine, ScoringEngine
from llmops.errors import EngineError, EngineRejected, EngineUnavailable
from llmops.generation import Chunk, GenerationRequest, Message, Usage

logger = logging.getLogger("llmops.engines")

FAILURES_IN_A_ROW = 3
"""After so many an upstream rests. One that names a time to come back, or refuses our key, rests at once."""
FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 1.0, 60.0
"""How long: doubled with every rest in a row, since a request that tries a dead upstream waits for its time-out."""


class Upstream:
    """One server of several, and what is known of its health from the requests it got.

    name: what messages and the identity call it. weight: its share of the requests against the others' weights.
    on_trial: one request after a rest is under way there, and has not got its first byte.
    """

    def __init__(self, engine: Engine, name: str, weight: int = 1) -> None:
        self.engine, self.name, self.weight = engine, name, weight
        self.current_weight = 0  # of the smooth weighted round robin
        self._failures = 0
        self._rests = 0
        self._until: float | None = None
        self.on_trial = False
        self._last_error: EngineError | None = None

    def is_available(self, now: float) -> bool:
        """Whether a request may go there: it is not resting, or has rested and no other request is trying it."""
        return self._until is None or (now >= self._until and not self.on_trial)

    def seconds_left(self, now: float) -> float | None:
        """How much longer it rests; None when it does not."""
        return None if self._until is None else max(0.0, self._until - now)

    def problem(self, now: float) -> str | None:
        """Why it gets no requests, and until when; None when it does."""
        left = self.seconds_left(now)
        return None if left is None else f"{self.name}: {self._last_error} (tried again in {left:.0f} s)"

    def take(self) -> bool:
        """A request goes there; says whether it is a trial."""
        self.on_trial = self._until is not None
        return self.on_trial

    def begin(self) -> None:
        """An answer begins to come: it is back."""
        if self._until is not None:
            logger.warning("upstream %s answers again", self.name)
        self._until, self.on_trial = None, False

    def succeed(self) -> None:
        """A request came to its proper end, be it a refusal."""
        self.begin()
        self._failures = self._rests = 0
        self._last_error = None

    def fail(self, error: EngineError, now: float, *, trial: bool) -> None:
        """A request failed there: perhaps it rests now."""
        self._failures += 1
        self._last_error = error
        if self._until is not None and not trial:
            return  # one of many that were under way when it failed: they are one failure
        asked = error.retry_after if isinstance(error, EngineUnavailable) else None
        lasting = isinstance(error, EngineUnavailable) and error.lasting
        if asked is None and not lasting and not trial and self._failures < FAILURES_IN_A_ROW:
            return
        # Some chance in it, so that the processes of a gateway do not come back all at once.
        rest = FIRST_REST_SECONDS * 2 ** min(self._rests, 10) * random.uniform(0.9, 1.1)  # noqa: S311  no secret
        rest = min(rest if asked is None else asked, LONGEST_REST_SECONDS)
        self._rests += 1
        self._until = now + rest
        logger.warning("upstream %s rests for %.1f s: %s", self.name, rest, error)


class UpstreamsEngine:
    """Upstreams that answer alike, as one engine.

    A request that fails at one goes on to the next, until one has begun to answer or all were asked; what is wrong
    with the request itself is told at once. clock: seconds, as `time.monotonic`.
    """

    def __init__(self, upstreams: Sequence[Upstream], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._upstreams, self._clock = tuple(upstreams), clock
        first = self._upstreams[0].engine.identity
        self.identity = EngineIdentity(first.name, ", ".join(one.name for one in self._upstreams), first.settings)
        self.slots = sum(one.engine.slots for one in self._upstreams)
        self.supported_extras = frozenset.intersection(*(one.engine.supported_extras for one in self._upstreams))

    def problems(self) -> list[str]:
        """A line for each upstream that gets no requests: why, and until when."""
        now = self._clock()
        return [problem for one in self._upstreams if (problem := one.problem(now)) is not None]

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        asked: dict[Upstream, EngineError] = {}
        while (upstream := self._choose(asked)) is not None:
            begun, trial = False, upstream.take()
            try:
                async with aclosing(upstream.engine.stream(request)) as chunks:
                    async for chunk in chunks:
                        if not begun:
                            begun = True
                            upstream.begin()
                        yield chunk
                upstream.succeed()
            except EngineRejected:
                upstream.succeed()
                raise
            except EngineError as error:
                upstream.fail(error, self._clock(), trial=trial and not begun)
                if begun:
                    raise
                asked[upstream] = error
            else:
                return
            finally:
                if trial:
                    upstream.on_trial = False
        raise self._failure(asked)

    async def close(self) -> None:
        for upstream in self._upstreams:
            await upstream.engine.close()

    def _choose(self, asked: Collection[Upstream]) -> Upstream | None:
        """The next upstream by smooth weighted round robin: in any run of choices each has its share, well mixed."""
        now = self._clock()
        available = [one for one in self._upstreams if one not in asked and one.is_available(now)]
        if not available:
            return None
        for one in available:
            one.current_weight += one.weight
        chosen = max(available, key=lambda one: one.current_weight)
        chosen.current_weight -= sum(one.weight for one in available)
        return chosen

    def _failure(self, asked: dict[Upstream, EngineError]) -> EngineError:
        """What a request is told that nobody answered."""
        errors = list(asked.values())
        if len(errors) == len(self._upstreams) and not any(isinstance(error, EngineUnavailable) for error in errors):
            return errors[-1]  # all have failed on it, or were too slow
        now = self._clock()
        waits = [one.seconds_left(now) for one in self._upstreams]
        waits += [error.retry_after for error in errors if isinstance(error, EngineUnavailable)]
        told = [str(error) for error in errors] + [
            problem for one in self._upstreams if one not in asked and (problem := one.problem(now)) is not None
        ]
        return EngineUnavailable(
            f"no upstream answers: {'; '.join(told)}",
            retry_after=min((wait for wait in waits if wait is not None), default=None),
        )


class ReplicatedEngine:
    """Copies of one engine: a request goes to whichever is free, so that engines of one slot, whose answers repeat, use
    all cores. As an answer depends on its replica alone, the identity is that of one of them."""

    def __init__(self, replicas: Sequence[Engine]) -> None:
        self._replicas = list(replicas)
        self.identity, self.supported_extras = replicas[0].identity, replicas[0].supported_extras
        self.slots = sum(replica.slots for replica in replicas)
        self._idle: asyncio.Queue[Engine] | None = None

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
        """As `PrefixCachingEngine`, for every replica that can."""
        for replica in self._replicas:
            if isinstance(replica, PrefixCachingEngine):
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

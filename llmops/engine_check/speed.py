"""How fast a server is with several requests at a time, and whether it says when to come back if it refuses some."""

import asyncio
import re
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from llmops.engine_check.session import Observation, Reply, Session, shown
from llmops.errors import EngineError, EngineUnavailable

CONCURRENCY = (1, 8, 32)
_TOKENS = 32
_SHEDS = re.compile(r"answered (429|503)\b")


@dataclass(slots=True)
class Load:
    """Requests of `_TOKENS` tokens, `concurrency` at a time.

    replies: whole ones. unfinished: stopped at the end of the time, as far as they had come. seconds: of it all.
    """

    concurrency: int
    seconds: float = 0.0
    replies: list[Reply] = field(default_factory=list)
    unfinished: list[Reply] = field(default_factory=list)
    errors: list[EngineError] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        return sum(each.tokens for each in (*self.replies, *self.unfinished)) / self.seconds

    @property
    def first_token_s(self) -> list[float]:
        return [each.first_s for each in (*self.replies, *self.unfinished) if each.first_s is not None]

    def to_mapping(self) -> dict[str, Any]:
        """JSON values; a spread is null where nothing came. Tokens a second of a request: after its first token."""
        rates = [
            (each.tokens - 1) / (each.seconds - each.first_s)
            for each in self.replies
            if each.first_s is not None and each.tokens > 1 and each.seconds > each.first_s
        ]
        return {
            "concurrency": self.concurrency,
            "requests": len(self.replies) + len(self.unfinished) + len(self.errors),
            "failed": len(self.errors),
            "unfinished": len(self.unfinished),
            "seconds": round(self.seconds, 2),
            "first_token_s": _spread(self.first_token_s),
            "tokens_per_second_each": _spread(rates),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "errors": sorted({shown(error) for error in self.errors})[:3],
        }


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


async def load(session: Session, concurrency: int, seconds: float) -> Load:
    """Streams answers until every client has had two (four, if it is the only one), or the seconds are over."""
    made, start = Load(concurrency), time.perf_counter()
    under_way: dict[int, Reply] = {}

    async def client(number: int) -> None:
        for turn in range(4 if concurrency == 1 else 2):
            reply = under_way[number] = Reply()
            prompt = f"Tell a story about the number {100 * number + turn}."  # no two alike, for a cache would answer
            try:
                made.replies.append(await session.ask(prompt, max_tokens=_TOKENS, reply=reply))
            except EngineError as error:
                made.errors.append(error)
            del under_way[number]

    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(client(number) for number in range(concurrency)))
    made.seconds = time.perf_counter() - start
    made.unfinished = list(under_way.values())
    return made


def retry_after(loads: Sequence[Load]) -> Observation:
    """Whether a server that refuses requests under load says when to come back."""
    errors = [error for each in loads for error in each.errors if _SHEDS.search(str(error))]
    if not errors:
        most = max((each.concurrency for each in loads), default=0)
        return Observation("unknown", f"not seen: none was refused with up to {most} requests at a time")
    waits = [error.retry_after for error in errors if isinstance(error, EngineUnavailable)]
    named = [wait for wait in waits if wait is not None]
    if len(named) < len(errors):
        return Observation("ignored", f"{len(named)} of {len(errors)} refusals under load have one: {shown(errors[0])}")
    return Observation("yes", f"{len(errors)} refusals under load, each with {min(named):g} to {max(named):g} s")

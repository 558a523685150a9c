"""Several requests at a time: how fast a server is, whether it says when to come back if it refuses some, and whether
it stops generating when the client goes away.

The last is seen from outside: in the latency of short requests, or where long ones do not slow them down, in a gauge of
`/metrics` that counts what is being generated (those of open connections fall in any case). After the clients have left
it must be as without long requests, well before these would have ended by themselves.
"""

import asyncio
import re
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from llmops.engine_check.session import Observation, ProbeReply, Session, shown
from llmops.errors import EngineError, EngineUnavailable

CONCURRENCY = (1, 8, 32)
_TOKENS = 32
_SHEDS = re.compile(r"answered (429|503)\b")


@dataclass(slots=True)
class LoadLevel:
    """Requests of `_TOKENS` tokens, `concurrency` at a time.

    replies: whole ones. unfinished: stopped at the end of the time, as far as they had come. seconds: of it all.
    """

    concurrency: int
    seconds: float = 0.0
    replies: list[ProbeReply] = field(default_factory=list)
    unfinished: list[ProbeReply] = field(default_factory=list)
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


async def load(session: Session, concurrency: int, seconds: float) -> LoadLevel:
    """Streams answers until every client has had two (four, if it is the only one), or the seconds are over."""
    made, start = LoadLevel(concurrency), time.perf_counter()
    under_way: dict[int, ProbeReply] = {}

    async def client(number: int) -> None:
        for turn in range(4 if concurrency == 1 else 2):
            reply = under_way[number] = ProbeReply()
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


def retry_after(loads: Sequence[LoadLevel]) -> Observation:
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


CANCELLED = {"cancel, streamed": False, "cancel, whole": True}
"""What is observed, and whether the answers are whole ones."""
_LONG = "Write the numbers from 1 to 1000 as digits, one after another, beginning with 1 2 3. List"
_FEWEST, _MOST = 24, 512
_REQUESTS = 4
_LATENCY = "the seconds of a short request"
_GAUGE = re.compile("running|processing|batch_current_size")
"""What vLLM and SGLang, llama.cpp's server, and TGI call it."""
_VISIBLE = 1.5
"""How many times higher a measure must be beside long requests to show whether they are still under way."""
_LATE = 0.8
"""Share of the long requests' time after which they may have ended by themselves."""


@dataclass(frozen=True, slots=True)
class _Measure:
    """A number that tells whether requests are under way. quiet: the highest without them. busy: the median beside
    them, since the last sample may outlast them."""

    name: str
    quiet: float
    busy: float

    def __str__(self) -> str:
        return f"{self.name}: {self.quiet:.3g} without long requests, {self.busy:.3g} beside them"


async def cancellation(session: Session, seconds: float) -> dict[str, Observation]:
    """The observations of `CANCELLED`. seconds: how long a long request takes alone, about. Raises EngineError."""
    first = await session.ask(_LONG, max_tokens=_FEWEST)
    tokens = min(_MOST, max(_FEWEST, int(seconds * first.tokens / first.seconds)))
    quiet, busy = [await _sample(session) for _ in range(3)], []
    start = time.perf_counter()
    async with _long_requests(session, tokens, whole=False) as tasks:
        first_s = time.perf_counter() - start
        while not all(task.done() for task in tasks):
            busy.append(await _sample(session))
        await asyncio.gather(*tasks, return_exceptions=True)  # one that took too long has shown as much
    duration = time.perf_counter() - start
    quiet.append(await _sample(session))

    def unknown(why: str) -> dict[str, Observation]:
        return dict.fromkeys(CANCELLED, Observation("unknown", why))

    if not busy:
        return unknown("long requests ended at once")
    names = [name for name in quiet[0] if all(name in each for each in (*quiet, *busy))]
    measures = [_Measure(name, max(q[name] for q in quiet), statistics.median(b[name] for b in busy)) for name in names]
    shows = [each for each in measures if each.busy > _VISIBLE * each.quiet]
    if duration * _LATE < 4 * max(each[_LATENCY] for each in quiet):
        return unknown(f"the longest answers end too soon, after {duration:.1f} s")
    if not shows:
        return unknown(f"long requests do not show: {measures[0]}")

    async def observed(whole: bool) -> Observation:
        seen = await _after_leaving(session, tokens, whole, first_s, duration, shows[0])
        if seen.verdict != "ignored":
            return seen
        await asyncio.sleep(duration)  # until they have ended in any case; then once more: a busy machine looks alike
        return await _after_leaving(session, tokens, whole, first_s, duration, shows[0])

    return {name: await observed(whole) for name, whole in CANCELLED.items()}


async def _after_leaving(
    session: Session, tokens: int, whole: bool, first_s: float, duration: float, measure: _Measure
) -> Observation:
    start = time.perf_counter()
    async with _long_requests(session, tokens, whole=whole):
        if whole:
            await asyncio.sleep(1.5 * first_s)  # until it has begun to generate, as far as can be known
    measured: list[float] = []
    while len(measured) < 3 and time.perf_counter() - start < _LATE * duration:
        measured.append((await _sample(session)).get(measure.name, measure.busy))
    in_time = time.perf_counter() - start < _LATE * duration
    fallen = [each < (measure.quiet + measure.busy) / 2 for each in measured]
    seen = f"{measure}, {', '.join(f'{each:.3g}' for each in measured)} after the clients left"
    if sum(fallen) >= 2 and in_time:
        return Observation("yes", seen)
    # One that has fallen in the end may have done so late for other reasons: a machine that was busy.
    return Observation("ignored" if fallen and not fallen[-1] else "unknown", seen)


@asynccontextmanager
async def _long_requests(
    session: Session, tokens: int, *, whole: bool
) -> AsyncIterator[Sequence[asyncio.Task[ProbeReply]]]:
    """Requests under way, the first of which has begun to answer if it is streamed; their clients leave when the block
    ends. Raises EngineError: one fails before."""
    replies = [ProbeReply() for _ in range(_REQUESTS)]
    tasks = [
        asyncio.create_task(session.ask(f"{_LONG} {number}", max_tokens=tokens, whole=whole, reply=reply))
        for number, reply in enumerate(replies)
    ]
    begun = [asyncio.create_task(reply.begun.wait()) for reply in replies]
    try:
        if not whole:
            await asyncio.wait({*begun, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        yield tasks
    finally:
        for each in (*tasks, *begun):
            each.cancel()
        await asyncio.gather(*tasks, *begun, return_exceptions=True)


async def _sample(session: Session) -> dict[str, float]:
    """By name: the latency of a short request, and then the gauges of the server's `/metrics`, if it has any."""
    sample = {_LATENCY: (await session.ask("Hello", max_tokens=1)).seconds}
    try:
        page = await session.http.get(httpx.URL(session.base_url).copy_with(path="/metrics"))
        if page.status_code == 200:
            gauges = (each for each in text_string_to_metric_families(page.text) if each.type == "gauge")
            sample |= {one.name: one.value for each in gauges for one in each.samples if _GAUGE.search(one.name)}
    except (httpx.HTTPError, ValueError):
        return sample
    return sample

"""Whether a server stops generating when the client goes away.

It is seen from outside: in the latency of short requests, or where long ones do not slow them down, in a gauge of
`/metrics` that counts what is being generated (those of open connections fall in any case). After the clients have left
it must be as without long requests, well before these would have ended by themselves.
"""

import asyncio
import re
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from llmops.engine_check.session import Observation, Reply, Session

NAMES = {"cancel, streamed": False, "cancel, whole": True}
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
    """The observations of `NAMES`. seconds: how long a long request takes alone, about. Raises EngineError."""
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
    if not busy:
        return dict.fromkeys(NAMES, Observation("unknown", "long requests ended at once"))
    names = [name for name in quiet[0] if all(name in each for each in (*quiet, *busy))]
    measures = [_Measure(name, max(q[name] for q in quiet), statistics.median(b[name] for b in busy)) for name in names]
    shows = [each for each in measures if each.busy > _VISIBLE * each.quiet]
    if duration * _LATE < 4 * max(each[_LATENCY] for each in quiet):
        return dict.fromkeys(NAMES, Observation("unknown", f"the longest answers end too soon, after {duration:.1f} s"))
    if not shows:
        return dict.fromkeys(NAMES, Observation("unknown", f"long requests do not show: {measures[0]}"))
    return {name: await _after_leaving(session, tokens, whole, first_s, duration, shows[0])
            for name, whole in NAMES.items()}  # fmt: skip


async def _after_leaving(
    session: Session, tokens: int, whole: bool, first_s: float, duration: float, measure: _Measure
) -> Observation:
    start = time.perf_counter()
    async with _long_requests(session, tokens, whole=whole):
        if whole:
            await asyncio.sleep(1.5 * first_s)  # until it has begun to generate, as far as can be known
    found: list[float] = []
    while len(found) < 3 and time.perf_counter() - start < _LATE * duration:
        found.append((await _sample(session)).get(measure.name, measure.busy))
    in_time = time.perf_counter() - start < _LATE * duration
    fallen = [each < (measure.quiet + measure.busy) / 2 for each in found]
    seen = f"{measure}, {', '.join(f'{each:.3g}' for each in found)} after the clients left"
    if sum(fallen) >= 2 and in_time:
        return Observation("yes", seen)
    # One that has fallen in the end may have done so late for other reasons: a machine that was busy.
    return Observation("ignored" if fallen and not fallen[-1] else "unknown", seen)


@asynccontextmanager
async def _long_requests(session: Session, tokens: int, *, whole: bool) -> AsyncIterator[Sequence[asyncio.Task[Reply]]]:
    """Requests under way, the first of which has begun to answer if it is streamed; their clients leave when the block
    ends. Raises EngineError: one fails before."""
    replies = [Reply() for _ in range(_REQUESTS)]
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

"""What the gateway keeps: its memory over many requests, every acknowledged record over `kill -9`, one release in every
reply while the alias is moved.

    python -m benchmarks.gateway.endurance [memory] [kills] [flips] [--requests 100000] [--kills 20] [--seconds 60]

memory: after a tenth of the requests the gateway's resident memory may grow by a tenth at most. kills: 20 times, after
a random number of answers and with 16 requests under way, `kill -9` for every process of a gateway with 4 workers,
which is then started again, up to 10,000 answers; every request that was answered must be in the log, once. flips: the
champion changes every second under load; no request may fail, and the headers of a reply must name one release, its
prompt and its model.
Exits 1 when one of these does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.gateway import load
from benchmarks.gateway.contenders import Home, upstream
from benchmarks.gateway.overhead import body_for, say
from benchmarks.gateway.processes import free_port

CONCURRENCY = 16
ANSWERS = 10_000
"""Acknowledged requests of the kills part."""
_MIB = 1 << 20


def memory(folder: Path, address: str, options: argparse.Namespace) -> list[tuple[str, bool]]:
    """Resident memory after each tenth of the requests, half of them streamed."""
    home = Home(folder, f"openai:{address}/v1#stub")
    key = home.create_key()
    sizes = []
    with home.serving(key) as gateway:
        for tenth in range(10):
            part = load.run(
                gateway.url,
                lambda number: body_for("bench", stream=number % 2 == 0),
                CONCURRENCY,
                key=key,
                requests=options.requests // 10,
                on_reply=lambda _number, _reply: None,
            )
            done = asyncio.run(part)
            sizes.append(gateway.server.memory_bytes())
            say(f"{(tenth + 1) * options.requests // 10} requests: {sizes[-1] / _MIB:.0f} MiB, "
                f"{len(done.replies) - len(done.good) + len(done.failures)} failed")  # fmt: skip
    growth = sizes[-1] / sizes[0] - 1
    text = f"memory from request {options.requests // 10} to {options.requests}: {growth:+.1%}, at most +10 % asked"
    return [(text, growth <= 0.1)]


def kills(folder: Path, address: str, options: argparse.Namespace) -> list[tuple[str, bool]]:
    """Acknowledged requests are in the log, whatever dies."""
    home, port = Home(folder, f"openai:{address}/v1#stub"), free_port()
    key = home.create_key()
    chance, answered = random.Random(1), collections.Counter[str]()  # noqa: S311  moments of a test, no secret

    def acknowledged(_number: int, reply: load.Reply) -> None:
        whole = b'"usage"' in reply.body or reply.body.endswith(b"data: [DONE]\n\n")
        if reply.status == 200 and whole:
            answered[reply.headers["x-request-id"]] += 1

    part = ANSWERS // (options.kills + 1)
    for turn in range(options.kills):
        with home.serving(key, 4, port) as gateway:
            answers = chance.randint(1, part)
            asyncio.run(_killed(gateway.url, key, answers, acknowledged, gateway.server.kill_all))
        say(f"kill {turn + 1}: {len(answered)} answered so far")
    with home.serving(key, 4, port) as gateway:
        asyncio.run(_load(gateway.url, key, ANSWERS - len(answered), acknowledged))
    with sqlite3.connect(folder / "home" / "log.db") as log:
        logged = collections.Counter(
            row[0] for row in log.execute("select request_id from log_records where outcome = 'ok'")
        )
    lost = [name for name in answered if logged[name] != 1]
    text = f"{len(answered)} answered over {options.kills} kills, {len(lost)} of them lost or doubled"
    return [(text, not lost and len(answered) >= 0.99 * ANSWERS)]


async def _load(url: str, key: str, requests: int, acknowledged: Callable[[int, load.Reply], None]) -> None:
    await load.run(url, _any_body, CONCURRENCY, key=key, requests=requests, on_reply=acknowledged)


async def _killed(
    url: str, key: str, answers: int, acknowledged: Callable[[int, load.Reply], None], kill: Callable[[], None]
) -> None:
    """Sends requests, and kills the gateway when so many were answered and others are under way."""
    enough, left = asyncio.Event(), answers

    def count(number: int, reply: load.Reply) -> None:
        nonlocal left
        acknowledged(number, reply)
        left -= 1
        if left <= 0:
            enough.set()

    running = asyncio.ensure_future(_load(url, key, ANSWERS, count))
    await asyncio.wait({running, asyncio.ensure_future(enough.wait())}, return_when=asyncio.FIRST_COMPLETED)
    kill()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def _any_body(number: int) -> dict[str, object]:
    return body_for("bench", stream=number % 2 == 0)


def flips(folder: Path, address: str, options: argparse.Namespace) -> list[tuple[str, bool]]:
    """The champion is moved every second under load."""
    home = Home(folder, f"openai:{address}/v1#stub")
    key = home.create_key()
    pairs, slow = collections.Counter[tuple[str, ...]](), []

    def note(_number: int, reply: load.Reply) -> None:
        names = ("x-llmops-release", "x-llmops-prompt", "x-llmops-model")
        pairs[(str(reply.status), *(reply.headers.get(name, "") for name in names))] += 1
        slow.append(reply.total_ms)

    moved = 0

    async def run(url: str) -> load.Load:
        nonlocal moved
        moving = asyncio.ensure_future(asyncio.to_thread(_move, home, options.seconds))
        done = await load.run(url, _any_body, CONCURRENCY, key=key, seconds=options.seconds, on_reply=note)
        moved = await moving
        return done

    with home.serving(key, 2) as gateway:
        done = asyncio.run(run(gateway.url))
    sent = sum(pairs.values())
    p99 = sorted(slow)[int(0.99 * len(slow))]
    good = {("200", f"bench@{v}", f"bench-prompt@{v}", "bench-model@1") for v in (1, 2)}
    mixed = sum(count for names, count in pairs.items() if names not in good)
    print(json.dumps({" ".join(names): count for names, count in pairs.items()}))
    return [
        (f"{len(done.failures)} of {sent} requests failed under {moved} moves of the alias", not done.failures),
        (f"{mixed} replies of another status, or that mix releases; p99 {p99:.0f} ms", mixed == 0),
        (f"both releases answered: {len(pairs)}", good <= pairs.keys()),
    ]  # fmt: skip


def _move(home: Home, seconds: float) -> int:
    """Moves the champion for so long, through the registry as `llmops promote` does, about once a second."""
    from llmops.registry import Registry
    from llmops.settings import Settings

    ours = {name: value for name, value in home.environment.items() if name.startswith("LLMOPS_")}
    registry = Registry(Settings.from_environment(ours)).release_versions
    end, moves = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        start = time.monotonic()
        registry.promote(registry.get(f"bench@{2 - moves % 2}"), why="a benchmark")
        moves += 1
        time.sleep(max(0.0, 1 - (time.monotonic() - start)))
    return moves


PARTS = {"memory": memory, "kills": kills, "flips": flips}


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory, durability and atomic releases of the gateway.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--requests", type=int, default=100_000, help="of the memory part")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the flips")
    options = parser.parse_args()
    held: list[tuple[str, bool]] = []
    for part in options.parts or PARTS:
        say(part)
        with tempfile.TemporaryDirectory(prefix="llmops-bench-") as name, upstream(Path(name)) as stub:
            held += PARTS[part](Path(name), stub.base, options)
    for text, met in held:
        print(f"{'met   ' if met else 'MISSED'} {text}")
    return 0 if all(met for _, met in held) else 1


if __name__ == "__main__":
    sys.exit(main())

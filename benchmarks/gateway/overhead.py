"""What a request costs in each gateway, in CPU and in time, beside a bare pass-through and LiteLLM's proxy.

    python -m benchmarks.gateway.overhead [--seconds 8] [--rounds 3] [--peers DIR]

All stand at once before one stub upstream that answers at once, one worker each, and take turns under the same load, in
another order each round; the median counts. CPU per request is the gateway's own (its processes' user and system
time), which other work on the machine changes little; latencies it changes much, so they are given as ratios of one
run. "added" is the gateway's latency less the upstream's asked directly in the same round.

What is equal: the machine, the upstream, the question (300 characters), the client. What is not: ours checks a hashed
key, counts a rate limit and a token budget, renders a release's prompt and has the record on disk before the reply
ends; LiteLLM checks one master key and logs nothing; the bare pass-through does none of it.
Exits 1 when a criterion is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway import load
from benchmarks.gateway.contenders import DEFAULT_CACHE, Gateway, install_litellm, ours, side_by_side

TEXT = ("Summarise this text. " * 15)[:300]
CONCURRENCIES = (1, 32)


@dataclass(slots=True)
class Series:
    """One contender under one kind of load: CPU per request (ms), latencies (ms) and requests by second, by round."""

    cpu: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    failed: int = 0


def body_for(model: str, stream: bool) -> dict[str, object]:
    """The same question in every gateway's words."""
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": TEXT}], "max_tokens": 32}
    return {**body, "stream": True, "stream_options": {"include_usage": True}} if stream else body


def measure(gateway: Gateway, concurrency: int, stream: bool, seconds: float, series: Series) -> None:
    """One turn: a second to warm up, then the load."""
    body = body_for(gateway.model, stream)

    def turn(length: float) -> load.Load:
        return asyncio.run(load.run(gateway.url, lambda _: body, concurrency, key=gateway.key, seconds=length))

    turn(1.0)
    before = gateway.server.cpu_seconds()
    done = turn(seconds)
    used = gateway.server.cpu_seconds() - before
    good = len(done.good)
    series.failed += len(done.failures) + len(done.replies) - good
    series.cpu.append(1000 * used / good)
    series.p50.append(done.percentile(0.5))
    series.p99.append(done.percentile(0.99))
    series.first.append(done.percentile(0.5, lambda reply: reply.first_ms))
    series.rate.append(good / done.seconds)


def turns(
    gateways: dict[str, Gateway], seconds: float, rounds: int, concurrencies: Sequence[int] = CONCURRENCIES
) -> dict[tuple[str, int, bool], Series]:
    """Every contender under every load, `rounds` times."""
    found: dict[tuple[str, int, bool], Series] = {}
    loads = [(concurrency, stream) for stream in (False, True) for concurrency in concurrencies]
    for number in range(rounds):
        names = list(gateways)
        start = number % len(names)
        for concurrency, stream in loads:
            for name in (*names[start:], *names[:start]):
                say(f"round {number + 1} of {rounds}: {name}, {concurrency} at a time, {kind(stream)}")
                series = found.setdefault((name, concurrency, stream), Series())
                measure(gateways[name], concurrency, stream, seconds, series)
    return found


def show(found: dict[tuple[str, int, bool], Series]) -> None:
    """Prints the table."""
    print(f"\n{'load':22} {'gateway':18} {'CPU ms':>7} {'range':>13} {'p50 ms':>7} {'p99 ms':>7} {'first':>7}"
          f" {'req/s':>7} {'failed':>6}")  # fmt: skip
    for (name, concurrency, stream), series in sorted(found.items(), key=lambda item: (item[0][2], item[0][1])):
        cpu = f"{min(series.cpu):.2f}–{max(series.cpu):.2f}"
        print(
            f"{f'{kind(stream)}, {concurrency} at a time':22} {name:18} {middle(series.cpu):7.2f} {cpu:>13}"
            f" {middle(series.p50):7.2f} {middle(series.p99):7.2f} {middle(series.first):7.2f}"
            f" {middle(series.rate):7.0f} {series.failed:6}"
        )


def criteria(found: dict[tuple[str, int, bool], Series]) -> list[tuple[str, bool]]:
    """What must hold, and whether it does."""
    made = []
    for stream, of_bare, of_litellm in ((False, 2.5, 10.0), (True, None, 15.0)):
        mine = middle(found["llmops", 1, stream].cpu)
        floor, peer = (middle(found[name, 1, stream].cpu) for name in ("bare", "litellm"))
        text = f"CPU, {kind(stream)}: {mine / floor:.2f} times the bare pass-through"
        made.append(
            (f"{text}, at most {of_bare} asked" if of_bare else text, of_bare is None or mine <= of_bare * floor)
        )
        made.append((f"CPU, {kind(stream)}: 1/{peer / mine:.1f} of LiteLLM's, at most 1/{of_litellm:.0f} asked",
                     mine * of_litellm <= peer))  # fmt: skip
    upstream_p99 = middle(found["upstream", 1, False].p99)
    mine, floor = (middle(found[name, 1, False].p99) - upstream_p99 for name in ("llmops", "bare"))
    made.append((f"added p99 at one request: {mine:.1f} ms, {mine / floor:.1f} times the bare one's, at most 5 asked",
                 mine <= 5 * floor))  # fmt: skip
    failed = sum(series.failed for (name, _, _), series in found.items() if name == "llmops")
    made.append((f"requests that llmops did not answer: {failed}, none allowed", failed == 0))
    return made


def workers(folder: Path, address: str, seconds: float) -> None:
    """How throughput grows with workers; printed, no criterion: the client and the upstream share the cores."""
    for count in (1, 2, 4):
        own = folder / f"workers-{count}"
        own.mkdir()
        with ours(own, address, count) as gateway:
            series = Series()
            measure(gateway, 32, False, seconds, series)
            print(f"llmops with {count} workers, 32 at a time: {series.rate[0]:.0f} requests/s, "
                  f"{series.cpu[0]:.2f} ms of CPU each, p99 {series.p99[0]:.0f} ms", flush=True)  # fmt: skip


def kind(stream: bool) -> str:
    return "streamed" if stream else "whole"


def middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def say(text: str) -> None:
    """Progress, with the machine's load at that moment."""
    print(f"[load {os.getloadavg()[0]:.1f}] {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU and latency that a gateway adds.")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=DEFAULT_CACHE, help="folder of their environments (BENCH_PEERS)")
    options = parser.parse_args()
    command = install_litellm(options.peers.expanduser().resolve())
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run, {options.rounds} rounds, medians")
    with (
        tempfile.TemporaryDirectory(prefix="llmops-bench-") as folder,
        side_by_side(Path(folder), command) as gateways,
    ):
        found = turns(gateways, options.seconds, options.rounds)
        show(found)
        print()
        workers(Path(folder), gateways["upstream"].base, options.seconds)
    held = criteria(found)
    print()
    for text, met in held:
        print(f"{'met   ' if met else 'MISSED'} {text}")
    return 0 if all(met for _, met in held) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Tokens by second through the gateway and its engine process, beside the engine's own HTTP port, on the real model.

    python -m benchmarks.gateway.local_model [--seconds 20] [--rounds 3] [--model GGUF]

The same file in the same build of llama.cpp with as many slots and threads; the same streamed requests from 1, 8 and 32
clients; turns alternate, the median counts. At 32 clients half of them wait: in our queue, or in the engine's. "alone"
is llama.cpp's own HTTP server, asked directly: it prompts nothing, checks and logs nothing.
Exits 1 when the gateway gives less than 90 % of it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import orjson

from benchmarks.evaluation.runners import model_file
from benchmarks.evaluation.server import KEY, MODEL, serving, threads
from benchmarks.gateway import load
from benchmarks.gateway.contenders import Home
from benchmarks.gateway.overhead import say

CLIENTS = (1, 8, 32)
SLOTS = 16


def body(model: str, number: int) -> dict[str, object]:
    """A short question, another each time, and an answer of 48 tokens."""
    messages = [{"role": "user", "content": f"Tell me a story about the number {number}."}]
    return {
        "model": model, "messages": messages, "max_tokens": 48, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def measure(url: str, key: str, model: str, clients: int, seconds: float) -> tuple[float, float]:
    """Tokens made by second, and milliseconds to the first event (median)."""
    tokens = 0

    def count(_number: int, reply: load.Reply) -> None:
        nonlocal tokens
        events = [line[6:] for line in reply.body.split(b"\n") if line.startswith(b"data: {")]
        tokens += next((event["usage"]["completion_tokens"] for event in map(orjson.loads, reversed(events))
                        if event.get("usage")), 0)  # fmt: skip

    done = asyncio.run(
        load.run(url, lambda n: body(model, n), clients, key=key, seconds=seconds, on_reply=count, fresh=True)
    )
    if done.failures or len(done.good) < len(done.replies):
        raise SystemExit(
            f"{url}: {done.failures[:3]} {[reply.status for reply in done.replies if reply.status != 200][:3]}"
        )
    return tokens / done.seconds, done.percentile(0.5, lambda reply: reply.first_ms)


def main() -> int:
    parser = argparse.ArgumentParser(description="Tokens by second through the gateway and from the engine's own port.")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the catalogue's default model")
    options = parser.parse_args()
    gguf = (options.model or model_file()).resolve()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run, {options.rounds} rounds, medians")
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="llmops-bench-") as name, ExitStack() as stack:
        settings = {"engine_slots": str(SLOTS), "engine_threads": str(threads()), "engine_weights": "stored"}
        home = Home(Path(name), f"file:{gguf}", **settings)
        gateway = stack.enter_context(home.serving(home.create_key()))
        # Its key for bare model versions: an app's key may not ask them.
        key = str(home.llmops("keys", "create")["key"])
        alone = stack.enter_context(serving(gguf, SLOTS, prompt_cache=False))
        contenders = {
            "alone": (f"{alone}/chat/completions", KEY, MODEL),
            "gateway": (gateway.url, key, "bench-model@1"),
        }
        for number in range(options.rounds):
            for clients in CLIENTS:
                for contender, target in contenders.items():
                    say(f"round {number + 1} of {options.rounds}: {contender}, {clients} clients")
                    rates.setdefault((contender, clients), []).append(measure(*target, clients, options.seconds))
    print(f"\n{'clients':>7} {'alone tok/s':>12} {'gateway tok/s':>14} {'ratio':>6} {'first event ms':>20}")
    met = True
    for clients in CLIENTS:
        (mine, my_first), (theirs, their_first) = (
            tuple(statistics.median(values) for values in zip(*rates[contender, clients], strict=True))
            for contender in ("gateway", "alone")
        )
        met = met and mine >= 0.9 * theirs
        print(f"{clients:7} {theirs:12.1f} {mine:14.1f} {mine / theirs:6.2f} {their_first:9.0f} {my_first:9.0f}")
    print(f"{'met   ' if met else 'MISSED'} at least 90 % of the engine's own port at every number of clients")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())

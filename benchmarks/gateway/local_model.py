"""Tokens by second through the gateway and its engine process, beside llama.cpp's own HTTP port, on the real model.

    python -m benchmarks.gateway.local_model [--engine llamacpp|openvino] [--seconds 20] [--rounds 3] [--model GGUF]

The same file with as many slots and threads; the same streamed requests from 1, 8 and 32 clients; turns alternate, the
median counts. At 32 clients half of them wait: in our queue, or in the engine's. "alone" is llama.cpp's HTTP server,
asked directly: it prompts nothing, checks and logs nothing.

With `--engine llamacpp` both run the same build of llama.cpp on the weights as stored, so the ratio is what the gateway
costs. OpenVINO has no port of its own: with `--engine openvino` the same llama.cpp server is the peer, the gateway's
weights are held wide (as that engine needs them, see ADR 16), and the ratio compares two engines, gateway included.
Exits 1 when the gateway gives less than 90 % of the port.
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
WEIGHTS = {"llamacpp": "stored", "openvino": "wide"}
"""How the gateway holds the weights, by its engine."""


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


Rates = dict[tuple[str, int], list[tuple[float, float]]]
"""What `measure` gave each round, by contender and number of clients."""


def take_turns(gguf: Path, engine: str, rounds: int, seconds: float) -> Rates:
    """The gateway with this engine and llama.cpp's port, one after the other at every number of clients."""
    rates: Rates = {}
    with tempfile.TemporaryDirectory(prefix="llmops-bench-") as name, ExitStack() as stack:
        home = Home(
            Path(name),
            f"file:{gguf}",
            engine=engine,
            engine_slots=str(SLOTS),
            engine_threads=str(threads()),
            engine_weights=WEIGHTS[engine],
        )
        gateway = stack.enter_context(home.serving(home.create_key()))
        # Its key for bare model versions: an app's key may not ask them.
        key = str(home.llmops("keys", "create")["key"])
        alone = stack.enter_context(serving(gguf, SLOTS, prompt_cache=False))
        contenders = {
            "alone": (f"{alone}/chat/completions", KEY, MODEL),
            "gateway": (gateway.url, key, "bench-model@1"),
        }
        for number in range(rounds):
            for clients in CLIENTS:
                for contender, target in contenders.items():
                    say(f"round {number + 1} of {rounds}: {contender}, {clients} clients")
                    rates.setdefault((contender, clients), []).append(measure(*target, clients, seconds))
    return rates


def show(rates: Rates, engine: str) -> bool:
    """Prints medians; whether the gateway gave 90 % of the port's tokens at every number of clients."""
    port = "the engine's own port" if engine == "llamacpp" else "llama.cpp's port, another engine"
    print(f"\ngateway: {engine}, weights {WEIGHTS[engine]}; alone: {port}, weights stored")
    print(f"{'clients':>7} {'alone tok/s':>12} {'gateway tok/s':>14} {'ratio':>6} {'first event ms':>20}")
    met = True
    for clients in CLIENTS:
        (mine, my_first), (theirs, their_first) = (
            tuple(statistics.median(values) for values in zip(*rates[contender, clients], strict=True))
            for contender in ("gateway", "alone")
        )
        met = met and mine >= 0.9 * theirs
        print(f"{clients:7} {theirs:12.1f} {mine:14.1f} {mine / theirs:6.2f} {their_first:9.0f} {my_first:9.0f}")
    print(f"{'met   ' if met else 'MISSED'} at least 90 % of {port}, at every number of clients")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description="Tokens by second through the gateway and from llama.cpp's own port.")
    parser.add_argument("--engine", choices=sorted(WEIGHTS), default="llamacpp", help="the gateway's engine")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the catalogue's default model")
    options = parser.parse_args()
    gguf = (options.model or model_file()).resolve()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run, {options.rounds} rounds, medians")
    rates = take_turns(gguf, options.engine, options.rounds, options.seconds)
    return 0 if show(rates, options.engine) else 1


if __name__ == "__main__":
    sys.exit(main())

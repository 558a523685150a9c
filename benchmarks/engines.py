"""Decoding speed of the engines and of the two weight versions, alternating, as ratios to transformers.

    python -m benchmarks engines

Each contender answers the same requests, all in flight at once, in rounds that alternate the contenders; the median
round counts. Ratios hold on the machine they were taken on, at the load it had; seconds do not carry over.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time

from llmops.engines.opening import open_engine
from llmops.engines.protocol import Engine, generate
from llmops.generation import GenerationParameters, GenerationRequest, Message
from llmops.models.sources import DEFAULT_MODEL
from llmops.registry import Registry
from llmops.registry.model_registration import pull
from llmops.settings import Settings

ROUNDS, REQUESTS = 3, 16
PARAMETERS = GenerationParameters(max_tokens=24)


async def tokens_per_second(engine: Engine) -> float:
    """Generated tokens by wall time, REQUESTS in flight at once."""
    requests = [
        GenerationRequest((Message(role="user", content=f"Tell me a fact about the number {number}."),), PARAMETERS)
        for number in range(REQUESTS)
    ]
    start = time.perf_counter()
    made = await asyncio.gather(*(generate(engine, request) for request in requests))
    return sum(generation.usage.tokens_out or 0 for generation in made) / (time.perf_counter() - start)


async def measure() -> dict[str, list[float]]:
    settings = Settings.from_environment()
    q4_1, q4_0 = pull(settings, Registry(settings), DEFAULT_MODEL, lambda text: print(text, file=sys.stderr))
    contenders = {
        "transformers, float32 of Q4_1": open_engine(q4_1, settings, "transformers"),
        f"llamacpp, {q4_1.ref} (Q4_1)": open_engine(q4_1, settings),
        f"llamacpp, {q4_0.ref} (Q4_0)": open_engine(q4_0, settings),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS):
        for name, engine in contenders.items():
            print(f"round {number + 1} of {ROUNDS}: {name}", file=sys.stderr)
            rates[name].append(await tokens_per_second(engine))
    for engine in contenders.values():
        await engine.close()
    return rates


def main() -> None:
    load = os.getloadavg()[0]
    rates = asyncio.run(measure())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    base = next(iter(medians.values()))
    print(f"{REQUESTS} requests in flight, {os.cpu_count()} cores, load {load:.1f} before the run")
    print(f"{'engine':40} {'tokens/s':>9} {'lowest':>8} {'highest':>8} {'ratio':>7}")
    for name, median in medians.items():
        print(f"{name:40} {median:9.1f} {min(rates[name]):8.1f} {max(rates[name]):8.1f} {median / base:6.1f}×")


if __name__ == "__main__":
    main()

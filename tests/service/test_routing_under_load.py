"""A canary and a champion that moves every 100 ms under load: no error, and no reply that mixes two releases."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from llmops.engines.fake import FakeEngine
from llmops.traffic_policy import TrafficPolicy

SECONDS = 3.0
CLIENTS = 6


def hammer(url: str, stop: threading.Event, stream: bool) -> set[tuple[int, str, str]]:
    """Asks until told to stop; every distinct status, text and combination of version headers seen."""
    seen = set()
    body = {"model": "assistant", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    with httpx.Client(base_url=url, timeout=20) as http:
        while not stop.is_set():
            reply = http.post("/v1/chat/completions", json=body)
            names = [reply.headers.get(f"x-llmops-{name}", "") for name in ("release", "prompt", "model")]
            words = [word for word in ("first", "second") if word in reply.text]
            seen.add((reply.status_code, " ".join(words), " ".join(names)))
    return seen


def test_flips_of_the_champion_under_load_fail_nothing_and_mix_nothing(serve, release):
    def engine(model):
        name = {1: "first", 2: "second"}[model.version]
        return FakeEngine(lambda request: f"{name} {request.messages[0]['content']}", word_seconds=0.001)

    with serve(release(1, "champion"), release(2, "challenger"), engine=engine) as gateway:
        gateway.source.set_policy("assistant", TrafficPolicy(canary=0.3, shadow=0.2, sticky="request"))
        stop = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            hammers = [pool.submit(hammer, gateway.url, stop, stream) for stream in [False, True] * (CLIENTS // 2)]
            ends, flips = time.monotonic() + SECONDS, 0
            while time.monotonic() < ends:
                champion, challenger = (1, 2) if flips % 2 else (2, 1)
                gateway.source.set_alias("assistant", "challenger", challenger)
                gateway.source.set_alias("assistant", "champion", champion)
                flips += 1
                time.sleep(0.1)
            stop.set()
            seen = set().union(*(future.result() for future in hammers))
        outcomes = {record.outcome for record in gateway.log.iterate(shadow=True)}
    assert seen == {
        (200, "first", "assistant@1 qa@1 tiny@1"),
        (200, "second", "assistant@2 qa@2 tiny@2"),
    }
    assert outcomes == {"ok", "shadow"}

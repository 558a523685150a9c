"""Sends real chat requests to a gateway of its own: the demo's production."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llmops.errors import CannotRun
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from service.gateway_process import running_gateway

_CLIENTS = 4


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was sent and what came back. second_half_at: when the second half began."""

    sent: int
    streamed: int
    logged: int
    served_by: tuple[str, ...]
    seconds: float
    second_half_at: datetime

    def describe(self) -> str:
        served = ", ".join(self.served_by)
        return (
            f"{self.sent} requests answered ({self.streamed} streamed) by {served} in {self.seconds:.1f} s, "
            f"{self.logged} of {self.sent} in the production log"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "streamed": self.streamed,
            "logged": self.logged,
            "served_by": list(self.served_by),
            "seconds": round(self.seconds, 1),
        }


def send_traffic(
    settings: Settings, model: str, questions: Sequence[str], count: int, progress: Callable[[int, int], None]
) -> Traffic:
    """Starts a gateway, asks `count` of the questions in two halves, half of them streamed, and stops it.

    model: an app, or a release by its number.
    The questions are shuffled with a fixed seed, so that both halves come from the same distribution.

    Raises:
        CannotRun: the gateway does not start, a request fails, or a reply is missing in the log.
    """
    asked = random.Random(0).sample(list(questions), count)  # noqa: S311 - no secret
    half = count // 2
    before = datetime.now(UTC)
    with running_gateway(settings) as base_url:
        start = time.perf_counter()
        first = _ask_all(base_url, model, asked[:half], lambda done: progress(done, count))
        second_half_at = datetime.now(UTC)
        second = _ask_all(base_url, model, asked[half:], lambda done: progress(half + done, count))
        seconds = time.perf_counter() - start
    replies = [*first, *second]
    served_by = tuple(sorted({f"{release} ({prompt}, {model})" for release, prompt, model, _ in replies}))
    logged = ProductionLog(settings.resolved_log_url).count(since=before)
    if logged < count:
        raise CannotRun(f"{count} requests were answered, the production log holds {logged}")
    return Traffic(count, sum(reply[3] for reply in replies), logged, served_by, seconds, second_half_at)


Reply = tuple[str, str, str, bool]


def _ask_all(base_url: str, model: str, questions: Sequence[str], progress: Callable[[int], None]) -> list[Reply]:
    import openai

    client = openai.OpenAI(base_url=f"{base_url}/v1", api_key="none-needed-on-loopback", max_retries=0, timeout=120)
    done: list[Reply] = []

    def ask(numbered: tuple[int, str]) -> Reply:
        number, question = numbered
        try:
            return _ask(client, model, question, stream=number % 2 == 1)
        except openai.OpenAIError as error:
            raise CannotRun(f"the gateway did not answer {question!r}: {error}") from error

    with client, ThreadPoolExecutor(_CLIENTS) as clients:
        for reply in clients.map(ask, enumerate(questions)):
            done.append(reply)
            progress(len(done))
    return done


def _ask(client: Any, model: str, question: str, *, stream: bool) -> Reply:
    """One chat request; returns what served it, read off the reply's headers, and whether it was streamed."""
    messages = [{"role": "user", "content": question}]
    raw = client.chat.completions.with_raw_response.create(model=model, messages=messages, stream=stream)
    parsed = raw.parse()
    if stream:
        for _chunk in parsed:
            pass
    names = ("x-llmops-release", "x-llmops-prompt", "x-llmops-model")
    release, prompt, model_version = (raw.headers[name] for name in names)
    return release, prompt, model_version, stream

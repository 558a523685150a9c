"""What fails for a moment is asked again with growing waits; what fails for good is raised at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from llmops.errors import ContextTooLong, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from llmops.evaluation.generating import Retries, with_retries

PASSING = (EngineError("hiccup"), EngineTimeout("slow"), EngineUnavailable("busy"))
QUICK = Retries(attempts=4, first_wait=0.0005, longest_wait=0.001)


class Failing:
    """Fails with one error after the other, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


def waits(retries: Retries, failures: int, error: EngineError | None = None) -> list[float]:
    return [retries.wait(failures, error or EngineError("hiccup")) for _ in range(200)]


def test_each_wait_is_about_twice_the_one_before_up_to_the_longest_and_none_is_like_another():
    retries = Retries(first_wait=1.0, longest_wait=8.0)
    for failures, longest in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0), (10, 8.0), (60, 8.0)]:
        found = waits(retries, failures)
        assert longest / 2 <= min(found) < max(found) <= longest
        assert len(set(found)) > 100


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        (7.5, 7.5, 7.5),
        (0.0, 0.5, 1.0),  # asked for less than the back-off: the back-off stands
        (-3.0, 0.5, 1.0),
        (3600.0, 20.0, 20.0),  # an upstream that asks for an hour gets twice the longest wait
        (float("inf"), 20.0, 20.0),
        (float("nan"), 0.5, 1.0),
        (None, 0.5, 1.0),
    ],
)
def test_retry_after_is_obeyed_within_bounds(asked: float | None, least: float, most: float) -> None:
    found = waits(Retries(first_wait=1.0, longest_wait=10.0), 1, EngineUnavailable("busy", retry_after=asked))
    assert least <= min(found) <= max(found) <= most


def test_an_upstreams_wait_is_slept() -> None:
    ask = Failing(EngineUnavailable("busy", retry_after=0.008))
    begun = time.perf_counter()
    assert asyncio.run(with_retries(ask, Retries(attempts=2, first_wait=0.0, longest_wait=0.01))) == "answer"
    assert time.perf_counter() - begun >= 0.008


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_what_may_pass_is_asked_again_until_all_attempts_failed(error):
    ask = Failing(error, error, error)
    assert asyncio.run(with_retries(ask, QUICK)) == "answer"
    assert ask.asked == 4
    ask = Failing(*(type(error)(f"attempt {number}") for number in range(1, 6)))
    with pytest.raises(type(error), match="attempt 4"):
        asyncio.run(with_retries(ask, QUICK))
    assert ask.asked == 4


@pytest.mark.parametrize(
    "error",
    [
        EngineRejected("no such field"),
        ContextTooLong("too long"),
        EngineUnavailable("wrong key", lasting=True),
        ValueError("a slip in the program"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_cannot_pass_is_raised_at_once(error: Exception) -> None:
    ask = Failing(error)
    with pytest.raises(type(error)) as caught:
        asyncio.run(with_retries(ask, QUICK))
    assert caught.value is error
    assert ask.asked == 1


def test_one_attempt_never_waits() -> None:
    ask: Callable[[], object] = Failing(EngineUnavailable("busy", retry_after=60))
    with pytest.raises(EngineUnavailable):
        asyncio.run(asyncio.wait_for(with_retries(ask, Retries(attempts=1, longest_wait=60)), 1))  # type: ignore[arg-type]

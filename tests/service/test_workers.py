"""The supervisor of the workers, with a small app in real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import httpx
import psutil
import pytest
import uvicorn

from service.server import Workers, listen

DRAIN_SECONDS = 60.0


async def app(scope, receive, send):
    """Answers with its process id."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


async def no_app(scope, receive, send):
    """Does not start."""
    raise RuntimeError("no")


@contextlib.contextmanager
def supervised(name="app", lifespan="off", on_serving=lambda: None):
    """Runs workers, as the main thread must, while `scenario(pids, workers)` runs in another; raises what that did."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(
            f"tests.service.test_workers:{name}", workers=2, lifespan=lifespan, log_level="critical"
        )
        workers = Workers(config, [listener], hung_seconds=30.0, drain_seconds=DRAIN_SECONDS, on_serving=on_serving)
        try:
            yield workers, f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def during(workers, scenario):
    """Runs the workers until the scenario has ended."""
    raised = []

    def run():
        try:
            scenario()
        except BaseException as error:  # noqa: BLE001  raised again below, in the test's own thread
            raised.append(error)
        finally:
            workers.should_exit.set()

    thread = threading.Thread(target=run)
    thread.start()
    workers.run()
    thread.join()
    if raised:
        raise raised[0]


def answers(url):
    """The process that answers; None while none does."""
    with contextlib.suppress(httpx.TransportError):
        return int(httpx.get(url, timeout=60).text)
    return None


def pids(workers):
    return [process.pid for process in workers.processes]


@pytest.mark.parametrize(
    "how", [[signal.SIGSTOP, signal.SIGKILL], pytest.param([signal.SIGSTOP], marks=pytest.mark.slow)]
)
def test_a_worker_that_is_killed_or_frozen_is_replaced(wait_until, how):
    said = []
    with supervised(on_serving=lambda: said.append(answers(url))) as (workers, url):

        def scenario():
            wait_until(lambda: said)
            victim, other = pids(workers)
            for number in how:
                os.kill(victim, number)
            wait_until(lambda: len(pids(workers)) == 2 and victim not in pids(workers), 60)
            assert other in pids(workers)
            os.kill(other, signal.SIGKILL)
            wait_until(lambda: answers(url) not in (None, victim, other), 60)

        during(workers, scenario)
    assert len(said) == 1, "that it serves is said once"
    assert said[0] is not None, "and when it does"


def test_a_frozen_worker_does_not_delay_the_end(wait_until):
    with supervised() as (workers, url):
        seen = []

        def scenario():
            wait_until(lambda: answers(url))
            seen.extend(pids(workers))
            os.kill(seen[0], signal.SIGSTOP)

        during(workers, scenario)  # waits for DRAIN_SECONDS and more where frozen workers are waited for
        assert not any(psutil.pid_exists(pid) for pid in seen)
        assert workers.processes[0].exitcode == -signal.SIGKILL
        assert workers.processes[1].exitcode in (0, -signal.SIGTERM)  # the second before it has started


@pytest.mark.slow
def test_workers_that_never_could_start_end_the_gateway():
    with supervised("no_app", lifespan="on") as (workers, _):
        workers.run()
        assert workers.failed_to_start

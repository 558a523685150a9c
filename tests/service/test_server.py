"""The listening socket, draining, and the supervisor of the workers, with a small app in real processes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import uvicorn

from deploy.services.servers import free_port
from llmops.errors import CannotRun, UsageError
from llmops.production_log import ProductionLog
from service.server import Workers, bound_socket
from tests.at_once import wait_until

DRAIN_SECONDS = 60.0


def supervise(scenario, name="app", lifespan="off", on_serving=lambda url: None, refuses_first=False):
    """Runs workers, as the main thread must, until `scenario(workers, url)` has ended in another thread; the workers.

    refuses_first: connections are refused until a worker answers, as in the product; else they wait for it.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with bound_socket("127.0.0.1", 0) as listener, ThreadPoolExecutor(1) as pool:
        if not refuses_first:
            listener.listen()
        config = uvicorn.Config(f"tests.service.small_apps:{name}", workers=2, lifespan=lifespan, log_level="critical")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        workers = Workers(config, [listener], drain_seconds=DRAIN_SECONDS, on_serving=lambda: on_serving(url))
        played = pool.submit(scenario, workers, url)
        played.add_done_callback(lambda _: workers.should_exit.set())
        try:
            workers.run()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        played.result()
    return workers


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
def test_a_worker_that_is_killed_or_frozen_is_replaced(how):
    said = []

    def scenario(workers, url):
        wait_until(lambda: said)
        victim, other = pids(workers)
        for number in how:
            os.kill(victim, number)
        wait_until(lambda: len(pids(workers)) == 2 and victim not in pids(workers), 60)
        assert other in pids(workers)
        os.kill(other, signal.SIGKILL)
        wait_until(lambda: answers(url) not in (None, victim, other), 60)

    supervise(scenario, on_serving=lambda url: said.append(answers(url)))
    assert len(said) == 1, "that it serves is said once"
    assert said[0] is not None, "and when it does"


def test_a_frozen_worker_does_not_delay_the_end():
    seen = []

    def scenario(workers, url):
        wait_until(lambda: answers(url))
        seen.extend(pids(workers))
        os.kill(seen[0], signal.SIGSTOP)

    workers = supervise(scenario)  # waits for DRAIN_SECONDS and more where frozen workers are waited for
    assert not any(psutil.pid_exists(pid) for pid in seen)
    assert workers.processes[0].exitcode == -signal.SIGKILL
    assert workers.processes[1].exitcode in (0, -signal.SIGTERM)  # the second before it has started


def test_a_gateway_that_ends_answers_every_connection_that_it_has_and_refuses_others(tmp_path):
    released = tmp_path / "released"
    served = threading.Event()

    def scenario(workers, url):
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)  # nobody can answer yet
        assert served.wait(120)
        clients = [socket.create_connection(address) for _ in range(20)]
        for client in clients:
            client.sendall(b"GET %b HTTP/1.1\r\nhost: here\r\n\r\n" % bytes(released))
        workers.should_exit.set()
        wait_until(lambda: answers(url) is None)
        assert any(process.exitcode is None for process in workers.processes)
        released.touch()
        for client in clients:
            with client, client.makefile("rb") as reply:
                assert reply.readline() == b"HTTP/1.1 200 OK\r\n"

    supervise(scenario, "held_app", on_serving=lambda _: served.set(), refuses_first=True)


@pytest.mark.slow
def test_workers_that_never_could_start_end_the_gateway():
    workers = supervise(lambda workers, _: wait_until(workers.should_exit.is_set), "no_app", lifespan="on")
    assert workers.failed_to_start


ROOT = Path(__file__).parents[2]

DRAINING = """
import sys
from pathlib import Path
import uvicorn
from llmops.engines.fake import FakeEngine
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from service.app import create_app
from service.gateway import Gateway
from service.server import bound_socket, uvicorn_config
from tests.service.conftest import release
from tests.service.static_releases import StaticReleases
settings = Settings(home=Path(sys.argv[1]))
log = ProductionLog(settings.resolved_log_url)
source = StaticReleases([release(1, "champion")])
opener = lambda model: FakeEngine(lambda _: "one two three four five", word_seconds=0.15)
config = uvicorn_config(lambda: create_app(Gateway(settings, source.registered, opener, log)), settings)
uvicorn.Server(config).run(sockets=[bound_socket("127.0.0.1", int(sys.argv[2]))])
print("stopped", flush=True)
"""


def test_a_taken_port_is_said_clearly_and_a_wrong_one_too():
    with bound_socket("localhost", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotRun, match=rf"^port {port} is taken; choose another with --port$"):
            bound_socket("127.0.0.1", port)
    with pytest.raises(UsageError, match="--port"):
        bound_socket("127.0.0.1", 70000)


def test_sigterm_lets_open_requests_end(tmp_path):
    port = free_port()
    script = [sys.executable, "-c", DRAINING, str(tmp_path), str(port)]
    with subprocess.Popen(script, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:

            def ready():
                try:
                    return http.get("/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(ready)
            body = {"model": "assistant", "stream": True, "messages": [{"role": "user", "content": "x"}]}
            with http.stream("POST", "/v1/chat/completions", json=body) as reply:
                process.send_signal(signal.SIGTERM)
                text = "".join(reply.iter_text())
        out, _ = process.communicate(timeout=60)
    assert "five" in text
    assert text.endswith("data: [DONE]\n\n")
    assert out == ""  # uvicorn passes the signal on once it has drained
    assert process.returncode == -signal.SIGTERM
    log = ProductionLog(f"sqlite:///{tmp_path / 'log.db'}")
    assert [record.outcome for record in log.read()] == ["ok"]
    log.close()


@pytest.mark.parametrize(
    ("host", "has_keys", "bound"),
    [
        *((host, has_keys, host) for host in ("127.0.0.1", "127.8.8.8", "::1") for has_keys in (False, True)),
        ("localhost", False, "127.0.0.1"),
        ("0.0.0.0", True, "0.0.0.0"),  # noqa: S104  beyond loopback
        ("::", True, "::"),
    ],
)
def test_loopback_needs_no_keys_and_beyond_it_keys_open_the_socket(host, has_keys, bound):
    with bound_socket(host, 0, has_keys) as listener:
        assert listener.getsockname()[0] == bound


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"])  # noqa: S104  beyond loopback
def test_beyond_loopback_needs_keys(host):
    with pytest.raises(UsageError, match="llmops keys create"):
        bound_socket(host, 0, has_keys=False)


@pytest.mark.parametrize("host", ["", "example.org", "127.0.0.1:80", "1"])
@pytest.mark.parametrize("has_keys", [False, True])
def test_a_host_is_an_ip_address(host, has_keys):
    with pytest.raises(UsageError, match="is not an IP address"):
        bound_socket(host, 0, has_keys)

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from llmops.errors import CannotRun, UsageError
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from service.server import check_bind, listen, run

ROOT = Path(__file__).parents[2]

DRAINING = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/service"]
import conftest
from llmops.engines.fake import FakeEngine
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from service.app import create_app
from service.server import run
from tests.service.static_releases import StaticReleases
home = Path(sys.argv[2])
log = ProductionLog(f"sqlite:///{home / 'log.db'}")
source = StaticReleases([conftest.release(1, "champion")])
opener = lambda model: FakeEngine(lambda _: "one two three four five", word_seconds=0.15)
settings = Settings(home=home)
run(lambda: create_app(settings, source, opener, log), settings, port=int(sys.argv[3]))
print("stopped", flush=True)
"""


@pytest.mark.parametrize("wrong", [{"host": "example.org"}, {"port": 70000}])
def test_wrong_arguments_are_usage_errors(wrong):
    with pytest.raises(UsageError):
        run(lambda: None, Settings(), **wrong)


def test_a_taken_port_is_said_clearly():
    with listen("localhost", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotRun, match=rf"^port {port} is taken; choose another with --port$"):
            run(lambda: None, Settings(), port=port)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_sigterm_lets_open_requests_end(tmp_path, wait_until):
    port = free_port()
    script = [sys.executable, "-c", DRAINING, str(ROOT), str(tmp_path), str(port)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
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
        out, _ = process.communicate(timeout=10)
    assert "five" in text
    assert text.endswith("data: [DONE]\n\n")
    assert out == ""  # uvicorn passes the signal on once it has drained
    assert process.returncode == -signal.SIGTERM
    log = ProductionLog(f"sqlite:///{tmp_path / 'log.db'}")
    assert [record.outcome for record in log.read()] == ["ok"]
    log.close()


@pytest.mark.parametrize(
    ("host", "address"),
    [("localhost", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("127.8.8.8", "127.8.8.8"), ("::1", "::1")],
)
@pytest.mark.parametrize("has_keys", [False, True])
def test_loopback_needs_no_keys(host, address, has_keys):
    assert str(check_bind(host, has_keys)) == address


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"])  # noqa: S104  beyond loopback
def test_beyond_loopback_needs_keys(host):
    with pytest.raises(UsageError, match="llmops keys create"):
        check_bind(host, has_keys=False)
    assert check_bind(host, has_keys=True).version == (6 if ":" in host else 4)


@pytest.mark.parametrize("host", ["", "example.org", "127.0.0.1:80", "1"])
@pytest.mark.parametrize("has_keys", [False, True])
def test_a_host_is_an_ip_address(host, has_keys):
    with pytest.raises(UsageError, match="is not an IP address"):
        check_bind(host, has_keys)


def test_a_socket_listens_beyond_loopback_once_there_are_keys():
    with pytest.raises(UsageError, match="needs keys"):
        listen("0.0.0.0", 0)  # noqa: S104
    with listen("0.0.0.0", 0, has_keys=True) as listener:  # noqa: S104
        assert listener.getsockname()[0] == "0.0.0.0"  # noqa: S104

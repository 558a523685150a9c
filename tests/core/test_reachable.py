"""Whether a server answers, before a run relies on it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from llmops.errors import EngineUnavailable
from llmops.reachable import check_reachable


@pytest.fixture
def server() -> Iterator[Callable[[int], str]]:
    """Starts a server that answers everything with one status, and gives its base URL."""
    running: list[HTTPServer] = []

    def start(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.headers["authorization"] != "Bearer good" else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - http.server's name
                """Says nothing."""

        running.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=running[-1].serve_forever, kwargs={"poll_interval": 0.02}).start()
        return f"http://127.0.0.1:{running[-1].server_port}/v1"

    yield start
    for each in running:
        each.shutdown()
        each.server_close()


@pytest.mark.parametrize("status", [200, 404, 405, 429, 500, 501])
def test_any_answer_of_the_server_itself_will_do(server, status):
    check_reachable("judge j", server(status))


@pytest.mark.parametrize(("status", "why"), [(502, "not available"), (503, "not available"), (401, "refuses the key")])
def test_a_proxy_without_its_server_and_a_refused_key_are_named(server, status, why):
    url = server(status)
    with pytest.raises(EngineUnavailable, match=f"judge j at {url} .*{why}.*: it answered {status}"):
        check_reachable("judge j", url, "wrong")
    check_reachable("judge j", url, "good")


def test_a_server_that_is_not_there_is_named_with_its_address_and_why():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EngineUnavailable, match=rf"^judge j at {url} cannot be reached: .*refused; is it running\?"):
        check_reachable("judge j", url)
    with pytest.raises(EngineUnavailable, match=r"judge j at .* cannot be reached"):
        check_reachable("judge j", "http://no-such-host.invalid/v1")

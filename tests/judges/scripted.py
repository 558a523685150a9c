"""A judge that says what a function tells it to: for tests, examples, and trying a suite without a model.

with ScriptedJudge(lambda request: '{"rationale": "fine", "score": "pass"}') as judge:
    endpoint = JudgeEndpoint("scripted", judge.base_url, "scripted")
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

Reply = str | tuple[int, Mapping[str, str], str]
Answer = Callable[[dict[str, Any]], Reply]


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request as it arrived: its JSON body, and its headers with lower-case names."""

    body: dict[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Every message's text, joined by blank lines."""
        return "\n\n".join(message["content"] for message in self.body["messages"])

    @property
    def schema(self) -> dict[str, Any]:
        """The schema that the answer was asked to follow."""
        found: dict[str, Any] = self.body["response_format"]["json_schema"]["schema"]
        return found


def completion(text: str, finish_reason: str = "stop") -> str:
    """The body of a chat completion that says `text`."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return json.dumps(
        {"id": "scripted", "object": "chat.completion", "created": 0, "model": "scripted", "choices": [choice]}
        | {"usage": usage}
    )


_NO_SUCH_PATH: tuple[int, Mapping[str, str], str] = (404, {}, '{"error": {"message": "no such path"}}')


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the default of 5 makes many clients that come at once wait for a second try

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that stopped waiting is no error of the script's."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class ScriptedJudge:
    """An OpenAI-compatible server on a free loopback port while the context lasts.

    answer: from a request's JSON body to the text of a completion, or to a whole reply (status, headers, body). What it
    raises becomes a reply of status 500 that names it. `requests` keeps every request, in the order of arrival.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.requests: list[SeenRequest] = []
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def base_url(self) -> str:
        """Address for `JudgeEndpoint.base_url`."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ScriptedJudge:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], str]:
        self.requests.append(SeenRequest(body, headers))
        try:
            reply = self._answer(body)
        except Exception as error:  # noqa: BLE001 - the script is the user's; the caller sees its error as a reply
            return 500, {}, json.dumps({"error": {"message": f"{type(error).__name__}: {error}"}})
        return (200, {}, completion(reply)) if isinstance(reply, str) else reply

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                seen = {name.lower(): value for name, value in self.headers.items()}
                known = self.path == "/v1/chat/completions"
                status, headers, text = judge._reply(body, seen) if known else _NO_SUCH_PATH
                content = text.encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - http.server's name
                """Says nothing."""

        return Handler

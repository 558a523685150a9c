"""The server's own log: what a line holds, what it must not hold, and that it delays nobody."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from llmops.json_logs import MOST_QUEUED, LineHandler, configure_logging
from service.access import Caller
from service.request_context import AccessLog

pytestmark = pytest.mark.anyio
LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access")


class Stream(io.TextIOWrapper):
    """A text stream in memory, as stderr is one."""

    def __init__(self, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def text(self) -> str:
        return self.buffer.getvalue().decode()  # type: ignore[attr-defined,no-any-return]

    @property
    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    yield
    for handler in root.handlers[:]:
        if isinstance(handler, LineHandler):
            root.removeHandler(handler)
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, theirs in levels.items():
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(theirs)


@contextmanager
def logging_to(stream: Any = None, form: str = "json") -> Iterator[Any]:
    """The stream of a log that is written when the block ends."""
    stream = stream or Stream()
    handler = configure_logging(form, stream=stream)
    try:
        yield stream
    finally:
        handler.close()


def scope(path: str = "/v1/chat/completions", **state: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"secret=1",
        "headers": [(b"authorization", b"Bearer secret")],
        "state": {"request_id": "req_1", "reply_headers": [(b"x-llmops-release", b"assistant@1")], **state},
    }


async def answering(status: int | None, request: dict[str, Any], error: Exception | None = None) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        if status is not None:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"secret answer"})
        if error is not None:
            raise error

    async def receive() -> Any:
        return {"type": "http.request", "body": b"secret question"}

    async def send(_message: Any) -> None:
        pass

    await AccessLog(app)(request, receive, send)


def test_a_line_is_one_json_object():
    with logging_to() as stream:
        logging.getLogger("llmops.service").warning("model %s: gone\nand away", "tiny@1", extra={"request_id": "req_9"})
    (entry,) = stream.entries
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "warning",
        "logger": "llmops.service",
        "message": "model tiny@1: gone\nand away",
        "request_id": "req_9",
    }


def test_an_exception_is_part_of_its_line():
    with logging_to() as stream:
        try:
            raise RuntimeError("no \ud800 weights")
        except RuntimeError:
            logging.getLogger("llmops.service").exception("failed")
    assert stream.entries[0]["exception"].endswith("RuntimeError: no \\ud800 weights")


def test_a_wrong_format_does_not_cost_the_line():
    with logging_to() as stream:
        logging.getLogger("x").warning("%d models", "many")
    assert stream.entries[0]["message"] == "%d models ('many',)"


@pytest.mark.parametrize(("form", "terminal", "is_json"), [
    ("auto", False, True), ("auto", True, False), ("json", True, True), ("text", False, False),
])  # fmt: skip
def test_people_get_text_and_programs_get_json_unless_told_otherwise(form, terminal, is_json):
    with logging_to(Stream(terminal), form=form) as stream:
        logging.getLogger("uvicorn.error").info("Started")
    assert stream.text.startswith("{") == is_json
    assert "Started" in stream.text


async def test_a_request_is_one_line_without_what_was_said():
    with logging_to() as stream:
        await answering(200, scope(caller=Caller("k1", "team")))
    (entry,) = stream.entries
    assert 0 <= entry.pop("latency_ms") < 5000
    del entry["time"]
    assert entry == {
        "level": "info",
        "logger": "llmops.access",
        "message": "POST /v1/chat/completions 200",
        "request_id": "req_1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "release": "assistant@1",
        "key_id": "k1",
    }
    assert "secret" not in stream.text


async def test_a_request_left_by_its_client_and_one_that_failed_have_their_line_too():
    with logging_to() as stream:
        await answering(None, scope())
        with pytest.raises(RuntimeError):
            await answering(None, scope(), RuntimeError("secret"))
    assert [entry["status"] for entry in stream.entries] == [499, 500]
    assert "secret" not in stream.text


async def test_probes_are_logged_only_when_they_find_something():
    with logging_to() as stream:
        await answering(200, scope("/readyz"))
        await answering(503, scope("/readyz"))
    assert [entry["status"] for entry in stream.entries] == [503]


async def test_a_path_cannot_forge_a_line():
    with logging_to(form="text") as stream:
        request = scope("/v1/x") | {"path": "/v1/x\nforged", "raw_path": b"/v1/x%0Aforged" + b"y" * 10_000}
        await answering(404, request)
    assert len(stream.text.splitlines()) == 1
    assert len(stream.text) < 500


def test_a_reader_that_stops_reading_delays_nobody_and_learns_what_it_missed():
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading, "rb") as reader:
        handler = configure_logging("json", stream=stream)
        logger = logging.getLogger("llmops.service")
        start = time.monotonic()
        for _ in range(3 * MOST_QUEUED):
            logger.info("x" * 100)
        assert time.monotonic() - start < 10  # the pipe holds 64 kB, and is full
        found: list[bytes] = []

        def read() -> None:
            found.extend(line for line in reader if b"left out" in line)

        thread = threading.Thread(target=read)
        thread.start()
        deadline = time.monotonic() + 10
        while not found:
            assert time.monotonic() < deadline
            logger.info("again")
            time.sleep(0.01)
        handler.close()
        stream.close()
        thread.join(10)
    assert json.loads(found[0])["level"] == "warning"


def test_a_log_that_cannot_be_written_ends_nothing():
    with logging_to() as stream:
        stream.buffer.close()
        logging.getLogger("x").warning("lost")


async def test_a_request_line_is_cheap():
    handler = configure_logging("json", stream=Stream())
    request, best = scope(), math.inf
    for _ in range(5):
        start = time.process_time()  # of all threads: the writing one too
        for _ in range(1000):
            await answering(200, request)
        best = min(best, (time.process_time() - start) / 1000)
    handler.close()
    assert best < 60e-6

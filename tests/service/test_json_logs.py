"""The server's own log: what a line holds, what it must not hold, and that it delays nobody."""

import io
import json
import logging
import math
import os
import threading
import time
from contextlib import contextmanager

import pytest

from llmops.json_logs import MOST_QUEUED, configure_logging
from service.request_context import RequestContext
from service.tracing import Tracing
from tests.service.conftest import Sent, caller

pytestmark = pytest.mark.anyio
LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access")


class Stream(io.TextIOWrapper):
    """A text stream in memory, as stderr is one."""

    def __init__(self, terminal=False):
        super().__init__(io.BytesIO(), encoding="utf-8")
        self._terminal = terminal

    def isatty(self):
        return self._terminal

    @property
    def text(self):
        return self.buffer.getvalue().decode()

    @property
    def entries(self):
        return [json.loads(line) for line in self.text.splitlines()]


@contextmanager
def logging_to(stream=None, form="json"):
    """The stream of a log that is written when the block ends; logging is then as it was."""
    stream, root = stream or Stream(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    handler = configure_logging(form, stream=stream)
    try:
        yield stream
    finally:
        handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        for name, theirs in levels.items():
            logging.getLogger(name).propagate = True
            logging.getLogger(name).setLevel(theirs)


def scope(path="/v1/chat/completions"):
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"secret=1",
        "headers": [(b"authorization", b"Bearer secret"), (b"x-request-id", b"req_1")],
        "state": {"caller": caller("k1")},
    }


async def answering(status, request, error=None):
    async def app(scope, _receive, send):
        scope["state"]["reply_headers"].append((b"x-llmops-release", b"assistant@1"))
        if status is not None:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"secret answer"})
        if error is not None:
            raise error

    async def receive():
        return {"type": "http.request", "body": b"secret question"}

    await RequestContext(app, lambda _: None, Tracing())(request, receive, Sent())


def test_a_line_is_one_json_object_also_with_an_exception_or_of_a_wrong_format():
    with logging_to() as stream:
        logging.getLogger("llmops.service").warning("model %s: gone\nand away", "tiny@1", extra={"request_id": "req_9"})
        try:
            raise RuntimeError("no \ud800 weights")
        except RuntimeError:
            logging.getLogger("llmops.service").exception("failed")
        logging.getLogger("x").warning("%d models", "many")
    entry, failed, wrong = stream.entries
    assert entry.pop("time").endswith("Z")
    said = {"message": "model tiny@1: gone\nand away", "request_id": "req_9"}
    assert entry == {"level": "warning", "logger": "llmops.service", **said}
    assert failed["exception"].endswith("RuntimeError: no \\ud800 weights")
    assert wrong["message"] == "%d models ('many',)"


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
        await answering(200, scope())
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


async def test_requests_without_an_answer_have_their_line_too_and_probes_only_when_they_find_something():
    with logging_to() as stream:
        await answering(None, scope())
        await answering(None, scope(), RuntimeError("secret"))
        await answering(200, scope("/readyz"))
        await answering(503, scope("/readyz"))
    statuses = [entry["status"] for entry in stream.entries if entry["logger"] == "llmops.access"]
    assert statuses == [499, 500, 503]
    assert "secret" not in stream.text


async def test_a_path_cannot_forge_a_line():
    with logging_to(form="text") as stream:
        request = scope("/v1/x") | {"path": "/v1/x\nforged", "raw_path": b"/v1/x%0Aforged" + b"y" * 10_000}
        await answering(404, request)
    assert len(stream.text.splitlines()) == 1
    assert len(stream.text) < 500


def test_a_reader_that_stops_reading_delays_nobody_and_learns_what_it_missed():
    reading, writing = os.pipe()
    found = []

    def read():
        with os.fdopen(reading, "rb") as reader:
            found.extend(line for line in reader if b"left out" in line)

    thread = threading.Thread(target=read)
    with os.fdopen(writing, "w") as stream, logging_to(stream):
        logger = logging.getLogger("llmops.service")
        start = time.monotonic()
        for _ in range(3 * MOST_QUEUED):
            logger.info("x" * 100)
        assert time.monotonic() - start < 10  # the pipe holds 64 kB, and is full
        thread.start()
        while not found:
            assert time.monotonic() < start + 20
            logger.info("again")
            time.sleep(0.01)
    thread.join(10)
    assert json.loads(found[0])["level"] == "warning"


def test_a_log_that_cannot_be_written_ends_nothing():
    with logging_to() as stream:
        stream.buffer.close()
        logging.getLogger("x").warning("lost")


async def test_a_request_line_is_cheap():
    request, best = scope(), math.inf
    with logging_to():
        for _ in range(5):
            start = time.process_time()  # of all threads: the writing one too
            for _ in range(1000):
                await answering(200, request)
            best = min(best, (time.process_time() - start) / 1000)
    assert best < 60e-6

"""How a stream's events are put into packets, and what becomes of a request whose client goes."""

from __future__ import annotations

import asyncio

import pytest

from llmops.engines.protocol import EngineIdentity
from llmops.errors import EngineError, EngineRejected
from llmops.generation import Chunk, GenerationRequest, Usage
from service.answering import UNWATCHED_SECONDS, run_unless_gone
from service.error_map import ApiError
from service.replies import EventStream

pytestmark = pytest.mark.anyio


class Letters(EventStream):
    """Every piece as it is."""

    def events(self, chunk):
        return chunk.text.encode()

    def closing(self):
        return b">"


@pytest.fixture
def packets():
    return []


@pytest.fixture
def stream(packets):
    async def send(message):
        if message["type"] == "http.response.body":
            packets.append(message["body"])

    return Letters(None, send)


async def test_pieces_that_are_there_together_go_out_together(stream, packets):
    for text, more in (("a", True), ("b", True), ("c", False), ("d", False)):
        await stream.piece(Chunk(text, more=more))
    await stream.finish()
    assert packets == [b"abc", b"d", b">"]


@pytest.mark.parametrize(
    ("last", "packet"), [(Chunk("", "stop"), b"b"), (ApiError(500, "broken"), b"bevent: error\n")], ids=["end", "error"]
)
async def test_what_waits_goes_out_with_the_last_piece_and_before_an_error(stream, packets, last, packet):
    await stream.piece(Chunk("a"))
    await stream.piece(Chunk("b", more=True))
    await (stream.piece if isinstance(last, Chunk) else stream.fail)(last)
    assert packets[0] == b"a"
    assert packets[1].startswith(packet)


class Thinking:
    """An engine that says nothing until `spoken` is set, and then `ending`."""

    identity, slots, honours = EngineIdentity("thinking", "1", {}), 4, frozenset()

    def __init__(self, ending: EngineError | None = None) -> None:
        self.ending, self.spoken = ending, asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    def speak(self) -> None:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.spoken.set)

    async def stream(self, _: GenerationRequest):
        self.loop = asyncio.get_running_loop()
        await self.spoken.wait()
        if self.ending is not None:
            raise self.ending
        yield Chunk("42", "stop", Usage(1, 1))

    async def close(self) -> None:
        pass


BODY = {"model": "assistant", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.mark.parametrize("path", ["chat/completions", "responses", "completions"])
def test_a_silent_model_does_not_keep_a_client_without_headers_and_comments(serve, path):
    engine = Thinking()
    asked = {"responses": {"input": "hi"}, "completions": {"prompt": "hi"}}.get(path, {"messages": BODY["messages"]})
    body = {"model": "assistant", "stream": True, **asked}
    with serve(engine=lambda _: engine) as gateway, gateway.http.stream("POST", f"/v1/{path}", json=body) as reply:
        lines = reply.iter_lines()
        assert (reply.status_code, next(lines)) == (200, ": waiting")
        engine.speak()
        assert "42" in "".join(lines)


def test_a_failure_after_the_headers_is_an_error_event_and_logged_with_its_status(serve):
    engine = Thinking(EngineError("gone", reason="gone"))
    with serve(engine=lambda _: engine) as gateway:
        with gateway.http.stream("POST", "/v1/chat/completions", json=BODY) as reply:
            lines = reply.iter_lines()
            assert (reply.status_code, next(lines)) == (200, ": waiting")
            engine.speak()
            told = [line for line in lines if line]
        assert told[0] == "event: error"
        assert '"message":"the model failed on this request: gone"' in told[1]
        (record,) = gateway.records()
    assert (record.status, record.outcome) == (502, "error")


def test_a_failure_before_the_headers_has_its_own_status(serve):
    engine = Thinking(EngineRejected("the upstream failed: no room"))
    engine.spoken.set()
    with serve(engine=lambda _: engine) as gateway:
        reply = gateway.http.post("/v1/chat/completions", json=BODY)
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "the upstream failed: no room")


def client(leaves_after=None):
    """What a server's `receive` says of a client that leaves after so many seconds, or never."""

    async def receive():
        await (asyncio.sleep(leaves_after) if leaves_after is not None else asyncio.Event().wait())
        return {"type": "http.disconnect"}

    return receive


async def test_work_that_ends_is_left_alone_and_its_errors_come_through():
    done = []

    async def work(error=None):
        await asyncio.sleep(UNWATCHED_SECONDS * 2 if error else 0)
        done.append(1)
        if error is not None:
            raise error

    await run_unless_gone(client(0), work())
    assert done == [1]
    before = len(asyncio.all_tasks())
    with pytest.raises(ZeroDivisionError):
        await run_unless_gone(client(), work(ZeroDivisionError()))
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before, "no watcher is left behind"


async def test_work_is_cancelled_when_the_client_goes_and_ends_in_peace():
    ended = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # what it still has to write
            ended.append(1)

    async with asyncio.timeout(5):
        await run_unless_gone(client(UNWATCHED_SECONDS), work())
    assert ended == [1]
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)  # nothing is left that would be cancelled later


async def test_cancelling_from_outside_is_not_swallowed():
    async def work():
        await asyncio.Event().wait()

    task = asyncio.create_task(run_unless_gone(client(), work()))
    await asyncio.sleep(UNWATCHED_SECONDS * 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

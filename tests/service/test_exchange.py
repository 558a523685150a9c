"""One request and its reply: its record, how a stream's events are put into packets, and a client that goes."""

import asyncio
import dataclasses
import time
from datetime import UTC, datetime

import pytest

from llmops.engines.protocol import EngineIdentity
from llmops.errors import EngineError
from llmops.generation import Chunk, Message, Usage
from service.answering import UNWATCHED_SECONDS, run_unless_gone
from service.error_map import ApiError
from service.exchange import AnswerRequest, Arrival, Exchange
from service.guards import guards_for
from service.replies import EventStream
from service.snapshot import Target
from tests.service.conftest import ANSWERABLE, caller, embed, release

pytestmark = pytest.mark.anyio

USER = Message(role="user", content="hi")


def exchange(*messages, made=None, **asked):
    made = made or release(1, "champion", temperature=0.5)
    arrival = Arrival("req_1", datetime.now(UTC), time.perf_counter(), caller(apps=("assistant",)))
    request = AnswerRequest(route="chat", model="assistant", messages=messages or (USER,), **asked)
    return Exchange(arrival, request, Target(made.model, made), guards_for(made), "champion")


def take(exchange, *chunks):
    for chunk in chunks:
        exchange.take(chunk, chunk)


def test_answers_are_kept_apart_and_the_record_knows_the_first_the_callers_key_and_nothing_else():
    made = exchange(extras={"n": 2})
    details = made.record(200, "ok").details
    assert (details["key"], details["arm"], details["route"]) == ("key_1", "champion", "chat")
    assert not {"error", "user", "metadata", "tool_calls", "other_answers", "guards"} & details.keys()
    take(made, Chunk("b", index=1), Chunk("a"), Chunk("", "stop"))
    assert made.tokens_used > 2  # an estimate, until it is counted
    take(made, Chunk("!", "length", Usage(3, 4), index=1))
    record = made.record(200, "ok")
    assert [(answer.text, answer.finish_reason) for answer in made.answers] == [("a", "stop"), ("b!", "length")]
    assert (record.output, record.tokens_in, record.tokens_out, made.tokens_used) == ("a", 3, 4, 7)
    assert record.details["other_answers"] == [{"output": "b!", "finish_reason": "length"}]
    assert 0 < record.first_token_ms <= record.latency_ms


@pytest.mark.parametrize(
    ("chunk", "problem"),
    [
        *((Chunk("x", index=index), "answer number") for index in (-1, 16, 10**9)),
        *((Chunk("", tool_calls=({"index": i, "function": {}},)), "tool call number") for i in (-1, 128, "0", None)),
    ],
)
def test_an_engine_cannot_make_up_answers_and_tool_calls(chunk, problem):
    with pytest.raises(EngineError, match=problem):
        take(exchange(), chunk)


def test_a_parameter_that_cannot_be_prepared_is_named():
    with pytest.raises(ApiError) as refused:
        exchange(sent={"max_tokens": 0}).prepare()
    assert refused.value.param == "max_tokens"


def test_what_postgresql_cannot_store_is_replaced():
    made = exchange(Message(role="user", content="a\0b"))
    take(made, Chunk("c\0", "stop", Usage(1, 1)))
    record = made.record(200, "ok")
    assert (record.input, record.output) == ("a\ufffdb", "c\ufffd")


def test_a_guarded_record_holds_no_personal_data_wherever_it_stands():
    made = dataclasses.replace(release(1, "champion", tone="x"), guards={"redact_log": True})
    mail = "jo@example.org"
    call = {"index": 0, "id": "c", "function": {"name": "send", "arguments": f'{{"to": "{mail}"}}'}}
    sent = exchange(Message(role="user", content=mail), made=made, prompt_variables={"tone": mail}, user=mail)
    sent.prepare()
    take(sent, Chunk(mail, tool_calls=(call,)), Chunk(mail, "stop", Usage(1, 1), index=1))
    assert mail not in str(sent.record(200, "ok", f"failed at {mail}"))


def test_every_route_says_itself_and_the_user(serve):
    bodies = {**ANSWERABLE, "/v1/embeddings": {"model": "all-minilm-l6-v2", "input": "hi"}}
    routes = ["chat", "completions", "responses", "embeddings"]
    with serve(release(1, "champion"), embed=embed) as gateway:
        for path, body in bodies.items():
            assert gateway.http.post(path, json={**body, "user": "anna"}).status_code == 200
        records = gateway.records()
    assert [(record.route, record.user, record.caller) for record in records] == [(r, "anna", None) for r in routes]
    assert [record.details["route"] for record in records] == routes


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

    identity, slots, supported_extras = EngineIdentity("thinking", "1", {}), 4, frozenset()

    def __init__(self, ending=None):
        self.ending, self.spoken = ending, asyncio.Event()
        self.loop = None

    def speak(self):
        self.loop.call_soon_threadsafe(self.spoken.set)

    async def stream(self, _):
        self.loop = asyncio.get_running_loop()
        await self.spoken.wait()
        if self.ending is not None:
            raise self.ending
        yield Chunk("42", "stop", Usage(1, 1))

    async def close(self):
        pass


@pytest.mark.parametrize("path", ANSWERABLE)
def test_a_silent_model_does_not_keep_a_client_without_headers_and_comments(serve, monkeypatch, path):
    monkeypatch.setattr("service.replies.SILENT_SECONDS", 0.05)
    engine = Thinking()
    body = {**ANSWERABLE[path], "stream": True}
    with serve(engine=lambda _: engine) as gateway, gateway.http.stream("POST", path, json=body) as reply:
        lines = reply.iter_lines()
        assert (reply.status_code, next(lines)) == (200, ": waiting")
        engine.speak()
        assert "42" in "".join(lines)


def test_a_failure_after_the_headers_is_an_error_event_and_logged_with_its_status(serve, monkeypatch):
    monkeypatch.setattr("service.replies.SILENT_SECONDS", 0.05)
    engine = Thinking(EngineError("gone", reason="gone"))
    with serve(engine=lambda _: engine) as gateway:
        body = {**ANSWERABLE["/v1/chat/completions"], "stream": True}
        with gateway.http.stream("POST", "/v1/chat/completions", json=body) as reply:
            lines = reply.iter_lines()
            assert (reply.status_code, next(lines)) == (200, ": waiting")
            engine.speak()
            told = [line for line in lines if line]
        assert told[0] == "event: error"
        assert '"message":"the model failed on this request: gone"' in told[1]
        (record,) = gateway.records()
    assert (record.status, record.outcome) == (502, "error")


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

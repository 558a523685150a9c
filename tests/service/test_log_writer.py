from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import StoreUnavailable
from llmops.production_log import LogRecord, ProductionLog, RecordRefused, ReplyRow, StoredReply
from service.log_writer import LogWriter

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


class Log:
    """Keeps groups; waits for `gate`; fails while `down`; cannot store records whose input is `bad`."""

    def __init__(self):
        self.groups = []
        self.gate = threading.Event()
        self.gate.set()
        self.down = False

    def append(self, records):
        assert self.gate.wait(10)
        if self.down:
            raise StoreUnavailable("disk full")
        if any(record.input == "bad" for record in records):
            raise ValueError("cannot be stored")
        self.groups.append(list(records))


def record(text="x"):
    return LogRecord("r", datetime.now(UTC), 200, "ok", input=text, release="assistant@1")


@pytest.fixture
def log():
    return Log()


@pytest.fixture
async def writer(log):
    writer = LogWriter(log.append, retry_seconds=0.02)
    writer.start()
    yield writer
    await writer.close()


async def held_back_together(log, writer, *records):
    """Hands over records that all wait while one write is under way; returns what became of each."""
    log.gate.clear()
    first = asyncio.create_task(writer.write(record("first")))
    await asyncio.sleep(0.02)
    rest = [asyncio.create_task(writer.write(one)) for one in records]
    await asyncio.sleep(0)
    log.gate.set()
    await first
    return await asyncio.gather(*rest, return_exceptions=True)


async def test_records_that_wait_together_share_a_transaction(log, writer):
    assert await held_back_together(log, writer, *[record(str(n)) for n in range(50)]) == [None] * 50
    assert [len(group) for group in log.groups] == [1, 50]


async def test_a_record_that_cannot_be_stored_does_not_take_others_with_it(log, writer):
    good, bad, other = await held_back_together(log, writer, record("1"), record("bad"), record("2"))
    assert (good, other) == (None, None)
    assert isinstance(bad, StoreUnavailable)
    assert (writer.lost, writer.failure) == (1, None)


async def test_a_log_that_is_down_fails_all_counts_them_and_recovers_by_itself(log, writer, wait_until):
    log.down = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="disk full"):
            await writer.write(record())
    assert (writer.lost, writer.failure) == (2, "disk full")
    log.down = False
    await asyncio.to_thread(wait_until, lambda: writer.failure is None)
    (late,) = log.groups[0]
    assert (late.status, late.outcome) == (503, "error")


async def test_a_record_that_the_database_refuses_leaves_readiness_alone(log, writer):
    def refuse(records):
        if any(record.input == "bad" for record in records):
            raise RecordRefused("too long")
        log.groups.append(list(records))

    writer._append = refuse
    with pytest.raises(StoreUnavailable, match="too long"):
        await writer.write(record("bad"))
    await writer.write(record("good"))
    assert (writer.lost, writer.failure) == (1, None)


async def test_where_requests_are_served_without_a_record_the_late_one_says_what_was_served(log, wait_until):
    writer = LogWriter(log.append, retry_seconds=0.02, serve_unlogged=True)
    writer.start()
    log.down = True
    with pytest.raises(StoreUnavailable):
        await writer.write(record())
    log.down = False
    await asyncio.to_thread(wait_until, lambda: writer.failure is None)
    await writer.close()
    (late,) = log.groups[0]
    assert (late.status, late.outcome) == (200, "ok")


async def test_replies_go_into_the_transaction_of_their_records(tmp_path):
    log = ProductionLog(f"sqlite:///{tmp_path}/log.db")
    groups = []

    def append(records, replies=()):
        groups.append((len(records), len(replies)))
        log.append(records, replies)

    writer = LogWriter(append)
    claim = log.replies.claim("anna", "k", "print", 60)
    row = ReplyRow(claim, StoredReply(200, (), b"body"), time.time() + 60)
    writer.start()
    await asyncio.gather(*[writer.write(record(), reply=reply) for reply in (None, row)])
    await writer.close()
    assert sum(records for records, _ in groups) == 2
    assert sum(replies for _, replies in groups) == 1
    assert log.replies.claim("anna", "k", "print", 60).reply.body == b"body"
    log.close()


async def test_a_waiter_that_is_cancelled_leaves_its_record(log, writer):
    log.gate.clear()
    waiting = asyncio.create_task(writer.write(record()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    log.gate.set()
    await writer.write(record())
    assert sum(map(len, log.groups)) == 2


async def test_closing_writes_what_is_queued_and_refuses_more(log):
    writer = LogWriter(log.append)
    with pytest.raises(StoreUnavailable, match="not open"):
        await writer.write(record())
    writer.start()
    waiting = [asyncio.create_task(writer.write(record())) for _ in range(5)]
    await asyncio.sleep(0)
    await writer.close()
    await asyncio.gather(*waiting)
    assert sum(map(len, log.groups)) == 5
    with pytest.raises(StoreUnavailable, match="not open"):
        await writer.write(record())


def test_nothing_is_generated_while_answers_could_not_be_logged(serve, monkeypatch):
    engine = FakeEngine()
    with serve(engine=lambda _: engine) as gateway:
        writer = gateway.app.state.gateway.log

        def refuse(_):
            raise StoreUnavailable("disk full")

        monkeypatch.setattr(writer, "_append", refuse)
        assert [gateway.chat().status_code for _ in range(3)] == [503, 503, 503]
        assert len(engine.requests) == 1  # the first, by which the gateway learns of it
        monkeypatch.undo()
        assert gateway.chat().status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_cannot_be_logged_fails_and_readiness_turns_off_until_a_write_works(
    gateway, monkeypatch, wait_until, stream
):
    def refuse(_):
        raise StoreUnavailable("sqlite:////secret: disk full")

    monkeypatch.setattr(gateway.app.state.gateway.log, "_append", refuse)
    if stream:
        assert gateway.events()[-1]["error"]["code"] == "store_unavailable"
    else:
        reply = gateway.chat()
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert "secret" not in reply.text
    assert "production log cannot be written" in gateway.http.get("/readyz").json()["reasons"][0]
    assert gateway.http.get("/readyz").json()["log"]["lost"] == 1
    assert "llmops_log_failures_total 1.0" in gateway.http.get("/metrics").text
    monkeypatch.undo()
    assert gateway.chat().status_code == 200
    assert gateway.ready()


CRASHING = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/service"]
import conftest
with conftest.serving(Path(sys.argv[2])) as gateway:
    print(gateway.url, flush=True)
    sys.stdin.read()
"""


def test_an_acknowledged_request_survives_kill_9(tmp_path):
    script = [sys.executable, "-c", CRASHING, str(ROOT), str(tmp_path)]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        body = {"model": "assistant", "messages": [{"role": "user", "content": "remember me"}]}
        with httpx.Client(base_url=url) as http:
            for _ in range(5):
                assert http.post("/v1/chat/completions", json=body).status_code == 200
            text = ""
            with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as reply:
                for text in reply.iter_text():
                    if '"finish_reason":"stop"' in text:
                        break
                process.kill()
        assert '"finish_reason":"stop"' in text
    log = ProductionLog(f"sqlite:///{tmp_path / 'log.db'}")
    assert [record.outcome for record in log.read()] == ["ok"] * 6
    log.close()

"""Idempotency keys: one generation and one record for a request that is sent again."""

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest

from llmops.errors import StoreUnavailable
from llmops.production_log import ClaimedKey, ProductionLog, StoredReply
from service import idempotency as module
from service.access import ANONYMOUS
from service.error_map import ApiError
from service.idempotency import Idempotency, IdempotentReply, fingerprint, key_of, send_stored
from service.log_writer import LogWriter
from tests.at_once import wait_until
from tests.core.log_records import record
from tests.service.conftest import Sent, caller

pytestmark = pytest.mark.anyio
HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", b"2"),
    (b"x-llmops-release", b"assistant@1"),
    (b"set-cookie", b"a=b"),
]
ANNA = caller("key_anna")


@pytest.fixture
def log(tmp_path):
    log = ProductionLog(f"sqlite:///{tmp_path}/log.db")
    yield log
    log.close()


async def ended(writer, claim, body=b"{}", of=None):
    """Has the request end with that reply, and its record be written."""
    reply = IdempotentReply(claim, Sent())
    await reply.send({"type": "http.response.start", "headers": HEADERS})
    await reply.send({"type": "http.response.body", "body": body})
    of = of or record(1)
    await writer.write(of, reply=reply.row(of, []))


@asynccontextmanager
async def opened(log):
    """The keys of one worker, and its log writer."""
    keys = Idempotency(log.replies, 60)
    writer = LogWriter(log.append)
    writer.start()
    try:
        yield keys, writer
    finally:
        await keys.close()
        await writer.close()


def test_a_key_is_printable_ascii_and_anything_else_is_refused():
    for sent in (b"a", b"~" * 255, b"8e03978e-40d5-43e8-bc93-6894a57f9324", b"with blank"):
        assert key_of([(b"host", b"x"), (b"idempotency-key", sent)]) == sent.decode()
    assert key_of([(b"host", b"x")]) is None
    for sent in (b"", b"a" * 256, "ä".encode(), b"a\tb", b" a", b"a\n"):
        with pytest.raises(ApiError) as caught:
            key_of([(b"idempotency-key", sent)])
        assert (caught.value.status, caught.value.code) == (400, "idempotency_key_invalid")


def test_a_fingerprint_tells_paths_and_bodies_apart():
    prints = {fingerprint(*request) for request in (("/a", b"x"), ("/a", b"y"), ("/b", b"x"), ("/a\n", b"x"))}
    assert len(prints) == 4
    assert fingerprint("/a", b"x") in prints


async def test_a_repetition_gets_the_reply_and_leaves_one_record(log):
    async with opened(log) as (keys, writer):
        claim = await keys.begin(ANNA, "k", "print")
        assert isinstance(claim, ClaimedKey)
        await ended(writer, claim)
        reply = await keys.begin(ANNA, "k", "print")
    sent = Sent()
    await send_stored(reply, sent)
    assert (sent[0]["status"], sent[1]["body"], log.count()) == (200, b"{}", 1)
    assert sent[0]["headers"] == [
        (b"content-type", b"application/json"), (b"x-llmops-release", b"assistant@1"), (b"content-length", b"2"),
        (b"idempotent-replayed", b"true"), (b"x-llmops-original-request-id", b"r1"),
    ]  # fmt: skip


async def test_while_the_first_runs_a_repetition_is_told_to_wait_and_other_callers_are_not(log):
    async with opened(log) as (keys, _), opened(log) as (other_worker, _):
        for other in (ANNA, caller("key_bo"), ANONYMOUS):
            assert isinstance(await keys.begin(other, "k", "print"), ClaimedKey)
        for each in (keys, other_worker):
            with pytest.raises(ApiError) as caught:
                await each.begin(ANNA, "k", "print")
            assert (caught.value.status, caught.value.code) == (409, "idempotency_key_in_use")
            assert caught.value.response().headers["retry-after"] == "1"


@pytest.mark.parametrize("finished", [False, True])
async def test_a_key_with_another_request_is_refused(log, finished):
    async with opened(log) as (keys, writer):
        claim = await keys.begin(ANNA, "k", "print")
        if finished:
            await ended(writer, claim)
        with pytest.raises(ApiError) as caught:
            await keys.begin(ANNA, "k", "other print")
    assert (caught.value.status, caught.value.code) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("status", "outcome", "size", "stored"),
    [
        (200, "ok", 2, True),
        (200, "ok", module.MOST_STORED_BYTES, True),
        (200, "ok", module.MOST_STORED_BYTES + 1, False),
        *((status, "error", 2, False) for status in (400, 408, 429, 500, 503)),
        (499, "cancelled", 2, False),
    ],
)
async def test_only_a_good_reply_is_stored(log, status, outcome, size, stored):
    async with opened(log) as (keys, writer):
        await ended(
            writer, await keys.begin(ANNA, "k", "print"), b"x" * size, record(1, status=status, outcome=outcome)
        )
        again = await keys.begin(ANNA, "k", "print")
    assert isinstance(again, StoredReply if stored else ClaimedKey)
    assert log.count() == 1


async def test_a_key_is_free_again_after_its_time(log, monkeypatch):
    monkeypatch.setattr(module, "KEEP_SECONDS", -1)
    async with opened(log) as (keys, writer):
        await ended(writer, await keys.begin(ANNA, "k", "print"))
        assert isinstance(await keys.begin(ANNA, "k", "other print"), ClaimedKey)


async def test_a_released_key_is_free_at_once_also_when_the_request_was_cancelled(log):
    async with opened(log) as (keys, _):
        claim = await keys.begin(ANNA, "k", "print")
        releasing = asyncio.create_task(keys.release(claim))
        await asyncio.sleep(0)
        releasing.cancel()
        await asyncio.gather(releasing, return_exceptions=True)
        await asyncio.to_thread(wait_until, lambda: isinstance(log.replies.claim("key_anna", "k", "p", 60), ClaimedKey))


async def test_a_request_cancelled_while_it_claims_its_key_frees_it(log):
    reached, go_on = threading.Event(), threading.Event()

    class Slow:
        """The log's own claims, each held up until `go_on`."""

        clean, give_up = staticmethod(log.replies.clean), staticmethod(log.replies.give_up)

        def claim(self, *arguments):
            reached.set()
            assert go_on.wait(10)
            return log.replies.claim(*arguments)

    keys = Idempotency(Slow(), 60)
    request = asyncio.create_task(keys.begin(ANNA, "k", "print"))
    assert await asyncio.to_thread(reached.wait, 10)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    go_on.set()
    await asyncio.to_thread(wait_until, lambda: isinstance(log.replies.claim("key_anna", "k", "p", 60), ClaimedKey))
    await keys.close()


async def test_expired_rows_are_deleted_without_anybody_waiting(log):
    for number in range(3):
        log.replies.claim("anna", f"old{number}", "print", -1)
    async with opened(log) as (keys, _):
        await keys.begin(ANNA, "k", "print")
    assert log.replies.clean() == 0


async def test_a_log_that_cannot_be_written_is_told(log):
    class Down:
        def claim(self, *_):
            raise StoreUnavailable("disk full")

        give_up = clean = claim

    keys = Idempotency(Down(), 60)
    with pytest.raises(StoreUnavailable):
        await keys.begin(ANNA, "k", "print")
    await keys.release(ClaimedKey("anna", "k", "token"))  # ends by its time
    await keys.close()

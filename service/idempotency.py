"""`Idempotency-Key`: a repeated POST gets the reply of the first one, and nothing is generated or logged again.

The rules:
- A key belongs to its caller: two callers may use the same one. Where no keys exist, all callers are one.
- The reply is stored in the transaction that writes the request's record, for 24 hours.
- The first request claims the key by inserting a row, so of two that come at once, also to two workers, one generates.
  The other one gets 409 and a Retry-After, and 422 when its body or path differs.
- Only good replies are stored, unless they are larger than `MOST_STORED_BYTES` or hold personal data that a guard
  keeps out of the log. After any other a retry runs again.
- A worker that dies leaves its claim. It ends at once where the next worker sees that the process is gone (same
  machine, same container), else after the engine's time-out and a margin.
"""

import asyncio
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from starlette.types import Message, Send

from llmops.errors import StoreUnavailable
from llmops.keys import Key
from llmops.processes import run_blocking
from llmops.production_log import LogRecord
from llmops.production_log.replies import ClaimedKey, IdempotentReplies, KeyInUse, ReplyRow, StoredReply
from llmops.text_patterns import redact
from service.error_map import ApiError
from service.key_limits import Headers

logger = logging.getLogger("llmops.service")

MOST_STORED_BYTES = 1_000_000
KEEP_SECONDS = 24 * 3600.0
CLEANING_SECONDS = 600.0
MARGIN_SECONDS = 60.0
"""Added to the engine's time-out: queueing, and a log that is slow to take the record."""

_KEPT_HEADERS = ("content-type", "cache-control", "x-llmops-")
_SANE_KEY = re.compile(rb"[!-~]([ -~]{0,253}[!-~])?\Z")


def key_of(headers: Headers) -> str | None:
    """The request's key; None without the header. Raises ApiError 400 for what is no key."""
    sent = next((value for name, value in headers if name == b"idempotency-key"), None)
    if sent is None:
        return None
    if not _SANE_KEY.match(sent):
        raise ApiError(
            400, "Idempotency-Key: must be 1 to 255 printable ASCII characters", code="idempotency_key_invalid"
        )
    key = sent.decode("ascii")
    # Guards are a release's, and which one serves is not known yet: no key is kept in clear that holds personal data.
    return hashlib.sha256(sent).hexdigest() if redact(key)[1] else key


def fingerprint(path: str, body: bytes) -> str:
    """Equal for requests that are the same byte by byte."""
    return hashlib.sha256(path.encode() + b"\n" + body).hexdigest()


class Idempotency:
    """Claims keys and finds stored replies, in threads of its own.

    engine_timeout: seconds after which no request is running any more; a claim ends some time after it.
    """

    def __init__(self, replies: IdempotentReplies, engine_timeout: float) -> None:
        self._replies, self._claim_seconds = replies, engine_timeout + MARGIN_SECONDS
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="idempotency")
        self._clean_next = 0.0

    async def begin(self, caller: Key, key: str, print_of_request: str) -> ClaimedKey | StoredReply:
        """Claims the key for the request, or returns the reply of its first time.

        Raises:
            ApiError: 409, the first one is still running; 422, the key came with another request before.
            StoreUnavailable: the log's database cannot be reached.
        """
        owner, loop = caller.id or "anonymous", asyncio.get_running_loop()
        work = loop.run_in_executor(
            self._threads, self._replies.claim, owner, key, print_of_request, self._claim_seconds
        )
        try:
            claimed = await asyncio.shield(work)
        except asyncio.CancelledError:
            # The claim may be made after its request has gone: it must not stand until its time is up.
            work.add_done_callback(self._release_unwanted)
            raise
        if time.monotonic() >= self._clean_next:
            self._clean_next = time.monotonic() + CLEANING_SECONDS
            self._threads.submit(self._clean)
        if isinstance(claimed, ClaimedKey):
            return claimed
        if claimed.fingerprint != print_of_request:
            message = "Idempotency-Key: was used before, with another body or path; use a new key for a new request"
            raise ApiError(422, message, code="idempotency_key_reused")
        if claimed.reply is None:
            message = "the first request with this Idempotency-Key is still running"
            raise ApiError(409, message, code="idempotency_key_in_use", retry_after=1.0)
        return claimed.reply

    async def release(self, claim: ClaimedKey) -> None:
        """Gives the claim up, so that a retry runs again; finishes also when the caller is cancelled.

        A claim that cannot be given up, because the database cannot be reached, ends by its time.
        """
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, self._give_up, claim))

    async def close(self) -> None:
        """Waits for what is being written; call it when no request is left."""
        await run_blocking(self._threads.shutdown, name="close idempotency")

    def _release_unwanted(self, work: asyncio.Future[ClaimedKey | KeyInUse]) -> None:
        if not work.cancelled() and work.exception() is None and isinstance(found := work.result(), ClaimedKey):
            self._threads.submit(self._give_up, found)

    def _give_up(self, claim: ClaimedKey) -> None:
        try:
            self._replies.give_up(claim)
        except StoreUnavailable as error:
            logger.warning("an idempotency key stays claimed until its time is up: %s", error)

    def _clean(self) -> None:
        try:
            while self._replies.clean():
                pass
        except StoreUnavailable as error:
            logger.warning("expired idempotent replies were not deleted: %s", error)


class IdempotentReply:
    """Stands between one reply and its client: keeps what is sent, and holds its end back until it is stored.

    settled: whether the claim of the key went into the log's transaction.
    """

    def __init__(self, claim: ClaimedKey, send: Send) -> None:
        self._claim, self._send = claim, send
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._held: list[Message] | None = None
        self.settled = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._headers = list(message["headers"])
        else:
            self._body.append(message.get("body", b""))
        if self._held is None:
            await self._send(message)
        else:
            self._held.append(message)

    async def hold(self, finish: Callable[[], Awaitable[None]]) -> None:
        """Lets the reply end without sending its end yet."""
        self._held = []
        await finish()

    def row(self, record: LogRecord, versions: Headers, *, storable: bool = True) -> ReplyRow:
        """What becomes of the claim with this record; of headers, those that say what the body is are stored.

        versions: the headers that name them; other layers put them on the reply. storable: False where a guard keeps
        out of the log what the reply says.
        """
        self.settled, body, reply = True, b"".join(self._body), None
        if record.outcome == "ok" and storable and len(body) <= MOST_STORED_BYTES:
            named = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in [*self._headers, *versions]]
            kept = tuple(header for header in named if header[0].startswith(_KEPT_HEADERS))
            reply = StoredReply(record.status, kept, body, record.request_id)
        return ReplyRow(self._claim, reply, time.time() + KEEP_SECONDS)

    def drop_held(self) -> None:
        """Forgets the end that was held back; what is sent from now on reaches the client."""
        self._held = None

    async def send_held(self) -> None:
        held, self._held = self._held or [], None
        for message in held:
            await self._send(message)


async def send_stored(reply: StoredReply, send: Send) -> None:
    """Sends the reply of the first time again, byte by byte. The first request's id leads to the one record of both."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
    headers += [(b"content-length", b"%d" % len(reply.body)), (b"idempotent-replayed", b"true")]
    if reply.request_id is not None:
        headers.append((b"x-llmops-original-request-id", reply.request_id.encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})

"""The reply to a request with an Idempotency-Key: stored with its record, and sent only then."""

from __future__ import annotations

import time

from starlette.types import Message, Send

from llmops.production_log import ClaimedKey, LogRecord, ReplyRow, StoredReply
from service.idempotency import Idempotency, replay_headers
from service.replies import Reply

Headers = list[tuple[bytes, bytes]]


class IdempotentReply:
    """Stands between one reply and its client: keeps what is sent, and holds its end back until it is stored.

    settled: whether the claim of the key went into the log's transaction.
    """

    def __init__(self, idempotency: Idempotency, claim: ClaimedKey, send: Send) -> None:
        self._idempotency, self._claim, self._send = idempotency, claim, send
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._held: list[Message] | None = None
        self.settled = False

    async def send(self, message: Message) -> None:
        """What the reply sends with."""
        if message["type"] == "http.response.start":
            self._headers = list(message["headers"])
        else:
            self._body.append(message.get("body", b""))
        if self._held is None:
            await self._send(message)
        else:
            self._held.append(message)

    async def hold(self, reply: Reply) -> None:
        """Lets the reply end without sending its end yet."""
        self._held = []
        await reply.finish()

    def row(self, record: LogRecord, versions: Headers, *, storable: bool = True) -> ReplyRow:
        """What becomes of the claim with this record: a good reply is stored; after any other a retry runs again.

        versions: the headers that name them; other layers put them on the reply. storable: False where a guard keeps
        out of the log what the reply says.
        """
        self.settled = True
        if record.outcome != "ok" or not storable:
            return ReplyRow(self._claim, None, time.time())
        return self._idempotency.reply_row(self._claim, record, [*self._headers, *versions], b"".join(self._body))

    async def send_held(self) -> None:
        """Ends the reply."""
        held, self._held = self._held or [], None
        for message in held:
            await self._send(message)


async def send_stored(reply: StoredReply, send: Send) -> None:
    """Sends the reply of the first time again, byte by byte."""
    await send({"type": "http.response.start", "status": reply.status, "headers": replay_headers(reply)})
    await send({"type": "http.response.body", "body": reply.body})

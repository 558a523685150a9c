"""Writes the production log off the event loop, many waiting records in one transaction (group commit)."""

import asyncio
import dataclasses
import logging
import queue
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

from llmops.errors import StoreUnavailable
from llmops.processes import run_blocking, settle
from llmops.production_log import LogRecord, RecordRefused, ReplyRow

logger = logging.getLogger("llmops.service")

MOST_IN_A_GROUP = 500
RETRY_SECONDS = 1.0
"""After a failure, the pause between attempts to write when no request brings a record, so that readiness returns by
itself."""
CLOSE_SECONDS = 35.0  # a little more than SQLite waits for another writer


class _Waiting(NamedTuple):
    """A record to be written, its idempotent reply if it has one, and who waits for both."""

    record: LogRecord
    reply: ReplyRow | None
    future: asyncio.Future[None]


class LogWriter:
    """One thread that takes every record waiting, appends them together, and tells each waiter.

    append: writes records, and the replies that belong to some of them, in one transaction, and returns when all is
    durable; it is called without replies where there are none.
    serve_unlogged: requests whose record is lost are answered all the same.
    `failure`: why the log cannot be written now; `lost`: records lost since the start.
    """

    def __init__(self, append: Callable[..., None], *, serve_unlogged: bool = False) -> None:
        self._append, self._serve_unlogged = append, serve_unlogged
        self._queue: queue.SimpleQueue[_Waiting | asyncio.Future[None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="production log", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unwritten: LogRecord | None = None
        self._closed = False
        self.failure: str | None = None
        self.lost = 0

    def start(self) -> None:
        """Starts the thread; call inside the event loop that will wait for records."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def write(self, record: LogRecord, *, reply: ReplyRow | None = None) -> None:
        """Returns when the record is durable, and in the same transaction what becomes of its idempotency key.

        A waiter that is cancelled does not take its record back.

        Raises StoreUnavailable: it could not be written; the loss is counted in `lost`.
        """
        if self._loop is None or self._closed:
            raise StoreUnavailable("the production log is not open")
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(_Waiting(record, reply, future))
        await future

    async def require(self) -> None:
        """Returns at once while the log works; after a failure it is tried again first. Raises StoreUnavailable."""
        if self.failure is None or self._loop is None or self._closed:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(future)  # who asks whether the log works
        await future

    async def close(self) -> None:
        """Writes what is queued, then ends the thread."""
        self._closed = True
        self._queue.put(None)
        await run_blocking(lambda: self._thread.join(CLOSE_SECONDS), name="close production log")

    def _run(self) -> None:
        while True:
            taken, ended = self._take()
            group = [item for item in taken if isinstance(item, _Waiting)]
            if group:
                error = self._write(group)
                if error is None or _is_down(error) or len(group) == 1:
                    self._tell(group, error)
                else:  # one record that cannot be stored must not take the others with it
                    for item in group:
                        self._tell([item], self._write([item]))
            elif self._unwritten is not None and not ended:
                self._try_again(self._unwritten)
            if asked := [item for item in taken if not isinstance(item, _Waiting)]:
                self._settle(asked, self.failure)
            if ended:
                return

    def _take(self) -> tuple[list[_Waiting | asyncio.Future[None]], bool]:
        """What waits, at least one unless a retry is due, and whether the writer was closed."""
        group: list[_Waiting | asyncio.Future[None]] = []
        wait = RETRY_SECONDS if self._unwritten is not None else None
        try:
            item = self._queue.get(timeout=wait)
            while item is not None:
                group.append(item)
                if len(group) == MOST_IN_A_GROUP:
                    return group, False
                item = self._queue.get_nowait()
        except queue.Empty:
            return group, False
        return group, True

    def _write(self, group: Sequence[_Waiting]) -> Exception | None:
        replies = [item.reply for item in group if item.reply is not None]
        try:
            self._append([item.record for item in group], *([replies] if replies else ()))
        except Exception as error:  # noqa: BLE001  handed to the waiters, who raise it
            return error
        return None

    def _tell(self, group: Sequence[_Waiting], error: Exception | None) -> None:
        if error is not None:
            self.lost += len(group)
            logger.warning("%d records lost: %s: %s", len(group), type(error).__name__, error)
        self._note(group[-1].record, error)
        self._settle([item.future for item in group], error)

    def _settle(self, futures: Sequence[asyncio.Future[None]], problem: Exception | str | None) -> None:
        if self._loop is not None:
            outcome = None if problem is None else StoreUnavailable(f"production log: {problem}")
            settle(self._loop, [(future, outcome) for future in futures])

    def _try_again(self, record: LogRecord) -> None:
        """Writes the last lost record as what became of it: a request answered with 503, unless it was served.

        Its key is new, because the failed attempt may have been committed after all.
        """
        details = {**record.details, "log_failure": "the production log could not be written when the reply was due"}
        late = dataclasses.replace(record, details=details, key=uuid.uuid4().hex)
        if not self._serve_unlogged:
            late = dataclasses.replace(late, status=503, outcome="error")
        try:
            self._append([late])
        except Exception as error:  # noqa: BLE001  tells whether the log works, no more
            self._note(record, error)
        else:
            self._note(record, None)

    def _note(self, record: LogRecord, error: Exception | None) -> None:
        """Remembers whether the log works."""
        down = error is not None and _is_down(error)
        self.failure = str(error) if down else None
        self._unwritten = record if down else None


def _is_down(error: Exception) -> bool:
    """Whether the log cannot be written at all; any other error lies in the record itself."""
    return isinstance(error, StoreUnavailable) and not isinstance(error, RecordRefused)

"""Writes the production log off the event loop, many waiting records in one transaction (group commit)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import queue
import threading
import uuid
from collections.abc import Callable, Sequence

from llmops.errors import StoreUnavailable
from llmops.production_log import LogRecord
from service.blocking import run_blocking

logger = logging.getLogger("llmops.service")

MOST_IN_A_GROUP = 500
CLOSE_SECONDS = 35.0  # a little more than SQLite waits for another writer

_Waiting = tuple[LogRecord, "asyncio.Future[None]"]


class LogWriter:
    """One thread that takes every record waiting, appends them together, and tells each waiter.

    append: writes records in one transaction and returns when they are durable. retry_seconds: after a failure,
    the pause between attempts to write when no request brings a record, so that readiness returns by itself.
    """

    def __init__(self, append: Callable[[Sequence[LogRecord]], None], *, retry_seconds: float = 1.0) -> None:
        self._append, self._retry_seconds = append, retry_seconds
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
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

    async def write(self, record: LogRecord) -> None:
        """Returns when the record is durable. A waiter that is cancelled does not take its record back.

        Raises:
            StoreUnavailable: it could not be written; the loss is counted in `lost`.
        """
        if self._loop is None or self._closed:
            raise StoreUnavailable("the production log is not open")
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((record, future))
        await future

    async def close(self) -> None:
        """Writes what is queued, then ends the thread."""
        self._closed = True
        self._queue.put(None)
        await run_blocking(lambda: self._thread.join(CLOSE_SECONDS), name="close production log")

    def _run(self) -> None:
        while True:
            group, ended = self._take()
            if group:
                self._write_group(group)
            elif self._unwritten is not None and not ended:
                self._try_again(self._unwritten)
            if ended:
                return

    def _take(self) -> tuple[list[_Waiting], bool]:
        """The records waiting, at least one unless a retry is due, and whether the writer was closed."""
        group: list[_Waiting] = []
        wait = self._retry_seconds if self._unwritten is not None else None
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

    def _write_group(self, group: Sequence[_Waiting]) -> None:
        error = self._write([record for record, _ in group])
        if error is None or isinstance(error, StoreUnavailable) or len(group) == 1:
            self._tell(group, error)
            return
        # One record that cannot be stored must not take the others with it.
        for item in group:
            self._tell([item], self._write([item[0]]))

    def _write(self, records: Sequence[LogRecord]) -> Exception | None:
        try:
            self._append(records)
        except StoreUnavailable as error:
            return error
        except Exception as error:  # noqa: BLE001  handed to the waiters, who raise it
            return error
        return None

    def _tell(self, group: Sequence[_Waiting], error: Exception | None) -> None:
        if error is not None:
            self.lost += len(group)
            logger.warning("%d records lost: %s: %s", len(group), type(error).__name__, error)
        self._note(group[-1][0], error)
        # A loop that has closed in the meantime has no waiter left.
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(_settle, [future for _, future in group], error)

    def _try_again(self, record: LogRecord) -> None:
        """Writes the last lost record as what became of it: a request answered with 503.

        Its key is new, because the failed attempt may have been committed after all.
        """
        details = {**record.details, "error": "the production log could not be written when the reply was due"}
        late = dataclasses.replace(record, status=503, outcome="error", details=details, key=uuid.uuid4().hex)
        self._note(record, self._write([late]))

    def _note(self, record: LogRecord, error: Exception | None) -> None:
        """Remembers whether the log works. Any other error than the store's lies in the record itself."""
        down = isinstance(error, StoreUnavailable)
        self.failure = str(error) if down else None
        self._unwritten = record if down else None


def _settle(futures: Sequence[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(StoreUnavailable(f"production log: {error}"))

"""A server process's own log on stderr: one JSON object a line, or a line of text.

Written by a thread: the event loop only queues, so that a slow terminal or a full pipe delays no request. What was
asked and answered is in the production log, which loses nothing; of these lines the last may be lost on `kill -9`.
"""

from __future__ import annotations

import atexit
import logging
import queue
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import Any, BinaryIO, TextIO

import orjson

from llmops.text_io import printable

MOST_QUEUED = 10_000
"""Lines that may wait to be written; beyond, lines are left out, and the next one says how many."""

_FIELDS = ("request_id", "method", "path", "status", "latency_ms", "release", "model", "key_id")
GATHER_SECONDS = 0.05
"""How long a line may wait for others, so that many are written at once."""

_CLOSE_SECONDS = 2.0


def configure_logging(form: str = "auto", *, stream: TextIO | None = None) -> LineHandler:
    """Sends all logging of the process to `stream` (default: stderr), and nothing elsewhere.

    form: `json`, `text`, or `auto`: text on a terminal, JSON where something else reads. Replaces what an earlier call
    set up. Lines still queued are written when the process ends, or by the handler's `close`.
    """
    # Looked up for every line, and shown in none.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    stream = stream if stream is not None else sys.stderr
    as_text = form == "text" or (form == "auto" and stream.isatty())
    handler = LineHandler(stream.buffer, _text_line if as_text else _json_line)
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        theirs = logging.getLogger(name)
        theirs.handlers.clear()
        theirs.setLevel(logging.NOTSET)
        theirs.propagate = name != "uvicorn.access"  # the gateway writes a line of its own, which knows more
    return handler


class LineHandler(logging.Handler):
    """Queues records for a thread that makes lines of them and writes many at once."""

    def __init__(self, out: BinaryIO, line: Any) -> None:
        super().__init__()
        self._out, self._line = out, line
        self._queue: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._left_out = 0
        self._closed = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def handle(self, record: logging.LogRecord) -> bool:
        """Without the lock of `logging.Handler`: a queue needs none."""
        kept = self.filter(record)
        if kept:
            self.emit(kept if isinstance(kept, logging.LogRecord) else record)
        return bool(kept)

    def emit(self, record: logging.LogRecord) -> None:
        if not self._closed and self._queue.qsize() < MOST_QUEUED:
            self._queue.put(record)
        elif not self._closed:
            self._left_out += 1

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._closing.set()
            self._queue.put(None)
            self._thread.join(_CLOSE_SECONDS)
            atexit.unregister(self.close)
        super().close()

    def _run(self) -> None:
        ended = False
        while not ended:
            lines, record = [], self._queue.get()
            # Others gather meanwhile: waking for each line would take the event loop's time as often.
            self._closing.wait(GATHER_SECONDS)
            while record is not None:
                lines.append(self._line(record))
                if self._queue.empty() or len(lines) == 1000:
                    break
                record = self._queue.get()
            ended = record is None
            self._write(lines)

    def _write(self, lines: list[bytes]) -> None:
        left_out, self._left_out = self._left_out, 0
        if left_out:
            message = "%d lines were left out: the log could not be written fast enough"
            note = logging.LogRecord(__name__, logging.WARNING, "", 0, message, (left_out,), None)
            lines.append(self._line(note))
        try:
            self._out.write(b"".join(lines))
            self._out.flush()
        except (OSError, ValueError):
            self._left_out += len(lines)  # a full disk or a closed pipe must not end the gateway


def _json_line(record: logging.LogRecord) -> bytes:
    return orjson.dumps(_entry(record), default=str, option=orjson.OPT_APPEND_NEWLINE)


def _text_line(record: logging.LogRecord) -> bytes:
    entry = _entry(record)
    exception = printable(entry.pop("exception")) + "\n" if "exception" in entry else ""
    begin = f"{entry.pop('time')} {entry.pop('level'):7} {entry.pop('logger')}: {entry.pop('message')}"
    extra = "".join(f" {name}={value}" for name, value in entry.items() if name not in ("method", "path", "status"))
    return f"{printable(begin + extra)}\n{exception}".encode(errors="backslashreplace")


def _entry(record: logging.LogRecord) -> dict[str, Any]:
    try:
        message = record.getMessage()
    except (TypeError, ValueError):
        message = f"{record.msg} {record.args}"  # a wrong format must not cost the line
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    entry = {"time": at, "level": record.levelname.lower(), "logger": record.name, "message": _writable(message)}
    given = record.__dict__
    entry |= {name: given[name] for name in _FIELDS if given.get(name) is not None}
    if record.exc_info:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        entry["exception"] = _writable("".join(traceback.format_exception(error)).rstrip())
    return entry


def _writable(text: str) -> str:
    """With halves of surrogate pairs written out, which JSON and streams refuse."""
    return text.encode(errors="backslashreplace").decode()

"""A closed-loop client over raw sockets: as many requests at a time as asked for, each on a connection that is kept.

It costs little CPU beside the servers under test, and reads replies exactly as HTTP frames them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import orjson

TIMEOUT_SECONDS = 60.0


@dataclass(slots=True)
class Reply:
    """status, headers (names in lower case) and body of one reply. first_ms, total_ms: since the request was sent."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    first_ms: float
    total_ms: float


@dataclass(slots=True)
class Load:
    """What came back. seconds: from the first request to the last reply. failures: broken connections, by error."""

    replies: list[Reply] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.status == 200]

    def percentile(self, share: float, value: Callable[[Reply], float] = lambda reply: reply.total_ms) -> float:
        """Of the good replies, in milliseconds."""
        ordered = sorted(value(reply) for reply in self.good)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def run(
    url: str,
    body: Callable[[int], Mapping[str, object]],
    concurrency: int,
    *,
    key: str | None = None,
    seconds: float | None = None,
    requests: int | None = None,
    on_reply: Callable[[int, Reply], None] | None = None,
    fresh: bool = False,
) -> Load:
    """Sends `body(0)`, `body(1)`, … until `requests` were sent or `seconds` are over.

    on_reply: called with each request's number and reply; the reply's body is then forgotten. fresh: a new connection
    for each request, for servers that close kept ones without a word.
    """
    load, numbers = Load(), iter(range(requests if requests is not None else 1 << 60))
    deadline = time.perf_counter() + seconds if seconds is not None else float("inf")
    start = time.perf_counter()

    async def client() -> None:
        connection: Connection | None = None
        while time.perf_counter() < deadline and (number := next(numbers, None)) is not None:
            try:
                connection = connection or await Connection.open(url, key)
                async with asyncio.timeout(TIMEOUT_SECONDS):
                    reply = await connection.post(orjson.dumps(body(number)))
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                load.failures.append(type(error).__name__)
                if connection is not None:
                    connection.close()
                connection = None
                continue
            if on_reply is not None:
                on_reply(number, reply)
                reply.body = b""
            load.replies.append(reply)
            if fresh or reply.headers.get("connection") == "close":
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    await asyncio.gather(*(client() for _ in range(concurrency)))
    load.seconds = time.perf_counter() - start
    return load


class Connection:
    """One connection to a URL of `http:`, for one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self._reader, self._writer, self._head = reader, writer, head

    @classmethod
    async def open(cls, url: str, key: str | None) -> Connection:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 20)
        authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{authorization}Content-Type: application/json\r\n"
        )
        return cls(reader, writer, head.encode())

    async def post(self, body: bytes) -> Reply:
        start = time.perf_counter()
        self._writer.write(b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body))
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        first_at, content = None, b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int((await self._reader.readuntil(b"\r\n")), 16):
                piece = await self._reader.readexactly(size + 2)
                first_at = first_at or time.perf_counter()
                content += piece[:-2]
            await self._reader.readexactly(2)
        else:
            content = await self._reader.readexactly(int(headers["content-length"]))
        end = time.perf_counter()
        return Reply(
            int(first.split(" ")[1]), headers, content, 1000 * ((first_at or end) - start), 1000 * (end - start)
        )

    def close(self) -> None:
        self._writer.close()

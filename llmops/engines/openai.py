"""Any OpenAI-compatible server as an engine: vLLM, llama-server, TGI, another gateway, a hosted model."""

import asyncio
import io
import urllib.request
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import aiohttp
import orjson
from yarl import URL

from llmops.engines.openai_errors import SentFields, failure, read_key, refusal
from llmops.engines.openai_format import AnswerReader, chat_body, identity, sent_message, whole_answer
from llmops.engines.upstream_wire import EventParser, SentEvent, UpstreamJson, misshapen
from llmops.errors import EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from llmops.generation import EXTRAS, Chunk, GenerationRequest

LONGEST_EVENT = LONGEST_REPLY = 64 * 1024 * 1024
"""Bytes of one event, or of a reply that is not streamed, beyond which an upstream is taken for broken."""
LONGEST_HEADER = 64 * 1024
"""Bytes of one header of a reply: policies and cookies of proxies may be longer than the 8 KiB of servers."""
KEEPALIVE_SECONDS = 4.0
"""How long a connection is kept for the next request: less than the 5 s of uvicorn, and so of vLLM."""
STALE_SECONDS = 1.0
"""A connection that breaks sooner after a request, unanswered, had been closed as the request went out."""
LINGER_SECONDS = 0.5
"""How long after `[DONE]` the end of the reply is waited for, so that the connection can be used again."""
_LARGE_BODY = 1024 * 1024  # from here on aiohttp wants a file
_ANSWERED = (200, 201)  # the second is what some frameworks say to every POST
_BLANK = b"\xef\xbb\xbf \t\r\n"


class _Link(NamedTuple):
    """Connections of one event loop, and the generator that owns them."""

    session: aiohttp.ClientSession
    url: URL
    owner: AsyncGenerator[tuple[aiohttp.ClientSession, URL], None]


class OpenAIEngine:
    """Answers from `base_url` + `/chat/completions`, asking for `model`.

    key_variable: name of the environment variable that holds the API key; the key itself is never stored or logged.
    timeout: seconds until the whole answer has come.
    connect_timeout: until a connection stands, with name lookup and TLS.
    first_byte_timeout: how long the server may be silent before a stream's first byte or between two; a whole answer
    has its first byte when it is made, so that only `timeout` bounds it.
    slots: requests that an evaluation sends side by side; it limits nothing here.
    stream_always: asks for a stream even where the whole answer would do.

    One engine may be used from several event loops, one after another: each has its own connections, which close with
    `close` or with the loop.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_variable: str | None = None,
        timeout: float = 120.0,
        connect_timeout: float = 5.0,
        first_byte_timeout: float = 60.0,
        slots: int = 16,
        stream_always: bool = False,
    ) -> None:
        """Connects on the first request. Raises EngineUnavailable when the key is not set."""
        self._base_url, self._model = base_url.rstrip("/"), model
        self.identity, self.slots, self.supported_extras = identity(base_url, model), slots, EXTRAS
        self._stream_always, self._fields = stream_always, SentFields()
        self._whole_timeout = aiohttp.ClientTimeout(total=timeout, connect=connect_timeout)
        self._stream_timeout = aiohttp.ClientTimeout(
            total=timeout, connect=connect_timeout, sock_read=first_byte_timeout
        )
        # Compressing an answer costs both sides more than the bytes it saves.
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if key_variable:
            self._headers["authorization"] = f"Bearer {read_key(key_variable, self._base_url)}"
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        streamed, asked = self._stream_always or not request.whole, request.extras.get("n", 1)
        response: aiohttp.ClientResponse | None = None
        try:
            response = await self._asked(request, streamed)
            start = await _read(response, first_piece=True)
            if _is_stream(start, response, streamed):
                answer = _StreamedAnswer(asked)
                piece = start
                while piece and not answer.done:
                    for chunk in answer.take(piece):
                        yield chunk
                    piece = b"" if answer.done else await response.content.readany()
                if answer.done:
                    await _reach_end(response)
                for chunk in answer.end():
                    yield chunk
            else:
                for chunk in whole_answer(UpstreamJson().read(await _read(response, start), "a reply"), asked):
                    yield chunk
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._translated(error, heard=response is not None) from error
        finally:
            if response is not None:
                response.close()  # one that was read to its end has given its connection back by now

    async def _asked(self, request: GenerationRequest, streamed: bool) -> aiohttp.ClientResponse:
        """The reply's head, of a status that promises an answer. Raises EngineError, and what aiohttp raises."""
        limits = self._stream_timeout if streamed else self._whole_timeout
        body = chat_body(request, stream=streamed)
        if "max_completion_tokens" in request.extras:
            body["max_completion_tokens"] = body.pop("max_tokens")  # a guard may have lowered it
        body |= {"model": self._model, "messages": [sent_message(message) for message in request.messages]}
        while True:
            sent = self._fields.fitted(body)
            response = await _send(await self._link(), _written(sent), request.headers, limits)
            if response.status in _ANSWERED:
                return response
            try:
                said = await _read(response)
            finally:
                response.close()
            if not self._fields.learn(sent, response.status, said):
                raise refusal(response.status, response.headers, said)

    async def close(self) -> None:
        """Closes the connections of the running event loop. No stream may be open in it."""
        link = self._links.get(asyncio.get_running_loop())
        if link is not None:
            await link.owner.aclose()

    async def _link(self) -> _Link:
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None:
            # A loop that ends closes the async generators begun in it, and with this one our connections.
            owner = self._connections(loop)
            link = self._links[loop] = _Link(*await anext(owner), owner)
        return link

    async def _connections(
        self, loop: asyncio.AbstractEventLoop
    ) -> AsyncGenerator[tuple[aiohttp.ClientSession, URL], None]:
        url = URL(f"{self._base_url}/chat/completions")
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            proxy=_proxy(url),
        )
        try:
            yield session, url
        finally:
            self._links.pop(loop, None)
            await session.close()

    def _translated(self, error: Exception, *, heard: bool) -> EngineError:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return EngineTimeout(f"{self._base_url}: no connection within {self._stream_timeout.connect:g} s")
        if isinstance(error, aiohttp.SocketTimeoutError):
            what = "nothing more" if heard else "no first byte"
            return EngineTimeout(f"{self._base_url}: {what} within {self._stream_timeout.sock_read:g} s")
        if isinstance(error, TimeoutError):
            return EngineTimeout(f"{self._base_url}: no whole answer within {self._stream_timeout.total:g} s")
        return EngineUnavailable(f"{self._base_url}: {type(error).__name__}: {error}")


async def _send(
    link: _Link, body: bytes, headers: Mapping[str, str], limits: aiohttp.ClientTimeout, *, again: bool = False
) -> aiohttp.ClientResponse:
    """The reply's head. A kept connection that the server closed at this very moment is replaced once."""
    data = body if len(body) < _LARGE_BODY else io.BytesIO(body)
    clock = asyncio.get_running_loop().time
    sent = clock()
    try:
        return await link.session.post(link.url, data=data, headers=headers, timeout=limits, allow_redirects=False)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        if again or isinstance(error, aiohttp.ClientConnectorError) or clock() - sent > STALE_SECONDS:
            raise
    return await _send(link, body, headers, limits, again=True)


def _proxy(url: URL) -> str | None:
    """The proxy that this machine's conventions (HTTPS_PROXY, NO_PROXY, …) name for an address."""
    if url.host is None or urllib.request.proxy_bypass(url.host):
        return None
    return urllib.request.getproxies().get(url.scheme)


async def _read(response: aiohttp.ClientResponse, start: bytes = b"", *, first_piece: bool = False) -> bytes:
    """The whole body, whose start was read. Raises EngineError when it is too long to be one.

    first_piece: only up to the first that says something: some servers send blank lines while they are busy.
    """
    body = bytearray(start)
    while not (first_piece and body.strip(_BLANK)) and (piece := await response.content.readany()):
        body += piece
        if len(body) > LONGEST_REPLY:
            raise misshapen(f"a reply of more than {LONGEST_REPLY} bytes")
    return bytes(body)


async def _reach_end(response: aiohttp.ClientResponse) -> None:
    """Waits a moment for the end of a reply that has said all: only then can its connection be used again."""
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while await response.content.readany():
                pass
    except (TimeoutError, aiohttp.ClientError):
        response.close()


class _StreamedAnswer:
    """From the bytes of a stream to chunks. done: the server has said that it is at the end."""

    def __init__(self, asked: int) -> None:
        self._parser, self._reader = EventParser(LONGEST_EVENT), AnswerReader(asked)
        self._json = UpstreamJson(streamed=True)
        self.done = False

    def take(self, piece: bytes) -> Iterable[Chunk]:
        """The chunks that end in `piece`. Raises EngineError, perhaps on iteration."""
        events = self._parser.feed(piece)
        return self._chunks(events[0]) if len(events) == 1 else self._linked(events)

    def _linked(self, events: Sequence[SentEvent]) -> Iterable[Chunk]:
        """One by one, so that what came before a broken event is given out; each knows whether another follows."""
        held: Chunk | None = None
        try:
            for event in events:
                for chunk in self._chunks(event):
                    if held is not None:
                        held.more = True
                        yield held
                    held = chunk
        except EngineError:
            if held is not None:
                yield held
            raise
        if held is not None:
            yield held

    def _chunks(self, sent: SentEvent) -> Sequence[Chunk]:
        name, data = sent
        if data.startswith(b"[DONE]") and data.strip() == b"[DONE]":
            self.done = True
        if self.done:
            return ()
        if name == b"error":
            try:
                said = UpstreamJson().read(data, "an error")
            except EngineError:  # some servers send plain text
                said = {"error": data.decode(errors="replace")}
            raise failure(said)
        return self._reader.take(self._json.read(data, "an event"))

    def end(self) -> Sequence[Chunk]:
        """The last chunks. Raises EngineError."""
        rest = self._parser.rest()
        last: Sequence[Chunk] = ()
        if rest is not None:
            # Where it is all there, the server has only forgotten the blank line behind it.
            with suppress(orjson.JSONDecodeError):
                if rest.data.strip() != b"[DONE]":
                    orjson.loads(rest.data)
                last = self._chunks(rest)
        return [*last, *self._reader.end(said=self.done)]


def _is_stream(start: bytes, response: aiohttp.ClientResponse, asked: bool) -> bool:
    """Whether a reply is one, by how it begins: some servers do not send what they were asked for, or what their
    content type says."""
    first = start.lstrip(_BLANK)[:1]
    if first in (b"{", b"[", b"<"):
        return False
    kind = response.headers.get("content-type", "")
    return asked or kind.startswith("text/event-stream") or first in (b":", b"d", b"e", b"i", b"r")  # as its fields do


def _written(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body, default=dict)  # of other mappings than dictionaries
    except TypeError as error:
        raise EngineRejected(f"the request is no JSON: {error}") from error

"""`POST /v1/embeddings`: sentence vectors of the catalogue's embedding model, made in the engine process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llmops.catalogue import EMBEDDING_MODEL
from llmops.errors import EngineTimeout
from llmops.production_log import ClaimedKey, LogRecord, StoredReply
from service.access import require
from service.answering import LAST_SEND_SECONDS
from service.disconnect import run_unless_gone
from service.documented_replies import replies
from service.error_map import CLIENT_CLOSED, ApiError, api_error
from service.exchange import Arrival
from service.gateway import Gateway
from service.idempotency import fingerprint, key_of
from service.json_route import JsonRoute
from service.limited_fields import only
from service.once_only import send_stored
from service.schemas import Text

MOST_TEXTS = 2048
"""Texts of one request, as OpenAI allows."""

DIMENSIONS = 384

Embed = Callable[[Sequence[str]], Awaitable[tuple[Sequence[Sequence[float]], int]]]
"""Texts to a vector each, in order, and how many tokens the model read in all. Raises EngineError."""

_MODEL_HEADER = (b"x-llmops-model", EMBEDDING_MODEL.encode())

_SomeText = Annotated[Text, Field(min_length=1)]


class EmbeddingRequest(BaseModel):
    """The body of `POST /v1/embeddings`.

    input: one text or several, none empty; of each, the model reads the first 256 tokens. encoding_format: numbers, or
    base64 of little-endian 32-bit floats. dimensions: 384, the model's own; its vectors cannot be cut.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Annotated[Text, Field(min_length=1, max_length=255)]
    input: Annotated[
        _SomeText | Annotated[list[_SomeText], Field(min_length=1, max_length=MOST_TEXTS)],
        only(f"must be a text, or a list of 1 to {MOST_TEXTS} texts, none empty; token numbers are not supported"),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[
        Annotated[int, Field(ge=DIMENSIONS, le=DIMENSIONS)] | None, only(f"only {DIMENSIONS}, the model's own")
    ] = None
    user: Annotated[Text, Field(max_length=512)] | None = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class EmbeddingItem(BaseModel):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of one request."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """The reply. It documents the shape."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


def embeddings_router(gateway: Gateway, embed: Embed | None) -> APIRouter:
    """The embedding route of one gateway. embed: None where there is no embedding model."""
    router = APIRouter(tags=["embeddings"], route_class=JsonRoute)

    @router.post("/v1/embeddings", response_class=Response, responses=replies(Embeddings))
    def create_embedding(body: EmbeddingRequest) -> Embedding:
        """Vectors of texts, to compare them by meaning."""
        return Embedding(gateway, embed, body)

    return router


class Embedding:
    """An ASGI app that answers one request; a client that goes away stops it."""

    def __init__(self, gateway: Gateway, embed: Embed | None, body: EmbeddingRequest) -> None:
        self._gateway, self._embed, self._body = gateway, embed, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await run_unless_gone(receive, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway, state = self._gateway, scope["state"]
        arrival, key = Arrival.of(state), key_of(scope["headers"])
        with gateway.admission.hold():
            embed = self._chosen(arrival)
            state["reply_headers"].append(_MODEL_HEADER)
            state["reached_model"] = True
            if key is None:
                reply = await self._run(arrival, state, embed)
            else:
                reply = await self._run_once(arrival, state, embed, key, fingerprint(scope["path"], state["body"]))
        # A client that has stopped reading is left: the server then closes the connection.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SEND_SECONDS):
                await reply(scope, receive, send)

    async def _run_once(
        self, arrival: Arrival, state: dict[str, Any], embed: Embed, key: str, print_of_request: str
    ) -> ASGIApp:
        """As `_run`, unless the caller has sent the same key before. Raises ApiError 409, 422 too."""
        idempotency = self._gateway.idempotency
        found = await idempotency.begin(arrival.caller, key, print_of_request)
        if isinstance(found, StoredReply):
            state["reply_headers"].remove(_MODEL_HEADER)  # the stored reply has it
            return lambda _scope, _receive, send: send_stored(found, send)
        try:
            return await self._run(arrival, state, embed, found)
        except BaseException:
            await idempotency.release(found)
            raise

    async def _run(
        self, arrival: Arrival, state: dict[str, Any], embed: Embed, claim: ClaimedKey | None = None
    ) -> ASGIApp:
        """Makes and logs the reply. claim: of the request's Idempotency-Key; stands only where a reply is returned."""
        gateway = self._gateway
        vectors, tokens = await self._embedded(embed, arrival)
        reply = Response(self._reply(vectors, tokens), media_type="application/json")
        state["record"] = record = self._record(arrival, 200, "ok", tokens)
        row = None
        if claim is not None:
            row = gateway.idempotency.reply_row(claim, record, [*reply.raw_headers, _MODEL_HEADER], bytes(reply.body))
        _, lost = await gateway.keep(record, row)
        if lost is not None and gateway.settings.log_failure == "refuse":
            raise lost
        await gateway.charge(arrival.caller, tokens)
        return reply

    def _chosen(self, arrival: Arrival) -> Embed:
        """Raises ApiError 404 and 403."""
        asked = self._body.model
        if self._embed is None or asked != EMBEDDING_MODEL:
            there_is = f"there is {EMBEDDING_MODEL}" if self._embed is not None else "this gateway has none"
            message = f"embedding model {asked[:100]!r} does not exist; {there_is}"
            raise ApiError(404, message, param="model", code="model_not_found")
        require(arrival.caller, None)
        return self._embed

    async def _embedded(self, embed: Embed, arrival: Arrival) -> tuple[Sequence[Sequence[float]], int]:
        """Asks the engine; what goes wrong is logged, and raised."""
        seconds = self._gateway.settings.engine_timeout
        try:
            async with asyncio.timeout(seconds):
                return await embed(self._body.texts)
        except asyncio.CancelledError:
            await self._gateway.keep(self._record(arrival, CLIENT_CLOSED, "cancelled"))
            raise
        except Exception as raised:
            error = EngineTimeout(f"no vectors within {seconds:g} s") if isinstance(raised, TimeoutError) else raised
            text = f"{type(error).__name__}: {error}"
            # The client is told what failed first, also where the log has failed since.
            await self._gateway.keep(self._record(arrival, api_error(error).status, "error", error=text))
            raise error from raised

    def _record(
        self, arrival: Arrival, status: int, outcome: str, tokens: int = 0, *, error: str | None = None
    ) -> LogRecord:
        texts = self._body.texts
        optional = {"error": error, "user": self._body.user, "key": arrival.caller.key_id}
        return LogRecord(
            request_id=arrival.request_id,
            at=arrival.at,
            status=status,
            outcome=outcome,
            input="\n".join(texts).replace("\0", "\ufffd"),
            model=EMBEDDING_MODEL,
            tokens_in=tokens,
            latency_ms=(time.perf_counter() - arrival.start) * 1000,
            route="embeddings",
            caller=arrival.caller.key_id,
            user=self._body.user,
            details={
                "route": "embeddings",
                "texts": len(texts),
                **{name: value for name, value in optional.items() if value is not None},
            },
        )

    def _reply(self, vectors: Sequence[Sequence[float]], tokens: int) -> bytes:
        encoded = _base64 if self._body.encoding_format == "base64" else list
        data = [
            {"object": "embedding", "index": index, "embedding": encoded(vector)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return orjson.dumps({"object": "list", "data": data, "model": EMBEDDING_MODEL, "usage": usage})


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

"""`POST /v1/embeddings`: sentence vectors of the catalogue's embedding model, made in the engine process."""

import base64
import struct
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import Response

from llmops.models.sources import EMBEDDING_MODEL
from llmops.production_log import LogRecord
from service.access import require
from service.answering import UnaryAnswering
from service.error_map import ApiError
from service.exchange import estimated_tokens
from service.gateway import Embed, Gateway
from service.json_route import JsonRoute
from service.schemas import StrictBody, Text, only, replies

MOST_TEXTS = 2048
"""Texts of one request, as OpenAI allows."""

DIMENSIONS = 384

_SomeText = Annotated[Text, Field(min_length=1)]


class EmbeddingRequest(StrictBody):
    """The body of `POST /v1/embeddings`.

    input: one text or several, none empty; of each, the model reads the first 256 tokens. encoding_format: numbers, or
    base64 of little-endian 32-bit floats. dimensions: 384, the model's own; its vectors cannot be cut.
    """

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


def embeddings_router(gateway: Gateway) -> APIRouter:
    """The embedding route of one gateway."""
    router = APIRouter(tags=["embeddings"], route_class=JsonRoute)

    @router.post("/v1/embeddings", response_class=Response, responses=replies(Embeddings))
    def create_embedding(body: EmbeddingRequest) -> Embedding:
        """Vectors of texts, to compare them by meaning."""
        return Embedding(gateway, body)

    return router


class Embedding(UnaryAnswering):
    """An ASGI app that answers one request."""

    _embed: Embed

    def __init__(self, gateway: Gateway, body: EmbeddingRequest) -> None:
        super().__init__(gateway)
        self._body = body
        self.most_tokens = sum(estimated_tokens(text) for text in body.texts)

    def choose(self) -> str:
        asked, offered = self._body.model, self._gateway.embed
        if offered is None or asked != EMBEDDING_MODEL:
            there_is = f"there is {EMBEDDING_MODEL}" if offered is not None else "this gateway has none"
            message = f"embedding model {asked[:100]!r} does not exist; {there_is}"
            raise ApiError(404, message, param="model", code="model_not_found")
        require(self.arrival.caller, None)
        self._embed = offered
        return EMBEDDING_MODEL

    async def make(self) -> bytes:
        vectors, self.tokens = await self._embed(self._body.texts)
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        if self._body.encoding_format == "base64":
            for item, vector in zip(data, vectors, strict=True):
                item["embedding"] = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        usage = {"prompt_tokens": self.tokens, "total_tokens": self.tokens}
        return orjson.dumps({"object": "list", "data": data, "model": EMBEDDING_MODEL, "usage": usage})

    def record(self, status: int, outcome: str, error: str | None = None) -> LogRecord:
        """With the texts, and without vectors."""
        texts, user = self._body.texts, self._body.user
        details: dict[str, Any] = {"route": "embeddings", "texts": len(texts)}
        details |= {"error": error, "user": user, "key": self.arrival.key_id}
        return self.arrival.record(
            status,
            outcome,
            details,
            input="\n".join(texts).replace("\0", "\ufffd"),
            model=EMBEDDING_MODEL,
            tokens_in=self.tokens,
            tokens_out=0,
            route="embeddings",
            user=user,
        )

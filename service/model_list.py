"""`GET /v1/models`: every name that a request's `model` may have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from llmops.models.catalogue import EMBEDDING_MODEL
from service.access import require
from service.caller import ANONYMOUS, Caller
from service.gateway import Gateway
from service.reply_schemas import ErrorReply
from service.snapshot import Snapshot, unknown_model


class ModelCard(BaseModel):
    """One name in OpenAI's shape. created: seconds since the epoch, of a release or a tabular model; 0 for what keeps
    no time."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "llmops"


class ModelCards(BaseModel):
    """All names."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def model_list_router(gateway: Gateway, *, embeds: bool = False) -> APIRouter:
    """The model routes of one gateway. embeds: whether it has the embedding model."""
    router = APIRouter(tags=["models"], responses={"4XX": {"model": ErrorReply}, "5XX": {"model": ErrorReply}})

    @router.get("/v1/models")
    async def list_models(request: Request) -> ModelCards:
        """Apps and tabular models by alias and version, model versions, and the embedding model: what the key opens."""
        caller: Caller = getattr(request.state, "caller", ANONYMOUS)
        cards = [card for card, app in _cards(gateway.keeper.snapshot, embeds) if caller.may_use(app)]
        return ModelCards(data=sorted(cards, key=lambda card: card.id))

    @router.get("/v1/models/{model}")
    async def get_model(model: str, request: Request) -> ModelCard:
        """One of them."""
        caller: Caller = getattr(request.state, "caller", ANONYMOUS)
        cards = list(_cards(gateway.keeper.snapshot, embeds))
        for card, app in cards:
            if card.id == model:
                require(caller, app)
                return card
        raise unknown_model(model, [card.id for card, app in cards if caller.may_use(app)])

    return router


def _cards(snapshot: Snapshot, embeds: bool) -> Iterator[tuple[ModelCard, str | None]]:
    """Every name, and the app that a key must open to use it."""
    for name, target in snapshot.targets.items():
        release = target.release
        if release is None:
            yield ModelCard(id=name), None
        else:
            yield ModelCard(id=name, created=int(release.created_at)), release.app
    for name, version in snapshot.tabular.items():
        yield ModelCard(id=name, created=int(version.created_at)), version.name
    if embeds:
        yield ModelCard(id=EMBEDDING_MODEL), None

"""`GET /v1/models`: every name that a request's `model` may have."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from service.gateway import Gateway
from service.schemas import ErrorReply


class ModelCard(BaseModel):
    """One name in OpenAI's shape. created: always 0, for the registry's snapshot keeps no times."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "llmops"


class ModelCards(BaseModel):
    """All names."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def model_list_router(gateway: Gateway) -> APIRouter:
    """The model routes of one gateway."""
    router = APIRouter(tags=["models"], responses={"4XX": {"model": ErrorReply}, "5XX": {"model": ErrorReply}})

    @router.get("/v1/models")
    async def list_models() -> ModelCards:
        """Apps, their releases by alias and version, and model versions."""
        return ModelCards(data=[ModelCard(id=name) for name in sorted(gateway.keeper.snapshot.targets)])

    @router.get("/v1/models/{model}")
    async def get_model(model: str) -> ModelCard:
        """One of them."""
        gateway.keeper.snapshot.resolve(model)
        return ModelCard(id=model)

    return router

"""`POST /v1/chat/completions`: from a checked body to a logged answer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmops.errors import EngineTimeout, StoreUnavailable
from llmops.production_log import LogRecord
from service.disconnect import run_unless_gone
from service.error_map import api_error, report_failure
from service.exchange import Exchange
from service.gateway import Gateway
from service.replies import EventStream, Reply, WholeReply
from service.schemas import ChatCompletion, ChatRequest, ErrorReply

LAST_SEND_SECONDS = 10.0
"""How long the end of a reply may wait for a client that has stopped reading."""

CLIENT_CLOSED = 499


def chat_router(gateway: Gateway) -> APIRouter:
    """The chat route of one gateway."""
    router = APIRouter(tags=["chat"])
    responses: dict[int | str, dict[str, Any]] = {
        200: {"model": ChatCompletion},
        "4XX": {"model": ErrorReply},
        "5XX": {"model": ErrorReply},
    }

    @router.post("/v1/chat/completions", response_class=Response, responses=responses)
    async def chat_completions(body: ChatRequest) -> Response:
        """Answers a conversation with a release, or with a bare model version; streamed if `stream` is true."""
        return ChatReply(gateway, body)

    return router


class ChatReply(Response):
    """A response that makes its answer when it is sent, because only then can it see the client go."""

    def __init__(self, gateway: Gateway, body: ChatRequest) -> None:
        super().__init__()
        self._gateway, self._request_body = gateway, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await run_unless_gone(receive, self._answer(scope["state"], send))

    async def _answer(self, state: dict[str, Any], send: Send) -> None:
        # Let go before the reply ends, so that a client's next request never meets its own last one.
        with self._gateway.admission.hold():
            target = self._gateway.keeper.snapshot.resolve(self._request_body.model)
            state["reply_headers"] += target.headers
            exchange = Exchange(state["request_id"], state["at"], state["start"], self._request_body, target)
            reply: Reply = (EventStream if self._request_body.stream else WholeReply)(exchange, send)
            problem = await self._logged(exchange, await self._generate(exchange, reply))
        # A client that has stopped reading is left: the server then closes the connection.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SEND_SECONDS):
                await (reply.finish() if problem is None else reply.fail(api_error(problem)))

    async def _logged(self, exchange: Exchange, error: Exception | None) -> Exception | None:
        """Logs how the generation ended; returns what the client must be told went wrong, if anything."""
        if error is None:
            return await self._log(exchange.record(200, "ok"))
        report_failure(error, exchange.request_id)
        await self._log(exchange.record(api_error(error).status, "error", f"{type(error).__name__}: {error}"))
        return error

    async def _generate(self, exchange: Exchange, reply: Reply) -> Exception | None:
        """Runs the engine to the end of the answer; returns what went wrong. A cancelled request is logged here."""
        seconds = self._gateway.settings.engine_timeout
        try:
            async with asyncio.timeout(seconds):
                await self._stream(exchange, reply)
        except asyncio.CancelledError:
            await self._log(exchange.record(CLIENT_CLOSED, "cancelled"))
            raise
        except TimeoutError:
            return EngineTimeout(f"no whole answer within {seconds:g} s")
        except Exception as error:  # noqa: BLE001  whatever happened is logged, then answered by the error table
            return error
        return None

    async def _stream(self, exchange: Exchange, reply: Reply) -> None:
        request = exchange.prepare()
        pool, model = self._gateway.pool, exchange.target.model
        async with pool.lease(model) as engine, aclosing(engine.stream(request)) as chunks:
            async for chunk in chunks:
                exchange.take(chunk)
                await reply.piece(chunk.text)

    async def _log(self, record: LogRecord) -> StoreUnavailable | None:
        """Writes the record; returns the error when it could not be written."""
        try:
            await self._gateway.log.write(record)
        except StoreUnavailable as error:
            self._gateway.metrics.count_loss()
            if record.outcome == "ok":
                record = dataclasses.replace(record, status=api_error(error).status, outcome="error")
            self._gateway.metrics.count(record)
            return error
        self._gateway.metrics.count(record)
        return None

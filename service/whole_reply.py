"""From a checked request to a logged reply, for routes whose reply is made at once and never streamed."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llmops.errors import EngineTimeout
from llmops.production_log import ClaimedKey, LogRecord, StoredReply
from service.answering import LAST_SEND_SECONDS, run_unless_gone
from service.error_map import CLIENT_CLOSED, api_error
from service.exchange import Arrival
from service.gateway import Gateway
from service.idempotency import fingerprint, key_of, send_stored

Target = TypeVar("Target")


class WholeReply(ABC, Generic[Target]):
    """An ASGI app that answers one request; a client that goes away stops it.

    A route says what serves the request, has it make the reply's body, and describes both in a record. What lies
    between is here: admission, Idempotency-Key, deadline, log, budgets.
    """

    unlogged: ClassVar[tuple[type[Exception], ...]] = ()
    """Errors that refuse a request before it reached the model: they are counted, and not in the log."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.tokens = 0
        """Tokens that the reply costs the caller."""

    @property
    def most_tokens(self) -> int:
        """About the most that it can cost."""
        return 0

    @abstractmethod
    def choose(self, arrival: Arrival) -> tuple[Target, str]:
        """What serves the request, and its name for the header x-llmops-model. Raises ApiError 404, 403."""

    @abstractmethod
    async def make(self, arrival: Arrival, target: Target) -> bytes:
        """The body of the reply, JSON. Raises EngineError, ApiError."""

    @abstractmethod
    def record(
        self, arrival: Arrival, target: Target, status: int, outcome: str, *, error: str | None = None
    ) -> LogRecord:
        """How the request ended, for the log. error: what went wrong, if anything."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await run_unless_gone(receive, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        arrival, key = Arrival.of(state), key_of(scope["headers"])
        with self._gateway.admission.hold():
            target, name = self.choose(arrival)
            header = (b"x-llmops-model", name.encode())
            state["reply_headers"].append(header)
            request = _Request(arrival, state, target, header)
            if key is None:
                reply = await self._run(request)
            else:
                reply = await self._run_once(request, key, fingerprint(scope["path"], state["body"]))
        # A client that has stopped reading is left: the server then closes the connection.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SEND_SECONDS):
                await reply(scope, receive, send)

    async def _run_once(self, request: _Request[Target], key: str, print_of_request: str) -> ASGIApp:
        """As `_run`, unless the caller has sent the same key before. Raises ApiError 409, 422 too."""
        idempotency = self._gateway.idempotency
        found = await idempotency.begin(request.arrival.caller, key, print_of_request)
        if isinstance(found, StoredReply):
            request.state["reply_headers"].remove(request.header)  # the stored reply has it
            return lambda _scope, _receive, send: send_stored(found, send)
        try:
            return await self._run(request, found)
        except BaseException:
            await idempotency.release(found)
            raise

    async def _run(self, request: _Request[Target], claim: ClaimedKey | None = None) -> ASGIApp:
        """Makes and logs the reply. claim: of the request's Idempotency-Key; stands only where a reply is returned."""
        state = request.state
        async with self._gateway.spending(request.arrival.caller, self.most_tokens, state["reply_headers"]) as spending:
            state["reached_model"] = True
            try:
                return await self._kept(request, claim)
            finally:
                spending.tokens = self.tokens

    async def _kept(self, request: _Request[Target], claim: ClaimedKey | None) -> ASGIApp:
        gateway, arrival = self._gateway, request.arrival
        reply = Response(await self._made(request), media_type="application/json")
        request.state["record"] = record = self.record(arrival, request.target, 200, "ok")
        row = None
        if claim is not None:
            row = gateway.idempotency.reply_row(claim, record, [*reply.raw_headers, request.header], bytes(reply.body))
        _, lost = await gateway.keep(record, row)
        if lost is not None and gateway.settings.log_failure == "refuse":
            raise lost
        return reply

    async def _made(self, request: _Request[Target]) -> bytes:
        """Makes the body; what goes wrong is logged, and raised."""
        arrival, target = request.arrival, request.target
        seconds = self._gateway.settings.engine_timeout
        try:
            async with asyncio.timeout(seconds):
                return await self.make(arrival, target)
        except self.unlogged:
            del request.state["reached_model"]
            raise
        except asyncio.CancelledError:
            await self._gateway.keep(self.record(arrival, target, CLIENT_CLOSED, "cancelled"))
            raise
        except Exception as raised:
            error = EngineTimeout(f"no answer within {seconds:g} s") if isinstance(raised, TimeoutError) else raised
            text = f"{type(error).__name__}: {error}"
            # The client is told what failed first, also where the log has failed since.
            await self._gateway.keep(self.record(arrival, target, api_error(error).status, "error", error=text))
            raise error from raised


@dataclass(frozen=True, slots=True)
class _Request(Generic[Target]):
    """A request whose target is known. header: names it."""

    arrival: Arrival
    state: dict[str, Any]
    target: Target
    header: tuple[bytes, bytes]

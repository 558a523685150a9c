"""From a checked request to a logged answer, for every route that asks a model.

A route reads its own format into an `AnswerRequest`, and says with a `ReplyMaker` how its replies are written. All that
lies between is here and the same for all: idempotency, routing, access, guards, template, engine, log, metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, cast

from starlette.types import Receive, Scope, Send

from llmops.engines.protocol import Engine, fitting
from llmops.errors import EngineBusy, EngineRejected, EngineTimeout, StoreUnavailable
from llmops.generation import GenerationRequest
from llmops.production_log import LogRecord
from service.access import Caller, require
from service.error_map import CLIENT_CLOSED, ApiError, api_error, report_failure
from service.exchange import AnswerRequest, Arrival, Exchange
from service.gateway import Gateway
from service.idempotency import IdempotentReply, StoredReply, fingerprint, key_of, send_stored
from service.replies import Reply
from service.request_context import new_request_id
from service.snapshot import Routed, Snapshot, unknown_model

UNWATCHED_SECONDS = 0.02
"""A request that ends sooner is never watched: little is left to cancel, and a watcher costs more than it saves."""


async def run_unless_gone(receive: Receive, work: Coroutine[None, None, None]) -> None:
    """Runs `work`, and cancels it when the client closes the connection. Raises what `work` raises.

    Returns when `work` has ended, also when that was by cancellation: its record is in the log by then. Call after
    the request's body was read: any further message means that the client has gone.
    """
    watch = _Watch(receive)
    try:
        await work
    except asyncio.CancelledError:
        if not watch.client_gone:
            raise
        watch.request.uncancel()
    finally:
        watch.end()


class _Watch:
    """Cancels the task that makes it when its client goes, until `end` is called."""

    def __init__(self, receive: Receive) -> None:
        self.request, self._receive = cast("asyncio.Task[object]", asyncio.current_task()), receive
        self.client_gone = False
        self._watcher: asyncio.Task[None] | None = None
        self._start = asyncio.get_running_loop().call_later(UNWATCHED_SECONDS, self._begin)

    def end(self) -> None:
        self._start.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.client_gone = True
        self.request.cancel()


__all__ = ["AnswerRequest", "Answering", "ReplyMaker"]

ReplyMaker = Callable[[Exchange, Send], Reply]
"""Makes the reply to one exchange; called when it is known what serves the request, before the engine runs."""

State = dict[str, Any]
End = Callable[[], Awaitable[None]]

LAST_SEND_SECONDS = 10.0
"""How long the end of a reply may wait for a client that has stopped reading."""


class Answering:
    """An ASGI app that answers one request. It runs when it is called, because only then can it see the client go.

    Endpoints of a `JsonRoute` return it:

        def create(body: MyBody) -> Answering:
            return Answering(gateway, AnswerRequest(route="mine", model=…, messages=…), MyReply)

    What goes wrong before the first byte of the reply is raised (ApiError or an LlmopsError), for the app's error
    handlers; after it, the reply's `fail` writes it. Where a model was chosen, the log has it in either case.
    """

    def __init__(self, gateway: Gateway, request: AnswerRequest, make_reply: ReplyMaker) -> None:
        self._gateway, self._request, self._make_reply = gateway, request, make_reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await run_unless_gone(receive, self._answer(scope, send))

    async def _answer(self, scope: Scope, send: Send) -> None:
        state, gateway = scope["state"], self._gateway
        arrival = Arrival.of(state)
        key = key_of(scope["headers"])
        # Let go before the reply ends, so that a client's next request never meets its own last one.
        with gateway.admission.hold():
            if key is None:
                end = await self._run(arrival, state, send)
            else:
                end = await self._run_once(arrival, state, send, key, fingerprint(scope["path"], state["body"]))
        # A client that has stopped reading is left: the server then closes the connection.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SEND_SECONDS):
                await end()

    async def _run_once(self, arrival: Arrival, state: State, send: Send, key: str, print_of_request: str) -> End:
        """As `_run`, unless the caller has sent the same key before. Raises ApiError 409, 422 too."""
        idempotency = self._gateway.idempotency
        found = await idempotency.begin(arrival.caller, key, print_of_request)
        if isinstance(found, StoredReply):
            return partial(send_stored, found, send)
        once = IdempotentReply(idempotency, found, send)
        try:
            return await self._run(arrival, state, once.send, once)
        finally:
            if not once.settled:
                await idempotency.release(found)

    async def _run(self, arrival: Arrival, state: State, send: Send, once: IdempotentReply | None = None) -> End:
        """Makes and logs the answer; returns what ends the reply."""
        gateway = self._gateway
        routed = self._route(arrival)
        await gateway.require_log()
        state["reply_headers"] += routed.target.headers
        guards = gateway.guards.guards_for(routed.target.release)
        if guards.active and guards.hides(arrival.request_id):
            state["request_id"] = new_request_id()
            arrival = dataclasses.replace(arrival, request_id=state["request_id"])
        exchange = Exchange(arrival, self._request, routed.target, guards, routed.arm)
        async with gateway.spending(arrival.caller, exchange.most_tokens, state["reply_headers"]) as spending:
            state["reached_model"] = True
            try:
                return await self._answered(exchange, routed, state, send, once)
            finally:
                spending.tokens = exchange.tokens_used

    async def _answered(
        self, exchange: Exchange, routed: Routed, state: State, send: Send, once: IdempotentReply | None
    ) -> End:
        gateway = self._gateway
        reply = self._make_reply(exchange, send)
        try:
            error = await self._generate(exchange, reply, once)
            if isinstance(error, EngineBusy):
                # It reached no model: the queue's bound keeps load off the log as well.
                del state["reached_model"]
                return partial(reply.fail, api_error(error))
            problem = await self._logged(exchange, reply, error, once)
        finally:
            state["record"] = exchange.last_record
        if routed.shadow is not None and problem is None:
            gateway.shadow.submit(exchange.arrival, self._request, routed.shadow)
        if problem is not None:
            return partial(reply.fail, api_error(problem))
        return reply.finish if once is None else once.send_held

    def _route(self, arrival: Arrival) -> Routed:
        """What serves the request. Raises ApiError 404, also for what the caller's key does not reach."""
        asked, caller = self._request, arrival.caller
        if asked.target is not None:
            routed = Routed(asked.target, "explicit")
        else:
            snapshot = self._gateway.keeper.snapshot
            if asked.model not in snapshot.targets:
                raise unknown_model(asked.model, _names_for(caller, snapshot))
            routed = self._gateway.router.choose(
                snapshot, asked.model, request_id=arrival.request_id, user=asked.user, key=caller.key_id
            )
        release = routed.target.release
        require(caller, release.app if release is not None else None)
        return routed

    async def _logged(
        self, exchange: Exchange, reply: Reply, error: Exception | None, once: IdempotentReply | None
    ) -> Exception | None:
        """Logs how the generation ended; returns what the client must be told went wrong, if anything."""
        if error is None:
            if once is not None:
                await once.hold(reply)
            lost = await self._log(exchange, exchange.record(200, "ok"), once)
            return lost if self._gateway.settings.log_failure == "refuse" else None
        report_failure(error, exchange.request_id)
        text = f"{type(error).__name__}: {error}"
        await self._log(exchange, exchange.record(api_error(error).status, "error", text), once)
        return error

    async def _generate(self, exchange: Exchange, reply: Reply, once: IdempotentReply | None) -> Exception | None:
        """Runs the engine to the end of the answer; returns what went wrong. A cancelled request is logged here."""
        seconds = self._gateway.settings.engine_timeout
        reply.begin()
        try:
            async with asyncio.timeout(seconds):
                await self._stream(exchange, reply)
        except asyncio.CancelledError:
            await self._log(exchange, exchange.record(CLIENT_CLOSED, "cancelled"), once)
            raise
        except TimeoutError:
            return EngineTimeout(f"no whole answer within {seconds:g} s")
        except Exception as error:  # noqa: BLE001  whatever happened is logged, then answered by the error table
            return error
        finally:
            reply.end()
        return None

    async def _stream(self, exchange: Exchange, reply: Reply) -> None:
        request = exchange.prepare()
        async with self._gateway.pool.lease(exchange.target.model) as engine:
            await exchange.collect(engine, _fitting(exchange, request, engine), reply.piece)

    async def _log(
        self, exchange: Exchange, record: LogRecord, once: IdempotentReply | None
    ) -> StoreUnavailable | None:
        """Writes the record and counts it; returns the error when it could not be written."""
        gateway = self._gateway
        row = None
        if once is not None:
            row = once.row(record, exchange.target.headers, storable=not exchange.answers_hidden)
        exchange.last_record = record
        try:
            exchange.last_record, lost = await gateway.keep(record, row)
        finally:
            for action in exchange.guards.actions:
                gateway.metrics.guarded(exchange.target.ref, action["guard"])
        return lost


def _fitting(exchange: Exchange, request: GenerationRequest, engine: Engine) -> GenerationRequest:
    """The request as the engine takes it. Raises ApiError 400 naming the field that it cannot honour."""
    try:
        return fitting(request, engine)
    except EngineRejected as error:
        problem = str(error).replace("the engine", f"the engine of {exchange.target.model.ref}", 1)
        raise ApiError(400, problem, param=error.param) from error


def _names_for(caller: Caller, snapshot: Snapshot) -> list[str]:
    """What a caller may ask for: other apps' names are not its business."""
    targets = snapshot.targets.items()
    return [name for name, target in targets if caller.may_use(target.release.app if target.release else None)]

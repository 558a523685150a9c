"""From a checked request to a logged reply, for every route that asks a model.

What all share is here: admission, idempotency, access, budgets, deadline, log, a client that goes away. A route that
asks a language model reads its own format into an `AnswerRequest`, and says with a `ReplyMaker` how its replies are
written (`Answering`); one whose reply is made at once and never streamed is a `UnaryAnswering`.
"""

import asyncio
import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, cast

from starlette.types import Receive, Scope, Send

from llmops.errors import EngineBusy, EngineTimeout, StoreUnavailable
from llmops.production_log import LogRecord, StoredReply
from service.access import require
from service.error_map import CLIENT_CLOSED, ApiError, api_error, report_failure
from service.exchange import AnswerRequest, Arrival, Exchange
from service.gateway import Gateway
from service.guards import guards_for
from service.idempotency import IdempotentReply, fingerprint, key_of, send_stored
from service.replies import Reply, send_json
from service.request_context import new_request_id
from service.snapshot import Routed, unknown_model

ReplyMaker = Callable[[Exchange, Send], Reply]
"""Makes the reply to one exchange; called when it is known what serves the request, before the engine runs."""

End = Callable[[], Awaitable[None]]

LAST_SEND_SECONDS = 10.0
"""How long the end of a reply may wait for a client that has stopped reading."""

UNWATCHED_SECONDS = 0.02
"""A request that ends sooner is never watched: little is left to cancel, and a watcher costs more than it saves."""


async def run_unless_gone(receive: Receive, work: Coroutine[None, None, None]) -> None:
    """Runs `work`, and cancels it when the client closes the connection. Raises what `work` raises.

    Returns when `work` has ended, also when that was by cancellation: its record is in the log by then. Call after
    the request's body was read: any further message means that the client has gone.
    """
    loop, request = asyncio.get_running_loop(), cast("asyncio.Task[object]", asyncio.current_task())
    watcher: asyncio.Task[None] | None = None
    client_gone = False

    async def watch() -> None:
        nonlocal client_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        client_gone = True
        request.cancel()

    def begin() -> None:
        nonlocal watcher
        watcher = loop.create_task(watch())

    start = loop.call_later(UNWATCHED_SECONDS, begin)
    try:
        await work
    except asyncio.CancelledError:
        if not client_gone:
            raise
        request.uncancel()
    finally:
        start.cancel()
        if watcher is not None:
            watcher.cancel()


class RequestApp(ABC):
    """An ASGI app that answers one request. It runs when it is called, because only then can it see the client go.

    Endpoints of a `JsonRoute` return it. What goes wrong before the first byte of the reply is raised (ApiError or an
    LlmopsError), for the app's error handlers. Where a model was chosen, the log has it in either case.
    """

    arrival: Arrival
    _state: dict[str, Any]
    _send: Send
    _once: IdempotentReply | None = None  # of a request with an Idempotency-Key

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    @abstractmethod
    async def run(self) -> End:
        """Makes and logs the reply; returns what ends it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await run_unless_gone(receive, self._answer(scope, send))

    async def _answer(self, scope: Scope, send: Send) -> None:
        """Raises ApiError 409 and 422 too, where the caller has sent the same Idempotency-Key before."""
        key = key_of(scope["headers"])
        self._state, self._send, self.arrival = scope["state"], send, Arrival.of(scope["state"])
        # Let go before the reply ends, so that a client's next request never meets its own last one.
        with self._gateway.admission.hold():
            if key is None:
                end = await self.run()
            else:
                idempotency = self._gateway.idempotency
                request_print = fingerprint(scope["path"], self._state["body"])
                claimed = await idempotency.begin(self.arrival.caller, key, request_print)
                if isinstance(claimed, StoredReply):
                    end = partial(send_stored, claimed, send)
                else:
                    self._once = IdempotentReply(claimed, send)
                    self._send = self._once.send
                    try:
                        end = await self.run()
                    finally:
                        if not self._once.settled:
                            await idempotency.release(claimed)
        # A client that has stopped reading is left: the server then closes the connection.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SEND_SECONDS):
                await end()


class Answering(RequestApp):
    """A language model's answer to one request:

        def create(body: MyBody) -> Answering:
            return Answering(gateway, AnswerRequest(route="mine", model=…, messages=…), MyReply)

    What goes wrong after the first byte of the reply, its `fail` writes.

    field_names: what fields of the chat request are called on the route, for the errors that name them.
    """

    def __init__(
        self,
        gateway: Gateway,
        request: AnswerRequest,
        make_reply: ReplyMaker,
        field_names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(gateway)
        self._request, self._make_reply, self._field_names = request, make_reply, field_names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except ApiError as problem:
            if (renamed := problem.renamed(self._field_names)) is problem:
                raise
            raise renamed from problem

    async def run(self) -> End:
        gateway, state = self._gateway, self._state
        routed = self._route()
        await gateway.require_log()
        state["reply_headers"] += routed.target.headers
        guards = guards_for(routed.target.release)
        if guards.active and guards.hides(self.arrival.request_id):
            state["request_id"] = new_request_id()
            self.arrival = dataclasses.replace(self.arrival, request_id=state["request_id"])
        exchange, caller = Exchange(self.arrival, self._request, routed.target, guards, routed.arm), self.arrival.caller
        async with gateway.spending(caller, lambda: exchange.most_tokens, state["reply_headers"]) as spending:
            state["reached_model"] = True
            reply = self._make_reply(exchange, self._send)
            try:
                error = await self._generate(exchange, reply)
                if isinstance(error, EngineBusy):
                    # It reached no model: the queue's bound keeps load off the log as well.
                    del state["reached_model"]
                    return partial(reply.fail, api_error(error))
                problem = await self._logged(exchange, reply, error)
            finally:
                state["record"] = exchange.last_record
                spending.tokens = exchange.tokens_used
        if problem is not None:
            return partial(reply.fail, api_error(problem).renamed(self._field_names))
        if routed.shadow is not None:
            gateway.shadow.submit(self.arrival, self._request, routed.shadow)
        return reply.finish if self._once is None else self._once.send_held

    def _route(self) -> Routed:
        """What serves the request. Raises ApiError 404, also for what the caller's key does not reach."""
        asked, caller = self._request, self.arrival.caller
        if asked.target is not None:
            routed = Routed(asked.target, "explicit")
        else:
            snapshot = self._gateway.keeper.snapshot
            if asked.model not in snapshot.targets:
                # Other apps' names are not the caller's business.
                raise unknown_model(asked.model, [n for n, t in snapshot.targets.items() if caller.may_use(t.app)])
            routed = self._gateway.router.choose(
                snapshot, asked.model, request_id=self.arrival.request_id, user=asked.user, key=caller.id
            )
        require(caller, routed.target.app)
        return routed

    async def _generate(self, exchange: Exchange, reply: Reply) -> Exception | None:
        """Runs the engine to the end of the answer; returns what went wrong. A cancelled request is logged here."""
        seconds = self._gateway.settings.engine_timeout
        reply.begin()
        try:
            async with asyncio.timeout(seconds):
                request = exchange.prepare()
                async with self._gateway.pool.lease(exchange.target.model) as engine:
                    await exchange.collect(engine, request, reply.piece)
        except asyncio.CancelledError:
            await self._log(exchange, exchange.record(CLIENT_CLOSED, "cancelled"))
            raise
        except TimeoutError:
            return EngineTimeout(f"no whole answer within {seconds:g} s")
        except Exception as error:  # noqa: BLE001  whatever happened is logged, then answered by the error table
            return error
        finally:
            reply.end()
        return None

    async def _logged(self, exchange: Exchange, reply: Reply, error: Exception | None) -> Exception | None:
        """Logs how the generation ended; returns what the client must be told went wrong, if anything."""
        if error is not None:
            report_failure(error, self.arrival.request_id)
            text = f"{type(error).__name__}: {error}"
            await self._log(exchange, exchange.record(api_error(error).status, "error", text))
            return error
        if self._once is not None:
            await self._once.hold(reply.finish)
        lost = await self._log(exchange, exchange.record(200, "ok"))
        if lost is None or self._gateway.settings.log_failure != "refuse":
            return None
        if self._once is not None:
            self._once.drop_held()  # a good end, in whose place the client is told of the failure
        return lost

    async def _log(self, exchange: Exchange, record: LogRecord) -> StoreUnavailable | None:
        """Writes the record and counts it; returns the error when it could not be written."""
        row = None
        if self._once is not None:
            row = self._once.row(record, exchange.target.headers, storable=not exchange.answers_hidden)
        exchange.last_record = record
        try:
            exchange.last_record, lost = await self._gateway.keep(record, row)
            if self._once is not None:
                self._once.settled = lost is None
        finally:
            for action in exchange.guards.actions:
                self._gateway.metrics.guarded(exchange.target.ref, action["guard"])
        return lost


class UnaryAnswering(RequestApp):
    """One whole reply to one request, never streamed.

    A route says what serves the request, has it make the reply's body, and describes both in a record.
    """

    unlogged: ClassVar[tuple[type[Exception], ...]] = ()
    """Errors that refuse a request before it reached the model: they are counted, and not in the log."""

    tokens = 0
    """Tokens that the reply costs the caller."""

    most_tokens = 0
    """About the most that it can cost."""

    @abstractmethod
    def choose(self) -> str:
        """Finds what serves the request; its name, for the header x-llmops-model. Raises ApiError 404, 403."""

    @abstractmethod
    async def make(self) -> bytes:
        """The body of the reply, JSON. Raises EngineError, ApiError."""

    @abstractmethod
    def record(self, status: int, outcome: str, error: str | None = None) -> LogRecord:
        """How the request ended, for the log. error: what went wrong, if anything."""

    async def run(self) -> End:
        gateway, state, once = self._gateway, self._state, self._once
        header = (b"x-llmops-model", self.choose().encode())
        state["reply_headers"].append(header)
        caller = self.arrival.caller
        async with gateway.spending(caller, lambda: self.most_tokens, state["reply_headers"]) as spending:
            state["reached_model"] = True
            try:
                finish = partial(send_json, self._send, await self._made())
                state["record"] = record = self.record(200, "ok")
                row = None
                if once is not None:
                    await once.hold(finish)
                    row = once.row(record, [header])
                _, lost = await gateway.keep(record, row)
                if once is not None:
                    once.settled = lost is None
                if lost is not None and gateway.settings.log_failure == "refuse":
                    raise lost
            finally:
                spending.tokens = self.tokens
        return finish if once is None else once.send_held

    async def _made(self) -> bytes:
        """Makes the body; what goes wrong is logged, and raised."""
        seconds = self._gateway.settings.engine_timeout
        try:
            async with asyncio.timeout(seconds):
                return await self.make()
        except self.unlogged:
            del self._state["reached_model"]
            raise
        except asyncio.CancelledError:
            await self._gateway.keep(self.record(CLIENT_CLOSED, "cancelled"))
            raise
        except Exception as raised:
            error = EngineTimeout(f"no answer within {seconds:g} s") if isinstance(raised, TimeoutError) else raised
            text = f"{type(error).__name__}: {error}"
            # The client is told what failed first, also where the log has failed since.
            await self._gateway.keep(self.record(api_error(error).status, "error", text))
            raise error from raised

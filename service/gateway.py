"""The parts that every route shares, and their life from start-up to shutdown."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from starlette.types import Scope

from llmops.engine_host.frames import Pong
from llmops.engines.opening import EngineOpener, EnginePool
from llmops.errors import EngineError, StoreUnavailable
from llmops.keys import Key, KeyStore
from llmops.production_log import LogRecord, ProductionLog, ReplyRow
from llmops.settings import Settings
from llmops.versions import RegisteredVersions
from service.access import ANONYMOUS, Access, is_local
from service.error_map import RETRY_SECONDS, ApiError, api_error
from service.guards import GuardRules, Guards, guards_for
from service.idempotency import Idempotency
from service.key_limits import Budgets, Headers, Spending
from service.log_writer import LogWriter
from service.metrics import Metrics
from service.predictions import PredictionBatches, TabularOpener, tabular_models
from service.shadow import Shadow
from service.snapshot import Router, SnapshotKeeper
from service.tracing import open_tracing

Ping = Callable[[], Awaitable[Pong]]
"""Asks the engine process how it is. Raises EngineError where it does not answer."""

Embed = Callable[[Sequence[str]], Awaitable[tuple[Sequence[Sequence[float]], int]]]
"""Texts to a vector each, in order, and how many tokens the model read in all. Raises EngineError."""

LOOK_SECONDS = 1.0
"""Between two looks at the engine process."""

CANCELLED_SECONDS = 5.0
FIRST_LOOK_SECONDS = 60.0
"""How long a worker waits for the registry before it takes requests: they could only be refused until then, while other
workers and other gateways answer theirs."""


class EngineWatch:
    """The engine process as of the last look. problem: why it can answer nothing now; None when it is well."""

    def __init__(self, ping: Ping) -> None:
        self._ping = ping
        self._last: Pong | None = None
        self.problem: str | None = "the engine process has not answered yet"

    async def run(self) -> None:
        """Looks for ever, every LOOK_SECONDS."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        try:
            self._last, self.problem = await self._ping(), None
        except EngineError as error:
            self.problem = str(error)

    async def production_waits(self) -> bool:
        """Whether a request waits for a slot at this moment; yes where the process cannot be asked."""
        await self.look()
        return self.problem is not None or any(waiting for waiting, _ in self.depths().values())

    def failure(self, model: str) -> str | None:
        """Why the process could not load a model, by its ref; None when it could, or was not asked to."""
        report = self._models.get(model, {})
        return None if report.get("loaded") else report.get("failure")

    def depths(self) -> Mapping[str, tuple[int, int]]:
        """Model ref → requests there: (waiting for a slot, running)."""
        return {ref: (report["waiting"], report["running"]) for ref, report in self._models.items()}

    def restarts(self) -> float:
        """How often the process was started again."""
        return 0.0 if self._last is None else float(self._last.restarts)

    @property
    def _models(self) -> Mapping[str, Mapping[str, Any]]:
        return {} if self._last is None or self.problem is not None else self._last.models


class Admission:
    """Counts the requests held; single-threaded, as everything on the event loop is."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Waits until no request is held."""
        await self._idle.wait()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds one request while the block runs. Raises ApiError 429 when `most` are held."""
        if self.held >= self._most:
            message = f"the gateway holds {self._most} requests already; try again"
            raise ApiError(429, message, kind="rate_limit_error", code="overloaded", retry_after=RETRY_SECONDS)
        self.held += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.held -= 1
            if self.held == 0:
                self._idle.set()


class Gateway:
    """One gateway process: snapshot, engines, tabular models, access, admission, log and metrics.

    read_releases: what is registered now; see `SnapshotKeeper`.
    open_engine: opens the engine of a model version.
    log: where requests are recorded; the caller closes it.
    keys: where callers' keys come from; None lets everybody in.
    ping: asks the engine process, where there is one.
    embed: makes sentence vectors; None where nothing does.
    open_tabular: loads the tabular models that are registered; None where there are none.
    rate_limit_folder: a folder in which the workers of one gateway count keys' requests together.

    Nothing runs before `running`.
    """

    def __init__(
        self,
        settings: Settings,
        read_releases: Callable[[], RegisteredVersions],
        open_engine: EngineOpener,
        log: ProductionLog,
        *,
        keys: KeyStore | None = None,
        ping: Ping | None = None,
        embed: Embed | None = None,
        open_tabular: TabularOpener | None = None,
        rate_limit_folder: Path | None = None,
    ) -> None:
        self.settings = settings
        self.pool = EnginePool(open_engine)
        self.tabular = tabular_models(open_tabular)
        self.predictions = PredictionBatches()
        self.keeper = SnapshotKeeper(read_releases, self.pool, self.tabular, settings.registry_poll)
        self.router = Router(self.pool.is_loaded)
        self.access = None if keys is None else Access(keys, settings, rate_limit_folder)
        self.admission = Admission(settings.max_waiting)
        self.production_log, self.embed = log, embed
        self.log = LogWriter(log.append, serve_unlogged=settings.log_failure == "serve")
        self.metrics = Metrics(in_flight=lambda: self.admission.held)
        self.engines = None if ping is None else EngineWatch(ping)
        age = "Since the registry was last read; of several workers, the longest"
        self.metrics.watch("llmops_snapshot_age_seconds", age, lambda: self.keeper.age)
        if self.access is not None:
            self.metrics.watch("llmops_keys", "Keys that are valid now", self.access.live_keys)
        if self.engines is not None:
            again = "Times the engine process was started again"
            self.metrics.watch("llmops_engine_restarts", again, self.engines.restarts)
            self.metrics.watch_queues(self.engines.depths)
        self.tracing = open_tracing(settings)
        self.idempotency = Idempotency(log.replies, settings.engine_timeout)
        self.budgets = Budgets(log.budgets, settings.engine_timeout)
        self.shadow = Shadow(
            self.pool,
            self.log,
            seconds=settings.engine_timeout,
            production_waits=None if self.engines is None else self.engines.production_waits,
            count=self.metrics.shadow,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Polls registry and keys and writes the log while the block runs; then closes engines and empties the log
        queue."""
        self.log.start()
        async with AsyncExitStack() as stack:
            if self.access is not None:
                await stack.enter_async_context(self.access.running())
            tasks = [
                asyncio.create_task(self.keeper.run(), name="snapshot keeper"),
                asyncio.create_task(self.metrics.keep_fresh(), name="metrics"),
            ]
            if self.engines is not None:
                tasks.append(asyncio.create_task(self.engines.run(), name="engine watch"))
            self.shadow.start()
            self.predictions.start()
            try:
                await self.keeper.wait_for_first_look(FIRST_LOOK_SECONDS)
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                # Requests cancelled by an overlong drain still close their streams and write their records.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CANCELLED_SECONDS):
                        await self.admission.idle()
                await self.shadow.close()
                await self.predictions.close()
                await self.tabular.close()
                await self.pool.close()
                await self.idempotency.close()
                await self.budgets.close()
                await self.log.close()
                await self.tracing.close()

    async def require_log(self) -> None:
        """Raises StoreUnavailable while answers cannot be logged and must be: one would be made, paid for, and thrown
        away."""
        if self.settings.log_failure == "refuse":
            await self.log.require()

    async def keep(self, record: LogRecord, reply: ReplyRow | None = None) -> tuple[LogRecord, StoreUnavailable | None]:
        """Writes and counts a record, with what becomes of its Idempotency-Key.

        Returns it as it was counted, and the error when it could not be written.
        """
        lost = None
        try:
            await self.log.write(record, reply=reply)
        except StoreUnavailable as error:
            self.metrics.count_loss()
            if record.outcome == "ok" and self.settings.log_failure == "refuse":
                record = dataclasses.replace(record, status=api_error(error).status, outcome="error")
            lost = error
        finally:  # also when the client goes meanwhile: the record is being written all the same
            self.metrics.count(record)
        return record, lost

    def spending(
        self, caller: Key, most: Callable[[], int], reply_headers: Headers
    ) -> AbstractAsyncContextManager[Spending]:
        """The block that takes at most so many tokens from the budgets of the caller's key: `Budgets.spending`.

        most: asked only for keys with a budget, since it costs an estimate of the whole prompt.
        """
        if not (limits := caller.token_limits):
            return nullcontext(Spending())
        return self.budgets.spending(caller.id, limits, most(), reply_headers)

    def guards_of(self, record: LogRecord) -> Guards:
        """The guards of the release that made a record; where it is not registered any more, as its record shows them.

        Raises ApiError 503 when they cannot be applied.
        """
        targets = {} if self.keeper.age is None else self.keeper.snapshot.targets
        target = targets.get(record.release or "")
        if target is not None and target.release is not None:
            return guards_for(target.release)
        acted = {action.get("guard") for action in record.details.get("guards") or ()}
        return Guards(GuardRules(redact_log="redact_pii" in acted))

    def caller_of(self, scope: Scope) -> Key | None:
        """Who asks on a path that is open to everybody; None for who has no good key."""
        return ANONYMOUS if self.access is None else self.access.known(scope["headers"], local=is_local(scope))

    def problems(self) -> list[str]:
        """Why the gateway should get no traffic now; empty when it is ready."""
        reasons = []
        if self.keeper.age is None:
            reasons.append(f"registry not read yet: {self.keeper.last_error or 'first look is under way'}")
        else:
            snapshot, failures = self.keeper.snapshot, self.pool.failures
            for app, model in snapshot.champions.items():
                # Also what the engine process cannot load again that it had loaded before.
                why = None if self.engines is None else self.engines.failure(model.ref)
                if why is None and not self.pool.is_loaded(model):
                    why = failures.get(model.ref, "loading")
                if why is not None:
                    reasons.append(f"engine of {app}: {why}")
            for name, version in snapshot.tabular_champions.items():
                if not self.tabular.is_loaded(version):
                    reasons.append(f"model {name}: {self.tabular.failure(version) or 'loading'}")
        if self.predictions.problem is not None:
            reasons.append(self.predictions.problem)
        if self.log.failure is not None:
            reasons.append(f"production log cannot be written: {self.log.failure}")
        reasons += [part.problem for part in (self.access, self.engines) if part is not None and part.problem]
        return reasons

    def warnings(self) -> list[str]:
        """What is not as it should be while requests are still served well."""
        warnings = []
        age, error = self.keeper.age, self.keeper.last_error
        if age is not None and error is not None:
            warnings.append(f"registry not read for {age:.0f} s, serving the releases read last: {error}")
        warnings += [
            f"{name} is gone from the registry, its last champion serves on: restore it, or start the gateway again"
            for name in self.keeper.vanished
        ]
        if age is not None:
            callers = [] if self.access is None else self.access.callers()
            warnings += self.router.notes(self.keeper.snapshot, callers)
        if self.access is not None and self.access.limits_problem is not None:
            warnings.append(self.access.limits_problem)
        # No reason to turn traffic away, not even when all of them rest: every gateway would leave at once, for an
        # outage that requests are told of with 503 and Retry-After.
        warnings += [f"upstream {problem}" for problem in self.pool.problems]
        return warnings

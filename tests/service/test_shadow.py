"""Shadow requests: logged and never returned, in nobody's way."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from llmops.engines.fake import FakeEngine
from llmops.engines.opening import EnginePool
from llmops.errors import EngineBusy, EngineError
from llmops.generation import Message
from llmops.production_log import LogRecord
from llmops.traffic_policy import TrafficPolicy
from service import shadow as shadow_module
from service.exchange import AnswerRequest, Arrival
from service.shadow import AT_ONCE, MOST_WAITING, Shadow
from service.snapshot import Target

pytestmark = pytest.mark.anyio


class Records(list[LogRecord]):
    """A log in memory."""

    async def write(self, record: LogRecord) -> None:
        self.append(record)


class Stage:
    """A shadow over one fake engine, with a switch for whether production waits."""

    def __init__(self, engine: FakeEngine, seconds: float = 10.0) -> None:
        self.engine, self.log, self.waits, self.told = engine, Records(), False, []
        self.pool = EnginePool(lambda _: engine)
        self.shadow = Shadow(self.pool, self.log, seconds=seconds, production_waits=self._waits, count=self.told.append)

    async def _waits(self) -> bool:
        return self.waits

    async def __aenter__(self) -> Stage:
        self.shadow.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shadow.close()
        await self.pool.close()

    def submit(self, release: Any, request_id: str = "r1", **fields: Any) -> None:
        arrival = Arrival(request_id, datetime.now(UTC), time.perf_counter(), headers={"traceparent": "00-1-2-01"})
        request = AnswerRequest(
            route="chat", model="assistant", messages=(Message(role="user", content="hello world"),), **fields
        )
        self.shadow.submit(arrival, request, Target(release.model, release))

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  there is no event to wait for
                await asyncio.sleep(0.005)

    async def ended(self, count: int = 1) -> None:
        await self.until(lambda: len(self.told) >= count)


async def test_what_the_challenger_answers_is_recorded_beside_the_request_it_shadows(release):
    async with Stage(FakeEngine()) as stage:
        stage.submit(release(2, "challenger"), stream=True, user="u")
        await stage.ended()
    (record,) = stage.log
    assert (record.outcome, record.status, record.release) == ("shadow", 200, "assistant@2")
    assert (record.input, record.output) == ("hello world", "You said: hello world")
    assert record.request_id != "r1"
    assert (record.details["shadow_of"], record.details["arm"], record.details["user"]) == ("r1", "shadow", "u")
    (request,) = stage.engine.requests
    assert request.messages[0]["content"] == "Answer as release 2."  # its own prompt
    assert (request.whole, dict(request.headers)) == (True, {})
    assert stage.told == ["done"]


@pytest.mark.parametrize(
    ("failure", "status"), [(EngineError("broke"), 502), (RuntimeError("a bug"), 500)], ids=["engine", "bug"]
)
async def test_a_failure_is_recorded_and_the_next_one_runs(release, failure, status):
    async with Stage(FakeEngine(failure=failure)) as stage:
        stage.submit(release(2))
        stage.submit(release(2))
        await stage.ended(2)
    assert [(record.outcome, record.status) for record in stage.log] == [("shadow", status)] * 2
    assert str(failure) in stage.log[0].details["error"]
    assert stage.told == ["failed", "failed"]


async def test_what_the_challenger_cannot_do_is_a_failure_of_its_own(release):
    async with Stage(FakeEngine()) as stage:
        stage.submit(release(2), extras={"logit_bias": {"5": 1}})
        stage.submit(release(2, tone="tone"))  # its prompt has a variable which the request does not fill
        await stage.ended(2)
    errors = sorted(record.details["error"] for record in stage.log)
    assert "logit_bias: the engine of tiny@2 cannot honour it" in errors[0]
    assert "tone" in errors[1]
    assert [record.status for record in stage.log] == [400, 400]


async def test_one_that_takes_too_long_is_given_up(release):
    async with Stage(FakeEngine(word_seconds=5), seconds=0.05) as stage:
        stage.submit(release(2))
        await stage.ended()
    assert (stage.log[0].status, stage.told) == (504, ["failed"])
    assert stage.engine.cancelled == 1


@pytest.mark.parametrize("full", [False, True])
async def test_it_does_not_start_while_production_waits_nor_in_a_full_engine(release, full):
    async with Stage(FakeEngine(failure=EngineBusy("full") if full else None)) as stage:
        stage.waits = not full
        stage.submit(release(2))
        await stage.ended()
    assert (stage.told, bool(stage.engine.requests), stage.log) == (["dropped"], full, [])


async def test_it_stops_when_production_begins_to_wait(release, monkeypatch):
    monkeypatch.setattr(shadow_module, "LOOK_SECONDS", 0.01)
    async with Stage(FakeEngine(word_seconds=5)) as stage:
        stage.submit(release(2))
        await stage.until(lambda: stage.engine.in_flight)
        stage.waits = True
        await stage.ended()
        assert stage.engine.in_flight == 0
    assert (stage.told, stage.log) == (["dropped"], [])


async def test_few_run_at_once_and_few_wait(release):
    async with Stage(FakeEngine(word_seconds=5)) as stage:
        for number in range(AT_ONCE):
            stage.submit(release(2), request_id=f"r{number}")
        await stage.until(lambda: stage.engine.in_flight == AT_ONCE)
        for number in range(MOST_WAITING + 3):
            stage.submit(release(2), request_id=f"w{number}")
        assert stage.told == ["dropped"] * 3
    assert stage.engine.most_in_flight == AT_ONCE
    assert stage.told == ["dropped"] * (3 + AT_ONCE + MOST_WAITING)  # closing waits for none of them
    assert stage.engine.closed


async def test_a_log_that_fails_does_not_end_the_shadow(release):
    async with Stage(FakeEngine()) as stage:

        async def broken(_: LogRecord) -> None:
            raise EngineError("disk full")

        stage.log.write = broken
        stage.submit(release(2))
        stage.submit(release(2))
        await stage.ended(2)
    assert stage.told == ["failed", "failed"]


def test_through_the_gateway_only_the_champion_is_heard(serve, release, wait_until):
    def engine(model):
        return FakeEngine(lambda request: request.messages[0]["content"])

    with serve(release(1, "champion"), release(2, "challenger"), engine=engine) as gateway:
        gateway.source.set_policy("assistant", TrafficPolicy(shadow=1.0))
        wait_until(lambda: gateway.app.state.gateway.keeper.snapshot.splits)
        wait_until(lambda: "tiny@2" in gateway.app.state.gateway.pool.loaded)
        reply = gateway.chat()
        assert reply.json()["choices"][0]["message"]["content"] == "Answer as release 1."
        wait_until(lambda: gateway.log.count(shadow=True) == 2)
        (heard,) = gateway.log.read()
        assert (heard.release, heard.outcome, gateway.log.count()) == ("assistant@1", "ok", 1)
        (unheard,) = [record for record in gateway.log.iterate(shadow=True) if record.outcome == "shadow"]
        assert (unheard.release, unheard.output) == ("assistant@2", "Answer as release 2.")
        assert unheard.details["shadow_of"] == heard.request_id == reply.headers["x-request-id"]
        assert gateway.log.read(request_id=unheard.request_id) == [unheard]
        gateway.chat("assistant@1")
        gateway.chat("assistant@challenger")
        assert gateway.log.count(shadow=True) == 4

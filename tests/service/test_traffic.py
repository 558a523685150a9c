"""Traffic policies: which side a request falls on, what is never rerouted, and shadow requests, in nobody's way."""

import asyncio
import itertools
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from llmops.engines.fake import FakeEngine
from llmops.engines.opening import EnginePool
from llmops.errors import EngineBusy, EngineError
from llmops.generation import Message
from llmops.production_log import LogRecord
from llmops.traffic_policy import STICKY, TrafficPolicy
from service import shadow as shadow_module
from service.error_map import ApiError
from service.exchange import AnswerRequest, Arrival
from service.shadow import AT_ONCE, MOST_WAITING, Shadow
from service.snapshot import Router, Snapshot, Target, position
from tests.at_once import wait_until
from tests.service.conftest import ANSWERABLE, asking, caller, release
from tests.service.static_releases import StaticReleases

pytestmark = pytest.mark.anyio

EVERY_MODEL_IS_LOADED = Router(lambda _: True)
NAMES = st.text(max_size=20)
SHARES = st.floats(0, 1)
COUNT = 1000


def snapshot_with(policy, *challenger_aliases):
    """Of `assistant@1` (champion), `assistant@2` (challenger) and a policy."""
    source = StaticReleases([release(1, "champion"), release(2, *(challenger_aliases or ("challenger",)))])
    source.set_policy("assistant", policy)
    return Snapshot(source.registered())


def choose(snapshot, model="assistant", request_id="r", **who):
    return EVERY_MODEL_IS_LOADED.choose(snapshot, model, request_id=request_id, **who)


def arms(snapshot, sticky, salt=""):
    """The arm of each of COUNT askers."""
    name = "request_id" if sticky == "request" else sticky
    return [choose(snapshot, **{name: f"{salt}{number}"}).arm for number in range(COUNT)]


@settings(max_examples=20)
@given(canary=SHARES, sticky=st.sampled_from(STICKY), salt=NAMES)
def test_the_challengers_share_is_the_canary(canary, sticky, salt):
    found = arms(snapshot_with(TrafficPolicy(canary=canary, sticky=sticky)), sticky, salt)
    low, high = binom.interval(1 - 1e-9, COUNT, canary)
    assert low <= found.count("challenger") <= high


@given(smaller=SHARES, larger=SHARES, user=NAMES)
def test_a_larger_canary_moves_users_to_the_challenger_and_none_back(smaller, larger, user):
    smaller, larger = sorted((smaller, larger))
    before = choose(snapshot_with(TrafficPolicy(canary=smaller)), user=user).arm
    after = choose(snapshot_with(TrafficPolicy(canary=larger)), user=user).arm
    assert (before, after) != ("challenger", "champion")


@given(user=NAMES.filter(bool), requests=st.lists(st.tuples(NAMES, NAMES), min_size=2))
def test_a_user_stays_on_one_side_whatever_key_and_request(user, requests):
    snapshot = snapshot_with(TrafficPolicy(canary=0.5))
    assert len({choose(snapshot, user=user, key=key, request_id=request).arm for key, request in requests}) == 1


def test_where_the_sticky_one_is_missing_the_next_takes_its_place():
    numbers = [str(number) for number in range(100)]
    by_user = snapshot_with(TrafficPolicy(canary=0.5, sticky="user"))
    by_key = snapshot_with(TrafficPolicy(canary=0.5, sticky="key"))
    by_request = snapshot_with(TrafficPolicy(canary=0.5, sticky="request"))

    def split(snapshot, **fixed):
        return len({choose(snapshot, request_id=number, **fixed).arm for number in numbers})

    assert split(by_user, key="k") == 1
    assert split(by_key, key="k", user="u") == 1
    assert split(by_user) == split(by_key) == split(by_key, user="u") == 2
    assert split(by_request, key="k", user="u") == 2


@given(keys=st.lists(NAMES.filter(bool), max_size=4, unique=True), canary=SHARES, sticky=st.sampled_from(STICKY))
def test_a_canary_of_which_one_side_gets_all_is_warned_of_before_any_request(keys, canary, sticky):
    policy = TrafficPolicy(canary=canary, sticky=sticky)
    snapshot = snapshot_with(policy)
    callers = [caller(key) for key in keys]
    seen = {choose(snapshot, key=key, request_id=str(number)).arm for key in keys for number in range(200)}
    warned = Router(lambda _: True).notes(snapshot, callers)
    assert bool(warned) == (bool(keys) and sticky != "request" and 0 < canary < 1 and len(seen) == 1)
    assert all(f"go to the {arm} alone" in note for note in warned for arm in seen)


@given(NAMES, NAMES)
def test_a_position_is_never_one_and_apps_are_drawn_apart_from_each_other(salt, value):
    assert 0 <= position(salt, value) < 1
    users = [f"{value}{number}" for number in range(500)]
    both = [user for user in users if position(f"{salt}a", user) < 0.1 and position(f"{salt}b", user) < 0.1]
    assert len(both) < 25  # of 5 on average; drawn together they would be 50


def test_nothing_and_everything_are_exact():
    for canary, arm in ((0.0, "champion"), (1.0, "challenger")):
        assert set(arms(snapshot_with(TrafficPolicy(canary=canary, shadow=0.5)), "user")) == {arm}


def test_what_a_client_names_is_never_rerouted_nor_shadowed():
    named = {"challenger": "assistant@2", "champion": "assistant@1", "1": "assistant@1", "2": "assistant@2"}
    asked = {**{f"assistant@{name}": ref for name, ref in named.items()}, "tiny@1": "tiny@1"}
    for policy in (None, TrafficPolicy(canary=1.0, shadow=1.0)):
        for model, ref in asked.items():
            routed = choose(snapshot_with(policy), model)
            assert (routed.target.ref, routed.arm, routed.shadow) == (ref, "explicit", None)
        with pytest.raises(ApiError) as raised:
            choose(snapshot_with(policy), "assistant@9")
        assert raised.value.status == 404


@given(shadow=SHARES)
@settings(max_examples=20, deadline=None)
def test_the_shadowed_share_is_drawn_from_what_the_champion_answers_to_each_user(shadow):
    snapshot = snapshot_with(TrafficPolicy(canary=0.3, shadow=shadow, sticky="request"))
    routed = [choose(snapshot, request_id=str(number)) for number in range(COUNT)]
    champions = [one for one in routed if one.arm == "champion"]
    assert all(one.shadow is None for one in routed if one.arm == "challenger")
    assert all(one.shadow.ref == "assistant@2" for one in champions if one.shadow is not None)
    low, high = binom.interval(1 - 1e-9, len(champions), shadow)
    assert low <= sum(one.shadow is not None for one in champions) <= high
    sticky = snapshot_with(TrafficPolicy(shadow=shadow))
    of_one_user = sum(choose(sticky, user="u", request_id=str(number)).shadow is not None for number in range(COUNT))
    low, high = binom.interval(1 - 1e-9, COUNT, shadow)
    assert low <= of_one_user <= high


def test_a_resting_or_cleared_policy_and_a_key_that_does_not_open_the_app_need_no_note():
    for policy, aliases in itertools.product((None, TrafficPolicy()), (("challenger",), ("previous",))):
        assert EVERY_MODEL_IS_LOADED.notes(snapshot_with(policy, *aliases)) == []
    stranger = caller(apps=("another",))
    assert EVERY_MODEL_IS_LOADED.notes(snapshot_with(TrafficPolicy(canary=0.5)), [stranger]) == []


SECONDS = 1.5


def heard(reply):
    """Its status, words of model and prompt in it, and its version headers."""
    names = [reply.headers.get(f"x-llmops-{name}", "") for name in ("release", "prompt", "model")]
    words = [word for word in ("first", "second", "1.", "2.") if word in reply.text]
    return reply.status_code, " ".join(words), " ".join(names)


def test_flips_of_the_champion_under_load_fail_nothing_and_mix_nothing(serve):
    def engine(model):
        name = {1: "first", 2: "second"}[model.version]
        return FakeEngine(lambda request: f"{name} {request.messages[0]['content']}", word_seconds=0.001)

    with serve(release(1, "champion"), release(2, "challenger"), engine=engine) as gateway:
        gateway.source.set_policy("assistant", TrafficPolicy(canary=0.3, shadow=0.2, sticky="request"))
        body = ANSWERABLE["/v1/chat/completions"]
        with asking(gateway, body, {**body, "stream": True}) as replies:
            ends, flips = time.monotonic() + SECONDS, 0
            while time.monotonic() < ends:
                champion, challenger = (1, 2) if flips % 2 else (2, 1)
                gateway.source.set_alias("assistant", "challenger", challenger)
                gateway.source.set_alias("assistant", "champion", champion)
                flips += 1
                time.sleep(0.1)
        outcomes = {record.outcome for record in gateway.log.iterate(shadow=True)}
    seen = {heard(reply) for reply in replies}
    assert seen == {(200, "first 1.", "assistant@1 qa@1 tiny@1"), (200, "second 2.", "assistant@2 qa@2 tiny@2")}
    assert outcomes == {"ok", "shadow"}


class Records(list[LogRecord]):
    """A log in memory."""

    async def write(self, record):
        self.append(record)


class Stage:
    """A shadow over one fake engine, with a switch for whether production waits."""

    def __init__(self, engine, seconds=10.0):
        self.engine, self.log, self.waits, self.told = engine, Records(), False, []
        self.pool = EnginePool(lambda _: engine)
        self.shadow = Shadow(self.pool, self.log, seconds=seconds, production_waits=self._waits, count=self.told.append)

    async def _waits(self):
        return self.waits

    async def __aenter__(self):
        self.shadow.start()
        return self

    async def __aexit__(self, *_):
        await self.shadow.close()
        await self.pool.close()

    def submit(self, release, request_id="r1", **fields):
        arrival = Arrival(request_id, datetime.now(UTC), time.perf_counter(), headers={"traceparent": "00-1-2-01"})
        request = AnswerRequest(
            route="chat", model="assistant", messages=(Message(role="user", content="hello world"),), **fields
        )
        self.shadow.submit(arrival, request, Target(release.model, release))

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  there is no event to wait for
                await asyncio.sleep(0.005)

    async def ended(self, count=1):
        await self.until(lambda: len(self.told) >= count)


async def test_what_the_challenger_answers_is_recorded_beside_the_request_it_shadows():
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
async def test_a_failure_is_recorded_and_the_next_one_runs(failure, status):
    async with Stage(FakeEngine(failure=failure)) as stage:
        stage.submit(release(2))
        stage.submit(release(2))
        await stage.ended(2)
    assert [(record.outcome, record.status) for record in stage.log] == [("shadow", status)] * 2
    assert str(failure) in stage.log[0].details["error"]
    assert stage.told == ["failed", "failed"]


async def test_what_the_challenger_cannot_do_is_a_failure_of_its_own():
    async with Stage(FakeEngine()) as stage:
        stage.submit(release(2), extras={"logit_bias": {"5": 1}})
        stage.submit(release(2, tone="tone"))  # its prompt has a variable which the request does not fill
        await stage.ended(2)
    errors = sorted(record.details["error"] for record in stage.log)
    assert "logit_bias: the engine of tiny@2 cannot honour it" in errors[0]
    assert "tone" in errors[1]
    assert [record.status for record in stage.log] == [400, 400]


async def test_one_that_takes_too_long_is_given_up():
    async with Stage(FakeEngine(word_seconds=5), seconds=0.05) as stage:
        stage.submit(release(2))
        await stage.ended()
    assert (stage.log[0].status, stage.told) == (504, ["failed"])
    assert stage.engine.cancelled == 1


@pytest.mark.parametrize("full", [False, True])
async def test_it_does_not_start_while_production_waits_nor_in_a_full_engine(full):
    async with Stage(FakeEngine(failure=EngineBusy("full") if full else None)) as stage:
        stage.waits = not full
        stage.submit(release(2))
        await stage.ended()
    assert (stage.told, bool(stage.engine.requests), stage.log) == (["dropped"], full, [])


async def test_it_stops_when_production_begins_to_wait(monkeypatch):
    monkeypatch.setattr(shadow_module, "LOOK_SECONDS", 0.01)
    async with Stage(FakeEngine(word_seconds=5)) as stage:
        stage.submit(release(2))
        await stage.until(lambda: stage.engine.in_flight)
        stage.waits = True
        await stage.ended()
        assert stage.engine.in_flight == 0
    assert (stage.told, stage.log) == (["dropped"], [])


async def test_few_run_at_once_and_few_wait():
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


async def test_a_log_that_fails_does_not_end_the_shadow():
    async with Stage(FakeEngine()) as stage:

        async def broken(_):
            raise EngineError("disk full")

        stage.log.write = broken
        stage.submit(release(2))
        stage.submit(release(2))
        await stage.ended(2)
    assert stage.told == ["failed", "failed"]


def test_through_the_gateway_only_the_champion_is_heard(serve):
    def engine(model):
        return FakeEngine(lambda request: request.messages[0]["content"])

    with serve(release(1, "champion"), release(2, "challenger"), engine=engine) as gateway:
        gateway.source.set_policy("assistant", TrafficPolicy(shadow=1.0))
        wait_until(lambda: gateway.app.state.gateway.keeper.snapshot.splits)
        wait_until(lambda: "tiny@2" in gateway.app.state.gateway.pool.loaded)
        reply = gateway.chat(user="anna")
        assert reply.json()["choices"][0]["message"]["content"] == "Answer as release 1."
        wait_until(lambda: gateway.log.count(shadow=True) == 2)
        (heard,) = gateway.log.read()
        assert (heard.release, heard.outcome, gateway.log.count()) == ("assistant@1", "ok", 1)
        (unheard,) = [record for record in gateway.log.iterate(shadow=True) if record.outcome == "shadow"]
        assert (unheard.release, unheard.output) == ("assistant@2", "Answer as release 2.")
        assert (unheard.status, unheard.route, unheard.user) == (200, "chat", "anna")
        assert unheard.details["shadow_of"] == heard.request_id == reply.headers["x-request-id"]
        assert gateway.log.read(request_id=unheard.request_id) == [unheard]
        gateway.chat("assistant@1")
        gateway.chat("assistant@challenger")
        assert gateway.log.count(shadow=True) == 4

from __future__ import annotations

import time

import pytest

from llmops.engine_host.frames import Pong
from llmops.engines.fake import FakeEngine
from llmops.errors import EngineUnavailable
from llmops.keys import KeyStore
from llmops.traffic_policy import TrafficPolicy
from service.gateway import EngineWatch


def test_a_ready_gateway_says_so_without_warnings(shared_gateway):
    ready = shared_gateway.http.get("/readyz").json()
    assert (ready["status"], ready["reasons"], ready["warnings"]) == ("ready", [], [])
    assert shared_gateway.http.get("/livez").json() == {"status": "alive"}


def test_a_registry_that_is_down_is_a_warning_while_its_last_releases_serve(gateway, wait_until):
    gateway.source.down = True
    wait_until(lambda: gateway.http.get("/readyz").json()["warnings"])
    reply = gateway.http.get("/readyz")
    assert reply.status_code == 200
    assert reply.json()["snapshot"]["last_error"]
    assert reply.json()["snapshot"]["age_seconds"] > 0
    assert reply.json()["warnings"][0].startswith("registry not read for 0 s, serving the releases read last: ")
    assert gateway.chat().status_code == 200
    gateway.source.down = False
    wait_until(lambda: not gateway.http.get("/readyz").json()["warnings"])


def test_a_policy_that_is_not_in_force_is_a_warning(gateway, wait_until):
    gateway.source.set_policy("assistant", TrafficPolicy(canary=0.5))
    wait_until(lambda: gateway.http.get("/readyz").json()["warnings"])
    assert "there is no challenger" in gateway.http.get("/readyz").json()["warnings"][0]


def test_an_engine_process_that_is_not_well_turns_readiness_off(serve, wait_until):
    down = ["the engine process is being restarted"]

    async def ping():
        if down:
            raise EngineUnavailable(down[0])
        return Pong({}, restarts=1)

    with serve(until_ready=False, ping=ping) as gateway:
        wait_until(lambda: gateway.http.get("/readyz").json()["reasons"] == down)
        assert gateway.http.get("/readyz").status_code == 503
        down.clear()
        wait_until(gateway.ready)
        wait_until(lambda: "llmops_engine_restarts 1.0" in gateway.http.get("/metrics").text)


def test_a_champion_that_the_engine_process_cannot_load_again_turns_readiness_off(serve, wait_until):
    report = {"loaded": False, "waiting": 2, "running": 0, "failure": "no memory"}

    async def ping():
        return Pong({"tiny@1": report}, restarts=1)

    with serve(until_ready=False, ping=ping) as gateway:
        wait_until(lambda: "engine of assistant: no memory" in gateway.http.get("/readyz").json()["reasons"])
        waiting = 'llmops_engine_queue{model="tiny@1",state="waiting"} 2.0'
        wait_until(lambda: waiting in gateway.http.get("/metrics").text)
        report["loaded"] = True
        wait_until(gateway.ready)


class Relay(FakeEngine):
    """Stands before a server that rests."""

    def problems(self):
        return ["http://vllm-1: no connection (tried again in 4 s)"]


def test_an_upstream_that_rests_is_a_warning(serve, wait_until):
    with serve(engine=lambda model: Relay(name=model.ref)) as gateway:
        reply = gateway.http.get("/readyz")
        assert reply.status_code == 200
        assert reply.json()["warnings"] == ["upstream http://vllm-1: no connection (tried again in 4 s)"]


def test_where_keys_exist_only_who_has_one_is_told_more_than_the_status(serve, tmp_path):
    keys = KeyStore(f"sqlite:///{tmp_path / 'keys.db'}")
    _, secret = keys.create()
    with serve(keys=keys) as gateway:
        assert gateway.http.get("/readyz").json() == {"status": "ready"}
        assert gateway.http.get("/readyz", headers={"authorization": "Bearer sk-wrong"}).json() == {"status": "ready"}
        told = gateway.http.get("/readyz", headers={"authorization": f"Bearer {secret}"}).json()
        assert told["engines"]["loaded"] == ["tiny@1"]
        assert told["engines"]["modes"] == {"tiny@1": FakeEngine(name="tiny@1").identity.to_mapping()}
    keys.close()


def test_a_key_of_one_app_is_told_nothing_of_what_lies_behind_nor_of_other_apps(serve, tmp_path, release):
    keys = KeyStore(f"sqlite:///{tmp_path / 'keys.db'}")
    _, scoped = keys.create(apps=["assistant"])
    _, admin = keys.create(apps=["assistant"], admin=True)
    releases = release(1, "champion"), release(1, "champion", app="payroll")
    with serve(*releases, engine=lambda model: Relay(name=model.ref), keys=keys, until_ready=False) as gateway:

        def get(path, key=scoped):
            return gateway.http.get(path, headers={"authorization": f"Bearer {key}"})

        gateway.app.state.gateway.log.failure = f"{tmp_path}/log.db: disk full"
        assert get("/readyz").json() == {"status": "not ready"}
        assert "vllm-1" in get("/readyz", admin).text
        status = get("/status.json").json()
        assert not status["ready"]
        hidden = ("vllm-1", str(tmp_path), "payroll", "tiny@1")
        for path in ("/readyz", "/v1/models", "/v1/models/nope", "/v1/models/tiny@9", "/metrics", "/openapi.json"):
            assert not [text for text in hidden if text in get(path).text], path
        assert not [text for text in hidden[:3] if text in get("/status.json").text]
    keys.close()


def test_metrics_name_the_snapshots_age(gateway):
    start = time.monotonic()
    text = gateway.http.get("/metrics").text
    (age,) = [line for line in text.splitlines() if line.startswith("llmops_snapshot_age_seconds ")]
    assert 0 <= float(age.split()[1]) < time.monotonic() - start + 5


pytestmark = pytest.mark.anyio


def report(waiting=0, running=0, loaded=True, failure=None):
    return {"waiting": waiting, "running": running, "loaded": loaded, "failure": failure}


def watching(*answers):
    """A watch whose process gives these answers, one after the other, and the last one for ever."""
    left = list(answers)

    async def ping():
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return EngineWatch(ping)


async def test_before_the_first_look_the_process_is_not_well():
    watch = watching(Pong({}, 0))
    assert watch.problem == "the engine process has not answered yet"
    await watch.look()
    assert watch.problem is None


async def test_it_shows_what_waits_and_runs_and_what_could_not_be_loaded():
    watch = watching(Pong({"a@1": report(2, 4), "b@1": report(loaded=False, failure="no memory")}, 3))
    await watch.look()
    assert watch.depths() == {"a@1": (2, 4), "b@1": (0, 0)}
    assert (watch.failure("a@1"), watch.failure("b@1"), watch.failure("c@1")) == (None, "no memory", None)
    assert watch.restarts() == 3


async def test_a_process_that_does_not_answer_is_the_problem_until_it_does():
    watch = watching(Pong({"a@1": report(2)}, 1), EngineUnavailable("it is gone"), Pong({}, 2))
    await watch.look()
    await watch.look()
    assert (watch.problem, watch.depths()) == ("it is gone", {})
    await watch.look()
    assert (watch.problem, watch.restarts()) == (None, 2)


@pytest.mark.parametrize(
    ("answer", "waits"),
    [
        (Pong({"a@1": report(running=9)}, 0), False),
        (Pong({"a@1": report(waiting=1)}, 0), True),
        (EngineUnavailable("it is gone"), True),
    ],
)
async def test_production_waits_where_a_request_does_or_nobody_can_say(answer, waits):
    assert await watching(answer).production_waits() is waits

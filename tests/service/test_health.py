from __future__ import annotations

import time

import pytest

from llmops.engine_host.frames import Pong
from llmops.engines.fake import FakeEngine
from llmops.errors import EngineUnavailable
from llmops.keys import KeyStore
from service.gateway import EngineWatch
from tests.service.conftest import bearer


def test_a_ready_gateway_says_so_without_warnings(shared_gateway):
    start = time.monotonic()
    ready = shared_gateway.http.get("/readyz").json()
    assert (ready["status"], ready["reasons"], ready["warnings"]) == ("ready", [], [])
    assert shared_gateway.http.get("/livez").json() == {"status": "alive"}
    lines = shared_gateway.http.get("/metrics").text.splitlines()
    (age,) = [float(line.split()[1]) for line in lines if line.startswith("llmops_snapshot_age_seconds ")]
    assert 0 <= age < time.monotonic() - start + 5


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


def test_an_engine_process_that_is_not_well_or_cannot_load_a_champion_turns_readiness_off(serve, wait_until):
    down, of_model = ["the engine process is being restarted"], report(waiting=2, loaded=False, failure="no memory")

    async def ping():
        if down:
            raise EngineUnavailable(down[0])
        return Pong({"tiny@1": of_model}, restarts=1)

    with serve(until_ready=False, ping=ping) as gateway:
        wait_until(lambda: gateway.http.get("/readyz").json()["reasons"] == down)
        assert gateway.http.get("/readyz").status_code == 503
        down.clear()
        wait_until(lambda: "engine of assistant: no memory" in gateway.http.get("/readyz").json()["reasons"])
        for line in ("llmops_engine_restarts 1.0", 'llmops_engine_queue{model="tiny@1",state="waiting"} 2.0'):
            wait_until(lambda line=line: line in gateway.http.get("/metrics").text)
        of_model["loaded"] = True
        wait_until(gateway.ready)


class Relay(FakeEngine):
    """Stands before a server that rests."""

    def problems(self):
        return ["http://vllm-1: no connection (tried again in 4 s)"]


def test_a_key_of_one_app_is_told_nothing_of_what_lies_behind_nor_of_other_apps(serve, tmp_path, release, wait_until):
    keys = KeyStore(f"sqlite:///{tmp_path / 'keys.db'}")
    _, scoped = keys.create(apps=["assistant"])
    _, admin = keys.create(apps=["assistant"], admin=True)
    releases = release(1, "champion"), release(1, "champion", app="payroll")
    with serve(*releases, engine=lambda model: Relay(name=model.ref), keys=keys, until_ready=False) as gateway:

        def get(path, key=scoped):
            return gateway.http.get(path, headers=bearer(key))

        gateway.app.state.gateway.log.failure = f"{tmp_path}/log.db: disk full"
        for key in (scoped, "sk-wrong"):
            assert get("/readyz", key).json() == {"status": "not ready"}
        assert "vllm-1" in get("/readyz", admin).text
        status = get("/status.json").json()
        assert not status["ready"]
        hidden = ("vllm-1", str(tmp_path), "payroll", "tiny@1")
        for path in ("/readyz", "/v1/models", "/v1/models/nope", "/v1/models/tiny@9", "/metrics", "/openapi.json"):
            assert not [text for text in hidden if text in get(path).text], path
        assert not [text for text in hidden[:3] if text in get("/status.json").text]
        gateway.app.state.gateway.log.failure = None
        wait_until(lambda: get("/readyz").json() == {"status": "ready"})
        ready = get("/readyz", admin)
        # An upstream that rests turns no traffic away.
        rests = ["upstream http://vllm-1: no connection (tried again in 4 s)"]
        assert (ready.status_code, ready.json()["warnings"]) == (200, rests)
        engines = ready.json()["engines"]
        assert engines["loaded"] == ["tiny@1"]
        assert engines["modes"] == {"tiny@1": Relay(name="tiny@1").identity.to_mapping()}
    keys.close()


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


async def test_the_watch_shows_what_waits_and_runs_and_a_process_that_does_not_answer():
    reported = {"a@1": report(2, 4), "b@1": report(loaded=False, failure="no memory")}
    watch = watching(Pong(reported, 3), EngineUnavailable("it is gone"), Pong({}, 4))
    assert watch.problem == "the engine process has not answered yet"
    await watch.look()
    assert (watch.problem, watch.restarts(), watch.depths()) == (None, 3, {"a@1": (2, 4), "b@1": (0, 0)})
    assert (watch.failure("a@1"), watch.failure("b@1"), watch.failure("c@1")) == (None, "no memory", None)
    await watch.look()
    assert (watch.problem, watch.depths()) == ("it is gone", {})
    await watch.look()
    assert (watch.problem, watch.restarts()) == (None, 4)


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

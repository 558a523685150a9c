from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from llmops.engines.fake import FakeEngine
from llmops.engines.opening import EnginePool
from llmops.errors import EngineUnavailable
from llmops.registry import Registry
from llmops.settings import Settings
from llmops.traffic_policy import TrafficPolicy
from service.snapshot_keeper import SnapshotKeeper
from tests.registry.conftest import model as unregistered_model
from tests.registry.conftest import template


def versions_seen(request):
    """Which release's prompt the engine got."""
    return request.messages[0]["content"]


def test_moving_an_alias_fails_no_request_and_never_mixes_versions(serve, release, wait_until):
    def engine(model):
        return FakeEngine(lambda request: f"{versions_seen(request)} by {model.ref}")

    with serve(release(1, "champion"), release(2), engine=engine) as gateway:
        stop = threading.Event()

        def hammer():
            seen = set()
            body = {"model": "assistant", "messages": [{"role": "user", "content": "x"}]}
            with httpx.Client(base_url=gateway.url) as http:
                while not stop.is_set():
                    reply = http.post("/v1/chat/completions", json=body)
                    text = reply.json()["choices"][0]["message"]["content"] if reply.status_code == 200 else ""
                    names = [reply.headers.get(f"x-llmops-{name}") for name in ("release", "prompt", "model")]
                    seen.add((reply.status_code, text, *names))
            return seen

        with ThreadPoolExecutor(8) as pool:
            hammers = [pool.submit(hammer) for _ in range(8)]
            for version in (2, 1, 2, 1, 2):
                gateway.source.set_alias("assistant", "champion", version)
                wait_until(lambda version=version: gateway.chat().json()["model"] == f"assistant@{version}")
            stop.set()
        seen = set().union(*(future.result() for future in hammers))
    assert seen == {
        (200, f"Answer as release {n}. by tiny@{n}", f"assistant@{n}", f"qa@{n}", f"tiny@{n}") for n in (1, 2)
    }


def test_a_new_champion_is_served_only_when_its_engine_is_loaded(serve, release, wait_until):
    may_load = threading.Event()

    def engine(model):
        assert model.version == 1 or may_load.wait(10)
        return FakeEngine()

    with serve(release(1, "champion"), release(2), engine=engine) as gateway:
        gateway.source.set_alias("assistant", "champion", 2)
        wait_until(lambda: gateway.http.get("/readyz").json()["snapshot"]["held_back"] == ["assistant"])
        assert gateway.chat().json()["model"] == "assistant@1"
        assert gateway.ready()
        may_load.set()
        wait_until(lambda: gateway.chat().json()["model"] == "assistant@2")
        assert gateway.http.get("/readyz").json()["snapshot"]["held_back"] == []


def test_a_new_champion_that_cannot_be_loaded_leaves_the_old_one_serving(serve, release, wait_until):
    def engine(model):
        if model.version == 2:
            raise EngineUnavailable("weights are missing")
        return FakeEngine()

    with serve(release(1, "champion"), release(2), engine=engine) as gateway:
        gateway.source.set_alias("assistant", "champion", 2)
        wait_until(lambda: "weights are missing" in gateway.http.get("/readyz").text)
        assert gateway.chat().json()["model"] == "assistant@1"
        assert gateway.ready()
        gateway.source.set_alias("assistant", "champion", 1)
        wait_until(lambda: not gateway.http.get("/readyz").json()["snapshot"]["held_back"])


def test_the_last_good_snapshot_serves_while_the_store_is_down(serve, wait_until):
    with serve() as gateway:
        gateway.source.down = True
        wait_until(lambda: gateway.http.get("/readyz").json()["snapshot"]["last_error"])
        reply = gateway.http.get("/readyz")
        assert reply.status_code == 200
        assert reply.json()["snapshot"]["age_seconds"] > 0
        assert gateway.chat().status_code == 200
        gateway.source.down = False
        wait_until(lambda: gateway.http.get("/readyz").json()["snapshot"]["last_error"] is None)


def test_a_bug_in_the_source_does_not_end_the_polling(serve, release, monkeypatch, wait_until):
    with serve(release(1, "champion"), release(2)) as gateway:
        monkeypatch.setattr(gateway.source, "registered", lambda: 1 / 0)
        wait_until(lambda: "ZeroDivisionError" in gateway.http.get("/readyz").text)
        monkeypatch.undo()
        gateway.source.set_alias("assistant", "champion", 2)
        wait_until(lambda: gateway.chat().json()["model"] == "assistant@2")


def test_a_worker_takes_requests_only_when_it_has_looked_at_the_registry(serve, release):
    with serve(release(1, "champion"), until_ready=False) as gateway:
        assert gateway.app.state.gateway.keeper.age is not None


def test_before_the_first_look_requests_are_told_to_come_back(serve, release, wait_until):
    may_read = threading.Event()

    def engine(_):
        assert may_read.wait(10)
        return FakeEngine()

    with serve(release(1, "champion"), engine=engine, until_ready=False) as gateway:
        wait_until(lambda: gateway.app.state.gateway.keeper.age is not None)
        reply = gateway.http.get("/readyz")
        assert (reply.status_code, reply.json()["reasons"]) == (503, ["engine of assistant: loading"])
        assert gateway.http.get("/livez").status_code == 200
        gateway.source.down = True
        wait_until(lambda: gateway.app.state.gateway.keeper.last_error)  # no look that began before may end after
        gateway.app.state.gateway.keeper._snapshot = None
        assert gateway.chat().headers["retry-after"] == "1"
        assert gateway.http.get("/v1/models").status_code == 503
        gateway.source.down = False
        may_read.set()
        wait_until(gateway.ready)


def test_a_canary_begins_when_the_challengers_engine_is_loaded_and_ends_when_cleared(serve, release, wait_until):
    may_load = threading.Event()

    def engine(model):
        assert model.version == 1 or may_load.wait(10)
        return FakeEngine()

    def served():
        return gateway.chat().json()["model"]

    def warnings():
        return gateway.http.get("/readyz").json()["warnings"]

    with serve(release(1, "champion"), release(2, "challenger"), engine=engine) as gateway:
        assert "tiny@2" not in gateway.http.get("/readyz").json()["engines"]["loaded"]
        gateway.source.set_policy("assistant", TrafficPolicy(canary=1.0))
        wait_until(lambda: warnings() == ["traffic policy of assistant waits for the engine of assistant@2"])
        assert (served(), gateway.ready()) == ("assistant@1", True)
        may_load.set()
        wait_until(lambda: served() == "assistant@2")
        assert warnings() == []
        gateway.source.set_policy("assistant", None)
        wait_until(lambda: served() == "assistant@1")


def test_a_promotion_of_the_challenger_ends_its_canary(serve, release, wait_until):
    with serve(release(1, "champion"), release(2, "challenger")) as gateway:
        gateway.source.set_policy("assistant", TrafficPolicy(canary=0.5, shadow=1.0))
        wait_until(lambda: gateway.app.state.gateway.keeper.snapshot.splits)
        gateway.source.set_alias("assistant", "champion", 2)
        gateway.source.remove_alias("assistant", "challenger")
        wait_until(lambda: "rests" in gateway.http.get("/readyz").text)
        before = gateway.log.count(shadow=True)
        assert {gateway.chat().json()["model"] for _ in range(8)} == {"assistant@2"}
        assert gateway.log.count(shadow=True) == before + 8


@pytest.mark.slow
def test_a_move_in_a_real_registry_is_seen_by_every_worker_within_two_seconds(tmp_path):
    settings = Settings(home=tmp_path)
    registry = Registry(settings)
    prompt, _ = registry.prompts.register("qa", template())
    model, _ = registry.models.register(unregistered_model("tiny"))
    made = [
        registry.release_versions.create(
            "assistant", prompt, model, template(parameters=f"{{max_tokens: {n}}}").parameters
        )
        for n in (8, 9)
    ]
    for release, _ in made:
        registry.release_versions.promote(release, why="set up")

    async def seconds_until_seen():
        keepers = [
            SnapshotKeeper(Registry(settings), EnginePool(lambda _: FakeEngine()), settings.registry_poll)
            for _ in range(2)
        ]
        running = [asyncio.create_task(keeper.run()) for keeper in keepers]
        await until(lambda: all(keeper.age is not None for keeper in keepers))
        assert {keeper.snapshot.resolve("assistant").ref for keeper in keepers} == {"assistant@2"}
        start = time.monotonic()
        await asyncio.to_thread(registry.release_versions.roll_back, "assistant")
        await until(lambda: {keeper.snapshot.resolve("assistant").ref for keeper in keepers} == {"assistant@1"})
        took = time.monotonic() - start
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return took

    async def until(condition):
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  there is no event to wait for
                await asyncio.sleep(0.01)

    assert asyncio.run(seconds_until_seen()) < 2

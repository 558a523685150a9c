"""Snapshots of what is registered, and how they are kept fresh."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from llmops.engines.fake import FakeEngine
from llmops.engines.opening import EnginePool
from llmops.errors import EngineUnavailable, StoreUnavailable, UnknownVersion
from llmops.registry import Registry
from llmops.settings import Settings
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import RegisteredVersions
from service.error_map import ApiError
from service.snapshot import Snapshot
from service.snapshot_keeper import SnapshotKeeper
from tests.registry.conftest import model as unregistered_model
from tests.registry.conftest import template
from tests.service.static_releases import StaticReleases


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


def test_every_name_of_a_release_finds_it(release):
    first, second = release(1, "champion"), release(2, "challenger")
    snapshot = Snapshot(StaticReleases([first, second]).registered())
    found = {name: target.release for name, target in snapshot.targets.items() if target.release is not None}
    assert found == {
        "assistant": first, "assistant@champion": first, "assistant@1": first,
        "assistant@2": second, "assistant@challenger": second,
    }  # fmt: skip
    assert snapshot.targets["tiny@2"].release is None


def test_an_app_without_a_champion_is_found_by_version_only(release):
    snapshot = Snapshot(StaticReleases([release(1)]).registered())
    assert snapshot.resolve("assistant@1").ref == "assistant@1"
    with pytest.raises(ApiError, match=r"there is tiny@1, assistant@1"):
        snapshot.resolve("assistant")


def test_an_empty_registry_says_so():
    with pytest.raises(ApiError, match="none is registered"):
        Snapshot(RegisteredVersions({})).resolve("assistant")


def test_a_long_list_of_names_is_cut(model_version):
    snapshot = Snapshot(RegisteredVersions({}, tuple(model_version(version=number) for number in range(1, 40))))
    with pytest.raises(ApiError, match=r"tiny@20, …; GET /v1/models lists all"):
        snapshot.resolve("x")


def test_static_releases_move_aliases_and_can_be_down(release):
    source = StaticReleases([release(1, "champion"), release(2)])
    source.set_alias("assistant", "champion", 2)
    assert [found.aliases for found in source.registered().releases["assistant"]] == [(), ("champion",)]
    with pytest.raises(UnknownVersion):
        source.set_alias("assistant", "champion", 3)
    source.down = True
    with pytest.raises(StoreUnavailable):
        source.registered()


def test_a_policy_splits_an_app_only_with_two_different_releases_and_something_to_share(release):
    source = StaticReleases([release(1, "champion"), release(2), release(1, "champion", "challenger", app="other")])
    shared = TrafficPolicy(canary=0.1)
    for app in ("assistant", "other", "absent"):
        source.set_policy(app, shared)
    assert Snapshot(source.registered()).splits == {}

    source.set_alias("assistant", "challenger", 2)
    snapshot = Snapshot(source.registered())
    (split,) = snapshot.splits.values()
    assert (split.champion.ref, split.challenger.ref, split.policy) == ("assistant@1", "assistant@2", shared)
    assert [model.ref for model in snapshot.served_models] == ["tiny@1", "tiny@1", "tiny@2"]

    source.set_policy("assistant", TrafficPolicy())
    assert Snapshot(source.registered()).splits == {}


def test_a_promoted_challenger_leaves_its_policy_resting(release):
    source = StaticReleases([release(1, "champion"), release(2, "challenger")])
    source.set_policy("assistant", TrafficPolicy(canary=1.0))
    source.set_alias("assistant", "champion", 2)
    source.remove_alias("assistant", "challenger")
    snapshot = Snapshot(source.registered())
    assert snapshot.splits == {}
    assert snapshot.resolve("assistant").ref == "assistant@2"


def test_an_app_held_back_keeps_its_releases_but_not_its_policy(release):
    source = StaticReleases([release(1, "champion"), release(2, "challenger"), release(3)])
    source.set_policy("assistant", TrafficPolicy(canary=0.1))
    older = Snapshot(source.registered())
    source.set_alias("assistant", "champion", 3)
    source.set_policy("assistant", None)
    held = Snapshot(source.registered()).holding_back({"assistant"}, older)
    assert held.resolve("assistant").ref == "assistant@1"
    assert (len(older.splits), held.splits) == (1, {})


def test_a_static_source_that_did_not_change_gives_the_same_object(release):
    source = StaticReleases([release(1, "champion")])
    first = source.registered()
    assert source.registered() is first
    source.set_policy("assistant", TrafficPolicy())
    assert source.registered() is not first

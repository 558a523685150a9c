"""Snapshots of what is registered, how they are kept fresh, and the models that they need loaded."""

import asyncio
import threading

import pytest

from llmops import load_once
from llmops.engines.fake import FakeEngine
from llmops.errors import CannotRun, EngineUnavailable
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import RegisteredVersions
from service.error_map import ApiError
from service.predictions import tabular_models
from service.snapshot import Router, Snapshot
from tests.at_once import wait_until
from tests.service.conftest import asking, model_version, release
from tests.service.static_releases import StaticReleases
from tests.service.tabular_models import WINE, Gated, row, version


@pytest.fixture
def opener():
    made = Gated()
    made.may_load.set()
    return made


@pytest.fixture
def serve_two(serve, opener):
    """`with serve_two() as gateway:` two versions of an app and of a tabular model, loaded when `opener` lets them."""

    def engine(model):
        return FakeEngine(name=str(opener(model).factor))

    tabular = [version(1, "champion"), version(2)]
    return lambda: serve(release(1, "champion"), release(2), engine=engine, tabular=tabular, open_tabular=opener)


def predict(gateway, model="bike"):
    return gateway.http.post(f"/v1/predict/{model}", json={"rows": [row(1)]})


def readiness(gateway):
    return gateway.http.get("/readyz").json()


def held_back(gateway):
    return readiness(gateway)["snapshot"]["held_back"]


def served(gateway):
    """What serves the app, and the tabular model."""
    return gateway.chat().json()["model"], predict(gateway).json()["model"]


def move_champions(gateway, to):
    for name in ("assistant", "bike"):
        gateway.source.set_alias(name, "champion", to)


def test_a_new_champion_is_served_only_when_it_is_loaded(serve_two, opener):
    with serve_two() as gateway:
        opener.may_load.clear()
        move_champions(gateway, to=2)
        wait_until(lambda: held_back(gateway) == ["assistant", "bike"])
        assert (served(gateway), gateway.ready()) == (("assistant@1", "bike@1"), True)
        opener.may_load.set()
        wait_until(lambda: served(gateway) == ("assistant@2", "bike@2"))
        assert predict(gateway).json()["predictions"] == [2.0]
        assert held_back(gateway) == []
        assert predict(gateway, "bike@1").json()["predictions"] == [1.0]


def test_a_new_champion_that_cannot_be_loaded_leaves_the_old_one_serving(serve_two, opener):
    opener.failing["tiny@2"] = EngineUnavailable("weights are missing")
    opener.failing["bike@2"] = CannotRun("the estimator holds a type that is not trusted")
    with serve_two() as gateway:
        move_champions(gateway, to=2)
        for why in ("weights are missing", "not trusted"):
            wait_until(lambda why=why: why in gateway.http.get("/readyz").text)
        assert (served(gateway), gateway.ready()) == (("assistant@1", "bike@1"), True)
        move_champions(gateway, to=1)
        wait_until(lambda: not held_back(gateway))


def test_moving_an_alias_fails_no_prediction(serve, opener):
    with (
        serve(tabular=[version(1, "champion"), version(2)], open_tabular=opener) as gateway,
        asking(gateway, {"rows": [row(1)]}, path="/v1/predict/bike") as replies,
    ):
        for number in (2, 1, 2):
            gateway.source.set_alias("bike", "champion", number)
            wait_until(lambda number=number: predict(gateway).json()["model"] == f"bike@{number}")
    bodies = [(reply, reply.json()) for reply in replies]
    seen = {
        (each.status_code, body["model"], each.headers["x-llmops-model"], *body["predictions"]) for each, body in bodies
    }
    assert seen == {(200, f"bike@{number}", f"bike@{number}", float(number)) for number in (1, 2)}


def test_a_gateway_of_tabular_models_alone_is_ready_when_they_are_loaded(serve, opener):
    opener.may_load.clear()
    with serve(tabular=[version(1, "champion"), version(2)], open_tabular=opener, until_ready=False) as gateway:
        wait_until(lambda: opener.opened)
        reply = gateway.http.get("/readyz")
        assert (reply.status_code, reply.json()["reasons"]) == (503, ["model bike: loading"])
        opener.may_load.set()
        wait_until(gateway.ready)
        assert readiness(gateway)["tabular"] == {"loaded": ["bike@1"], "failures": {}}
        assert (gateway.engines, predict(gateway).json()["model"]) == ({}, "bike@1")


def test_a_first_champion_that_cannot_be_loaded_is_not_ready_and_others_serve(serve, opener):
    opener.failing["bike@1"] = CannotRun("model.skops is missing")
    broken = [version(1, "champion")]
    with serve(release(1, "champion"), tabular=broken, open_tabular=opener, until_ready=False) as gateway:
        wait_until(lambda: "model bike: model.skops is missing" in gateway.http.get("/readyz").text)
        reply = predict(gateway)
        assert (reply.status_code, "skops" in reply.text) == (503, False)
        assert reply.headers["retry-after"]
        assert gateway.chat().status_code == 200
        assert [(record.status, record.outcome) for record in gateway.records()] == [(503, "error"), (200, "ok")]


def test_an_app_that_vanishes_while_it_is_served_is_served_on_and_told(serve):
    gone, stays = release(1, "champion"), release(1, "champion", app="payroll")
    with serve(gone, stays) as gateway:
        gateway.source.remove("assistant")
        wait_until(lambda: readiness(gateway)["warnings"])
        assert gateway.ready()
        assert "assistant is gone from the registry" in readiness(gateway)["warnings"][0]
        assert held_back(gateway) == ["assistant"]
        assert gateway.chat().headers["x-llmops-release"] == "assistant@1"
        gateway.source.add(gone)
        wait_until(lambda: not readiness(gateway)["warnings"])


def test_before_the_registry_was_read_requests_are_told_to_come_back(serve, opener):
    opener.may_load.clear()
    with serve(
        release(1, "champion"), engine=lambda _: opener(version()) and FakeEngine(), until_ready=False
    ) as gateway:
        keeper = gateway.app.state.gateway.keeper
        reply = gateway.http.get("/readyz")
        assert keeper.age is not None  # a worker takes requests only when it has looked
        assert (reply.status_code, reply.json()["reasons"]) == (503, ["engine of assistant: loading"])
        assert gateway.http.get("/livez").status_code == 200
        gateway.source.down = True
        wait_until(lambda: keeper.last_error)  # no look that began before may end after
        keeper._snapshot = None
        assert gateway.chat().headers["retry-after"] == "1"
        assert gateway.http.get("/v1/models").status_code == 503
        assert "registry not read yet" in gateway.http.get("/readyz").text
        gateway.source.down = False
        opener.may_load.set()
        wait_until(gateway.ready)


def test_a_canary_begins_when_the_challengers_engine_is_loaded_and_ends_when_cleared(serve):
    may_load = threading.Event()

    def engine(model):
        assert model.version == 1 or may_load.wait(10)
        return FakeEngine()

    with serve(release(1, "champion"), release(2, "challenger"), engine=engine) as gateway:
        assert "tiny@2" not in readiness(gateway)["engines"]["loaded"]
        gateway.source.set_policy("assistant", TrafficPolicy(canary=1.0))
        waits = ["traffic policy of assistant waits for the engine of assistant@2"]
        wait_until(lambda: readiness(gateway)["warnings"] == waits)
        assert (gateway.chat().json()["model"], gateway.ready()) == ("assistant@1", True)
        may_load.set()
        wait_until(lambda: gateway.chat().json()["model"] == "assistant@2")
        assert readiness(gateway)["warnings"] == []
        gateway.source.set_policy("assistant", None)
        wait_until(lambda: gateway.chat().json()["model"] == "assistant@1")


def test_a_promotion_of_the_challenger_ends_its_canary(serve):
    with serve(release(1, "champion"), release(2, "challenger")) as gateway:
        gateway.source.set_policy("assistant", TrafficPolicy(canary=0.5, shadow=1.0))
        wait_until(lambda: gateway.app.state.gateway.keeper.snapshot.splits)
        gateway.source.set_alias("assistant", "champion", 2)
        gateway.source.set_alias("assistant", "challenger", None)
        wait_until(lambda: "rests" in gateway.http.get("/readyz").text)
        before = gateway.log.count(shadow=True)
        assert {gateway.chat().json()["model"] for _ in range(8)} == {"assistant@2"}
        assert gateway.log.count(shadow=True) == before + 8
        assert gateway.app.state.gateway.keeper.snapshot.splits == {}


@pytest.mark.anyio
async def test_tabular_models_of_the_same_estimator_and_rows_are_loaded_once(opener):
    pool, same, other = tabular_models(opener), version(2, sha256="sha-bike-1"), version(3, "x", sha256="sha-bike-1")
    models = await asyncio.gather(*(pool.model(each) for each in (version(1), version(1), same)))
    assert len({id(model) for model in models}) == 1
    pool.preload(other)
    assert (opener.opened, pool.is_loaded(other)) == (["bike@1"], True)
    of_other_rows = version(4, sha256="sha-bike-1", schema=WINE)
    assert not pool.is_loaded(of_other_rows)
    assert await pool.model(of_other_rows) is not models[0]
    await pool.close()
    assert pool.loaded == []


@pytest.mark.anyio
async def test_a_tabular_models_failure_is_told_and_tried_again_after_a_moment(opener, monkeypatch):
    pool = tabular_models(opener)
    opener.failing = {"bike@1": CannotRun("model.skops is missing"), "bike@2": KeyError("secret")}
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match=r"model\.skops is missing") as raised:
            await pool.model(version(1))
        assert raised.value.retry_after
    assert opener.opened == ["bike@1"]
    with pytest.raises(EngineUnavailable, match=r"unexpected KeyError\Z"):
        await pool.model(version(2))
    assert pool.failures == {"bike@1": "model.skops is missing", "bike@2": "unexpected KeyError"}
    opener.failing.clear()
    monkeypatch.setattr(load_once, "RETRY_PAUSE_SECONDS", 0.0)
    await pool.model(version(1))
    assert pool.failures.keys() == {"bike@2"}
    await pool.close()
    with pytest.raises(EngineUnavailable, match="without a way to load"):
        await tabular_models(None).model(version(1))


def test_a_name_that_nothing_has_is_answered_with_those_there_are():
    of_one = Snapshot(StaticReleases([release(1)]).registered())
    many = Snapshot(RegisteredVersions({}, tuple(model_version(version=number) for number in range(1, 40))))
    for snapshot, known in (
        (of_one, r"there is tiny@1, assistant@1"),
        (Snapshot(RegisteredVersions({})), "none is registered"),
        (many, r"tiny@20, …; GET /v1/models lists all"),
    ):
        with pytest.raises(ApiError, match=known):
            snapshot.resolve("assistant")


def test_a_policy_splits_an_app_only_with_two_different_releases_and_something_to_share_or_says_that_it_rests():
    source = StaticReleases([release(1, "champion"), release(2), release(1, "champion", "challenger", app="other")])
    shared = TrafficPolicy(canary=1.0, shadow=1.0)
    for app in ("assistant", "other", "absent"):
        source.set_policy(app, shared)
    resting, router = Snapshot(source.registered()), Router(lambda _: True)
    assert resting.splits == {}
    for app in ("assistant", "other"):
        assert f"traffic policy of {app} rests: there is no challenger beside a champion" in router.notes(resting)
        routed = router.choose(resting, app, request_id="r")
        assert (routed.arm, routed.shadow) == ("champion", None)

    source.set_alias("assistant", "challenger", 2)
    snapshot = Snapshot(source.registered())
    (split,) = snapshot.splits.values()
    assert (split.champion.ref, split.challenger.ref, split.policy) == ("assistant@1", "assistant@2", shared)
    assert [model.ref for model in snapshot.served_models] == ["tiny@1", "tiny@1", "tiny@2"]

    source.set_policy("assistant", TrafficPolicy())
    assert Snapshot(source.registered()).splits == {}


def test_an_app_held_back_keeps_its_releases_but_not_its_policy():
    source = StaticReleases([release(1, "champion"), release(2, "challenger"), release(3)])
    source.set_policy("assistant", TrafficPolicy(canary=0.1))
    older = Snapshot(source.registered())
    source.set_alias("assistant", "champion", 3)
    source.set_policy("assistant", None)
    held = Snapshot(source.registered()).holding_back({"assistant"}, older)
    assert held.resolve("assistant").ref == "assistant@1"
    assert (len(older.splits), held.splits) == (1, {})

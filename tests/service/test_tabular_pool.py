"""Tabular models are loaded once, off the event loop; a new champion before it is swapped in."""

from __future__ import annotations

import asyncio
import threading

import pytest

from llmops import load_once
from llmops.errors import CannotRun, EngineUnavailable
from service.predictions import TabularPool
from tests.service.tabular_models import WINE, Gated, row, version

pytestmark = pytest.mark.anyio


@pytest.fixture
def opener() -> Gated:
    made = Gated()
    made.may_load.set()
    return made


async def test_a_model_is_loaded_once_for_all_who_wait_and_for_versions_that_are_the_same(opener):
    pool, same = TabularPool(opener), version(2, sha256="sha-bike-1")
    models = await asyncio.gather(*(pool.model(each) for each in (version(1), version(1), same)))
    assert len({id(model) for model in models}) == 1
    assert opener.opened == ["bike@1"]
    assert pool.is_loaded(same)
    assert not pool.is_loaded(version(3))
    await pool.close()
    assert pool.loaded == []


async def test_the_same_estimator_with_other_rows_is_another_model(opener):
    pool = TabularPool(opener)
    one, other = version(1, sha256="same"), version(2, sha256="same", schema=WINE)
    assert await pool.model(one) is not await pool.model(other)
    await pool.close()


async def test_a_failure_is_told_and_tried_again_after_a_moment(opener, monkeypatch):
    pool = TabularPool(opener)
    opener.failing["bike@1"] = CannotRun("model.skops is missing")
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match=r"model\.skops is missing") as raised:
            await pool.model(version(1))
        assert raised.value.retry_after
    assert opener.opened == ["bike@1"]
    assert pool.failures == {"bike@1": "model.skops is missing"}
    opener.failing.clear()
    monkeypatch.setattr(load_once, "RETRY_PAUSE_SECONDS", 0.0)
    await pool.model(version(1))
    assert pool.failures == {}
    await pool.close()


async def test_an_unexpected_failure_names_no_internals(opener):
    pool = TabularPool(opener)
    opener.failing["bike@1"] = KeyError("secret")
    with pytest.raises(EngineUnavailable, match=r"unexpected KeyError\Z"):
        await pool.model(version(1))
    await pool.close()


async def test_a_waiter_that_leaves_does_not_end_the_load(opener):
    opener.may_load.clear()
    pool = TabularPool(opener)
    leaving, staying = (asyncio.create_task(pool.model(version(1))) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    opener.may_load.set()
    assert (await staying).factor == 1.0
    await pool.close()


async def test_pinned_models_stay_and_of_others_the_least_used_go(opener):
    pool = TabularPool(opener, most_idle=1)
    pool.pin([version(1)])
    for number in (1, 2, 3):
        await pool.model(version(number))
    assert pool.loaded == ["bike@1", "bike@3"]
    pool.pin([version(3)])
    await pool.model(version(2))
    assert sorted(pool.loaded) == ["bike@2", "bike@3"]
    await pool.close()


async def test_a_preload_says_when_it_ends_and_is_not_begun_twice(opener):
    ended = asyncio.Event()
    pool = TabularPool(opener, on_load=ended.set)
    for _ in range(2):
        pool.preload(version(1))
    await asyncio.wait_for(ended.wait(), 30)
    pool.preload(version(1))
    assert (pool.loaded, opener.opened) == (["bike@1"], ["bike@1"])
    await pool.close()


async def test_closing_gives_up_loads_under_way(opener):
    opener.may_load.clear()
    pool = TabularPool(opener)
    pool.preload(version(1))
    await asyncio.sleep(0)
    await pool.close()
    opener.may_load.set()
    assert pool.loaded == []


async def test_a_pool_without_an_opener_says_so():
    with pytest.raises(EngineUnavailable, match="without a way to load"):
        await TabularPool(None).model(version(1))


def ask(gateway, model="bike"):
    return gateway.http.post(f"/v1/predict/{model}", json={"rows": [row(1)]})


def details(gateway):
    return gateway.http.get("/readyz").json()


def test_a_gateway_of_tabular_models_alone_is_ready_when_they_are_loaded(serve, wait_until, opener):
    opener.may_load.clear()
    with serve(tabular=[version(1, "champion"), version(2)], open_tabular=opener, until_ready=False) as gateway:
        wait_until(lambda: opener.opened)
        reply = gateway.http.get("/readyz")
        assert (reply.status_code, reply.json()["reasons"]) == (503, ["model bike: loading"])
        opener.may_load.set()
        wait_until(gateway.ready)
        assert details(gateway)["tabular"] == {"loaded": ["bike@1"], "failures": {}}
        assert (gateway.engines, ask(gateway).json()["model"]) == ({}, "bike@1")


def test_a_moved_alias_is_served_when_the_new_champion_is_loaded(serve, wait_until, opener):
    with serve(tabular=[version(1, "champion"), version(2)], open_tabular=opener) as gateway:
        opener.may_load.clear()
        gateway.source.set_alias("bike", "champion", 2)
        wait_until(lambda: details(gateway)["snapshot"]["held_back"] == ["bike"])
        assert (ask(gateway).json()["model"], gateway.ready()) == ("bike@1", True)
        opener.may_load.set()
        wait_until(lambda: ask(gateway).json()["model"] == "bike@2")
        assert ask(gateway).json()["predictions"] == [2.0]
        assert details(gateway)["snapshot"]["held_back"] == []
        assert ask(gateway, "bike@1").json()["predictions"] == [1.0]


def test_a_new_champion_that_cannot_be_loaded_leaves_the_old_one_serving(serve, wait_until, opener):
    opener.failing["bike@2"] = CannotRun("the estimator holds a type that is not trusted")
    with serve(tabular=[version(1, "champion"), version(2)], open_tabular=opener) as gateway:
        gateway.source.set_alias("bike", "champion", 2)
        wait_until(lambda: "not trusted" in gateway.http.get("/readyz").text)
        assert (ask(gateway).json()["model"], gateway.ready()) == ("bike@1", True)
        gateway.source.set_alias("bike", "champion", 1)
        wait_until(lambda: not details(gateway)["snapshot"]["held_back"])


def test_a_first_champion_that_cannot_be_loaded_is_not_ready_and_others_serve(serve, wait_until, release, opener):
    opener.failing["bike@1"] = CannotRun("model.skops is missing")
    broken = [version(1, "champion")]
    with serve(release(1, "champion"), tabular=broken, open_tabular=opener, until_ready=False) as gateway:
        wait_until(lambda: "model bike: model.skops is missing" in gateway.http.get("/readyz").text)
        reply = ask(gateway)
        assert (reply.status_code, "skops" in reply.text) == (503, False)
        assert reply.headers["retry-after"]
        assert gateway.chat().status_code == 200
        assert [(record.status, record.outcome) for record in gateway.records()] == [(503, "error"), (200, "ok")]


def test_moving_an_alias_fails_no_prediction(serve, wait_until, opener):
    with serve(tabular=[version(1, "champion"), version(2)], open_tabular=opener) as gateway:
        stop, seen = threading.Event(), set()

        def hammer():
            while not stop.is_set():
                reply = ask(gateway)
                body = reply.json()
                seen.add((reply.status_code, body["model"], reply.headers["x-llmops-model"], *body["predictions"]))

        thread = threading.Thread(target=hammer)
        thread.start()
        for number in (2, 1, 2):
            gateway.source.set_alias("bike", "champion", number)
            wait_until(lambda number=number: ask(gateway).json()["model"] == f"bike@{number}")
        stop.set()
        thread.join()
    assert seen == {(200, f"bike@{number}", f"bike@{number}", float(number)) for number in (1, 2)}

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx

from llmops.engines.fake import FakeEngine
from llmops.errors import EngineUnavailable


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
        monkeypatch.setattr(gateway.source, "model_versions", lambda: 1 / 0)
        wait_until(lambda: "ZeroDivisionError" in gateway.http.get("/readyz").text)
        monkeypatch.undo()
        gateway.source.set_alias("assistant", "champion", 2)
        wait_until(lambda: gateway.chat().json()["model"] == "assistant@2")


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
        gateway.app.state.gateway.keeper._snapshot = None
        gateway.source.down = True
        assert gateway.chat().headers["retry-after"] == "1"
        assert gateway.http.get("/v1/models").status_code == 503
        gateway.source.down = False
        may_read.set()
        wait_until(gateway.ready)

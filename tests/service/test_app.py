"""The app as a whole: what it serves and refuses on every path, and whether it is ready."""

import dataclasses
import re
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest

import service.app
from llmops.engine_host.frames import Pong
from llmops.engines.fake import FakeEngine
from llmops.errors import EngineUnavailable, StoreUnavailable
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from service.gateway import EngineWatch, Gateway
from tests.at_once import wait_until
from tests.service.conftest import bearer, embed, listening, release

pytestmark = pytest.mark.anyio


def test_models_lists_every_name_that_can_be_asked_for(serve):
    dated = dataclasses.replace(release(1, "champion"), created_at=1_790_000_000.7)
    with serve(dated, release(2, "challenger"), embed=embed) as gateway:
        cards = gateway.http.get("/v1/models").json()["data"]
        for card in cards:
            assert gateway.http.get(f"/v1/models/{card['id']}").json() == card
        unknown = gateway.http.get("/v1/models/nobody")
    assert [card["id"] for card in cards] == [
        "all-minilm-l6-v2", "assistant", "assistant@1", "assistant@2", "assistant@challenger", "assistant@champion",
        "tiny@1", "tiny@2",
    ]  # fmt: skip
    assert {card["owned_by"] for card in cards} == {"llmops"}
    assert [card["created"] for card in cards] == [0, 1_790_000_000, 1_790_000_000, 0, 0, 1_790_000_000, 0, 0]
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert "assistant@champion" in unknown.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nowhere", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        *(("GET", path, 404, "not_found") for path in ("/v1/models/", "/v1/chat/completions/", "/livez/")),
        *(("POST", f"/v1/predict{path}", 404, "not_found") for path in ("", "/", "/bike/", "/a%2Fbike")),
        ("GET", "/v1/predict/bike", 405, "method_not_allowed"),
        ("POST", "/v1/predict/bike/schema", 405, "method_not_allowed"),
    ],
)
def test_routing_errors_have_openais_shape_and_a_request_id_and_send_nobody_on(
    shared_gateway, method, path, status, code
):
    body = None if method == "GET" else {"rows": [{}]}
    reply = shared_gateway.http.request(method, path, json=body, headers={"host": "elsewhere"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert reply.headers["x-request-id"]
    assert "location" not in reply.headers


def test_metrics_count_requests_latency_and_tokens_and_what_was_refused_before_it_reached_a_model(gateway):
    gateway.chat()
    gateway.events()
    gateway.chat("nobody")
    gateway.chat(temperature=9)
    gateway.chat(tools=[{"type": "function", "function": {"name": "f"}}])  # this one reaches a model, and is logged
    gateway.http.get("/nowhere")
    wait_until(lambda: gateway.app.state.gateway.admission.held == 0)
    lines = gateway.http.get("/metrics").text.splitlines()
    assert {
        'llmops_requests_total{outcome="ok",status="200",target="assistant@1"} 2.0',
        'llmops_requests_total{outcome="error",status="400",target="assistant@1"} 1.0',
        'llmops_first_token_seconds_count{target="assistant@1"} 2.0',
        'llmops_request_seconds_count{target="assistant@1"} 3.0',
        'llmops_tokens_total{direction="out",target="assistant@1"} 8.0',
        'llmops_refused_requests_total{status="404"} 1.0',
        'llmops_refused_requests_total{status="400"} 1.0',
        "llmops_in_flight 0.0",
        "llmops_log_failures_total 0.0",
    } <= set(lines)


def test_making_an_app_starts_nothing(tmp_path, monkeypatch):
    started, start, here = [], threading.Thread.start, threading.current_thread()

    def noted(thread):
        if threading.current_thread() is here:  # other gateways of this module start theirs from their own
            started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    log = ProductionLog(f"sqlite:///{tmp_path / 'log.db'}")
    app = service.app.create_app(Gateway(Settings(home=tmp_path), None, None, log))
    log.close()
    assert (app.state.gateway.keeper.age, started) == (None, [])
    assert service.app.__all__ == ["create_app"]


def test_the_gateway_imports_nothing_heavy_and_without_an_endpoint_nothing_that_exports_spans():
    code = """import sys, service.app, service.server; from llmops.settings import Settings
service.tracing.open_tracing(Settings()).begin([], "GET /x"); print(*sys.modules)"""
    root = Path(__file__).parents[2]
    loaded = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    heavy = {"mlflow", "torch", "evidently", "ragas", "pandas", "monitoring"}
    heavy |= {f"opentelemetry.{part}" for part in ("sdk", "exporter", "proto")}  # its interface alone FastAPI loads
    assert not heavy & set(loaded.stdout.split())


def test_the_reference_loads_nothing_from_elsewhere(shared_gateway):
    page = shared_gateway.http.get("/docs")
    assert page.status_code == 200
    found = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert found
    for address in found:
        assert address.startswith("/"), address
        assert shared_gateway.http.get(address).status_code == 200, address
    paths = shared_gateway.http.get("/openapi.json").json()["paths"]
    assert "ChatRequest" in str(paths["/v1/chat/completions"])


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/v1/models", "/metrics", "/docs", "/", "/v1/nowhere", "/v1/chat/completions"]
)
def test_head_is_answered_as_get_without_the_body(shared_gateway, path):
    got, head = shared_gateway.http.get(path), shared_gateway.http.head(path)
    assert head.status_code == got.status_code
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.content == b""
    assert shared_gateway.http.get("/livez").status_code == 200  # the connection is in step


def test_a_load_failure_over_http_is_503_with_retry_after(serve):
    failures = [EngineUnavailable("weights in /secret are missing")]

    def open_engine(model):
        if failures:
            raise failures[0]
        return FakeEngine(name=model.ref)

    with serve(engine=open_engine, until_ready=False) as gateway:
        wait_until(lambda: gateway.http.get("/readyz").json()["engines"]["failures"])
        reply = gateway.chat()
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert "/secret" not in reply.text
        assert "/secret" in gateway.records()[0].details["error"]
        failures.clear()
        assert gateway.chat().status_code == 200
        wait_until(gateway.ready)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        *((sane, True) for sane in (b"abc", b"a b~!", b"x" * 128)),
        *((odd, False) for odd in (b"", b"x" * 129, b"caf\xc3\xa9", b"a\tb")),
    ],
)
def test_a_sane_request_id_is_echoed_and_any_other_replaced(shared_gateway, sent, kept):
    echoed = shared_gateway.http.get("/livez", headers={b"x-request-id": sent}).headers["x-request-id"]
    assert echoed == sent.decode() if kept else echoed.startswith("req_")


def test_a_closed_app_refuses_everything_without_a_word_of_why_and_ends_to_look_again(monkeypatch):
    ended = []
    monkeypatch.setattr(service.app.os, "kill", lambda *_: ended.append(True))
    monkeypatch.setattr(service.app, "LOOK_AGAIN_SECONDS", 0.01)
    app = service.app.closed_app(StoreUnavailable("/home/secret/log.db was taken away"))
    with listening(app, lifespan="on") as port, httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        chat = http.post("/v1/chat/completions", json={})
        assert (chat.status_code, chat.json()["error"]["code"]) == (503, "store_unavailable")
        assert chat.headers["retry-after"] == "1"
        assert http.get("/livez").status_code == 200
        for path in ("/readyz", "/metrics", "/v1/models", "/"):
            reply = http.get(path)
            assert (reply.status_code, "secret" in reply.text) == (503, False)
        wait_until(lambda: ended)


def test_a_ready_gateway_says_so_without_warnings(shared_gateway):
    start = time.monotonic()
    ready = shared_gateway.http.get("/readyz").json()
    assert (ready["status"], ready["reasons"], ready["warnings"]) == ("ready", [], [])
    assert shared_gateway.http.get("/livez").json() == {"status": "alive"}
    lines = shared_gateway.http.get("/metrics").text.splitlines()
    (age,) = [float(line.split()[1]) for line in lines if line.startswith("llmops_snapshot_age_seconds ")]
    assert 0 <= age < time.monotonic() - start + 5


@pytest.mark.parametrize("failure", [StoreUnavailable("it is down"), ZeroDivisionError("a bug")], ids=repr)
def test_a_registry_that_is_down_or_has_a_bug_is_a_warning_while_its_last_releases_serve(gateway, monkeypatch, failure):
    def fail():
        raise failure

    monkeypatch.setattr(gateway.source, "registered", fail)
    wait_until(lambda: gateway.http.get("/readyz").json()["warnings"])
    reply = gateway.http.get("/readyz")
    assert reply.status_code == 200
    assert ("ZeroDivisionError" if isinstance(failure, ZeroDivisionError) else "it is down") in reply.text
    assert reply.json()["snapshot"]["last_error"]
    assert reply.json()["snapshot"]["age_seconds"] > 0
    assert reply.json()["warnings"][0].startswith("registry not read for 0 s, serving the releases read last: ")
    assert gateway.chat().status_code == 200
    monkeypatch.undo()
    gateway.source.add(release(2, "champion"))
    wait_until(lambda: gateway.chat().json()["model"] == "assistant@2")
    assert not gateway.http.get("/readyz").json()["warnings"]


def test_an_engine_process_that_is_not_well_or_cannot_load_a_champion_turns_readiness_off(serve, monkeypatch):
    monkeypatch.setattr("service.gateway.LOOK_SECONDS", 0.02)
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


def test_a_key_of_one_app_is_told_nothing_of_what_lies_behind_nor_of_other_apps(serve, key_store, tmp_path):
    _, scoped = key_store.create(apps=["assistant"])
    _, admin = key_store.create(apps=["assistant"], admin=True)
    releases = release(1, "champion"), release(1, "champion", app="payroll")
    with serve(*releases, engine=lambda model: Relay(name=model.ref), keys=key_store, until_ready=False) as gateway:

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
        assert engines["modes"] == {"tiny@1": asdict(Relay(name="tiny@1").identity)}


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

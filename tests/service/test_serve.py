"""`llmops serve` with its real processes: parent, engine process, two workers."""

import contextlib
import os
import subprocess
import sys

import httpx
import psutil
import pytest

from llmops.errors import StoreUnavailable, UsageError
from llmops.generation import GenerationParameters
from llmops.production_log import ProductionLog
from llmops.prompt_file import parse_prompt
from llmops.settings import Settings
from llmops.tabular import Column, RowSchema
from llmops.versions import ModelVersion
from service.serve import registry_on_demand, serve
from tests.at_once import wait_until
from tests.service.conftest import PROMPT
from tests.service.test_server import free_port

HOURS = RowSchema((Column("hour", "integer"), Column("temperature", "number")), Column("count", "number"), "regression")


@pytest.fixture
def environment(tmp_path):
    """A home with `assistant@1`, its champion, answered by the fake engine."""
    from llmops.registry import Registry

    registry = Registry(Settings(home=tmp_path))
    prompt, _ = registry.prompts.register("qa", parse_prompt(PROMPT % ("told", "")))
    model = registry.models.register(ModelVersion("tiny", 0, "openai:http://127.0.0.1:9/v1#tiny", "openai", "a" * 64))
    made, _ = registry.release_versions.create("assistant", prompt, model[0], GenerationParameters())
    registry.release_versions.promote(made, why="a test")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
    return {**clean, "LLMOPS_HOME": str(tmp_path), "LLMOPS_ENGINE": "fake", "LLMOPS_SERVER_LOG": "json"}


@contextlib.contextmanager
def serving(environment):
    port = free_port()
    command = [sys.executable, "-m", "llmops.cli", "serve", "--port", str(port), "--workers", "2"]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        process = psutil.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            yield process, http
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
                process.wait(40)


def status(http, path="/readyz"):
    try:
        return http.get(path).status_code
    except httpx.TransportError:
        return None


def ask(http):
    body = {"model": "assistant", "messages": [{"role": "user", "content": "hello"}]}
    return http.post("/v1/chat/completions", json=body)


def named(parent, part):
    found = []
    for child in parent.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just died
            if part in " ".join(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.slow
def test_what_dies_is_started_again_and_nothing_outlives_the_parent(environment, tmp_path):
    with serving(environment) as (parent, http):
        wait_until(lambda: status(http) == 200, 90)
        assert ask(http).json()["choices"][0]["message"]["content"] == "You said: hello"

        (engine_process,) = named(parent, "llmops.engine_host")
        engine_process.kill()
        refused = ask(http)
        assert refused.status_code == 200 or (refused.status_code == 503 and refused.headers["retry-after"] == "1")
        wait_until(lambda: ask(http).status_code == 200, 30)

        worker = named(parent, "multiprocessing-fork")[0]
        worker.kill()
        wait_until(lambda: len(named(parent, "multiprocessing-fork")) == 2 and status(http) == 200, 60)

        family = parent.children(recursive=True)
        parent.kill()
        wait_until(lambda: not any(child.is_running() and child.status() != "zombie" for child in family), 60)
    log = ProductionLog(f"sqlite:///{tmp_path / 'log.db'}")
    assert log.count() >= 2
    log.close()


@pytest.mark.slow
def test_a_registry_that_is_away_at_the_start_is_said_and_holds_up_no_shutdown(environment):
    away = {**environment, "LLMOPS_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    with serving(away) as (parent, http):
        wait_until(lambda: status(http, "/livez") == 200, 180)
        reply = http.get("/readyz")
        assert reply.status_code == 503
        assert "registry not read yet" in reply.json()["reasons"][0]
        assert ask(http).status_code == 503
        parent.terminate()
        assert parent.wait(20) == 0


def test_a_registry_is_opened_by_the_first_look_and_asked_again_after_a_failure(tmp_path):
    registry = registry_on_demand(Settings(home=tmp_path, tracking_uri="sqlite:////no/such/folder/mlflow.db"))
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            registry().registered()


@pytest.fixture
def train(tmp_path):
    """`train(alpha)`: registers a fitted model of the bikes and makes it the champion."""
    from llmops.recording import record_training
    from llmops.registry import Registry

    registry = Registry(Settings(home=tmp_path))

    def trained(alpha):
        import pandas as pd
        from sklearn.compose import ColumnTransformer
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import Pipeline

        table = pd.DataFrame({"hour": [1, 2, 3, 4], "temperature": [1.0, 0.0, 2.0, 5.0]})
        kept = ColumnTransformer([("kept", "passthrough", list(table))])
        estimator = Pipeline([("kept", kept), ("ridge", Ridge(alpha=alpha))]).fit(table, [1.0, 2.0, 3.0, 4.0])
        told = {"experiment": "bike", "run_name": "ridge", "parameters": {}, "metrics": {}}
        logged = record_training(registry.store, estimator=estimator, schema=HOURS, example=table[:1], **told)
        version, _ = registry.tabular_versions.register("bike", logged)
        registry.tabular_versions.promote(version, why="a test")
        return version

    return trained


def predict(http):
    """Over a connection of its own, so that any worker may answer."""
    body = {"rows": [{"hour": 2, "temperature": 0.0}]}
    return httpx.post(http.base_url.join("/v1/predict/bike"), json=body, timeout=60)


@pytest.mark.slow
def test_the_registrys_tabular_models_are_served_by_every_worker_without_an_engine(tmp_path, train):
    train(0.0)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
    with serving({**clean, "LLMOPS_HOME": str(tmp_path)}) as (_, http):
        wait_until(lambda: status(http) == 200, 90)
        statuses = set()

        def all_answer(ref):
            replies = [predict(http) for _ in range(16)]
            statuses.update(reply.status_code for reply in replies)
            return {reply.headers.get("x-llmops-model") for reply in replies} == {ref}

        wait_until(lambda: all_answer("bike@1"))
        assert predict(http).json()["predictions"] == [pytest.approx(2.0)]
        told = http.get("/readyz").json()
        assert (told["tabular"]["loaded"], told["engines"]["loaded"]) == (["bike@1"], [])
        train(100.0)
        wait_until(lambda: all_answer("bike@2"))
        assert predict(http).json()["predictions"] != [pytest.approx(2.0)]
        assert statuses == {200}


def test_fewer_than_one_worker_is_a_usage_error():
    with pytest.raises(UsageError, match="--workers"):
        serve(workers=0)


_STARTER = """
import sys, time
from pathlib import Path
from llmops.settings import Settings
from service.serve import running_gateway
with running_gateway(Settings(home=Path(sys.argv[1]), engine="fake")) as url:
    print(url, flush=True)
    sys.stdin.readline()
print("over", flush=True)
"""


def answers(url):
    try:
        return httpx.get(f"{url}/livez", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("killed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_gateway_ends_with_the_block_and_with_who_started_it_killed_too(tmp_path, killed):
    command = [sys.executable, "-c", _STARTER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        url = starter.stdout.readline().strip()
        assert answers(url)
        if killed:
            starter.kill()
            wait_until(lambda: not answers(url), 60)
        else:
            print(file=starter.stdin, flush=True)
            assert starter.stdout.readline() == "over\n"
            assert not answers(url)

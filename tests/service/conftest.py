"""A real gateway: uvicorn in a thread, on a free loopback port, with fake engines and releases in memory."""

import asyncio
import dataclasses
import json
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from llmops.engines.fake import FakeEngine
from llmops.generation import GenerationParameters
from llmops.keys import Key, KeyStore
from llmops.production_log import LogRecord, ProductionLog
from llmops.prompt_file import parse_prompt
from llmops.settings import Settings
from llmops.versions import ModelVersion, PromptVersion, Release, TabularVersion
from service.app import create_app
from service.gateway import Embed, Gateway, Ping
from service.predictions import TabularOpener
from service.server import bound_socket
from service.slow_clients import with_header_timeout
from tests.at_once import wait_until
from tests.service.browser import Browser, chromium
from tests.service.static_releases import StaticReleases
from tests.service.tabular_models import Hours, version

PROMPT = """---
input_variable: question
parameters: {max_tokens: 64}
---
# system
Answer as %s.

# user
%s{{ question }}
"""


def model_version(name: str = "tiny", version: int = 1, sha256: str | None = None) -> ModelVersion:
    return ModelVersion(name, version, "file:none", "gguf", sha256 or f"sha-{name}-{version}")


def release(
    version: int,
    *aliases: str,
    app: str = "assistant",
    model: ModelVersion | None = None,
    tone: str | None = None,
    **parameters: Any,
) -> Release:
    """`assistant@<version>` with prompt `qa@<version>`; `tone` adds a second prompt variable of that name."""
    text = PROMPT % (f"release {version}", "{{ tone }}: " if tone else "")
    prompt = PromptVersion("qa", version, parse_prompt(text))
    chosen = GenerationParameters.from_mapping({"max_tokens": 64, **parameters})
    return Release(app, version, prompt, model or model_version(version=version), chosen, aliases)


ANSWERABLE: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "assistant", "messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"model": "assistant", "prompt": "hello"},
    "/v1/responses": {"model": "assistant", "input": "hello"},
}
"""Routes that generate, and a body that each answers."""


@dataclasses.dataclass
class Running:
    """A gateway being served, and all its parts."""

    url: str
    app: FastAPI
    source: StaticReleases
    engines: dict[str, FakeEngine]
    log: ProductionLog
    http: httpx.Client

    def chat(
        self, model: str = "assistant", text: str = "hello world", headers: Any = None, **fields: Any
    ) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return self.http.post("/v1/chat/completions", json=body, headers=headers)

    def events(self, **fields: Any) -> list[Any]:
        return events_of(self.chat(stream=True, **fields))

    def records(self) -> list[LogRecord]:
        return self.log.read()

    def ready(self) -> bool:
        return self.http.get("/readyz").status_code == 200


def caller(key_id: str = "key_1", *, name: str = "", **fields: Any) -> Key:
    """The holder of a key."""
    return Key(key_id, name, "", datetime.now(UTC), **fields)


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"authorization": f"Bearer {key}"}


def events_of(reply: httpx.Response) -> list[Any]:
    """The data of a streamed reply's events; the last is `[DONE]` when a completion ended well."""
    data = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


class Sent(list[Any]):
    """An ASGI `send`, and the messages that it was given."""

    async def __call__(self, message: Any) -> None:
        self.append(message)


def assert_refused(reply: httpx.Response, param: str | None, words: str = "", status: int = 400) -> None:
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, param), reply.text
    assert words in error["message"]


async def embed(texts: Any) -> tuple[list[list[float]], int]:
    """Vectors that tell texts apart by their length, and a token for each word."""
    return [[float(len(text)), 0.5, *[0.0] * 382] for text in texts], sum(len(text.split()) for text in texts)


class QuickToEnd(uvicorn.Server):
    """Looks often whether it is to end: there are hundreds of these."""

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # noqa: ASYNC110  which sets no event
            await asyncio.sleep(0.01)


NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Of a client of http:// alone: reading the certificates of a default one takes 40 ms."""


@contextmanager
def listening(app: ASGIApp, **options: Any) -> Iterator[int]:
    """Serves any ASGI app under uvicorn, in a thread, as the product runs it; yields its port on 127.0.0.1."""
    with bound_socket("127.0.0.1", 0) as listener:
        listener.listen()
        config = uvicorn.Config(app, **{"loop": "uvloop", "http": "httptools", "log_level": "critical", **options})
        server = QuickToEnd(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(15)
            assert not thread.is_alive()


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serves a gateway's app; yields its URL."""
    with listening(app, http=with_header_timeout(10.0), lifespan="on", log_level="error") as port:
        yield f"http://127.0.0.1:{port}"


@contextmanager
def serving(
    folder: Path,
    *releases: Release,
    engine: Callable[[ModelVersion], FakeEngine] = lambda model: FakeEngine(name=model.ref),
    until_ready: bool = True,
    embed: Embed | None = None,
    keys: KeyStore | None = None,
    ping: Ping | None = None,
    tabular: Sequence[TabularVersion] = (),
    open_tabular: TabularOpener | None = None,
    log_url: str | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """A running gateway of the given releases (by default `assistant@1`, champion), or of tabular models alone."""
    source, engines = StaticReleases(releases or ([] if tabular else [release(1, "champion")])), {}
    for each in tabular:
        source.add(each)

    def open_engine(model: ModelVersion) -> FakeEngine:
        engines[model.ref] = opened = engine(model)
        return opened

    made = Settings(home=folder, log_url=log_url, **{"registry_poll": 0.05, **settings})
    log = ProductionLog(made.resolved_log_url)
    options = {"embed": embed, "keys": keys, "ping": ping, "open_tabular": open_tabular}
    app = create_app(Gateway(made, lambda: source.registered(), open_engine, log, **options))
    with served(app) as url, httpx.Client(base_url=url, timeout=60, verify=NO_TLS) as http:
        running = Running(url, app, source, engines, log, http)
        if until_ready:
            wait_until(running.ready)
        yield running
    log.close()


@contextmanager
def asking(running: Running, *bodies: Any, path: str = "/v1/chat/completions") -> Iterator[list[httpx.Response]]:
    """Six clients ask all the while, every third with an Idempotency-Key; the replies so far."""
    ended, replies = threading.Event(), []

    def client(number: int) -> None:
        with httpx.Client(base_url=running.url, timeout=60, verify=NO_TLS) as http:
            while not ended.is_set():
                key = {"idempotency-key": f"{number}-{len(replies)}"} if number % 3 == 0 else {}
                replies.append(http.post(path, json=bodies[number % len(bodies)], headers=key))

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, number) for number in range(6)]
        try:
            yield replies
        finally:
            ended.set()
    for each in clients:
        each.result()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    """A ready gateway that serves `assistant@1`, its champion."""
    with serving(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """As `gateway`, one for a whole module: for tests that leave nothing behind which others see."""
    with serving(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def full_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """As `shared_gateway`, with an embedding model and the tabular model `bike@1` too."""
    models = {"tabular": [version(1, "champion")], "open_tabular": lambda _: Hours(), "embed": embed}
    with serving(tmp_path_factory.mktemp("gateway"), release(1, "champion"), **models) as running:
        yield running


@pytest.fixture
def key_store(tmp_path: Path) -> Iterator[KeyStore]:
    """A store of keys beside the gateway's log, which has none yet."""
    with closing(KeyStore(f"sqlite:///{tmp_path / 'log.db'}")) as store:
        yield store


@pytest.fixture(scope="module")
def shared_key_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyStore]:
    """As `key_store`, one for a whole module."""
    with closing(KeyStore(f"sqlite:///{tmp_path_factory.mktemp('keys') / 'log.db'}")) as store:
        yield store


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Any]:
    """`with serve(*releases, engine=…, **settings) as running:` a gateway other than the usual one."""
    return lambda *releases, **options: serving(tmp_path, *releases, **options)


@pytest.fixture(scope="module")
def serve_shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """As `serve`, for fixtures of a whole module."""
    return lambda *releases, **options: serving(tmp_path_factory.mktemp("gateway"), *releases, **options)


@pytest.fixture(scope="module")
def one_browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium on the PATH")
    with chromium(program) as browser:
        yield browser


@pytest.fixture
def browser(one_browser: Browser) -> Browser:
    """The module's browser, as a new one is."""
    one_browser.call("Emulation.setEmulatedMedia", features=[])
    one_browser.call("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
    one_browser.open("about:blank#new")
    one_browser.complaints.clear()
    one_browser.requested.clear()
    return one_browser

"""Engine hosts on real sockets: in the test's own process, where the engines can be looked into, or as a process."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmops.engine_host.client import RemoteEngine
from llmops.engine_host.host import EngineHost
from llmops.engine_host.supervisor import EngineProcess
from llmops.engines.fake import FakeEngine
from llmops.generation import GenerationParameters, GenerationRequest
from llmops.settings import Settings
from llmops.versions import ModelVersion

WAIT = 20.0
SLOW_HOST = Path(__file__).with_name("slow_host.py")


def model_version(version: int = 1) -> ModelVersion:
    return ModelVersion("tiny", version, "file:none", "gguf", f"sha-{version}")


def ask(text: str = "hello", *, whole: bool = False, extras: dict[str, Any] | None = None) -> GenerationRequest:
    return GenerationRequest(({"role": "user", "content": text},), GenerationParameters(), extras or {}, whole)


@dataclass
class Running:
    """A host in this process. engines: those it opened, by model ref; `open` opens a model as a worker does, until the
    host stops or the test closes it."""

    host: EngineHost
    socket_path: Path
    engines: dict[str, FakeEngine]
    opened: list[RemoteEngine] = field(default_factory=list)

    async def open(self, version: int = 1) -> RemoteEngine:
        self.opened.append(await asyncio.to_thread(RemoteEngine, self.socket_path, model_version(version), WAIT))
        return self.opened[-1]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket, as pytest's own is not always."""
    path = Path(tempfile.mkdtemp(prefix="host-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def hosting(folder: Path) -> Callable[..., Any]:
    """`async with hosting(slots=2, engine_queue=3, word_seconds=0.01) as running:`"""

    @asynccontextmanager
    async def start(
        engine: Callable[[ModelVersion], FakeEngine] | None = None, *, embed: Any = None, slots: int = 4, **options: Any
    ) -> AsyncIterator[Running]:
        fake = {
            name: options.pop(name)
            for name in ("answer", "word_seconds", "failure", "supported_extras")
            if name in options
        }
        engines: dict[str, FakeEngine] = {}

        def open_engine(model: ModelVersion, settings: Settings) -> FakeEngine:
            make = engine or (lambda model: FakeEngine(slots=slots, name=model.ref, **fake))
            engines[model.ref] = opened = make(model)
            return opened

        host = EngineHost(Settings(home=folder, **options), open_engine, embed)
        async with host.listening(folder / "engine.sock"):
            running = Running(host, folder / "engine.sock", engines)
            yield running
        for one in running.opened:
            await one.close()

    return start


@pytest.fixture
def process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., EngineProcess]]:
    """`process(*arguments of slow_host.py)` starts a supervised engine process with a slow fake engine."""
    monkeypatch.setenv("LLMOPS_HOME", str(folder))
    monkeypatch.setenv("LLMOPS_ENGINE_SLOTS", "2")
    started: list[EngineProcess] = []

    def start(*arguments: str, **settings: Any) -> EngineProcess:
        command = (sys.executable, str(SLOW_HOST), *arguments)
        started.append(EngineProcess(Settings(home=folder, **settings), command=command))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import pytest

from llmops.engine_host import supervisor
from llmops.engine_host.client import open_remote, ping
from llmops.engine_host.supervisor import EngineProcess
from llmops.engines.protocol import generate
from llmops.errors import EngineError, EngineUnavailable, UsageError
from llmops.settings import Settings

pytestmark = pytest.mark.anyio
SLOW_HOST = Path(__file__).with_name("slow_host.py")


async def problem_of(socket_path: Path) -> str | None:
    try:
        await ping(socket_path)
    except EngineError as error:
        return str(error)
    return None


async def is_well(running: EngineProcess) -> bool:
    return await problem_of(running.socket_path) is None


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def opened(running: EngineProcess, model):
    return await asyncio.to_thread(open_remote, running.socket_path, model, 20)


async def test_killed_in_mid_stream_it_is_started_again_and_the_same_engine_works(
    process, model_version, ask, eventually
):
    running = process()
    engine = await opened(running, model_version())
    first = running.state.pid
    chunks = engine.stream(ask())
    assert (await anext(chunks)).text == "word0"
    os.kill(first, signal.SIGKILL)
    with pytest.raises(EngineUnavailable) as caught:
        async for _ in chunks:
            pass
    assert caught.value.retry_after == 1
    with pytest.raises(EngineUnavailable) as caught:
        await generate(engine, ask())
    assert caught.value.retry_after == 1

    await eventually(lambda: is_well(running))
    assert (running.state.restarts, running.state.last_exit) == (1, "killed by SIGKILL")
    assert running.state.pid not in (None, first)

    async def loaded_again() -> bool:
        # Nobody has asked yet: who holds a model has the new process load it.
        return "tiny@1" in (await ping(running.socket_path)).models

    await eventually(loaded_again)
    assert (await ping(running.socket_path)).restarts == 1
    chunks = engine.stream(ask())
    assert (await anext(chunks)).text == "word0"
    await chunks.aclose()
    await engine.close()


async def test_many_streams_all_learn_that_the_process_died(process, model_version, ask, eventually):
    running = process()
    engine = await opened(running, model_version())
    tasks = [asyncio.create_task(generate(engine, ask(str(number)))) for number in range(16)]

    async def under_way() -> bool:
        report = (await ping(running.socket_path)).models["tiny@1"]
        return (report["running"], report["waiting"]) == (2, 14)

    await eventually(under_way)
    os.kill(running.state.pid, signal.SIGKILL)
    ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert {type(end) for end in ended} == {EngineUnavailable}
    await engine.close()


async def test_a_process_that_never_starts_is_tried_ever_more_rarely(process, eventually, caplog, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)
    running = process("fail")
    assert await problem_of(running.socket_path) == "the engine process is not running"
    await eventually(lambda: running.state.restarts >= 3)
    assert running.state.last_exit == "exit code 7"
    pauses = [record.args[1] for record in caplog.records if "starts again" in record.message]
    assert pauses[:3] == [0.01, 0.02, 0.04]


@pytest.mark.slow
async def test_a_process_that_hangs_is_killed_and_started_again(process, model_version, ask, eventually, monkeypatch):
    monkeypatch.setattr(supervisor, "PING_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "PING_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "HUNG_SECONDS", 4.0)
    running = process()
    engine = await opened(running, model_version())
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(generate(engine, ask("hang")), 30)
    await eventually(lambda: is_well(running))
    assert (running.state.restarts, running.state.last_exit) == (1, "killed by SIGKILL")
    await engine.close()


async def test_stopping_lets_a_stream_finish(process, model_version, ask):
    running = process(drain_seconds=20.0)
    engine = await opened(running, model_version())
    answering = asyncio.create_task(generate(engine, ask()))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(running.stop)
    assert (await answering).text.endswith("word99")
    assert running.state.pid is None
    assert not running.socket_path.parent.exists()
    await engine.close()


async def test_its_socket_lies_in_a_folder_that_only_this_user_can_enter(process, eventually):
    running = process()
    await eventually(lambda: is_well(running))
    assert stat.S_IMODE(running.socket_path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(running.socket_path.stat().st_mode) == 0o600


PARENT = """
import sys, time
from pathlib import Path
from llmops.engine_host.supervisor import EngineProcess
from llmops.settings import Settings

running = EngineProcess(Settings(), Path(sys.argv[1]), command=(sys.executable, sys.argv[2]))
running.start()
print(running.state.pid, flush=True)
time.sleep(60)
"""


async def test_it_dies_with_its_parent(folder, eventually):
    arguments = (sys.executable, "-c", PARENT, str(folder / "engine.sock"), str(SLOW_HOST))
    parent = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    child = int(await parent.stdout.readline())
    await eventually(lambda: (folder / "engine.sock").exists())
    assert alive(child)
    parent.kill()
    await parent.wait()
    await eventually(lambda: not alive(child))


async def test_the_real_program_serves_the_engine_that_settings_name(folder, model_version, ask, monkeypatch):
    monkeypatch.setenv("LLMOPS_ENGINE", "fake")
    monkeypatch.setenv("LLMOPS_HOME", str(folder))
    running = EngineProcess(Settings(home=folder))
    running.start()
    try:
        engine = await opened(running, model_version())
        assert (engine.identity.name, engine.slots) == ("fake", Settings().engine_slots)
        assert (await generate(engine, ask("all well?"))).text == "You said: all well?"
        await engine.close()
    finally:
        await asyncio.to_thread(running.stop)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(UsageError, match="too long for a socket"):
        EngineProcess(Settings(), tmp_path / ("x" * 100))

import asyncio
import os
import signal
import stat
import sys

import psutil
import pytest

from llmops.engine_host import client, supervisor
from llmops.engine_host.client import RemoteEngine, ping
from llmops.engine_host.supervisor import EngineProcess
from llmops.engines.protocol import generate
from llmops.errors import EngineError, EngineUnavailable, UsageError
from llmops.settings import Settings
from tests.engine_host.conftest import SLOW_HOST, WAIT, ask, model_version

pytestmark = pytest.mark.anyio


async def is_well(running: EngineProcess) -> bool:
    try:
        return bool(await ping(running.socket_path))
    except EngineError:
        return False


async def opened(running: EngineProcess):
    return await asyncio.to_thread(RemoteEngine, running.socket_path, model_version(), WAIT)


async def test_killed_in_mid_stream_all_streams_learn_it_and_a_new_process_serves_the_same_engine(process, eventually):
    running = process()
    engine = await opened(running)
    first = running.pid
    chunks = engine.stream(ask())
    assert (await anext(chunks)).text == "word0"
    tasks = [asyncio.create_task(generate(engine, ask(str(number)))) for number in range(15)]

    async def under_way() -> bool:
        report = (await ping(running.socket_path)).models["tiny@1"]
        return (report["running"], report["waiting"]) == (2, 14)

    await eventually(under_way)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(EngineUnavailable):
        async for _ in chunks:
            pass
    ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    ended += await asyncio.gather(generate(engine, ask()), return_exceptions=True)
    assert {(type(end), end.retry_after) for end in ended} == {(EngineUnavailable, 1)}

    await eventually(lambda: is_well(running))
    assert (running.restarts, running.last_exit) == (1, "killed by SIGKILL")
    assert running.pid not in (None, first)

    async def loaded_again() -> bool:
        # Nobody has asked yet: who holds a model has the new process load it.
        return "tiny@1" in (await ping(running.socket_path)).models

    await eventually(loaded_again)
    assert (await ping(running.socket_path)).restarts == 1
    chunks = engine.stream(ask())
    assert (await anext(chunks)).text == "word0"
    await chunks.aclose()
    await engine.close()


async def test_a_process_that_never_starts_is_tried_ever_more_rarely(process, eventually, caplog, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)
    running = process("fail")
    with pytest.raises(EngineUnavailable, match=r"^the engine process is not running$"):
        await ping(running.socket_path)
    await eventually(lambda: running.restarts >= 3)
    assert running.last_exit == "exit code 7"
    pauses = [record.args[1] for record in caplog.records if "starts again" in record.message]
    assert pauses[:3] == [0.01, 0.02, 0.04]


@pytest.mark.slow
async def test_a_process_that_hangs_is_killed_and_started_again(process, eventually, monkeypatch):
    monkeypatch.setattr(supervisor, "PING_PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(client, "PING_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "HUNG_SECONDS", 4.0)
    running = process()
    engine = await opened(running)
    with pytest.raises(EngineUnavailable):
        await asyncio.wait_for(generate(engine, ask("hang")), 30)
    await eventually(lambda: is_well(running))
    assert (running.restarts, running.last_exit) == (1, "killed by SIGKILL")
    await engine.close()


async def test_its_socket_is_this_users_alone_and_stopping_lets_a_stream_finish(process):
    running = process(drain_seconds=20.0)
    engine = await opened(running)
    assert stat.S_IMODE(running.socket_path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(running.socket_path.stat().st_mode) == 0o600
    chunks = engine.stream(ask("short"))
    assert (await anext(chunks)).text == "word0"
    stopping = asyncio.create_task(asyncio.to_thread(running.stop))
    assert [chunk.text async for chunk in chunks][-2:] == [" word19", ""]
    await stopping
    assert running.pid is None
    assert not running.socket_path.parent.exists()
    await engine.close()


PARENT = """
import sys, time
from llmops.engine_host.supervisor import EngineProcess
from llmops.settings import Settings

running = EngineProcess(Settings(), command=(sys.executable, sys.argv[1]))
running.start()
print(running.pid, flush=True)
time.sleep(60)
"""


async def test_it_dies_with_its_parent(folder, eventually):
    arguments, own = (sys.executable, "-c", PARENT, str(SLOW_HOST)), {**os.environ, "TMPDIR": str(folder)}
    parent = await asyncio.create_subprocess_exec(*arguments, env=own, stdout=asyncio.subprocess.PIPE)
    child = int(await parent.stdout.readline())
    await eventually(lambda: any(folder.glob("*/engine.sock")))
    assert psutil.pid_exists(child)
    parent.kill()
    await parent.wait()
    await eventually(lambda: not psutil.pid_exists(child))


async def test_the_real_program_serves_the_engine_that_settings_name(folder, monkeypatch):
    monkeypatch.setenv("LLMOPS_ENGINE", "fake")
    monkeypatch.setenv("LLMOPS_HOME", str(folder))
    running = EngineProcess(Settings(home=folder))
    running.start()
    try:
        engine = await opened(running)
        assert (engine.identity.name, engine.slots) == ("fake", Settings().engine_slots)
        assert (await generate(engine, ask("all well?"))).text == "You said: all well?"
        await engine.close()
    finally:
        await asyncio.to_thread(running.stop)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 100)))
    (tmp_path / ("x" * 100)).mkdir()
    with pytest.raises(UsageError, match="too long for a socket"):
        EngineProcess(Settings())

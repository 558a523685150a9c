import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from llmops.errors import StoreUnavailable
from llmops.production_log import ProductionLog, RecordRefused
from service.log_writer import LogWriter
from tests.at_once import wait_until
from tests.core.log_records import record

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


class Log:
    """Keeps groups; waits for `gate`; fails while `down`; has a `problem` with records whose input is `bad`."""

    def __init__(self):
        self.groups = []
        self.gate, self.begun = threading.Event(), threading.Event()
        self.gate.set()
        self.down, self.problem = False, None

    def append(self, records):
        self.begun.set()
        assert self.gate.wait(10)
        if self.down:
            raise StoreUnavailable("disk full")
        if any(record.input == "bad" for record in records):
            raise self.problem
        self.groups.append(list(records))


@pytest.fixture
def log():
    return Log()


@pytest.fixture
async def writer(log):
    writer = LogWriter(log.append)
    writer.start()
    yield writer
    await writer.close()


async def held_back_together(log, writer, *records):
    """Hands over records that all wait while one write is under way; returns what became of each."""
    log.gate.clear()
    first = asyncio.create_task(writer.write(record(input="first")))
    assert await asyncio.to_thread(log.begun.wait, 10)
    rest = [asyncio.create_task(writer.write(one)) for one in records]
    await asyncio.sleep(0)
    log.gate.set()
    await first
    return await asyncio.gather(*rest, return_exceptions=True)


async def test_records_that_wait_together_share_a_transaction(log, writer):
    assert await held_back_together(log, writer, *map(record, range(50))) == [None] * 50
    assert [len(group) for group in log.groups] == [1, 50]


async def test_a_record_that_cannot_be_stored_takes_no_others_with_it_and_leaves_readiness_alone(log, writer):
    for problem in (ValueError("cannot be stored"), RecordRefused("too long")):
        log.problem = problem
        good, bad, other = await held_back_together(log, writer, record(1), record(input="bad"), record(2))
        assert (good, other, writer.failure) == (None, None, None)
        assert isinstance(bad, StoreUnavailable)
        assert str(problem) in str(bad)
    assert writer.lost == 2


@pytest.mark.parametrize(("serve_unlogged", "was"), [(False, (503, "error")), (True, (200, "ok"))])
async def test_a_log_that_is_down_fails_all_and_recovers_by_itself_with_what_was_told(
    log, monkeypatch, serve_unlogged, was
):
    monkeypatch.setattr("service.log_writer.RETRY_SECONDS", 0.02)
    writer = LogWriter(log.append, serve_unlogged=serve_unlogged)
    writer.start()
    log.down = True
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="disk full"):
            await writer.write(record())
    assert (writer.lost, writer.failure) == (2, "disk full")
    log.down = False
    await asyncio.to_thread(wait_until, lambda: writer.failure is None)
    await writer.close()
    (late,) = log.groups[0]
    assert (late.status, late.outcome) == was


async def test_a_waiter_that_is_cancelled_leaves_its_record(log, writer):
    log.gate.clear()
    waiting = asyncio.create_task(writer.write(record()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    log.gate.set()
    await writer.write(record())
    assert sum(map(len, log.groups)) == 2


async def test_closing_writes_what_is_queued_and_refuses_more(log):
    writer = LogWriter(log.append)
    with pytest.raises(StoreUnavailable, match="not open"):
        await writer.write(record())
    writer.start()
    waiting = [asyncio.create_task(writer.write(record())) for _ in range(5)]
    await asyncio.sleep(0)
    await writer.close()
    await asyncio.gather(*waiting)
    assert sum(map(len, log.groups)) == 5
    with pytest.raises(StoreUnavailable, match="not open"):
        await writer.write(record())


CRASHING = """
import sys
from pathlib import Path
from tests.service.conftest import serving
with serving(Path(sys.argv[1])) as gateway:
    print(gateway.url, flush=True)
    sys.stdin.read()
"""


def test_an_acknowledged_request_survives_kill_9(tmp_path):
    script = [sys.executable, "-c", CRASHING, str(tmp_path)]
    with subprocess.Popen(script, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        body = {"model": "assistant", "messages": [{"role": "user", "content": "remember me"}]}
        with httpx.Client(base_url=url) as http:
            for _ in range(5):
                assert http.post("/v1/chat/completions", json=body).status_code == 200
            text = ""
            with http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as reply:
                for text in reply.iter_text():
                    if '"finish_reason":"stop"' in text:
                        break
                process.kill()
        assert '"finish_reason":"stop"' in text
    log = ProductionLog(f"sqlite:///{tmp_path / 'log.db'}")
    assert [record.outcome for record in log.read()] == ["ok"] * 6
    log.close()

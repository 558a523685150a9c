"""What was acknowledged is in the log, however many processes write and whenever they are killed."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time

import pytest

from llmops.production_log import ProductionLog

WRITER = """
import sys, threading
from datetime import UTC, datetime
from llmops.production_log import LogRecord, ProductionLog
log = ProductionLog(sys.argv[1])
name = sys.argv[2]
for number in range(10**9):
    ids = [f"{name}-{number}-{n}" for n in range(1 + number % 4)]
    log.append([LogRecord(i, datetime.now(UTC), 200, "ok", "x" * 500, "y" * 3000, "assistant@1") for i in ids])
    print(*ids, flush=True)
"""


class Writer:
    """A process that appends until it is killed, and every record that it was told is durable."""

    def __init__(self, url: str, name: str) -> None:
        command = [sys.executable, "-c", WRITER, url, name]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.acknowledged: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            if line.endswith("\n"):
                self.acknowledged += line.split()

    def kill(self) -> list[str]:
        """Kills it at once; returns what it had acknowledged."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        return self.acknowledged


def write_and_kill(url: str, kills: int, least: int) -> None:
    """Keeps four writers at work, kills one again and again at a random moment, then compares.

    least: acknowledged records of a writer before it may be killed, so that each one has really begun.
    """
    chance = random.Random(7)  # noqa: S311
    writers = [Writer(url, f"w{number}") for number in range(4)]
    acknowledged: list[str] = []
    try:
        for number in range(kills):
            victim = writers.pop(chance.randrange(4))
            deadline = time.monotonic() + 60
            while len(victim.acknowledged) < least:
                assert time.monotonic() < deadline, "a writer does not write"
                time.sleep(0.002)
            time.sleep(chance.random() * 0.05)
            acknowledged += victim.kill()
            writers.append(Writer(url, f"n{number}"))
    finally:
        for writer in writers:
            acknowledged += writer.kill()
    log = ProductionLog(url)
    kept = [item.request_id for item in log.iterate()]
    followed, cursor = [], 0
    while (part := log.records_since(cursor))[0]:
        followed += [item.request_id for item in part[0]]
        cursor = part[1]
    log.close()
    assert len(acknowledged) >= kills * least
    assert set(acknowledged) <= set(kept)
    assert len(kept) == len(set(kept))
    assert sorted(followed) == sorted(kept)


def test_no_acknowledged_record_is_lost_when_writers_are_killed(log_url):
    write_and_kill(log_url, kills=3, least=20)


@pytest.mark.slow
def test_no_acknowledged_record_is_lost_in_many_kills(log_url):
    write_and_kill(log_url, kills=40, least=100)

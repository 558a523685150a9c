"""Processes that share a log: stored replies, locks, and what a killed one leaves."""

import random
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial

import pytest

from llmops.errors import StoreUnavailable
from llmops.processes import ProcessLock, is_dead, this_process
from llmops.production_log import ClaimedKey, ProductionLog, ReplyRow, StoredReply
from llmops.production_log.replies import KeyInUse
from tests.at_once import at_once, wait_until
from tests.core.log_records import ids, record

REPLY = StoredReply(200, (("content-type", "application/json"), ("x-llmops-release", "assistant@1")), b"\x00{}", "r1")


def settled(claim, reply=REPLY, seconds=60.0):
    return ReplyRow(claim, reply, time.time() + seconds)


def claimed(log, key="k", caller="anna", fingerprint="print", seconds=60):
    claim = log.replies.claim(caller, key, fingerprint, seconds)
    assert isinstance(claim, ClaimedKey)
    return claim


def in_use(log, key="k"):
    found = log.replies.claim("anna", key, "another print", 60)
    assert isinstance(found, KeyInUse)
    return found


def test_a_key_is_claimed_once_and_then_gives_the_reply_or_can_be_claimed_again(log):
    claim = claimed(log)
    assert in_use(log) == KeyInUse("print", None)
    claimed(log, caller="bo")
    log.append([record(1)], [settled(claim)])
    assert in_use(log) == KeyInUse("print", REPLY)
    assert ids(log.read()) == ["r1"]
    log.replies.give_up(claimed(log, "given up"))
    log.append([record()], [settled(claimed(log, "given up"), None)])
    claimed(log, "given up")


def test_a_record_that_is_not_written_leaves_its_claim_unsettled(log):
    log.append([record(0, key="same")])
    claim = claimed(log)
    with pytest.raises(StoreUnavailable):
        log.append([record(1, key="same")], [settled(claim)])
    assert in_use(log) == KeyInUse("print", None)


def test_claims_and_replies_expire_and_cleaning_deletes_those_that_have_and_nothing_else(log):
    late, claim = claimed(log, seconds=-1), claimed(log, fingerprint="other print")
    log.append([record(1)], [settled(late)])  # its key is another request's by now
    log.replies.give_up(late)
    assert in_use(log) == KeyInUse("other print", None)
    log.append([record(2)], [settled(claim, seconds=-1)])
    claimed(log)
    assert ids(log.read()) == ["r1", "r2"]
    for number in range(3):
        claimed(log, f"old{number}", seconds=-1)
    assert (log.replies.clean(), log.replies.clean()) == (3, 0)
    assert in_use(log) == KeyInUse("print", None)


def test_of_many_that_claim_a_key_at_once_one_gets_it(log_url):
    logs = [ProductionLog(log_url) for _ in range(4)]
    start, found = threading.Barrier(8), []

    def claim(log):
        start.wait(10)
        found.append(log.replies.claim("anna", "k", "print", 60))

    at_once(*(partial(claim, logs[number % 4]) for number in range(8)))
    assert sorted(isinstance(item, ClaimedKey) for item in found) == [False] * 7 + [True]
    for log in logs:
        log.close()


CLAIMER = """
import sys
from llmops.production_log import ProductionLog
print(ProductionLog(sys.argv[1]).replies.claim("anna", "k", "print", 600), flush=True)
sys.stdin.read()
"""


def test_the_claim_of_a_killed_process_ends_with_it(log):
    command = [sys.executable, "-c", CLAIMER, log.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert "ClaimedKey" in process.stdout.readline()
        assert in_use(log) == KeyInUse("print", None)
        process.kill()
        process.wait()
    claimed(log)
    assert in_use(log) == KeyInUse("print", None)


def test_a_process_is_dead_only_for_certain():
    here = this_process()
    assert len(here) <= 255
    place, number, started = here.rsplit("/", 2)
    assert not is_dead(here)
    assert is_dead(f"{place}/{number}/{int(started) + 1}")  # the id went to a later process
    assert not is_dead(f"elsewhere/pid:[1]/{number}/{int(started) + 1}")
    assert not is_dead("")


HOLDER = """
import sys
from llmops.processes import ProcessLock
with ProcessLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_one_holders_alone_thread_or_process_and_a_killed_one_lets_go(tmp_path):
    path = f"{tmp_path}/log.db-writers"
    lock, entered, inside, most = ProcessLock(path), threading.Event(), [], []

    def write():
        for _ in range(50):
            with lock:
                entered.set()
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        writing = threading.Thread(target=at_once, args=[write] * 4)
        writing.start()
        assert not entered.wait(0.05)
        other.kill()
    writing.join(10)
    lock.close()
    assert most == [1] * 200


WRITER = """
import sys
from datetime import UTC, datetime
from llmops.production_log import LogRecord, ProductionLog
url, name = sys.argv[1:]
print(flush=True)
sys.stdin.readline()
log = ProductionLog(url)
for number in range(10**9):
    ids = [f"{name}-{number}-{n}" for n in range(1 + number % 4)]
    log.append([LogRecord(i, datetime.now(UTC), 200, "ok", "x" * 500, "y" * 3000, "assistant@1") for i in ids])
    print(*ids, flush=True)
"""


class Writer:
    """A process that has imported everything, and, let go, opens the log and appends until it is killed; and every
    record that it was told is durable."""

    def __init__(self, url, name):
        command = [sys.executable, "-c", WRITER, url, name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout.readline() == "\n"
        self.acknowledged = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def let_go(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def _read(self):
        for line in self._process.stdout:
            if line.endswith("\n"):
                self.acknowledged += line.split()

    def kill(self):
        """Kills it at once; returns what it had acknowledged."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdin.close()
        self._process.stdout.close()
        return self.acknowledged


@pytest.mark.parametrize(
    ("log_url", "kills", "least"),
    [("sqlite", 3, 20), *(pytest.param(kind, 40, 100, marks=pytest.mark.slow) for kind in ("sqlite", "postgresql"))],
    indirect=["log_url"],
)
def test_no_acknowledged_record_is_lost_when_writers_open_a_new_log_at_once_and_are_killed(log_url, kills, least):
    chance = random.Random(7)  # noqa: S311
    writers = [Writer(log_url, f"w{number}") for number in range(4)]
    acknowledged = []
    for writer in writers:
        writer.let_go()
    try:
        for number in range(kills):
            victim = writers.pop(chance.randrange(4))
            wait_until(lambda victim=victim: len(victim.acknowledged) >= least)  # each one has really begun
            time.sleep(chance.random() * 0.05)
            acknowledged += victim.kill()
            writers.append(Writer(log_url, f"n{number}"))
            writers[-1].let_go()
    finally:
        for writer in writers:
            acknowledged += writer.kill()
    with closing(ProductionLog(log_url)) as log:
        kept = ids(log.iterate())
        followed, cursor = [], 0
        while (part := log.records_since(cursor))[0]:
            followed += ids(part[0])
            cursor = part[1]
    assert len(acknowledged) >= kills * least
    assert set(acknowledged) <= set(kept)
    assert len(kept) == len(set(kept))
    assert sorted(followed) == sorted(kept)

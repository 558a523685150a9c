from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from llmops.errors import StoreUnavailable
from llmops.processes import is_dead, this_process
from llmops.production_log import ClaimedKey, ProductionLog, ReplyRow, StoredReply
from llmops.production_log.replies import KeyInUse
from tests.core.log_records import ids, record

REPLY = StoredReply(200, (("content-type", "application/json"), ("x-llmops-release", "assistant@1")), b"\x00{}", "r1")


@pytest.fixture
def log(any_log):
    return any_log


def settled(claim: ClaimedKey, reply: StoredReply | None = REPLY, seconds: float = 60.0) -> ReplyRow:
    return ReplyRow(claim, reply, time.time() + seconds)


def test_a_key_is_claimed_once_and_then_gives_the_reply(log):
    claim = log.replies.claim("anna", "k", "print", 60)
    assert isinstance(claim, ClaimedKey)
    assert log.replies.claim("anna", "k", "print", 60) == KeyInUse("print", None)
    assert isinstance(log.replies.claim("bo", "k", "print", 60), ClaimedKey)
    log.append([record(1)], [settled(claim)])
    assert log.replies.claim("anna", "k", "print", 60) == KeyInUse("print", REPLY)
    assert ids(log.read()) == ["r1"]


def test_a_claim_given_up_can_be_made_again(log):
    for give_up in (log.replies.give_up, lambda claim: log.append([record()], [settled(claim, None)])):
        claim = log.replies.claim("anna", "k", "print", 60)
        assert isinstance(claim, ClaimedKey)
        give_up(claim)
    assert isinstance(log.replies.claim("anna", "k", "print", 60), ClaimedKey)


def test_a_record_that_is_not_written_leaves_its_claim_unsettled(log):
    log.append([record(0, key="same")])
    claim = log.replies.claim("anna", "k", "print", 60)
    with pytest.raises(StoreUnavailable):
        log.append([record(1, key="same")], [settled(claim)])
    assert log.replies.claim("anna", "k", "print", 60) == KeyInUse("print", None)


def test_a_claim_and_a_reply_expire(log):
    late = log.replies.claim("anna", "k", "print", -1)
    claim = log.replies.claim("anna", "k", "other print", 60)
    assert isinstance(claim, ClaimedKey)
    log.append([record(1)], [settled(late)])  # its key is another request's by now
    log.replies.give_up(late)
    assert log.replies.claim("anna", "k", "other print", 60) == KeyInUse("other print", None)
    log.append([record(2)], [settled(claim, seconds=-1)])
    assert isinstance(log.replies.claim("anna", "k", "print", 60), ClaimedKey)
    assert ids(log.read()) == ["r1", "r2"]


def test_cleaning_deletes_what_has_expired_and_nothing_else(log):
    for number in range(3):
        log.replies.claim("anna", f"old{number}", "print", -1)
    running = log.replies.claim("anna", "running", "print", 60)
    assert isinstance(running, ClaimedKey)
    assert log.replies.clean() == 3
    assert log.replies.clean() == 0
    assert log.replies.claim("anna", "running", "print", 60) == KeyInUse("print", None)


def test_of_many_that_claim_a_key_at_once_one_gets_it(log_url):
    logs = [ProductionLog(log_url) for _ in range(4)]
    start, found = threading.Barrier(8), []

    def claim(log: ProductionLog) -> None:
        start.wait(10)
        found.append(log.replies.claim("anna", "k", "print", 60))

    threads = [threading.Thread(target=claim, args=[logs[number % 4]]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(isinstance(item, ClaimedKey) for item in found) == 1
    assert len(found) == 8
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
        assert log.replies.claim("anna", "k", "print", 60) == KeyInUse("print", None)
        process.kill()
        process.wait()
    assert isinstance(log.replies.claim("anna", "k", "print", 60), ClaimedKey)
    assert log.replies.claim("anna", "k", "print", 60) == KeyInUse("print", None)


def test_a_process_is_dead_only_for_certain():
    here = this_process()
    assert len(here) <= 255
    place, number, started = here.rsplit("/", 2)
    assert not is_dead(here)
    assert is_dead(f"{place}/{number}/{int(started) + 1}")  # the id went to a later process
    assert not is_dead(f"elsewhere/pid:[1]/{number}/{int(started) + 1}")
    assert not is_dead("")

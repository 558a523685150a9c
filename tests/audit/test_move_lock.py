"""One mover at a time, between threads, logs and processes."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from llmops.audit.log import MoveLock
from llmops.errors import StoreUnavailable

SECONDS = 30
HOLD = """
import sys, time
from llmops.audit.log import MoveLock
with MoveLock(sys.argv[1]).turn():
    print("held", flush=True)
    time.sleep(600)
"""


def test_turns_of_two_holders_do_not_overlap(log_url):
    inside, seen = [0], []

    def move() -> None:
        turns = MoveLock(log_url)
        for _ in range(10):
            with turns.turn():
                inside[0] += 1
                seen.append(inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=move) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 30


def test_a_turn_may_be_taken_again_within_itself_and_is_free_after(log_url):
    turns = MoveLock(log_url)
    with turns.turn():
        with turns.turn():
            pass
        with pytest.raises(StoreUnavailable, match="try again"), MoveLock(log_url, patience=0.05).turn():
            pass
    with MoveLock(log_url, patience=SECONDS).turn():
        pass


def test_threads_of_one_holder_wait_too(log_url):
    turns, failed = MoveLock(log_url, patience=0.05), []

    def move() -> None:
        with pytest.raises(StoreUnavailable), turns.turn():
            pass
        failed.append(True)

    with turns.turn():
        thread = threading.Thread(target=move)
        thread.start()
        thread.join()
    assert failed == [True]


def test_a_holder_that_is_killed_lets_go(log_url):
    with subprocess.Popen([sys.executable, "-c", HOLD, log_url], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreUnavailable), MoveLock(log_url, patience=0.05).turn():
            pass
        holder.kill()
    with MoveLock(log_url, patience=SECONDS).turn():
        pass


def test_a_database_in_memory_is_held_within_the_process():
    turns = MoveLock("sqlite://")
    with turns.turn(), turns.turn():
        pass

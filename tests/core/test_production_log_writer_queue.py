from __future__ import annotations

import subprocess
import sys
import threading

from llmops.production_log.database import WriterQueue

HOLDER = """
import sys
from llmops.production_log.database import WriterQueue
with WriterQueue(sys.argv[1]).turn():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_turn_is_one_writers_alone_and_a_killed_one_leaves_the_queue(tmp_path):
    path = f"{tmp_path}/log.db-writers"
    queue, entered = WriterQueue(path), threading.Event()

    def write() -> None:
        with queue.turn():
            entered.set()

    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        thread = threading.Thread(target=write)
        thread.start()
        assert not entered.wait(0.05)
        other.kill()
    thread.join(10)
    assert entered.is_set()
    queue.close()


def test_threads_take_turns(tmp_path):
    queue, inside, most = WriterQueue(f"{tmp_path}/log.db-writers"), [], []

    def write() -> None:
        for _ in range(50):
            with queue.turn():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.close()
    assert set(most) == {1}
    assert len(most) == 200

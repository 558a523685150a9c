"""Random ids are never given twice, not to threads and not to a forked child."""

import subprocess
import sys

from llmops.random_ids import random_id
from tests.at_once import at_once

_FORKS = """
import os
from llmops.random_ids import random_id
print(random_id())
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, " ".join(random_id() for _ in range(600)).encode())
    os._exit(0)
print(*(random_id() for _ in range(600)), os.read(read, 100_000).decode())
"""


def test_threads_never_get_the_same_id():
    found: list[str] = []
    at_once(*[lambda: found.extend([random_id() for _ in range(5000)])] * 4)
    assert len(set(found)) == len(found) == 20_000
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in found)


def test_a_forked_child_gets_other_ids_than_its_parent():
    done = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, check=True)
    found = done.stdout.split()
    assert len(set(found)) == len(found) == 1201

import subprocess
import sys

_CHILD = """
import threading
from llmops.starter import when_starter_ends
ended = threading.Event()
when_starter_ends(ended.set)
print(ended.wait(0.2), flush=True)
print(ended.wait(60), flush=True)
"""


def test_a_process_learns_that_who_started_it_has_ended():
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "False\n"
        child.stdin.write("what is written is no end")
        child.stdin.close()
        assert child.stdout.readline() == "True\n"

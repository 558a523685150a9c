import signal
import subprocess
import sys

import pytest

from llmops.processes import NOT_STARTED, running

_CHILD = """
import threading
from llmops.processes import when_parent_ends
ended = threading.Event()
when_parent_ends(ended.set)
print(ended.wait(0.2), flush=True)
print(ended.wait(60), flush=True)
"""


def test_a_process_learns_that_who_started_it_has_ended():
    command, pipe = [sys.executable, "-c", _CHILD], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "False\n"
        child.stdin.write("what is written is no end")
        child.stdin.close()
        assert child.stdout.readline() == "True\n"


_TREE = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import signal; print('leaf', flush=True); signal.pause()"])
{stubborn}
import signal; signal.pause()
"""
_STARTER = """
import signal, sys
from llmops import processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job of a shell ignores
processes.TERMINATE_SECONDS = 0.2
with processes.running([sys.executable, "-c", sys.argv[1]]) as process:
    process.wait()
"""


def _tree(stubborn: str) -> subprocess.Popen[str]:
    """A process that runs a program that starts another; all of them hold the pipe that is read from here."""
    starter = subprocess.Popen(
        [sys.executable, "-c", _STARTER, _TREE.format(stubborn=stubborn)], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == "leaf\n"
    return starter


STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.mark.parametrize(
    ("number", "stubborn"),
    [
        (signal.SIGTERM, ""),
        pytest.param(signal.SIGKILL, "", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "", marks=pytest.mark.slow),
        (signal.SIGKILL, STUBBORN),
    ],
)
def test_a_foreign_program_and_what_it_started_end_with_a_starter_that_is_told_to_or_killed(number, stubborn):
    with _tree(stubborn) as starter:
        starter.send_signal(number)
        assert starter.stdout is not None
        assert starter.stdout.read() == ""  # the end of the pipe: nobody holds it any more


def test_a_foreign_programs_exit_code_and_words_come_through_and_one_that_cannot_be_started_is_named():
    words = "import sys; print(sys.stdin.read() == ''); print('e', file=sys.stderr); sys.exit(5)"
    unstarted = b"/no/such: cannot be started: No such file or directory\n"
    for command, told in (
        ([sys.executable, "-c", words], (b"True\n", b"e\n", 5)),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], (b"", b"", 128 + 9)),
        (["/no/such"], (b"", unstarted, NOT_STARTED)),
    ):
        with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert (process.stdout.read(), process.stderr.read(), process.wait()) == told

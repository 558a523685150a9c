"""Progress bars: on a terminal alone, and on standard error."""

import contextlib
import os
import pty
import subprocess
import sys

SHOWN = """
import sys
from llmops.progress import progress_bar
with progress_bar() as show:
    for done in range(1, 4):
        show("qa", done, 3)
print("rich" in sys.modules)
"""


def read_all(terminal):
    shown = b""
    with contextlib.suppress(OSError):  # how Linux says that nobody has the other end open
        while piece := os.read(terminal, 1 << 16):
            shown += piece
    return shown.decode()


def test_a_terminal_shows_a_bar():
    terminal, of_process = pty.openpty()
    command, environment = [sys.executable, "-c", SHOWN], {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=of_process, env=environment) as process:
        os.close(of_process)
        shown = read_all(terminal)
        os.close(terminal)
        assert process.stdout.read() == b"True\n"
    assert "qa" in shown
    assert "3/3" in shown


def test_elsewhere_nothing_is_shown_and_nothing_is_loaded_for_it():
    done = subprocess.run([sys.executable, "-c", SHOWN], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"False\n", b"")

"""Runs a notebook, in a process of its own: a kernel's sockets and threads are not ours to warn about."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

_PROGRAM = """
import sys, nbformat, nbclient
made = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(made, timeout=1200, kernel_name='python3').execute()
nbformat.write(made, sys.argv[1])
"""


def outputs_of(source: Path, environment: Mapping[str, str]) -> list[Any]:
    """Executes the notebook in its folder; returns what its code cells show. Fails where one of them raises."""
    command = [sys.executable, "-c", _PROGRAM, source]
    done = subprocess.run(command, cwd=source.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(source, as_version=4).cells
    return [output for cell in cells if cell.cell_type == "code" for output in cell.outputs]

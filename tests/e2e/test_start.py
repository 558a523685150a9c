"""docs/start.md runs as a new user would follow it: a new project, the real model, and `pytest` there."""

import os
import shlex
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT
from tests.e2e.test_guide import console_commands

WHO = {f"GIT_{role}_{part}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}


@pytest.mark.slow
def test_the_page_runs_as_written(tmp_path):
    commands = console_commands((ROOT / "docs" / "start.md").read_text("utf-8"))
    assert len(commands) >= 10
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, module in (("llmops", "llmops.cli"), ("pytest", "pytest")):
        (bin_folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
        (bin_folder / name).chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LLMOPS_", "PYTEST_", "GIT_"))}
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    path = f"{bin_folder}:{os.environ['PATH']}"
    environment = {**clean, **WHO, "PATH": path, "PYTHONPATH": python_path, "LLMOPS_ENGINE_THREADS": "1"}
    # One shell, so that `cd` stays.
    script = "".join(
        f"{command}\ncode=$?\n[ $code = {expected} ] || {{ echo {shlex.quote(command)}: exit $code; exit 1; }}\n"
        for command, expected in commands
    )
    done = subprocess.run(
        ["bash", "-uc", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "1 passed" in done.stdout
    assert "11 rows" in done.stdout

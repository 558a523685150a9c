"""Runs the commands of the guides, in order, as a reader would: every `$ ` line of their console blocks."""

import shlex
import shutil
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT
from tests.page_commands import console_commands


@pytest.mark.slow
@pytest.mark.parametrize("page", ["guide.md", "monitoring.md"])
def test_the_guide_runs_as_written(demo, page):
    commands = console_commands((ROOT / "docs" / page).read_text("utf-8"))
    assert len(commands) >= 10
    environment = demo.place.environment
    # `llmops` as the reader has it: the one of this environment.
    shim = demo.place.folder / "bin" / "llmops"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m llmops.cli "$@"\n')
    shim.chmod(0o755)
    # What readers copy from their checkout.
    (demo.place.folder / "monitoring").mkdir(exist_ok=True)
    shutil.copy(ROOT / "monitoring" / "default.toml", demo.place.folder / "monitoring")
    environment["PATH"] = f"{shim.parent}:{environment['PATH']}"
    for command, expected in commands:
        done = subprocess.run(
            ["bash", "-euc", command], env=environment, cwd=demo.place.folder, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == expected, f"$ {command}\n{done.stdout}\n{done.stderr}"

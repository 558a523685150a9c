"""docs/start.md runs as a new user would follow it: a new project, the real model, and `pytest` there."""

import pytest

from tests.page_commands import ROOT, console_commands, run_in_one_shell

WHO = {f"GIT_{role}_{part}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}


@pytest.mark.slow
def test_the_page_runs_as_written(tmp_path):
    commands = console_commands((ROOT / "docs" / "start.md").read_text("utf-8"))
    assert len(commands) >= 10
    told = run_in_one_shell(commands, tmp_path, **WHO, LLMOPS_ENGINE_THREADS="1")
    assert "1 passed" in told
    assert "11 rows" in told

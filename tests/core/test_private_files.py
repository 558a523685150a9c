"""State is for its owner alone."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmops.evaluation.generation_cache import GenerationCache
from llmops.processes import make_scratch_folder, scratch_folder, sweep_scratch_folders
from llmops.production_log import ProductionLog
from llmops.state_files import keep_private, make_private_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def open_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_new_log_its_folder_and_what_lies_beside_it_are_the_owners_alone(tmp_path):
    home = tmp_path / "deep" / "home"
    log = ProductionLog(f"sqlite:///{home / 'log.db'}")
    assert (mode(home), mode(home.parent)) == (0o700, 0o700)
    assert {path.name: mode(path) for path in home.iterdir()} == dict.fromkeys(
        ("log.db", "log.db-wal", "log.db-shm", "log.db-writers"), 0o600
    )
    log.close()


def test_a_file_made_readable_before_is_mended_when_it_is_opened(tmp_path):
    path = tmp_path / "log.db"
    sqlite3.connect(path).execute("CREATE TABLE old (x)").connection.close()
    path.chmod(0o664)
    log = ProductionLog(f"sqlite:///{path}")
    assert {mode(each) for each in tmp_path.iterdir()} == {0o600}
    log.close()


def test_the_generation_cache_is_private(tmp_path):
    cache = GenerationCache(tmp_path / "cache")
    assert mode(tmp_path / "cache") == 0o700
    assert {mode(path) for path in (tmp_path / "cache").iterdir()} == {0o600}
    cache.close()


def test_a_shared_folder_and_an_existing_one_are_left_as_they_are(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    keep_private(shared)
    make_private_folder(shared)
    assert mode(shared) == 0o1777
    keep_private(tmp_path / "missing")


def test_folders_of_killed_processes_are_swept_and_those_of_living_ones_stay(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "from llmops.processes import make_scratch_folder; print(make_scratch_folder('engine'))"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    killed = Path(subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True,
                                 text=True).stdout.strip())  # fmt: skip
    (tmp_path / "llmops-notes").mkdir()
    mine = make_scratch_folder("engine")
    assert mode(mine) == 0o700
    with scratch_folder("metrics") as open_folder:
        assert sweep_scratch_folders() == 1
        assert open_folder.exists()
    assert (killed.exists(), mine.exists(), open_folder.exists()) == (False, True, False)
    assert (tmp_path / "llmops-notes").exists()

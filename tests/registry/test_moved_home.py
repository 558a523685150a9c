"""A home that is moved or copied works where it is now, and two homes never write into each other."""

import hashlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import StoreUnavailable
from llmops.eval_runs.evaluations import Evaluations, RunOptions
from llmops.recording import EvalRecorder
from llmops.recording.cell import lost_eval_runs
from llmops.registry import Registry
from llmops.registry.store import HOME_TAG
from llmops.settings import Settings

Snapshot = dict[str, str]


def evaluate(settings: Settings, seed: int = 0) -> Any:
    """One eval run of the fake engine in that home."""
    evaluations = Evaluations(settings, Registry(settings))
    suite = evaluations.suite("sums")
    cells = evaluations.cells(suite, ["qa@1"], (), ())
    return next(iter(evaluations.run(suite, cells, RunOptions(seed=seed), lambda *_: None)))


def files(home: Path) -> Snapshot:
    """sha256 of every file of a home."""
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


def texts(database: Path) -> list[tuple[str, str, str]]:
    """Every text in a database, with its table and column."""
    with sqlite3.connect(database) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [
            (table, column, value)
            for table in tables
            for _, column, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall()
            for (value,) in connection.execute(f'SELECT "{column}" FROM "{table}"')  # noqa: S608
            if isinstance(value, str)
        ]


@pytest.fixture
def at_home(workshop, tmp_path):
    """Copies the module's home, with one eval run in it, to a folder of that name."""
    evaluate(workshop.settings)

    def copy(name: str) -> Settings:
        shutil.copytree(workshop.settings.home, tmp_path / name)
        return Settings(home=tmp_path / name, eval_sets=workshop.folder, engine="fake", engine_slots=4)

    return copy


@pytest.mark.slow
def test_a_copied_home_holds_no_location_of_where_it_was_and_the_two_never_write_into_each_other(workshop, at_home):
    settings = at_home("copied")
    Registry(settings)
    assert not [each for *each, text in texts(settings.home / "mlflow.db") if str(workshop.settings.home) in text]
    original = files(workshop.settings.home)
    made = evaluate(settings, seed=1)
    assert files(workshop.settings.home) == original
    assert any(made.run.run_id in name for name in files(settings.home))
    copied = files(settings.home)
    again = evaluate(workshop.settings, seed=2)
    assert files(settings.home) == copied
    assert any(again.run.run_id in name for name in files(workshop.settings.home))


@pytest.mark.slow
def test_runs_of_a_moved_home_are_read_where_it_is_now(workshop, at_home, tmp_path):
    first = at_home("first")
    done = evaluate(first)
    expected = list(EvalRecorder(Registry(first).store).rows(done.run))
    (tmp_path / "first").rename(tmp_path / "second")
    settings = Settings(home=tmp_path / "second", eval_sets=workshop.folder, engine="fake")
    registry = Registry(settings)
    client = registry.store.client
    assert list(EvalRecorder(registry.store).rows(done.run)) == expected
    stored = client.list_artifacts(done.run.run_id)
    assert stored
    (tmp_path / "taken").mkdir()
    assert Path(client.download_artifacts(done.run.run_id, stored[0].path, str(tmp_path / "taken"))).stat().st_size
    assert not first.home.exists()


@pytest.mark.slow
def test_a_home_of_an_older_version_is_followed_and_artifacts_that_were_set_elsewhere_stay(at_home, tmp_path):
    older = at_home("older")
    Registry(older)
    with sqlite3.connect(older.home / "mlflow.db") as connection:
        connection.execute("DELETE FROM experiment_tags WHERE key = ?", (HOME_TAG,))
    older.home.rename(tmp_path / "newer")
    Registry(Settings(home=tmp_path / "newer"))
    assert [text for *_, text in texts(tmp_path / "newer" / "mlflow.db") if str(older.home) in text] == []

    elsewhere = tmp_path / "big-disk" / "artifacts"
    Registry(Settings(home=tmp_path / "before", artifacts=str(elsewhere)))
    elsewhere.mkdir(parents=True)
    (tmp_path / "before").rename(tmp_path / "after")
    store = Registry(Settings(home=tmp_path / "after", artifacts=str(elsewhere))).store
    assert store.client.get_experiment(store.experiment()).artifact_location == (elsewhere / "llmops").as_uri()


def test_a_store_copied_without_its_artifacts_is_refused_by_name(workshop, at_home):
    settings = at_home("half")
    shutil.rmtree(settings.home / "artifacts")
    with pytest.raises(StoreUnavailable, match=f"copied from {workshop.settings.home} without its artifacts"):
        Registry(settings)


def test_a_run_whose_rows_were_lost_is_recorded_again(workshop, at_home):
    settings = at_home("lost")
    lost = evaluate(settings).run
    shutil.rmtree(settings.home / "artifacts" / "sums" / lost.run_id)
    assert lost_eval_runs(Registry(settings).store) == [f"sums: qa@1 on tiny@1 ({lost.run_id})"]
    again = evaluate(settings)
    assert again.run.run_id != lost.run_id
    assert (again.generated, again.from_cache) == (0, 24)
    assert len(EvalRecorder(Registry(settings).store).rows(again.run)) == 24

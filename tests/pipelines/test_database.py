"""Where pipelines keep their state, and the lock of a cycle."""

import subprocess
import sys

import pytest

from llmops.errors import StoreUnavailable
from llmops.pipelines import Pipelines
from llmops.pipelines.database import database_url, has_tables, is_held, only_one
from llmops.settings import Settings

HOLDER = """
import sys, time
from llmops.pipelines.database import database_url, only_one
with only_one(database_url(sys.argv[1]), "a", lambda: None):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mysql://ann:secret@db/x", r"pipelines mysql://ann:\*\*\*@db/x: must be a SQLite file or PostgreSQL"),
        ("sqlite://", "must be a SQLite file or PostgreSQL"),
        ("nonsense", "not a database URL"),
    ],
)
def test_another_database_is_refused_without_its_password(url, text):
    with pytest.raises(StoreUnavailable, match=text) as raised:
        database_url(url)
    assert "secret" not in str(raised.value)


def test_postgresql_is_reached_by_psycopg():
    for name in ("postgresql", "postgres", "postgresql+psycopg"):
        assert database_url(f"{name}://db/x").drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://ann:secret@/x?host={folder}", r"pipelines postgresql\+psycopg://ann:\*\*\*@/x"),  # nobody there
        ("sqlite:///{folder}/pipelines.db", r"pipelines\.db: file is not a database"),
    ],
)
def test_a_database_that_cannot_be_read_is_one_line(tmp_path, url, said):
    (tmp_path / "pipelines.db").write_text("no database at all, " * 100)
    with pytest.raises(StoreUnavailable, match=said) as raised:
        Pipelines(Settings(home=tmp_path, pipelines_url=url.format(folder=tmp_path))).runs()
    assert "\n" not in str(raised.value)


def test_a_database_without_the_tables_has_none(tmp_path):
    assert not has_tables(database_url(f"sqlite:///{tmp_path}/deep/p.db"))
    assert not (tmp_path / "deep" / "p.db").exists()


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_lock_ends_with_the_process_that_holds_it(database, tmp_path, request):
    is_file = database == "sqlite"
    text = f"sqlite:///{tmp_path}/p.db" if is_file else request.getfixturevalue("postgres_database")
    url = database_url(text)
    with subprocess.Popen([sys.executable, "-c", HOLDER, text], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert is_held(url, "a")
        assert not is_held(url, "b")
        waited = []

        def waiting():
            waited.append(True)
            holder.kill()

        with only_one(url, "a", waiting):
            assert is_held(url, "a")
        assert waited == [True]
    with only_one(url, "a", lambda: pytest.fail("the lock is free")):
        pass

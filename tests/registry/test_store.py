"""What goes wrong at the store's door becomes an error that says so: taken names, stores that are not there."""

import socket
import sqlite3
import time

import pytest

from llmops.errors import StoreUnavailable, UsageError
from llmops.registry import Registry
from llmops.registry.store import HOME_TAG
from llmops.settings import Settings
from tests.registry.conftest import model, template

KINDS = ("prompt", "model", "app", "tabular")


@pytest.fixture
def take(registry, logged):
    """Registers something of a kind by that name."""

    def make(kind: str, name: str) -> object:
        if kind == "prompt":
            return registry.prompts.register(name, template())
        if kind == "model":
            return registry.models.register(model(name))
        if kind == "tabular":
            return registry.tabular_versions.register(name, logged())
        prompt, _ = registry.prompts.register("shared-prompt", template())
        version, _ = registry.models.register(model("shared-model"))
        return registry.release_versions.create(name, prompt, version, prompt.template.parameters)

    return make


@pytest.mark.parametrize("holder", KINDS)
def test_a_name_belongs_to_one_kind(registry, take, name, holder):
    take(holder, name)
    taken = "a prompt has this name" if holder == "prompt" else "something else by this name"
    for other in set(KINDS) - {holder}:
        with pytest.raises(UsageError, match=f"{name}: .*{taken}" if other != "prompt" else name):
            take(other, name)
    of_kind = {
        "prompt": registry.prompts.versions,
        "model": registry.models.versions,
        "app": registry.release_versions.versions,
        "tabular": registry.tabular_versions.versions,
    }
    held = {kind: len(versions(name)) for kind, versions in of_kind.items()}
    assert held == {**dict.fromkeys(KINDS, 0), holder: 1}


def test_an_experiment_keeps_its_id_and_its_artifacts_below_the_home(registry, settings):
    first = registry.store.experiment("one")
    assert registry.store.experiment("one") == first
    assert Registry(settings).store.experiment("one") == first
    assert registry.store.experiment("two") != first
    location = registry.store.client.get_experiment(first).artifact_location
    assert location == (settings.home / "artifacts" / "one").as_uri()


def test_a_home_that_came_from_a_folder_which_cannot_be_looked_at_is_followed(registry, settings):
    unreadable = f"/{'x' * 300}"  # stat fails on it, as on another user's folder
    with sqlite3.connect(settings.home / "mlflow.db") as connection:
        connection.execute("UPDATE experiment_tags SET value = ? WHERE key = ?", (unreadable, HOME_TAG))
    Registry(settings)
    with sqlite3.connect(settings.home / "mlflow.db") as connection:
        found = connection.execute("SELECT value FROM experiment_tags WHERE key = ?", (HOME_TAG,)).fetchone()
    assert found == (str(settings.home.resolve()),)


@pytest.mark.parametrize(
    ("home", "uri", "told"),
    [
        ("damaged/mlflow.db/home", None, r"MLflow store .*mlflow\.db"),
        ("damaged", None, r"mlflow\.db: file is not a database"),
        ("new", "sqlite:///{folder}/absent/mlflow.db", "unable to open database file"),
    ],
)
def test_a_store_that_cannot_be_opened_is_told_at_once(registry, tmp_path, home, uri, told):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "mlflow.db").write_bytes(b"this is no database at all, but long enough" * 100)
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match=told):
        Registry(Settings(home=tmp_path / home, tracking_uri=uri and uri.format(folder=tmp_path)))
    assert time.monotonic() - start < 10  # MLflow alone tries again for 100 seconds


def test_no_store_is_made_where_the_artifacts_of_a_lost_one_lie(registry, tmp_path):
    (tmp_path / "artifacts" / "1" / "run").mkdir(parents=True)
    with pytest.raises(StoreUnavailable, match=r"mlflow\.db is missing.*put a backup in its place"):
        Registry(Settings(home=tmp_path))
    assert not (tmp_path / "mlflow.db").exists()


def test_a_server_that_does_not_answer_is_an_unavailable_store(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    start = time.monotonic()
    with socket.socket() as bound:  # not listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(StoreUnavailable, match=uri) as caught:
            Registry(Settings(home=tmp_path, tracking_uri=uri))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20

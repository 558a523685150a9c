"""Tabular models in a real MLflow store: registered once, whatever happens in between, and fetched with a check."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import CannotRun, Corrupted, GateRefused, UnknownVersion, UsageError
from llmops.registry import Registry
from llmops.versions import TabularVersion
from tests.at_once import at_once
from tests.registry.conftest import SCHEMA

DATA = {"data_sha256": "d" * 64, "licence": "CC BY 4.0", "rows": 17379}


def test_a_version_comes_back_as_it_was_registered_and_mlflow_shows_it(tabular, registry, name, logged, settings):
    one = logged()

    version, is_new = tabular.register(name, one, cycle="2011-12", provenance=DATA)
    assert is_new
    assert version == TabularVersion(
        name, 1, one.sha256, one.run_id, SCHEMA, one.model_uri, (), one.model_id, version.created_at, DATA, "2011-12"
    )
    assert version.created_at > 0
    shown = registry.store.client.get_logged_model(version.model_id).tags["mlflow.modelVersions"]
    tags = registry.store.client.get_model_version(name, "1").tags
    assert json.loads(shown) == [{"name": name, "version": "1"}]
    assert (tags["data_sha256"], tags["licence"]) == (DATA["data_sha256"], DATA["licence"])
    other = Registry(settings)
    assert other.tabular_versions.versions(name) == [version]
    assert name in other.tabular_versions.names()
    assert name not in [*other.release_versions.names(), *(model.name for model in other.model_versions())]


def test_the_same_content_is_the_same_version_and_a_cycle_registers_one(tabular, name, logged):
    first, _ = tabular.register(name, logged(), provenance=DATA)
    assert tabular.register(name, logged(), provenance={**DATA, "rows": 1}) == (first, False)
    for position, (estimator, given) in enumerate(
        (
            (logged(b"other"), {"provenance": DATA}),
            (logged(schema={**SCHEMA, "task": "x"}), {"provenance": DATA}),
            (logged(), {"provenance": {"data_sha256": "e" * 64}}),
            (logged(b"one"), {"cycle": "c1"}),
            (logged(b"two"), {"cycle": "c2"}),
        ),
        2,
    ):
        version, is_new = tabular.register(name, estimator, **given)
        assert (version.version, is_new) == (position, True)
    trained_again, is_new = tabular.register(name, logged(b"three"), cycle="c1")
    assert (trained_again.version, is_new) == (5, False)


@pytest.mark.parametrize("width", [100, 1000])
def test_a_schema_longer_than_a_tag_comes_back_whole_and_such_provenance_or_a_name_with_a_version_is_refused(
    tabular, registry, name, logged, width
):
    with pytest.raises(UsageError, match="provenance: 5,"):
        tabular.register(name, logged(), provenance={"note": "x" * 5000})
    with pytest.raises(UsageError, match="has no version"):
        tabular.register(f"{name}@1", logged())
    assert registry.store.registered_model(name) is None
    columns = [{"name": f"column {number}", "kind": "number", "nullable": False} for number in range(width)]
    wide = {**SCHEMA, "inputs": columns}
    tabular.register(name, logged(schema=wide))
    assert tabular.versions(name)[0].schema == wide
    assert registry.registered().tabular[name][0].schema == wide
    assert all(len(value) <= 5000 for value in registry.store.client.get_model_version(name, "1").tags.values())


@pytest.mark.parametrize(
    "write", ["create_registered_model", "create_model_version", "set_logged_model_tags", "append"]
)
@pytest.mark.parametrize("before", [True, False])
def test_a_registration_that_is_cut_off_is_finished_by_the_next_call(
    tabular, registry, name, logged, monkeypatch, write, before
):
    one, owner = logged(), registry.audit if write == "append" else registry.store.client
    call = getattr(owner, write)

    def cut(*args: Any, **kwargs: Any) -> None:
        if not before:
            call(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(owner, write, cut)
        with pytest.raises(KeyboardInterrupt):
            tabular.register(name, one, cycle="c1")
    version, _ = tabular.register(name, one, cycle="c1")
    assert tabular.versions(name) == [version]
    assert len(registry.store.client.search_model_versions(f"name = '{name}'")) == 1
    assert "mlflow.modelVersions" in registry.store.client.get_logged_model(one.model_id).tags
    assert [(entry.action, entry.subject) for entry in registry.audit.entries(name)] == [("register", f"{name}@1")]


def test_two_at_once_make_one_version(tabular, registry, name, logged, settings):
    one, made = logged(), []
    books = (tabular, Registry(settings).tabular_versions)
    at_once(*(lambda book=book: made.append(book.register(name, one, cycle="c1")) for book in books))
    assert [version.ref for version, _ in made] == [f"{name}@1"] * 2
    assert sorted(new for _, new in made) == [False, True]
    assert len(tabular.versions(name)) == 1


def test_gates_promotions_and_rollbacks_are_those_of_releases_and_seen_at_the_next_look(registry, name, logged):
    book = registry.tabular_versions
    with pytest.raises(UnknownVersion, match=f"no tabular model '{name}' has versions; a lab or a pipeline"):
        book.get(name)
    first, second = (book.register(name, logged(text))[0] for text in (b"one", b"two"))
    with pytest.raises(UnknownVersion, match=f"no version {name}@7; there are {name}@1, {name}@2"):
        book.get(f"{name}@7")
    seen = registry.registered()
    assert seen.tabular[name] == (first, second)
    assert registry.registered() is seen

    with pytest.raises(GateRefused, match=rf"{name}@1 has no passing gate .*lab or pipeline.*--force --why"):
        book.promote(first)
    book.record_gate(first, "bike", {"verdict": "pass", "reasons": [], "against": None})
    assert book.promote(first) is None
    assert registry.registered().tabular[name] == (dataclasses.replace(first, aliases=("champion",)), second)
    assert name not in registry.registered().releases
    book.challenge(second)
    assert book.gates(first)["bike"]["verdict"] == "pass"
    assert book.promote(book.get(f"{name}@challenger"), why="better by hand").ref == first.ref
    assert book.get(name).ref == second.ref
    new, left = book.roll_back(name)
    assert (new.ref, left.ref) == (first.ref, second.ref)
    assert book.champion(name).aliases == ("champion",)
    assert [move["what"] for move in book.history(name)] == ["promote", "challenge", "promote", "rollback"]
    with pytest.raises(GateRefused, match=f"{name}@2 was rolled back itself"):
        book.roll_back(name)


def test_fetch_gives_the_folder_and_refuses_what_is_not_what_was_registered(tabular, name, logged):
    version, _ = tabular.register(name, logged())
    folder = tabular.fetch(version)
    assert (folder / "model.skops").read_bytes() == b"forest"
    assert (folder / "MLmodel").is_file()
    (folder / "model.skops").write_bytes(b"another")
    with pytest.raises(Corrupted, match="another sha256"):
        tabular.fetch(version)
    shutil.rmtree(folder)
    with pytest.raises(CannotRun, match="is gone"):
        tabular.fetch(version)


def test_what_lies_elsewhere_is_downloaded_once(tabular, registry, name, logged, settings, monkeypatch):
    import mlflow

    version, _ = tabular.register(name, logged(b"far away"))
    here, downloads = tabular.fetch(version), []

    def download(*, artifact_uri: str, dst_path: str, tracking_uri: str) -> str:
        downloads.append(artifact_uri)
        return str(shutil.copytree(here, Path(dst_path) / "estimator"))

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
    monkeypatch.setattr(registry.store.client, "get_model_version_download_uri", lambda *_: "s3://bucket/far")
    folders = {tabular.fetch(version) for _ in range(2)}
    assert downloads == ["s3://bucket/far"]
    (folder,) = folders
    assert folder.parent == settings.home / "tabular"
    assert (folder / "model.skops").read_bytes() == b"far away"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]

"""The client that reads MLflow's tables itself, beside MLflow's own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.services.servers import PostgresServer
from llmops.errors import UnknownVersion
from llmops.registry import Registry
from llmops.registry.mlflow_database import DatabaseClient
from llmops.registry.store import Store, pages
from llmops.settings import Settings
from llmops.traffic_policy import TrafficPolicy
from tests.registry.conftest import model, template

DATASET = ("name", "digest", "source_type", "source", "schema", "profile")
WANTED = "tags.`kind` = 'wanted'"


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with something of everything, put there by MLflow's own client."""
    tracking_uri = None
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        tracking_uri = server.new_database("read_by_two").replace("postgresql://", "postgresql+psycopg://")
    registry = Registry(Settings(home=tmp_path_factory.mktemp("home"), tracking_uri=tracking_uri))
    client = registry.store.mlflow_client
    prompts = [registry.prompts.register("qa", template(text))[0] for text in ("Answer.", "Answer briefly.")]
    version, _ = registry.models.register(model("tiny"))
    made = [registry.release_versions.create("app", prompt, version, template().parameters)[0] for prompt in prompts]
    for release in made:
        registry.release_versions.promote(release, why="to begin with")
    registry.release_versions.set_policy("app", TrafficPolicy(canary=0.25))
    client.create_registered_model("empty")
    client.create_registered_model("shrunk")
    for _ in range(2):
        client.create_model_version("shrunk", "nowhere")
    client.delete_model_version("shrunk", "2")
    experiment = registry.store.experiment("runs")
    for number in range(3):
        tags = {"kind": "wanted" if number else "other", "mlflow.user": "anna"}
        run_id = client.create_run(
            experiment, start_time=1000 + number, tags=tags, run_name=f"run {number}"
        ).info.run_id
        for name, value in (("accuracy", 0.5 + number), ("undefined", float("nan"))):
            client.log_metric(run_id, name, value)
        client.log_param(run_id, "seed", number)
        client.log_dict(run_id, {"n": [number, None]}, "folder/numbers.json")
        client.log_text(run_id, "words", "words.txt")
        _use_dataset(client, run_id)
    client.delete_run(client.create_run(experiment, tags={"kind": "wanted"}).info.run_id)
    yield registry.store
    registry.store.client.database.dispose()


def _use_dataset(client: Any, run_id: str) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset("rows", "0" * 16, "local", '{"uri": "rows.jsonl"}', schema='{"a": 1}', profile='{"num_rows": 3}')
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])])


def _run_ids(client: Any) -> list[str]:
    experiment = client.get_experiment_by_name("runs").experiment_id
    return [run.info.run_id for run in client.search_runs([experiment], order_by=["attributes.start_time ASC"])]


def _registered(item: Any) -> dict[str, Any]:
    names = ("name", "creation_timestamp", "last_updated_timestamp", "description", "tags")
    aliases = {alias: int(version) for alias, version in item.aliases.items()}
    newest = max((int(each.version) for each in item.latest_versions), default=0)
    return {**{name: getattr(item, name) for name in names}, "aliases": aliases, "newest": newest}


def _version(item: Any) -> dict[str, Any]:
    names = (
        "name",
        "creation_timestamp",
        "last_updated_timestamp",
        "description",
        "user_id",
        "source",
        "run_id",
        "tags",
    )
    return {**{name: getattr(item, name) for name in names}, "version": int(item.version)}


def _prompt_version(item: Any) -> dict[str, Any]:
    names = ("name", "template", "commit_message", "aliases")
    ours = {key: value for key, value in item.tags.items() if key.startswith("llmops.")}
    return {**{name: getattr(item, name) for name in names}, "version": int(item.version), "tags": ours}


def _experiment(item: Any) -> tuple[str, ...]:
    return (item.experiment_id, item.name, item.artifact_location)


def _run(item: Any) -> dict[str, Any]:
    names = ("run_id", "run_name", "experiment_id", "status", "start_time", "end_time", "artifact_uri")
    metrics = {name: repr(value) for name, value in item.data.metrics.items()}
    datasets = [
        ({name: getattr(used.dataset, name) for name in DATASET}, [(tag.key, tag.value) for tag in used.tags])
        for used in item.inputs.dataset_inputs
    ]
    info = {name: getattr(item.info, name) for name in names}
    return {**info, "tags": item.data.tags, "params": item.data.params, "metrics": metrics, "datasets": datasets}


READ = {
    "a registered model": lambda c: _registered(c.get_registered_model("app")),
    "registered models": lambda c: [_registered(item) for item in pages(c.search_registered_models, at_a_time=1)],
    "versions": lambda c: sorted(
        (_version(item) for item in c.search_model_versions("name = 'app'")), key=lambda item: item["version"]
    ),
    "versions of nothing": lambda c: list(c.search_model_versions("name = 'nothing'")),
    "versions in other words": lambda c: [_version(item) for item in c.search_model_versions("name ILIKE 'TIN%'")],
    "a version": lambda c: _version(c.get_model_version("app", "2")),
    "a prompt": lambda c: c.get_prompt("qa").tags,
    "no prompt": lambda c: (c.get_prompt("app"), c.get_prompt("nothing")),
    "prompts": lambda c: [(item.name, item.tags) for item in c.search_prompts(max_results=10)],
    "prompt versions": lambda c: sorted(int(item.version) for item in c.search_prompt_versions("qa", max_results=10)),
    "a prompt version": lambda c: _prompt_version(c.get_prompt_version("qa", "2")),
    "an experiment": lambda c: _experiment(c.get_experiment_by_name("runs")),
    "an experiment by its id": lambda c: _experiment(c.get_experiment("0")),
    "no experiment": lambda c: c.get_experiment_by_name("nothing"),
    "experiments": lambda c: sorted(_experiment(item) for item in pages(c.search_experiments, at_a_time=2)),
    "runs": lambda c: [_run(c.get_run(run_id)) for run_id in _run_ids(c)],
    "runs by a tag": lambda c: [
        _run(run)
        for run in pages(
            c.search_runs,
            at_a_time=1,
            experiment_ids=[c.get_experiment_by_name("runs").experiment_id],
            filter_string=f"{WANTED} and tags.`mlflow.user` != ''",
            order_by=["attributes.start_time DESC"],
        )
    ],
    "runs by the beginning of their id": lambda c: [
        run.info.run_id
        for run in c.search_runs(
            [c.get_experiment_by_name("runs").experiment_id],
            f"attributes.run_id LIKE '{_run_ids(c)[1][:8]}%' and {WANTED}",
            max_results=5,
        )
    ],
    "runs in other words": lambda c: [
        run.info.run_name
        for run in c.search_runs([c.get_experiment_by_name("runs").experiment_id], "metrics.accuracy > 1.0")
    ],
    "artifacts": lambda c: [(item.path, item.is_dir) for item in c.list_artifacts(_run_ids(c)[0])],
    "artifacts in a folder": lambda c: [
        (item.path, item.is_dir) for item in c.list_artifacts(_run_ids(c)[0], "folder")
    ],
    "no artifacts": lambda c: list(c.list_artifacts(_run_ids(c)[0], "nothing")),
}


@pytest.mark.parametrize("what", READ)
def test_it_reads_what_mlflows_own_client_reads(store, what):
    assert isinstance(store.client, DatabaseClient)
    assert READ[what](store.client) == READ[what](store.mlflow_client)


@pytest.mark.parametrize(
    "read",
    [
        lambda c, _: c.get_registered_model("nothing"),
        lambda c, _: c.get_registered_model("qa"),  # a prompt is none
        lambda c, _: c.get_model_version("app", "9"),
        lambda c, _: c.set_model_version_tag("app", "9", "a", "b"),
        lambda c, _: c.set_registered_model_alias("app", "best", "9"),
        lambda c, _: c.set_registered_model_tag("nothing", "a", "b"),
        lambda c, _: c.get_run("0" * 32),
        lambda c, _: c.set_tag("0" * 32, "a", "b"),
        lambda c, folder: c.download_artifacts(_run_ids(c)[0], "nothing.txt", str(folder)),
    ],
)
def test_what_is_not_there_is_unknown_to_both(store, read, tmp_path):
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException):
        read(store.mlflow_client, tmp_path)
    with pytest.raises(UnknownVersion):
        read(store.client, tmp_path)


def test_files_are_fetched_as_mlflow_does(store, tmp_path):
    run_id = _run_ids(store.client)[0]
    assert Path(store.client.download_artifacts(run_id, "words.txt")).read_text(encoding="utf-8") == "words"
    for path in ("words.txt", "folder/numbers.json", "folder"):
        for number, client in enumerate((store.client, store.mlflow_client)):
            (tmp_path / str(number)).mkdir(exist_ok=True)
            fetched = Path(client.download_artifacts(run_id, path, str(tmp_path / str(number))))
            assert fetched == tmp_path / str(number) / Path(path).name
    files = [
        {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "0", tmp_path / "1")
    ]
    assert files[0] == files[1]
    assert len(files[0]) == 3


def test_what_it_writes_mlflows_own_client_reads(store):
    client, mlflow = store.client, store.mlflow_client
    for value in ("first", "second"):
        client.set_registered_model_tag("app", "said", value)
        client.set_model_version_tag("app", "1", "said", value)
        client.set_tag(_run_ids(client)[0], "said", value)
        assert mlflow.get_registered_model("app").tags["said"] == value
        assert mlflow.get_model_version("app", "1").tags["said"] == value
        assert mlflow.get_run(_run_ids(client)[0]).data.tags["said"] == value
    for version in ("1", "2"):
        client.set_registered_model_alias("app", "best", version)
        assert mlflow.get_model_version_by_alias("app", "best").version == int(version)
    client.delete_registered_model_alias("app", "best")
    client.delete_registered_model_tag("app", "said")
    left = mlflow.get_registered_model("app")
    assert ("best" in left.aliases, "said" in left.tags) == (False, False)


LOOKS = """
import sys
from llmops.cli import main
for line in ("prompts list", "models list", "release list app", "promote app@1 --force --why because", "rollback app"):
    sys.argv = ["llmops", *line.split()]
    try:
        main()
    except SystemExit as left:
        assert not left.code, (line, left.code)
    heavy = {"mlflow", "pandas", "pyarrow", "scipy", "torch"} & sys.modules.keys()
    assert not heavy, (line, heavy)
"""


def test_commands_that_look_and_move_import_neither_mlflow_nor_what_computes(store):
    environment = {**os.environ, "LLMOPS_HOME": str(store.settings.home), "LLMOPS_TRACKING_URI": store.uri}
    done = subprocess.run([sys.executable, "-c", LOOKS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""MLflow's client for what is read or moved often, on MLflow's own tables: it answers in a fraction of the 2 s and the
200 MB that importing MLflow takes, which all else it is asked for still does.

The tables are those of one schema revision, `REVISION`: a store of any other is left to MLflow alone. A test holds the
two clients side by side, method by method, on SQLite and PostgreSQL.
"""

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import sqlalchemy as sa

from llmops.errors import UnknownVersion
from llmops.production_log import insert_into

REVISION = "dc11669786a5"
"""MLflow's last migration, as its `alembic_version` names it."""

_WORKSPACE = "default"
_IS_PROMPT, _PROMPT_TEXT, _PROMPT_TYPE = "mlflow.prompt.is_prompt", "mlflow.prompt.text", "_mlflow_prompt_type"
_AT_A_TIME = 500
"""Runs or versions whose tags are read in one query: SQLite allows 32,766 parameters."""


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *map(sa.column, columns))


_models = _table("registered_models", "workspace", "name", "creation_time", "last_updated_time", "description")
_model_tags = _table("registered_model_tags", "workspace", "name", "key", "value")
_aliases = _table("registered_model_aliases", "workspace", "name", "alias", "version")
_versions = _table(
    "model_versions",
    *("workspace", "name", "version", "creation_time", "last_updated_time"),
    *("description", "user_id", "current_stage", "source", "run_id"),
)
_version_tags = _table("model_version_tags", "workspace", "name", "version", "key", "value")
_experiments = _table("experiments", "workspace", "experiment_id", "name", "artifact_location", "lifecycle_stage")
_runs = _table(
    "runs",
    *("run_uuid", "name", "status", "start_time", "end_time", "lifecycle_stage", "artifact_uri", "experiment_id"),
)
_run_tags, _run_params = _table("tags", "run_uuid", "key", "value"), _table("params", "run_uuid", "key", "value")
_run_metrics = _table("latest_metrics", "run_uuid", "key", "value", "is_nan")
_inputs = _table("inputs", "input_uuid", "source_type", "source_id", "destination_type", "destination_id")
_input_tags = _table("input_tags", "input_uuid", "name", "value")
_datasets = _table(
    "datasets",
    *("dataset_uuid", "name", "digest", "dataset_source_type", "dataset_source", "dataset_schema", "dataset_profile"),
)
_MARKS = (
    sa.select(_models.c.name, _models.c.last_updated_time),
    sa.select(_aliases.c.name, _aliases.c.alias, _aliases.c.version),
    sa.select(_model_tags.c.name, _model_tags.c.key, _model_tags.c.value),
)
_CONDITION = re.compile(
    r"tags\.`(?P<tag>[^`]+)` (?P<compared>=|!=) '(?P<value>[^']*)'|attributes\.run_id LIKE '(?P<like>[^']*)'"
)


class Page(list[Any]):
    """What a search found. token: of the next page; empty when this is the last."""

    token = ""


class DatabaseClient:
    """The part of `mlflow.MlflowClient` that reads registered models, prompts, experiments and runs with their local
    files, and that sets tags and aliases. Its results have the attributes that llmops reads of MLflow's.

    Every other method, and a search in words that are not known here, is MLflow's own. Raises UnknownVersion where
    MLflow finds nothing; the database's errors pass through.
    """

    def __init__(self, database: sa.Engine, mlflow_client: Callable[[], Any]) -> None:
        """database: holds MLflow's tables at `REVISION`. mlflow_client: gives MLflow's own client."""
        self.database, self._mlflow_client = database, mlflow_client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mlflow_client(), name)

    def marks(self) -> Sequence[Any]:
        """What changes with any registered model, its aliases, tags or set of versions; far cheaper than a search."""
        return [self._all(query) for query in _MARKS]

    def get_registered_model(self, name: str) -> Any:
        models = self._registered(name)
        if not models or _IS_PROMPT in models[0].tags:
            raise UnknownVersion(f"Registered Model with name={name} not found")
        return models[0]

    def search_registered_models(self, max_results: int = 100, page_token: str | None = None) -> Page:
        models = [item for item in self._registered() if item.tags.get(_IS_PROMPT) != "true"]
        start = int(page_token or 0)
        return _page(models[start:], max_results, start)

    def search_model_versions(self, filter_string: str) -> Any:
        named = re.fullmatch(r"name = '([^']+)'", filter_string)
        if named is None:
            return self._mlflow_client().search_model_versions(filter_string)
        return [item for item in self._versions(named[1]) if _IS_PROMPT not in item.tags]

    def get_model_version(self, name: str, version: str) -> Any:
        for item in self._versions(name, version=int(version)):
            return item
        raise UnknownVersion(f"Model Version (name={name}, version={version}) not found")

    def get_prompt(self, name: str) -> Any | None:
        prompts = [item for item in self._registered(name) if item.tags.pop(_IS_PROMPT, None) == "true"]
        return prompts[0] if prompts else None

    def search_prompts(self, max_results: int = 100) -> Page:
        prompts = [item for item in self._registered() if item.tags.pop(_IS_PROMPT, None) == "true"]
        return _page(prompts, max_results)

    def search_prompt_versions(self, name: str, max_results: int = 100) -> Page:
        return _page([item for item in self._versions(name) if _IS_PROMPT in item.tags], max_results)

    def get_prompt_version(self, name: str, version: str) -> Any | None:
        item = self.get_model_version(name, version)
        text = item.tags.get(_PROMPT_TEXT)
        if text is None:
            return None
        item.template = json.loads(text) if item.tags.get(_PROMPT_TYPE) == "chat" else text
        item.commit_message = item.description
        return item

    def set_registered_model_tag(self, name: str, key: str, value: str) -> None:
        if not self._registered(name):
            raise UnknownVersion(f"Registered Model with name={name} not found")
        self._set(_model_tags, {"workspace": _WORKSPACE, "name": name, "key": key}, {"value": value})

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        self._delete(_model_tags, {"workspace": _WORKSPACE, "name": name, "key": key})

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.get_model_version(name, version)
        self._set(_aliases, {"workspace": _WORKSPACE, "name": name, "alias": alias}, {"version": int(version)})

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        self._delete(_aliases, {"workspace": _WORKSPACE, "name": name, "alias": alias})

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.get_model_version(name, version)
        where = {"workspace": _WORKSPACE, "name": name, "version": int(version), "key": key}
        self._set(_version_tags, where, {"value": value})

    def get_experiment_by_name(self, name: str) -> Any | None:
        experiments = self._experiments(_experiments.c.name == name)
        return experiments[0] if experiments else None

    def get_experiment(self, experiment_id: str) -> Any:
        experiments = self._experiments(_experiments.c.experiment_id == int(experiment_id))
        if not experiments:
            raise UnknownVersion(f"No Experiment with id={experiment_id} exists")
        return experiments[0]

    def search_experiments(self, max_results: int = 1000, page_token: str | None = None) -> Page:
        experiments = self._experiments(_experiments.c.lifecycle_stage == "active")
        start = int(page_token or 0)
        return _page(experiments[start:], max_results, start)

    def get_run(self, run_id: str) -> Any:
        runs = self._hydrated(self._all(sa.select(_runs).where(_runs.c.run_uuid == run_id)))
        if not runs:
            raise UnknownVersion(f"Run with id={run_id} not found")
        return runs[0]

    def search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str = "",
        *,
        max_results: int = 1000,
        order_by: Sequence[str] = ("attributes.start_time DESC",),
        page_token: str | None = None,
    ) -> Any:
        query = _runs_where(filter_string)
        column, _, direction = order_by[0].partition(" ")
        if query is None or column != "attributes.start_time":
            given = {"max_results": max_results, "order_by": list(order_by), "page_token": page_token}
            return self._mlflow_client().search_runs(list(experiment_ids), filter_string, **given)
        query = query.where(
            _runs.c.experiment_id.in_(list(map(int, experiment_ids))), _runs.c.lifecycle_stage == "active"
        )
        began, start = _runs.c.start_time, int(page_token or 0)
        query = query.order_by(began.desc() if direction == "DESC" else began.asc(), _runs.c.run_uuid)
        return _page(self._hydrated(self._all(query.limit(max_results + 1).offset(start))), max_results, start)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.get_run(run_id)
        self._set(_run_tags, {"run_uuid": run_id, "key": key}, {"value": value})

    def list_artifacts(self, run_id: str, path: str = "") -> Any:
        if (root := self._folder_of(run_id)) is None:
            return self._mlflow_client().list_artifacts(run_id, path)
        folder = root / path
        files = sorted(folder.iterdir()) if folder.is_dir() else ()
        return [
            SimpleNamespace(path=(PurePosixPath(path) / item.name).as_posix(), is_dir=item.is_dir())
            for item in files
            if not item.name.startswith(".mlflow-artifact-")
        ]

    def download_artifacts(self, run_id: str, path: str, dst_path: str | None = None) -> str:
        if (root := self._folder_of(run_id)) is None:
            return str(self._mlflow_client().download_artifacts(run_id, path, dst_path))
        source = root / path
        if not source.exists():
            raise UnknownVersion(f"No such artifact: '{path}'")
        if dst_path is None:
            return str(source)
        target = Path(dst_path) / source.name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)
        return str(target)

    def _all(self, query: sa.Select[Any]) -> Sequence[Any]:
        with self.database.connect() as connection:
            return connection.execute(query).all()

    def _registered(self, name: str | None = None) -> list[Any]:
        """Registered models and prompts, all or the one of this name; their newest version stands for all."""
        where = {} if name is None else {"name": name}
        tags = _by_first(self._all(_rows(_model_tags, "name", "key", "value", **where)))
        aliases = _by_first(self._all(_rows(_aliases, "name", "alias", "version", **where)))
        versions = _by_first(self._all(_kept_versions("name", "version", "current_stage", **where)))
        return [
            SimpleNamespace(
                **_columns(row, "name", "description"),
                creation_timestamp=row.creation_time,
                last_updated_timestamp=row.last_updated_time,
                tags=tags[row.name],
                aliases=aliases[row.name],
                latest_versions=[SimpleNamespace(version=max(versions[row.name]))] if versions[row.name] else [],
            )
            for row in self._all(_rows(_models, **where).order_by(_models.c.name))
        ]

    def _versions(self, name: str, **version: int) -> list[Any]:
        """Versions of a registered model or prompt, all or the one of this number, the newest first."""
        where: dict[str, Any] = {"name": name, **version}
        tags = _by_first(self._all(_rows(_version_tags, "version", "key", "value", **where)))
        aliases = _by_first(self._all(_rows(_aliases, "version", "alias", "name", **where)))
        query = _kept_versions(**where).order_by(_versions.c.version.desc())
        return [
            SimpleNamespace(
                **_columns(row, "name", "version", "description", "user_id", "source", "run_id"),
                creation_timestamp=row.creation_time,
                last_updated_timestamp=row.last_updated_time,
                tags=tags[row.version],
                aliases=list(aliases[row.version]),
            )
            for row in self._all(query)
        ]

    def _experiments(self, condition: sa.ColumnElement[bool]) -> list[Any]:
        query = sa.select(_experiments).where(condition, _experiments.c.workspace == _WORKSPACE)
        return [
            SimpleNamespace(
                experiment_id=str(row.experiment_id), name=row.name, artifact_location=row.artifact_location
            )
            for row in self._all(query.order_by(_experiments.c.experiment_id.desc()))
        ]

    def _hydrated(self, rows: Sequence[Any]) -> list[Any]:
        """Rows of `runs` with their tags, parameters, metrics and datasets."""
        runs = []
        for start in range(0, len(rows), _AT_A_TIME):
            batch = rows[start : start + _AT_A_TIME]
            ids = [row.run_uuid for row in batch]
            tags, params = (
                _by_first(self._all(sa.select(table).where(table.c.run_uuid.in_(ids))))
                for table in (_run_tags, _run_params)
            )
            metrics: dict[str, dict[str, float]] = defaultdict(dict)
            for each in self._all(sa.select(_run_metrics).where(_run_metrics.c.run_uuid.in_(ids))):
                metrics[each.run_uuid][each.key] = float("nan") if each.is_nan else each.value
            datasets = self._dataset_inputs(ids)
            for row in batch:
                run_id = row.run_uuid
                info = SimpleNamespace(
                    run_id=run_id,
                    run_name=row.name,
                    experiment_id=str(row.experiment_id),
                    **_columns(row, "status", "start_time", "end_time", "lifecycle_stage", "artifact_uri"),
                )
                data = SimpleNamespace(tags=tags[run_id], params=params[run_id], metrics=metrics[run_id])
                inputs = SimpleNamespace(dataset_inputs=datasets[run_id])
                runs.append(SimpleNamespace(info=info, data=data, inputs=inputs))
        return runs

    def _dataset_inputs(self, run_ids: Sequence[str]) -> Mapping[str, list[Any]]:
        used = (
            sa.select(_inputs.c.input_uuid, _inputs.c.destination_id, _datasets)
            .select_from(_inputs.join(_datasets, _inputs.c.source_id == _datasets.c.dataset_uuid))
            .where(_inputs.c.destination_type == "RUN", _inputs.c.destination_id.in_(run_ids))
        )
        rows = self._all(used)
        named = sa.select(_input_tags).where(_input_tags.c.input_uuid.in_([row.input_uuid for row in rows]))
        tags = _by_first(self._all(named))
        inputs: dict[str, list[Any]] = defaultdict(list)
        for row in rows:
            dataset = SimpleNamespace(
                **_columns(row, "name", "digest"),
                source_type=row.dataset_source_type,
                source=row.dataset_source,
                schema=row.dataset_schema,
                profile=row.dataset_profile,
            )
            of_use = [SimpleNamespace(key=key, value=value) for key, value in tags[row.input_uuid].items()]
            inputs[row.destination_id].append(SimpleNamespace(dataset=dataset, tags=of_use))
        return inputs

    def _folder_of(self, run_id: str) -> Path | None:
        """Where a run's files are; None where that is no local folder."""
        uris = self._all(sa.select(_runs.c.artifact_uri).where(_runs.c.run_uuid == run_id))
        if not uris:
            raise UnknownVersion(f"Run with id={run_id} not found")
        uri = urlsplit(uris[0].artifact_uri)
        return Path(url2pathname(uri.path)) if uri.scheme in ("", "file") else None

    def _set(self, table: sa.TableClause, where: Mapping[str, Any], value: Mapping[str, Any]) -> None:
        statement = insert_into(self.database.dialect, table).values(**where, **value)
        with self.database.begin() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=list(where), set_=dict(value)))

    def _delete(self, table: sa.TableClause, where: Mapping[str, Any]) -> None:
        with self.database.begin() as connection:
            connection.execute(sa.delete(table).where(*(table.c[name] == value for name, value in where.items())))


def _rows(table: sa.TableClause, *columns: str, **where: Any) -> sa.Select[Any]:
    """Columns, or all of them, of the rows of MLflow's only workspace where these columns hold these values."""
    chosen = [table.c[name] for name in columns] or list(table.c)
    conditions = (table.c[name] == value for name, value in {"workspace": _WORKSPACE, **where}.items())
    return sa.select(*chosen).where(*conditions)


def _kept_versions(*columns: str, **where: Any) -> sa.Select[Any]:
    """As `_rows`, of the versions that MLflow has not marked as deleted."""
    return _rows(_versions, *columns, **where).where(_versions.c.current_stage != "Deleted_Internal")


def _columns(row: sa.Row[Any], *names: str) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _by_first(rows: Iterable[Sequence[Any]]) -> dict[Any, dict[Any, Any]]:
    """Rows of three columns: by the first, the third by the second."""
    grouped: dict[Any, dict[Any, Any]] = defaultdict(dict)
    for first, key, value in rows:
        grouped[first][key] = value
    return grouped


def _runs_where(condition: str) -> sa.Select[Any] | None:
    """The runs that MLflow's words of a search mean; None for words that are not known here."""
    query = sa.select(_runs)
    for part in condition.split(" and ") if condition else ():
        said = _CONDITION.fullmatch(part)
        if said is None:
            return None
        if said["like"] is not None:
            query = query.where(_runs.c.run_uuid.like(said["like"]))
            continue
        value = _run_tags.c.value
        asked = value == said["value"] if said["compared"] == "=" else value != said["value"]
        query = query.where(
            _runs.c.run_uuid.in_(sa.select(_run_tags.c.run_uuid).where(_run_tags.c.key == said["tag"], asked))
        )
    return query


def _page(found: Sequence[Any], most: int, start: int = 0) -> Page:
    """As many of `found` as were asked for. start: how many came before them."""
    page = Page(found[:most])
    page.token = str(start + most) if len(found) > most else ""
    return page

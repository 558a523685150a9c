"""Tabular models: versions of a registered model named after the lab or pipeline that trained them.

The aliases, gates and promotions are those of releases (`Promotions`). A version keeps its estimator in MLflow's
artifacts, and all that is read of it without them in its tags.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from llmops.errors import CannotRun, Corrupted, UsageError
from llmops.hashing import canonical_json, content_hash, file_sha256
from llmops.registry.promotions import Promotions
from llmops.registry.store import translated
from llmops.versions import Ref, TabularVersion

_SCHEMA_TAG, _SHOWN_ON_MODEL = "llmops.schema", "mlflow.modelVersions"
_MOST_TAG = 5000
"""Characters: what every MLflow server keeps of a tag."""
_ESTIMATOR = "model.skops"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class LoggedTabular:
    """A trained model in its MLflow run. model_uri: `models:/m-…`, as MLflow loads it. sha256: of its `model.skops`,
    which is the same for an estimator fitted again in the same way. schema: JSON of its RowSchema."""

    run_id: str
    model_id: str
    model_uri: str
    sha256: str
    schema: Mapping[str, Any] = field(default_factory=dict)


class TabularRegistry(Promotions[TabularVersion]):
    """Registers, reads and fetches tabular models; how they are gated and promoted is in `Promotions`."""

    kind, content_tag = "tabular", "llmops.tabular"
    noun, version_noun = "tabular model", "version"
    how_to_make = "a lab or a pipeline registers the first one"
    how_to_gate = "have the gate of its lab or pipeline judge it"

    def register(
        self, name: str, logged: LoggedTabular, *, cycle: str | None = None, provenance: Mapping[str, Any] = _NOTHING
    ) -> tuple[TabularVersion, bool]:
        """The version of this cycle, or else with this content, and whether it is new. A call that was cut off is
        finished by the next one; two at once make one version.

        cycle: names a pipeline's run, which registers one version at most. provenance: JSON values that say what the
        model was trained on; `data_sha256` and `licence` are shown in MLflow. The content is estimator, schema and
        `data_sha256`.

        Raises:
            UsageError: the name is none, or belongs to an app, a model or a prompt; provenance is too long.
            StoreUnavailable: MLflow or the audit log is away.
        """
        if Ref.parse(name) != Ref(name):
            raise UsageError(f"{name!r}: a tabular model's name has no version")
        tags = _tags(logged, cycle, provenance)
        with self.audit.turn():
            self._claim(name)
            identity, versions = _identity(logged.sha256, logged.schema, provenance), self.versions(name)
            of_cycle = (each for each in versions if cycle is not None and each.cycle == cycle)
            same = (each for each in versions if _identity(each.sha256, each.schema, each.provenance) == identity)
            found = next(of_cycle, None) or next(same, None)
            if found is None:
                self._store.make_current()
                with translated(f"{self.kind} {name}"):  # version and tags in one transaction
                    made = self._store.client.create_model_version(
                        name, logged.model_uri, run_id=logged.run_id, tags=tags, model_id=logged.model_id
                    )
            version = found or self._read(made, ())
            # As MLflow's own registration does, for the page of the run.
            shown = json.dumps([{"name": version.name, "version": str(version.version)}])
            with translated(f"version {version.ref}"):
                if self._store.client.get_logged_model(version.model_id).tags.get(_SHOWN_ON_MODEL) != shown:
                    self._store.client.set_logged_model_tags(version.model_id, {_SHOWN_ON_MODEL: shown})
            noted = [(entry.action, entry.subject) for entry in self.audit.entries(name)]
            if ("register", version.ref) not in noted:
                data = {"data_sha256": version.provenance.get("data_sha256")}
                details = {"sha256": version.sha256, "run_id": version.run_id, "cycle": version.cycle, **data}
                self.note("register", version.ref, details)
        return version, found is None

    def fetch(self, version: TabularVersion) -> Path:
        """A local folder with MLflow's files of the model, its estimator checked. What lies elsewhere is downloaded
        once, into the home. Raises Corrupted: the estimator is not what was registered. CannotRun: it is gone.
        StoreUnavailable."""
        with translated(f"version {version.ref}"):
            uri = str(self._store.client.get_model_version_download_uri(version.name, str(version.version)))
        parsed = urlparse(uri)
        local = parsed.scheme in ("", "file")
        folder = Path(url2pathname(parsed.path)) if local else self._downloaded(version, uri)
        estimator = folder / _ESTIMATOR
        if not estimator.is_file():
            raise CannotRun(f"{version.ref}: {estimator} is gone; register it anew")
        if file_sha256(estimator) != version.sha256:
            raise Corrupted(f"{version.ref}: {estimator} has another sha256 than the registered {version.sha256}")
        return folder

    def _downloaded(self, version: TabularVersion, uri: str) -> Path:
        import mlflow

        target = self._store.settings.home / "tabular" / _identity(version.sha256, version.schema, version.provenance)
        if not target.exists():
            with translated(f"version {version.ref}"):
                target.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as scratch:
                    got = mlflow.artifacts.download_artifacts(
                        artifact_uri=uri, dst_path=scratch, tracking_uri=self._store.uri
                    )
                    try:
                        Path(got).rename(target)
                    except OSError:
                        if not target.exists():  # another process was first
                            raise
        return target

    def _read(self, item: Any, aliases: tuple[str, ...]) -> TabularVersion:
        content = json.loads(item.tags[self.content_tag])
        del content["schema_sha256"]
        numbers = sorted(int(tag.rpartition(".")[2]) for tag in item.tags if tag.startswith(f"{_SCHEMA_TAG}."))
        schema = json.loads("".join(item.tags[f"{_SCHEMA_TAG}.{number}"] for number in numbers))
        created_at, place = item.creation_timestamp / 1000, {"source": item.source, "aliases": aliases}
        return TabularVersion(item.name, int(item.version), schema=schema, created_at=created_at, **place, **content)


def _identity(sha256: str, schema: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    return content_hash({"sha256": sha256, "schema": dict(schema), "data": provenance.get("data_sha256")})


def _tags(logged: LoggedTabular, cycle: str | None, provenance: Mapping[str, Any]) -> dict[str, str]:
    """The content, what is shown in MLflow, and the schema. A long one takes several tags: gateways read it every time
    something changes, and so not from a file."""
    content = {
        "sha256": logged.sha256,
        "run_id": logged.run_id,
        "model_id": logged.model_id,
        "cycle": cycle,
        "provenance": dict(provenance),
        "schema_sha256": content_hash(dict(logged.schema)),
    }
    text, schema = canonical_json(content), canonical_json(dict(logged.schema))
    if len(text) > _MOST_TAG:
        raise UsageError(f"provenance: {len(text):,} characters with the rest; a tag holds {_MOST_TAG:,}")
    starts = range(0, len(schema), _MOST_TAG)
    pieces = {f"{_SCHEMA_TAG}.{start // _MOST_TAG}": schema[start : start + _MOST_TAG] for start in starts}
    shown = {name: str(value) for name in ("data_sha256", "licence") if (value := provenance.get(name))}
    tags = {TabularRegistry.content_tag: text, **pieces, "sha256": logged.sha256, **shown}
    return {**tags, "cycle": cycle} if cycle else tags

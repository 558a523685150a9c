"""What is served: releases, which are versions of an app's registered model, each binding a prompt version, a model
version and parameters; and tabular models, versions of a registered model named after the lab or pipeline that trained
them. How they are gated and promoted is in `Promotions`.

The aliases `champion`, `challenger` and `previous` live on the versions; moving one changes prompt and model together.
Beside them, in a tag of the registered model, lives an app's traffic policy. A tabular version keeps its estimator in
MLflow's artifacts, and all that is read of it without them in its tags.
"""

import contextlib
import dataclasses
import functools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from llmops.audit import Move
from llmops.errors import CannotRun, Corrupted, UnknownVersion, UsageError
from llmops.generation import GenerationParameters
from llmops.hashing import canonical_json, content_hash, file_sha256
from llmops.registry.models import ModelRegistry, PromptRegistry
from llmops.registry.promotions import TRAFFIC, TRAFFIC_TAG, Promotions
from llmops.registry.store import translated
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import (
    PYTHON,
    ModelVersion,
    PromptVersion,
    Ref,
    Release,
    TabularVersion,
    check_guards,
    release_content,
)

_HASH_TAG = "llmops.content_hash"
_SCHEMA_TAG, _SHOWN_ON_MODEL = "llmops.schema", "mlflow.modelVersions"
_MOST_TAG = 5000
"""Characters: what every MLflow server keeps of a tag."""
_ESTIMATOR = "model.skops"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(eq=False)
class ReleaseRegistry(Promotions[Release]):
    """Creates and reads releases, and the traffic policies of apps."""

    kind, content_tag = "app", "llmops.release"
    version_noun = "release"
    if_none = "no app {name!r} has releases; run `llmops release create {name} …`"
    how_to_gate = "run `llmops eval gate {ref} --suite SUITE`"
    prompts: PromptRegistry
    models: ModelRegistry
    _known: dict[tuple[str, int], Release] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        # Versions never change; only aliases do, which are read anew.
        self._prompt, self._model = functools.cache(self.prompts.version), functools.cache(self.models.get)

    def create(
        self,
        app: str,
        prompt: PromptVersion,
        model: ModelVersion,
        parameters: GenerationParameters,
        guards: Mapping[str, Any] | None = None,
    ) -> tuple[Release, bool]:
        """The release with this content, and whether it is new. Raises UsageError, StoreUnavailable."""
        if model.format == PYTHON:
            raise UsageError(f"{model.ref} is a Python callable, which no gateway can serve")
        content = release_content(prompt.ref, model.ref, parameters, check_guards(guards or {}))
        identity = content_hash(content)
        with self.audit.turn():
            for known in self.versions(app):
                made_of = release_content(known.prompt.ref, known.model.ref, known.parameters, known.guards)
                if content_hash(made_of) == identity:
                    return known, False
            given = {"prompt": prompt.ref, "model": model.ref}
            tags = {self.content_tag: canonical_json(content), _HASH_TAG: identity, **given}
            shown = {name: str(value) for name, value in content["parameters"].items() if value not in (None, [])}
            if "guards" in content:
                shown["guards"] = canonical_json(content["guards"])
            release = self.get(f"{app}@{self._create_version(app, tags, {**given, **shown})}")
            self.note("register", release.ref, {**given, "content": identity})
        with translated(f"release {release.ref}"):
            self.store.client.link_prompt_version_to_model(prompt.name, str(prompt.version), release.model_id)
        return release, True

    def policy(self, app: str) -> TrafficPolicy | None:
        """The app's traffic policy; None when none is set. Raises UnknownVersion: there is no such app. CannotRun: what
        is set cannot be read. StoreUnavailable."""
        text = self._policy_text(app)
        try:
            return None if text is None else TrafficPolicy.from_text(text)
        except UsageError as error:
            raise CannotRun(
                f"the traffic policy of {app} cannot be read ({error}); `llmops traffic clear {app}`"
            ) from error

    def set_policy(self, app: str, policy: TrafficPolicy | None) -> bool:
        """Sets the traffic policy, or takes it away, for every gateway from its next look at the registry on; whether
        that changed anything. Every change is in the app's history. Raises UnknownVersion, StoreUnavailable."""
        with self.audit.turn():
            self.settle(app, TRAFFIC)
            old, text = self._policy_text(app), None if policy is None else policy.to_text()
            if old == text:
                return False
            shown = old
            with contextlib.suppress(UsageError):  # one that was spoilt by hand is shown as it is
                shown = None if old is None else str(TrafficPolicy.from_text(old))
            new, why = (None, "cleared") if policy is None else (str(policy), "set")
            self.carry_out(Move(TRAFFIC, app, shown, new, why, {TRAFFIC: text}))
        return True

    def _policy_text(self, app: str) -> str | None:
        registered = self.store.registered_model(app)
        if registered is None or not self.versions(app):
            raise UnknownVersion(self.if_none.format(name=app))
        text = registered.tags.get(TRAFFIC_TAG)
        return None if text is None else str(text)

    def _read(self, item: Any, aliases: tuple[str, ...]) -> Release:
        key = (item.name, int(item.version))
        if key not in self._known:
            content = json.loads(item.tags[self.content_tag])
            self._known[key] = Release(
                *key,
                prompt=self._prompt(content["prompt"]),
                model=self._model(content["model"]),
                parameters=GenerationParameters.from_mapping(content["parameters"]),
                model_id=item.source.removeprefix("models:/"),
                guards=content.get("guards", {}),
                created_at=item.creation_timestamp / 1000,
            )
        return dataclasses.replace(self._known[key], aliases=aliases)


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
    """Registers, reads and fetches tabular models."""

    kind, content_tag = "tabular", "llmops.tabular"
    version_noun = "version"
    if_none = "no tabular model {name!r} has versions; a lab or a pipeline registers the first one"
    how_to_gate = "have the gate of its lab or pipeline judge it"

    def register(
        self, name: str, logged: LoggedTabular, *, cycle: str | None = None, provenance: Mapping[str, Any] = _NOTHING
    ) -> tuple[TabularVersion, bool]:
        """The version of this cycle, or else with this content (estimator, schema and `data_sha256`), and whether it is
        new. A call that was cut off is finished by the next one; two at once make one version.

        cycle: names a pipeline's run, which registers one version at most. provenance: JSON values that say what the
        model was trained on; `data_sha256` and `licence` are shown in MLflow.

        Raises UsageError: the name is none, or belongs to an app, a model or a prompt; provenance is too long.
        StoreUnavailable.
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
                self.store.make_current()
                with translated(f"{self.kind} {name}"):  # version and tags in one transaction
                    made = self.store.client.create_model_version(
                        name, logged.model_uri, run_id=logged.run_id, tags=tags, model_id=logged.model_id
                    )
            version = found or self._read(made, ())
            # As MLflow's own registration does, for the page of the run.
            shown = json.dumps([{"name": version.name, "version": str(version.version)}])
            with translated(f"version {version.ref}"):
                if self.store.client.get_logged_model(version.model_id).tags.get(_SHOWN_ON_MODEL) != shown:
                    self.store.client.set_logged_model_tags(version.model_id, {_SHOWN_ON_MODEL: shown})
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
            uri = str(self.store.client.get_model_version_download_uri(version.name, str(version.version)))
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

        target = self.store.settings.home / "tabular" / _identity(version.sha256, version.schema, version.provenance)
        if not target.exists():
            with translated(f"version {version.ref}"):
                target.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as scratch:
                    got = mlflow.artifacts.download_artifacts(
                        artifact_uri=uri, dst_path=scratch, tracking_uri=self.store.uri
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
    """The content, what MLflow shows, and the schema, in several tags where it is long."""
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

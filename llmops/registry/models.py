"""What releases are made of: prompt versions, a new one only where the content changed, and model versions, their
weights by reference (source and sha256), never copied into the store."""

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from llmops.errors import UnknownVersion, UsageError
from llmops.generation import GenerationParameters, Message
from llmops.hashing import canonical_json, content_hash
from llmops.prompt_file import PromptTemplate
from llmops.registry.store import Store, translated
from llmops.versions import ModelVersion, PromptVersion, Ref, pick

KIND_TAG = "llmops.kind"
_HASH_TAG, _INPUT_TAG, _PARAMETERS_TAG = "llmops.content_hash", "llmops.input_variable", "llmops.parameters"
_EXPERIMENTS_TAG = "_mlflow_experiment_ids"
_LONGEST_PARAM = 5000

V = TypeVar("V")


@dataclass(eq=False)
class VersionRegistry(ABC, Generic[V]):
    """Versions of one kind. kind: the value of `llmops.kind`. content_tag: the tag with a version's content as JSON."""

    kind: ClassVar[str]
    content_tag: ClassVar[str]
    store: Store

    def names(self) -> list[str]:
        """Names of the registered models of this kind. Raises StoreUnavailable."""
        found = self.store.registered_models()
        return sorted(str(item.name) for item in found if item.tags.get(KIND_TAG) == self.kind)

    def versions(self, name: str) -> list[V]:
        """Every version with its aliases, oldest first; empty for an unknown name. Raises StoreUnavailable."""
        registered = self.store.registered_model(name)
        return [] if registered is None else self.of_registered(registered, self.store.versions_of(name))

    def of_registered(self, registered: Any, items: Iterable[Any]) -> list[V]:
        """MLflow's registered model and versions as ours, oldest first. Those that another tool made are left out."""
        aliases: dict[int, tuple[str, ...]] = {}
        for alias, version in sorted(registered.aliases.items()):
            aliases[int(version)] = (*aliases.get(int(version), ()), alias)
        tagged = sorted((item for item in items if self.content_tag in item.tags), key=lambda item: int(item.version))
        return [self._read(item, aliases.get(int(item.version), ())) for item in tagged]

    @abstractmethod
    def _read(self, item: Any, aliases: tuple[str, ...]) -> V:
        """MLflow's version as ours."""

    def _claim(self, name: str) -> None:
        """Makes the registered model `name` when absent. Raises UsageError: the name is taken by something of another
        kind. StoreUnavailable."""
        registered = self.store.registered_model(name)
        if registered is None:
            with translated(f"{self.kind} {name}"):
                if self.store.client.get_prompt(name) is not None:
                    raise UsageError(f"{name}: a prompt has this name, and MLflow gives a name once; choose another")
                self.store.client.create_registered_model(name, tags={KIND_TAG: self.kind})
        elif registered.tags.get(KIND_TAG) != self.kind:
            raise UsageError(f"{name}: the registry holds something else by this name; choose another")

    def _create_version(self, name: str, tags: dict[str, str], params: dict[str, str]) -> int:
        """A new version of the registered model `name`, backed by a logged model without artifacts; as `_claim`."""
        self._claim(name)
        self.store.make_current()
        client, short = self.store.client, {key: value[:_LONGEST_PARAM] for key, value in params.items()}
        with translated(f"{self.kind} {name}"):
            logged = client.create_logged_model(self.store.experiment(), name=name, params=short, model_type=self.kind)
            client.finalize_logged_model(logged.model_id, "READY")
            return int(client.create_model_version(name, logged.model_uri, tags=tags, model_id=logged.model_id).version)


class ModelRegistry(VersionRegistry[ModelVersion]):
    """Registers, reads and lists model versions."""

    kind, content_tag = "model", "llmops.model"

    def register(self, model: ModelVersion) -> tuple[ModelVersion, bool]:
        """The version with this content (`model.version` is ignored), and whether it is new. Raises UsageError: the
        name belongs to an app or a prompt. StoreUnavailable."""
        for known in self.versions(model.name):
            if (known.sha256, known.format) == (model.sha256, model.format):
                return known, False
        names = ("source", "format", "sha256", "path", "licence", "size_bytes", "provenance")
        content = {name: getattr(model, name) for name in names}
        content.update(path=model.path.as_posix() if model.path else None, provenance=dict(model.provenance))
        identity = content_hash({"sha256": model.sha256, "format": model.format})
        shown = {key: str(value) for key, value in content.items() if value and key != "provenance"}
        tags = {self.content_tag: canonical_json(content), _HASH_TAG: identity, **shown}
        provenance = {f"provenance.{key}": str(value) for key, value in model.provenance.items()}
        version = self._create_version(model.name, tags, {**shown, **provenance})
        return self.get(f"{model.name}@{version}"), True

    def get(self, ref: str) -> ModelVersion:
        """`name@2`, `name@alias` or `name` (the newest). Raises UnknownVersion, UsageError, StoreUnavailable."""
        parsed = Ref.parse(ref)
        missing = f"no model {parsed.name!r} is registered; run `llmops models pull` or `… register`"
        return pick(self.versions(parsed.name), parsed, "model version", missing)

    def _read(self, item: Any, aliases: tuple[str, ...]) -> ModelVersion:
        content = json.loads(item.tags[self.content_tag])
        content["path"] = Path(content["path"]) if content["path"] else None
        model_id = item.source.removeprefix("models:/")
        return ModelVersion(item.name, int(item.version), aliases=aliases, model_id=model_id, **content)


@dataclass(frozen=True, eq=False)
class PromptRegistry:
    """Registers, reads and lists prompt versions, in MLflow's Prompt Registry."""

    store: Store

    def register(self, name: str, template: PromptTemplate) -> tuple[PromptVersion, bool]:
        """The version with this content, and whether it is new. Raises UsageError, StoreUnavailable."""
        for known in self.versions(name):
            if known.template.content_hash == template.content_hash:
                return known, False
        parameters = template.parameters
        with translated(f"prompt {name}"):
            made = self.store.client.register_prompt(
                name=name,
                template=[dict(turn) for turn in template.turns],
                commit_message=template.description or None,
                tags={
                    _HASH_TAG: template.content_hash,
                    _INPUT_TAG: template.input_variable,
                    _PARAMETERS_TAG: canonical_json(parameters.to_mapping()),
                },
                response_format=parameters.response_format,
                model_config={name: getattr(parameters, name) for name in ("temperature", "max_tokens", "top_p")},
            )
        # MLflow links a new prompt to an experiment on a thread of its own; a tag we set meanwhile would be lost.
        for thread in threading.enumerate():
            if thread.name.startswith("link_prompt_to_experiment_thread"):
                thread.join()
        return PromptVersion(name, int(made.version), template), True

    def get(self, ref: str) -> PromptVersion:
        """`qa@2`, `qa@production` (an alias) or `qa` (the newest). Raises UnknownVersion, UsageError."""
        parsed = Ref.parse(ref)
        missing = f"no prompt {parsed.name!r} is registered; run `llmops prompts register`"
        return pick(self.versions(parsed.name), parsed, "prompt version", missing)

    def version(self, ref: str) -> PromptVersion:
        """`qa@2`, read alone. Raises UnknownVersion, StoreUnavailable."""
        name, _, number = ref.partition("@")
        with translated(f"prompt {ref}"):
            found = _prompt_version(self.store.client.get_prompt_version(name, number))
        if found is None:
            raise UnknownVersion(f"{ref} was not registered by llmops")
        return found

    def versions(self, name: str) -> list[PromptVersion]:
        """Every version of a prompt, oldest first; none when there is no such prompt. Raises StoreUnavailable."""
        client = self.store.client
        with translated(f"prompt {name}"):
            if client.get_prompt(name) is None:
                return []
            numbers = [item.version for item in client.search_prompt_versions(name, max_results=1000)]
            # One by one, because a search leaves the aliases out.
            read = [_prompt_version(client.get_prompt_version(name, str(number))) for number in numbers]
        return sorted((item for item in read if item is not None), key=lambda item: item.version)

    def list_versions(self) -> list[PromptVersion]:
        """Every version of every prompt. Raises StoreUnavailable."""
        with translated("prompts"):
            names = sorted(str(prompt.name) for prompt in self.store.client.search_prompts(max_results=1000))
        return [version for name in names for version in self.versions(name)]

    def show_in_experiment(self, name: str, experiment_id: str) -> None:
        """Makes the prompt appear on the experiment's Prompts page. Raises StoreUnavailable."""
        with translated(f"prompt {name}"):
            tags = self.store.client.get_prompt(name).tags
            ids = [part for part in tags.get(_EXPERIMENTS_TAG, "").split(",") if part]
            if experiment_id not in ids:
                self.store.client.set_prompt_tag(name, _EXPERIMENTS_TAG, f",{','.join([*ids, experiment_id])},")


def _prompt_version(item: Any) -> PromptVersion | None:
    """MLflow's prompt version as ours; None for one that another tool registered."""
    if _INPUT_TAG not in item.tags:
        return None
    turns = tuple(Message(role=turn["role"], content=turn["content"]) for turn in item.template)
    parameters = GenerationParameters.from_mapping(json.loads(item.tags[_PARAMETERS_TAG]))
    template = PromptTemplate(turns, item.tags[_INPUT_TAG], parameters, item.commit_message or "")
    return PromptVersion(item.name, int(item.version), template, tuple(sorted(item.aliases)))

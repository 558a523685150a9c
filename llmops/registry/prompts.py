"""Prompt versions in MLflow's Prompt Registry: a new one only where the content changed."""

from __future__ import annotations

import functools
import json
import threading
from typing import Any

from llmops.errors import UnknownVersion
from llmops.generation import GenerationParameters, Message
from llmops.hashing import canonical_json
from llmops.prompt_file import PromptTemplate
from llmops.registry.store import Store, translated
from llmops.versions import PromptVersion, Ref, pick

_HASH_TAG, _INPUT_TAG, _PARAMETERS_TAG = "llmops.content_hash", "llmops.input_variable", "llmops.parameters"
_EXPERIMENTS_TAG = "_mlflow_experiment_ids"


class PromptRegistry:
    """Registers, reads and lists prompt versions."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read_version = functools.lru_cache(maxsize=1024)(self._read_version_uncached)

    def register(self, name: str, template: PromptTemplate) -> tuple[PromptVersion, bool]:
        """The version with this content, and whether it is new. Raises UsageError, StoreUnavailable."""
        for known in self.versions(name):
            if known.template.content_hash == template.content_hash:
                return known, False
        with translated(f"prompt {name}"):
            made = self._store.client.register_prompt(
                name=name,
                template=[dict(turn) for turn in template.turns],
                commit_message=template.description or None,
                tags={
                    _HASH_TAG: template.content_hash,
                    _INPUT_TAG: template.input_variable,
                    _PARAMETERS_TAG: canonical_json(template.parameters.to_mapping()),
                },
                response_format=template.parameters.response_format,
                model_config={
                    "temperature": template.parameters.temperature,
                    "max_tokens": template.parameters.max_tokens,
                    "top_p": template.parameters.top_p,
                },
            )
        _join_link_threads()
        return PromptVersion(name, int(made.version), template), True

    def get(self, ref: str) -> PromptVersion:
        """`qa@2`, `qa@production` (an alias) or `qa` (the newest). Raises UnknownVersion, UsageError."""
        parsed = Ref.parse(ref)
        versions = self.versions(parsed.name)
        if not versions:
            raise UnknownVersion(f"no prompt {parsed.name!r} is registered; run `llmops prompts register`")
        return pick(versions, parsed)

    def version(self, name: str, number: int) -> PromptVersion:
        """One version, from memory when it was read before (versions never change). Raises UnknownVersion."""
        return self._read_version(name, number)

    def versions(self, name: str) -> list[PromptVersion]:
        """Every version of a prompt, oldest first; none when there is no such prompt. Raises StoreUnavailable."""
        with translated(f"prompt {name}"):
            if self._store.client.get_prompt(name) is None:
                return []
            numbers = [item.version for item in self._store.client.search_prompt_versions(name, max_results=1000)]
            # One by one, because a search leaves the aliases out.
            found = [self._store.client.get_prompt_version(name, str(number)) for number in numbers]
        read = [_from_mlflow(item) for item in found]
        return sorted((item for item in read if item is not None), key=lambda item: item.version)

    def list_versions(self) -> list[PromptVersion]:
        """Every version of every prompt. Raises StoreUnavailable."""
        with translated("prompts"):
            prompts = self._store.client.search_prompts(max_results=1000)
        return [
            version for prompt in sorted(prompts, key=lambda p: str(p.name)) for version in self.versions(prompt.name)
        ]

    def show_in_experiment(self, name: str, experiment_id: str) -> None:
        """Makes the prompt appear on the experiment's Prompts page. Raises StoreUnavailable."""
        with translated(f"prompt {name}"):
            tags = self._store.client.get_prompt(name).tags
            ids = [part for part in tags.get(_EXPERIMENTS_TAG, "").split(",") if part]
            if experiment_id not in ids:
                self._store.client.set_prompt_tag(name, _EXPERIMENTS_TAG, f",{','.join([*ids, experiment_id])},")

    def _read_version_uncached(self, name: str, number: int) -> PromptVersion:
        with translated(f"prompt {name}@{number}"):
            found = _from_mlflow(self._store.client.get_prompt_version(name, str(number)))
        if found is None:
            raise UnknownVersion(f"{name}@{number} was not registered by llmops")
        return found


def _from_mlflow(item: Any) -> PromptVersion | None:
    """None for a prompt that another tool registered, whose input variable and parameters are not known."""
    tags = item.tags
    if _INPUT_TAG not in tags:
        return None
    turns = tuple(Message(role=turn["role"], content=turn["content"]) for turn in item.template)
    parameters = GenerationParameters.from_mapping(json.loads(tags[_PARAMETERS_TAG]))
    template = PromptTemplate(turns, tags[_INPUT_TAG], parameters, item.commit_message or "")
    return PromptVersion(item.name, int(item.version), template, tuple(sorted(item.aliases)))


def _join_link_threads() -> None:
    """MLflow links a new prompt to an experiment on a thread of its own; a tag we set meanwhile would be lost."""
    for thread in threading.enumerate():
        if thread.name.startswith("link_prompt_to_experiment_thread"):
            thread.join()

"""One real MLflow store on SQLite for the whole room (opening one takes seconds); every test uses names of its own."""

import hashlib
import itertools
from pathlib import Path
from typing import Any

import pytest

from llmops.prompt_file import PromptTemplate, parse_prompt
from llmops.registry import Registry
from llmops.registry.releases import LoggedTabular
from llmops.settings import Settings
from llmops.versions import ModelVersion, Release

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
    return Settings(home=tmp_path_factory.mktemp("registry-home"))


@pytest.fixture(scope="session")
def session_registry(settings):
    return Registry(settings)


@pytest.fixture
def registry(session_registry):
    """The shared store."""
    session_registry.store.make_current()
    return session_registry


@pytest.fixture
def book(registry):
    """The shared store's releases."""
    return registry.release_versions


@pytest.fixture
def tabular(registry):
    """The shared store's tabular models."""
    return registry.tabular_versions


@pytest.fixture
def name(request):
    """A name that no other test uses."""
    return f"n{next(_numbers)}-{request.function.__name__[5:40].replace('_', '-')}"


def template(
    text: str = "Answer.", parameters: str = "{max_tokens: 16}", description: str = "Terse."
) -> PromptTemplate:
    head = f"description: {description}\ninput_variable: question\nparameters: {parameters}"
    return parse_prompt(f"---\n{head}\n---\n# system\n{text}\n\n# user\n{{{{ question }}}}\n")


def model(name: str, sha256: str = "a" * 64, format: str = "gguf") -> ModelVersion:  # noqa: A002
    path = None if format == "openai" else Path(sha256[:16]) / "tiny.gguf"
    source = "openai:http://127.0.0.1:9/v1#tiny" if format == "openai" else "file:/tiny.gguf"
    return ModelVersion(name, 0, source, format, sha256, path, "MIT", 123, {"parent": "other@1", "tool": "made up"})


@pytest.fixture
def releases(registry, name):
    """Makes an app of the test's own name with that many releases, which differ in their parameters."""

    def make(count: int) -> list[Release]:
        prompt, _ = registry.prompts.register("shared-prompt", template())
        version, _ = registry.models.register(model("shared-model"))
        made = []
        for position in range(count):
            parameters = template(parameters=f"{{max_tokens: {16 + position}}}").parameters
            made.append(registry.release_versions.create(name, prompt, version, parameters)[0])
        return made

    return make


SCHEMA = {"inputs": [{"name": "hour", "kind": "integer"}], "output": {"name": "count", "kind": "number"}}


@pytest.fixture
def logged(registry):
    """Logs a made-up estimator of those bytes in a run of its own."""

    def log(estimator: bytes = b"forest", schema: dict[str, Any] = SCHEMA) -> LoggedTabular:
        client = registry.store.client
        run = client.create_run(registry.store.experiment("training"))
        made = client.create_logged_model(run.info.experiment_id, "estimator", source_run_id=run.info.run_id)
        folder = Path(made.artifact_location.removeprefix("file://"))
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_text("flavors: {}\n")
        (folder / "model.skops").write_bytes(estimator)
        client.finalize_logged_model(made.model_id, "READY")
        sha256 = hashlib.sha256(estimator).hexdigest()
        return LoggedTabular(run.info.run_id, made.model_id, made.model_uri, sha256, schema)

    return log

"""A real MLflow store, a small suite on disk, and the fake engine. One store a module; opening it takes seconds."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest

from llmops.eval_runs.evaluations import Evaluations
from llmops.eval_runs.matrix import CellRun, RunOptions
from llmops.prompt_file import parse_prompt
from llmops.registry import Registry
from llmops.registry import model_registration as models
from llmops.settings import Settings
from llmops.versions import ModelVersion, Release

SUITE = """description = "Made up."
eval_sets = ["sums"]
prompt = "qa"
model = "tiny@1"

[scorers.correct]
type = "contains"
[scorers.exact_match]
[scorers.words]
[scorers.fields]
type = "json_fields"

[gate]
primary = "correct"
rule = "not-worse"
margin = 0.2
[gate.floors]
correct = 0.4
"""


def rows(name: str, n: int) -> list[dict[str, object]]:
    """Half of the rows are answered right by an engine that says the question back; no row has `expected_json`."""
    return [
        {
            "id": f"{name}-{i}",
            "inputs": {"question": f"Is “{i}” a number?\nSay só."},
            "expectations": {"answers": [f"{i} a number" if i % 2 else "purple"], "note": {"ü": [1, None, 0.5]}},
            "tags": {"parity": str(i % 2)},
        }
        for i in range(n)
    ]


def write_suite(folder: Path, name: str, n: int, prompt: str = "qa", more: str = "") -> Path:
    """more: stands behind the suite's own tables. Returns the suite's file."""
    eval_set = folder / f"{name}-rows"
    eval_set.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(name, n))
    (eval_set / "rows.jsonl").write_text(text, encoding="utf-8")
    suite = SUITE.replace('"sums"', f'"{name}-rows"').replace('prompt = "qa"', f'prompt = "{prompt}"')
    (folder / f"{name}.toml").write_text(suite + more)
    return folder / f"{name}.toml"


@dataclass(frozen=True)
class Workshop:
    """Everything a workflow works on."""

    settings: Settings
    registry: Registry
    folder: Path

    @property
    def evaluations(self) -> Evaluations:
        return Evaluations(self.settings, self.registry)

    def add_suite(self, name: str, n: int, prompt: str = "qa", more: str = "") -> Path:
        return write_suite(self.folder, name, n, prompt, more)

    def run(
        self,
        prompts: Sequence[str] = ("qa@1",),
        models: Sequence[str] = (),
        *,
        suite: str = "sums",
        releases: Sequence[str] = (),
        **options: Any,
    ) -> list[CellRun]:
        """Runs cells of a suite, written in bulk unless told otherwise."""
        evaluations = self.evaluations
        loaded = evaluations.suite(suite)
        cells = evaluations.cells(loaded, () if releases else prompts, models, releases)
        return evaluations.run(loaded, cells, RunOptions(**{"recorder": "bulk", **options}), lambda *_: None)

    def with_settings(self, **changed: object) -> Self:
        return replace(self, settings=replace(self.settings, **changed))  # type: ignore[arg-type]


def prompt_text(system: str) -> str:
    head = "---\ninput_variable: question\nparameters: {max_tokens: 40}\n---\n"
    return head + f"# system\n{system}\n\n# user\n{{{{ question }}}}\n"


def write_prompts(folder: Path, name: str = "qa", systems: Sequence[str] = ("Be terse.", "Be kind.")) -> None:
    """Files of a prompt, a version for each text of its system turn."""
    (folder / name).mkdir(parents=True)
    for version, system in enumerate(systems, 1):
        (folder / name / f"v{version}.md").write_text(prompt_text(system))


def register_tiny(settings: Settings, name: str = "tiny") -> tuple[Registry, ModelVersion]:
    """A registry that has a model of that name, whose weights are made up."""
    registry = Registry(settings)
    weights = settings.home.parent / "tiny.gguf"
    weights.write_bytes(b"GGUF made up")
    model, _ = models.register(settings, registry, name, f"file:{weights}", "MIT")
    return registry, model


def release_of(settings: Settings, app: str = "assistant") -> tuple[Registry, Release]:
    """A registry with `tiny`, a prompt `qa`, and a release of both."""
    registry, model = register_tiny(settings)
    prompt, _ = registry.prompts.register("qa", parse_prompt(prompt_text("Be terse.")))
    release, _ = registry.release_versions.create(app, prompt, model, prompt.template.parameters)
    return registry, release


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("eval-sets")
    settings = Settings(home=home, eval_sets=folder, engine="fake", engine_slots=4)
    registry, _ = register_tiny(settings)
    for system in ("Be terse.", "Be kind."):
        registry.prompts.register("qa", parse_prompt(prompt_text(system)))
    write_suite(folder, "sums", 24)
    return Workshop(settings, registry, folder)

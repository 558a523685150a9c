"""Holds the import rules of ARCHITECTURE.md: who may import whom, and which room owns which framework."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("llmops", "service", "monitoring", "labs")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

# framework → the modules (by prefix) that may import it
OWNERS = {
    "mlflow": ("llmops.registry", "llmops.recording", "llmops.judges.mlflow_judges"),
    "fastapi": ("service",),
    "uvicorn": ("service",),
    "starlette": ("service",),
    "evidently": ("monitoring",),
    "ragas": ("llmops.evaluation.scorers.ragas_scorers", "llmops.judges.ragas_judges", "llmops.judges.ragas_bridge"),
    "instructor": ("llmops.judges.ragas_bridge", "llmops.judges.ragas_judges"),
    "datasets": ("llmops.evaluation.eval_set_splits",),
    "torch": ("llmops.engines.transformers", "llmops.engines.transformers_likelihood", "llmops.engines.minilm"),
    "transformers": ("llmops.engines.transformers", "llmops.engines.minilm"),
    "xllamacpp": ("llmops.engines.llamacpp",),
    "openvino_genai": ("llmops.engines.openvino",),
    "openai": ("labs.llm.traffic", "llmops.judges"),
    "dbos": ("llmops.pipelines",),
    "croniter": ("llmops.pipelines",),
    "skops": ("llmops.tabular",),
    "sklearn": ("llmops.tabular", "labs", "monitoring.tabular"),
    "pandera": ("labs",),
}
# room → what it may import of ours
ALLOWED = {
    "service": ("service", "llmops"),
    "monitoring": ("monitoring", "llmops"),
    "labs": ("labs", "service", "monitoring", "llmops"),
}
COMPOSITION_ROOT = ("llmops.cli", "llmops.workflow")
# What only the composition root may import, and, but for the command line, the labs, which are built on everything.
COMPOSED = ("llmops.registry", "llmops.recording", *COMPOSITION_ROOT)
# The one place where the gateway is put together from a registry, for worker processes that cannot be handed one.
COMPOSES_ITSELF = "service.serve"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, *, at_once: bool = False) -> Iterator[str]:
    """Full names of everything a module imports, wherever in the file it does; with `at_once`, when it is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_framework_is_imported_only_by_the_room_that_owns_it(path: Path) -> None:
    name = name_of(path)
    for imported in imports_of(path):
        owners = OWNERS.get(imported.partition(".")[0])
        assert owners is None or within(name, *owners), f"{name} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_import_only_what_lies_below_them(path: Path) -> None:
    name = name_of(path)
    for imported in imports_of(path):
        if within(imported, *ROOMS):
            assert may_import(name, imported), f"{name} imports {imported}"


def may_import(name: str, imported: str) -> bool:
    """Whether a module of ours may import another."""
    room = name.partition(".")[0]
    if room == "labs":
        return within(imported, *ALLOWED[room]) and not within(imported, "llmops.cli")
    if room in ALLOWED:
        return within(imported, *ALLOWED[room]) and (name == COMPOSES_ITSELF or not within(imported, *COMPOSED))
    if within(imported, "labs"):
        return within(name, "llmops.cli")
    return within(name, *COMPOSITION_ROOT) or (within(imported, "llmops") and not within(imported, *COMPOSITION_ROOT))


@pytest.mark.parametrize("path", sorted((ROOT / "llmops").rglob("*.py")), ids=name_of)
def test_the_core_loads_labs_only_when_they_are_used(path: Path) -> None:
    assert not [imported for imported in imports_of(path, at_once=True) if within(imported, "labs")]


@pytest.mark.parametrize("path", sorted((ROOT / "llmops/evaluation").rglob("*.py")), ids=name_of)
def test_evaluation_knows_no_store_and_no_network(path: Path) -> None:
    banned = ("llmops.registry", "llmops.recording", "llmops.production_log", "httpx", "requests", "openai")
    for imported in imports_of(path):
        assert not within(imported, *banned), f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_settings_read_the_environment(path: Path) -> None:
    # openai, endpoint: the user names the variable of a key; store: MLflow is configured through the environment alone;
    # the others hand their environment on to a child process, or to a library at its import.
    exempt = {
        "llmops.settings",
        "llmops.engines.openai",
        "llmops.judges.endpoint",
        "llmops.registry.store",
        "service.gateway_process",
        "llmops.cli.ui",
        "service.serve",
        "monitoring.evidently_import",
    }
    if name_of(path) not in exempt:
        assert "os.environ" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_file_outgrows_a_reader(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_help_loads_nothing_heavy() -> None:
    heavy = ("mlflow", "torch", "evidently", "ragas", "fastapi", "pandas", "scipy", "transformers", "numpy", "datasets")
    heavy += ("sklearn", "skops", "pandera", "dbos", "matplotlib")
    code = (
        "import sys; from click.testing import CliRunner; from llmops.cli import cli;"
        "result = CliRunner().invoke(cli, ['--help']); assert result.exit_code == 0, result.output;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"


def test_the_gateway_process_loads_neither_evidently_nor_ragas_nor_torch_nor_the_labs() -> None:
    code = (
        "import sys, service.app, service.server, llmops.registry;"
        "heavy = ('evidently', 'ragas', 'torch', 'transformers', 'pandera', 'dbos', 'matplotlib', 'labs');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"

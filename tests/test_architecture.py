"""Holds the import rules of ARCHITECTURE.md: who may import whom, and which room owns which framework."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("llmops", "service", "monitoring", "labs")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


TEMPLATES = sorted(
    path for room in ("llmops", "monitoring") for kind in ("html", "jinja") for path in (ROOT / room).rglob(f"*.{kind}")
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}

# framework → the modules (by prefix) that may import it
OWNERS = {
    "mlflow": (
        "llmops.registry",
        "llmops.recording",
        "llmops.judges.mlflow_judges",
        "llmops.optimizing.mlflow_optimizers",
    ),
    "gepa": ("llmops.optimizing.mlflow_optimizers",),
    "fastapi": ("service",),
    "uvicorn": ("service",),
    "starlette": ("service",),
    "evidently": ("monitoring",),
    "ragas": ("llmops.evaluation.scorers.ragas_scorers", "llmops.judges.ragas_judges", "llmops.judges.ragas_bridge"),
    "instructor": ("llmops.judges.ragas_bridge", "llmops.judges.ragas_judges"),
    "datasets": ("llmops.evaluation.record_files", "llmops.finetuning.lora"),
    "torch": ("llmops.engines.transformers", "llmops.engines.embedding", "llmops.finetuning", "llmops.models.merging"),
    "transformers": ("llmops.engines.transformers", "llmops.finetuning.lora"),
    "peft": ("llmops.finetuning.lora",),
    "trl": ("llmops.finetuning.lora",),
    "xllamacpp": ("llmops.engines.llamacpp",),
    "openvino_genai": ("llmops.engines.openvino",),
    "openai": ("labs.llm.demo", "llmops.judges"),
    "dbos": ("llmops.pipelines",),
    "croniter": ("llmops.pipelines",),
    "skops": ("llmops.tabular",),
    "sklearn": ("llmops.tabular", "labs", "monitoring.tabular"),
    "pandera": ("labs",),
    "jinja2": ("llmops.pages",),
    "ray": ("llmops.ray_cluster",),
}
# Who may import whom: what stands later may import what stands before it, never the reverse. An entry is a package, or
# a module that stands beside packages.
GROUND = "llmops"  # every module right in `llmops/`
FLOORS = (
    GROUND,
    "llmops.pages",
    "llmops.models",
    "llmops.engines",
    "llmops.engine_host",
    "llmops.engine_check",
    "llmops.evaluation",
    "llmops.judges",
    "llmops.tabular",
    "llmops.production_log",
    "llmops.keys",
    "llmops.audit",
    "llmops.migration",
    "llmops.registry",
    "llmops.pipelines",
    "llmops.recording",
    "llmops.eval_runs",
    "llmops.optimizing",
    "llmops.finetuning",
    "llmops.factsheet",
    "monitoring.tables",
    "monitoring.evidently_import",
    "monitoring.descriptors",
    "monitoring.store",
    "monitoring.decide",
    "monitoring.act",
    "monitoring.config",
    "monitoring.stores",
    "monitoring.show",
    "monitoring.examination",
    "monitoring.run",
    "monitoring.canary",
    "monitoring.tabular",
    "monitoring",
    "monitoring.forgetting",
    "monitoring.daemon",
    "monitoring.release_actions",
    "llmops.api",  # the functions behind the commands put the parts together, the monitor's too
    "llmops.pytest_plugin",
    "llmops.cli",
    "llmops.optimizing.cli",
    "llmops.finetuning.cli",
    "service",
    "llmops.redteam",  # tries the gateway's guards
    "monitoring.cli",
    "labs",
)
# Registry and recording are handed to service and monitoring, but where the parts are put together:
COMPOSITION_POINTS = {
    "service.serve",  # a worker process has to put its gateway together by itself
    "monitoring.release_actions",  # carries out on releases what policies ask for
    "monitoring.forgetting",  # deletes what MLflow's traces hold of a user
    "monitoring.cli",  # commands open what they need
}
# The tables by which the command line finds the commands of the rooms above it, and `import llmops` its functions.
TABLES = ("llmops.cli", "llmops")


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    """Full names of everything a module imports, wherever in the file it does."""
    return frozenset(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def test_a_framework_is_imported_only_by_the_room_that_owns_it():
    assert not [
        f"{name_of(path)} imports {imported}"
        for path in MODULES
        for imported in imports_of(path)
        if (owners := OWNERS.get(imported.partition(".")[0])) is not None and not within(name_of(path), *owners)
    ]


@functools.cache
def imports_of_ours(path: Path) -> frozenset[str]:
    """Modules of ours that a module imports: lazily, for types only, or by a string that names one."""
    strings = {
        node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    named = {name if name in NAMES else name.rpartition(".")[0] for name in imports_of(path)}
    own = {name_of(path), *(".".join(parent.parts) for parent in path.relative_to(ROOT).parents)}
    return frozenset(((named | strings) & NAMES) - own - {*ROOMS})


def arrows(*, within_rooms: tuple[str, ...] = ROOMS) -> Iterator[tuple[str, str]]:
    """Each module of some rooms with each module of ours that it imports; but for the tables."""
    for path in MODULES:
        if (name := name_of(path)) not in TABLES and within(name, *within_rooms):
            yield from ((name, imported) for imported in imports_of_ours(path))


def floor_of(name: str) -> int:
    """The floor of a module: of the longest entry that holds it."""
    holding = [entry for entry in FLOORS[1:] if within(name, entry)] or [GROUND]
    return FLOORS.index(max(holding, key=len))


def test_imports_go_down_or_stay_on_their_floor():
    assert not [f"{name} imports {other}" for name, other in arrows() if floor_of(other) > floor_of(name)]


@pytest.mark.parametrize("path", TEMPLATES, ids=str)
def test_templates_use_templates_of_their_floor_or_below(path):
    floor = floor_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for used in re.findall(r'"((?:llmops|service|monitoring|labs)/[^"]+)"', path.read_text(encoding="utf-8")):
        assert (ROOT / used).is_file(), f"{path} uses {used}"
        assert floor_of(used.rpartition(".")[0].replace("/", ".")) <= floor, f"{path} uses {used}"


def test_no_modules_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for name, imported in arrows():
        graph.setdefault(name, set()).add(imported)
    TopologicalSorter(graph).prepare()  # raises CycleError, naming the circle


@pytest.mark.parametrize(("room", "other"), [("service", "monitoring"), ("monitoring", "service")])
def test_service_and_monitoring_never_import_each_other(room, other):
    assert not [each for each in arrows(within_rooms=(room,)) if within(each[1], other)]


def test_stores_of_mlflow_are_handed_to_service_and_monitoring():
    assert not [
        f"{name} imports {other}"
        for name, other in arrows(within_rooms=("service", "monitoring"))
        if within(other, "llmops.registry", "llmops.recording") and not within(name, *COMPOSITION_POINTS)
    ]


def test_evaluation_knows_no_store_and_no_network():
    banned = ("llmops.registry", "llmops.recording", "llmops.production_log", "httpx", "requests", "openai")
    modules = [path for path in MODULES if within(name_of(path), "llmops.evaluation")]
    assert not [(name_of(path), each) for path in modules for each in imports_of(path) if within(each, *banned)]


def test_only_the_settings_read_the_environment():
    # openai_errors: the user names the variable of a key; store: MLflow is configured through the environment alone;
    # the others hand their environment on to a child process, or to a library at its import.
    exempt = {
        "llmops.settings",
        "llmops.engines.openai_errors",
        "llmops.finetuning.lora",
        "llmops.registry.mlflow_pages",
        "llmops.registry.store",
        "llmops.registry.store_upgrade",
        "llmops.cli.administration",
        "llmops.ray_cluster",
        "service.serve",
        "monitoring.evidently_import",
    }
    readers = {name_of(path) for path in MODULES if "os.environ" in path.read_text(encoding="utf-8")}
    assert readers == exempt


def test_no_file_outgrows_a_reader():
    assert not [str(path) for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > 400]


HEAVY = {
    "from click.testing import CliRunner; from llmops.cli import cli; "
    "assert CliRunner().invoke(cli, ['--help']).exit_code == 0": "mlflow torch evidently ragas fastapi pandas scipy "
    "transformers numpy datasets sklearn skops pandera dbos matplotlib ray",
    "import service.app, service.server, llmops.registry": "evidently ragas torch transformers pandera dbos matplotlib "
    "labs",
    "import llmops.api.evaluation, llmops.registry.mlflow_database, monitoring.act.actions": "sqlalchemy.dialects."
    "postgresql",
}
"""What a process does, and the packages that it must not load for it."""


@pytest.mark.parametrize(("does", "heavy"), HEAVY.items(), ids=["help", "gateway", "sqlite"])
def test_a_process_does_not_load_what_is_heavy_and_not_used(does, heavy):
    code = f"import sys; {does}; print([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"

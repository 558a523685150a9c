"""llmops: evaluate a prompt or model version, gate it, serve it as a release, and monitor its answers.

docs/python.md shows the functions here; docs/glossary.md defines the terms; ARCHITECTURE.md describes the packages and
which may import which.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmops.api.evaluation import compare, evaluate, gate, leaderboard, mlflow_scorers
    from llmops.api.production import monitor, read_log
    from llmops.api.versions import create_release, fact_sheet, promote, register_prompts, rollback
    from llmops.engines.python import model
    from llmops.evaluation.scorers.function import scorer
    from llmops.finetuning.finetune import finetune
    from llmops.optimizing.optimization import optimize
    from llmops.redteam.running import red_team

__all__ = [
    "__version__",
    "compare",
    "create_release",
    "evaluate",
    "fact_sheet",
    "finetune",
    "gate",
    "leaderboard",
    "mlflow_scorers",
    "model",
    "monitor",
    "optimize",
    "promote",
    "read_log",
    "red_team",
    "register_prompts",
    "rollback",
    "scorer",
]

__version__ = "0.1.0"

_MODULES = {
    "llmops.api.evaluation": ("compare", "evaluate", "gate", "leaderboard", "mlflow_scorers"),
    "llmops.api.production": ("monitor", "read_log"),
    "llmops.api.versions": ("create_release", "fact_sheet", "promote", "register_prompts", "rollback"),
    "llmops.engines.python": ("model",),
    "llmops.evaluation.scorers.function": ("scorer",),
    "llmops.finetuning.finetune": ("finetune",),
    "llmops.optimizing.optimization": ("optimize",),
    "llmops.redteam.running": ("red_team",),
}
"""By module, the names that are imported from it when they are first used: `import llmops` itself loads nothing."""


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

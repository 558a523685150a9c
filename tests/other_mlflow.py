"""Processes with another version of MLflow, laid over the installed one. Its wheels come from the package index."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Environment = Callable[[str], dict[str, str]]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def environment_with(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment of a process in which these packages of another MLflow, if any, lie over the installed one."""

    def made(packages: str) -> dict[str, str]:
        folder = tmp_path_factory.getbasetemp() / packages.replace("=", "-")
        if packages and not folder.exists():
            pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
            subprocess.run([*pip, *packages.split()], check=True)
        # MLflow keeps in the environment which store was named last.
        kept = {name: value for name, value in os.environ.items() if "MLFLOW" not in name}
        path = f"{folder}{os.pathsep}{Path(__file__).parents[1]}"
        return {**kept, "PYTHONPATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}

    return made


@pytest.fixture(scope="session")
def with_mlflow(environment_with: Environment) -> Run:
    """Runs Python in such an environment."""

    def run(packages: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = environment_with(packages)
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
        )

    return run

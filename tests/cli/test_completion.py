"""Shell completion, as a shell asks for it."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from llmops.cli import main
sys.argv[0] = "llmops"
try:
    main()
finally:
    print([name for name in ("mlflow", "numpy", "service.cli", "llmops.cli.doctor") if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("llmops ev", ["eval", "eval-set"]),
        ("llmops eval com", ["compare"]),
        ("llmops --v", ["--version"]),
        ("llmops eval run --repea", ["--repeatable"]),
    ],
)
def test_the_shell_is_offered_commands_and_options_and_nothing_heavy_is_loaded(typed, offered, tmp_path):
    asked = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_LLMOPS_COMPLETE": "bash_complete"}
    environment = {**os.environ, **asked, "LLMOPS_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [*(f"plain,{name}" for name in offered), "[]"], done.stderr
    assert not (tmp_path / "home").exists()

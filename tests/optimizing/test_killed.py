"""An optimisation killed with SIGKILL in each of its steps goes on where it was, and ends as if it never was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# In home argv[1], optimises in a child process for each step, which is killed as soon as it comes to that step; then
# once more, to the end; prints the steps that it killed at, and the result. Steps are what is told as progress.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
import mlflow, mlflow.genai, scipy.special, scipy.stats
from llmops.engines.fake import FakeEngine
from llmops.eval_runs import matrix
from llmops.eval_runs.evaluations import Evaluations
from llmops.optimizing.candidates import SearchOptions
from llmops.optimizing.optimization import Study
from llmops.processes import run_async
from llmops.registry import Registry
from tests.optimizing.conftest import code_of, codes_home

folder, killing = Path(sys.argv[1]), sys.argv[2] == "kill"
matrix.open_engine = lambda *_: FakeEngine(code_of)

def optimize(settings, show):
    evaluations = Evaluations(settings, Registry(settings))
    suite, registry = evaluations.suite("codes"), evaluations.registry
    current, model = registry.prompts.get("codes"), registry.models.get("tiny")
    return run_async(Study(evaluations, suite, current, model, SearchOptions(budget=300), progress=show).run)

def in_child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return os.WTERMSIG(os.waitpid(pid, 0)[1])

in_child(lambda: codes_home(folder))
from llmops.settings import Settings
settings = Settings(home=folder / "home", eval_sets=folder / "eval_sets", prompts=folder / "prompts", engine="fake")
met = folder / "met"
met.touch()

def until_a_new_step():
    def show(what, done, total):
        if what not in met.read_text().splitlines() and (done >= total // 3):
            with met.open("a") as file:
                file.write(what + chr(10))
            os.kill(os.getpid(), signal.SIGKILL)
    optimize(settings, show)

while killing and in_child(until_a_new_step) == signal.SIGKILL:
    pass
found = optimize(settings, lambda *_: None)
client = evaluations = Registry(settings).store.mlflow_client
experiment = client.get_experiment_by_name("optimizations")
runs = [run.info.run_id for run in client.search_runs([experiment.experiment_id])]
print(json.dumps([met.read_text().splitlines(), found.to_dict(), runs, client.get_run(runs[0]).data.metrics]))
"""


def run(folder: Path, mode: str) -> list[Any]:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), mode], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_killed_in_each_step_it_ends_as_undisturbed_with_no_prompt_written_and_no_held_out_row_read_twice(tmp_path):
    steps, found, runs, metrics = run(tmp_path / "killed", "kill")
    assert steps[0] == "splitting rows"
    assert steps[-4:] == [
        "reading held-out rows",
        "the best and the current prompt, held-out rows",
        "writing the prompt file",
        "recording",
    ]
    _, undisturbed, _, same_metrics = run(tmp_path / "undisturbed", "let")

    def known(result: dict[str, Any]) -> dict[str, Any]:
        return {**result, "run_id": "", "file": Path(result["file"]).name}

    assert runs == [found["run_id"]]
    assert known(found) == known(undisturbed)
    assert metrics == same_metrics
    written = [sorted((tmp_path / mode / "prompts" / "codes").iterdir()) for mode in ("killed", "undisturbed")]
    assert [[path.name for path in paths] for paths in written] == [["v1.md", "v2.md"]] * 2
    one, other = (paths[1].read_text().partition("(run ") for paths in written)
    assert one[0] == other[0]

"""The LLM lifecycle, killed in each of its steps in turn: the same end as without, and nothing twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmops.prompt_file import parse_prompt
from llmops.recording.pipelines import find_pipeline_run
from llmops.settings import Settings
from tests.registered_home import register_tiny, write_prompts, write_suite

# Each step's work is done, and the process killed before the result is kept; the next process gets by that step. While
# the canary waits, its traffic is logged.
SCRIPT = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from llmops.pipelines import Pipelines
from llmops.production_log import ProductionLog
from llmops.recording.pipelines import PipelineRecorder
from llmops.settings import Settings
from labs.llm.pipeline import LlmSteps, pipeline
from tests.labs.llm.canary import canary_traffic

home, prompts, eval_sets = map(Path, sys.argv[1:4])
refused = float(sys.argv[4])
settings = Settings(home=home, prompts=prompts, eval_sets=eval_sets, engine="fake")

def log_traffic(_seconds):
    log = ProductionLog(settings.resolved_log_url)
    log.import_records(canary_traffic("helper", datetime.now(UTC), 150, refused=refused))
    log.close()

class Deadly(LlmSteps):
    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        steps = ("register", "evaluate", "gate", "canary", "monitor", "promote", "renew_reference", "roll_back")
        if name not in steps:
            return found
        def work(*arguments):
            result = found(*arguments)
            if not (home / f"killed-{name}").exists():
                (home / f"killed-{name}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return work

with Pipelines(settings, recorder=PipelineRecorder(settings)) as pipelines:
    given = {"suite": "sums", "app": "helper", "minimum_rows": 150}
    done = pipelines.run(pipeline(settings, work=Deadly(settings, nap=log_traffic)), given, cycle="x")
print(done.result["outcome"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("refused", "outcome", "steps", "champion"), [(0.0, "promoted", 7, 2), (0.4, "rolled back", 6, 1)]
)
def test_each_step_may_be_killed(tmp_path, refused, outcome, steps, champion):
    home, prompts, eval_sets = tmp_path / "home", tmp_path / "prompts", tmp_path / "eval_sets"
    write_prompts(prompts)
    write_suite(eval_sets, "sums", 24)
    registry, version = register_tiny(Settings(home=home, prompts=prompts))
    first, _ = registry.prompts.register("qa", parse_prompt((prompts / "qa" / "v1.md").read_text()))
    release, _ = registry.release_versions.create("helper", first, version, first.template.parameters)
    registry.release_versions.promote(release, why="the first one")

    codes, said = [], ""
    while not codes or codes[-1] == -9:
        command = [sys.executable, "-c", SCRIPT, str(home), str(prompts), str(eval_sets), str(refused)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        codes.append(ended.returncode)
        said = ended.stdout
        assert ended.returncode in (0, -9), ended.stderr
        assert len(codes) < 20
    assert (codes, said.strip()) == ([-9] * steps + [0], outcome)

    releases = registry.release_versions.versions("helper")
    assert [item.version for item in releases] == [1, 2], "no release was made twice"
    assert [item.version for item in releases if "champion" in item.aliases] == [champion]
    assert not [item for item in releases if "challenger" in item.aliases]
    assert registry.release_versions.policy("helper") is None
    assert [item.version for item in registry.prompts.versions("qa")] == [1, 2]
    moves = [move["what"] for move in registry.release_versions.history("helper")]
    assert moves.count("promote") + moves.count("force-promote") == champion
    run = find_pipeline_run(registry.store, "llm", "x")
    assert run is not None
    assert run.info.status == "FINISHED"
    kept = Path(registry.store.client.download_artifacts(run.info.run_id, "steps", str(tmp_path)))
    attempts = [json.loads(path.read_text())["attempt"] for path in sorted(kept.iterdir())]
    assert attempts == list(range(2, steps + 2)), "each step was written down when it ended"

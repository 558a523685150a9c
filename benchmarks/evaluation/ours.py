"""llmops itself, used as a user would: its command line, in a fresh home with the benchmark's own prompts and suite.

What it scored is read back from MLflow through MLflow's own API, so that the record is checked with the runner.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evaluation.outcome import Answer, AnswerKey, ContenderFailed, Outcome
from benchmarks.evaluation.questions import MAX_TOKENS, PROMPTS, STOP, Question
from benchmarks.evaluation.server import CONTEXT, KEY, threads

SUITE = "bench"
_MODEL = "bench-model"  # MLflow has one name space for models and prompts
KEY_VARIABLE = "BENCH_KEY"
_PROMPT_FILE = """\
---
input_variable: question
parameters: {{max_tokens: {max_tokens}, temperature: 0, stop: [{stop}]}}
---
# user
{text}
"""


class Home:
    """A fresh LLMOPS_HOME in `folder`, with prompts and suites beside it."""

    def __init__(self, folder: Path, slots: int) -> None:
        """slots: requests decoded side by side in process, or sent side by side to a server."""
        self._folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
        self._environment = {
            **kept,
            "LLMOPS_HOME": str(folder / "home"),
            "LLMOPS_EVAL_SETS": str(folder / "eval_sets"),
            "LLMOPS_PROMPTS": str(folder / "prompts"),
            "LLMOPS_ENGINE_SLOTS": str(slots),
            "LLMOPS_ENGINE_CONTEXT": str(CONTEXT),
            "LLMOPS_ENGINE_THREADS": str(threads()),
            "HF_HUB_OFFLINE": "1",
            KEY_VARIABLE: KEY,
        }

    def llmops(self, *arguments: str) -> tuple[dict[str, Any], float]:
        """The JSON that a command prints, and its wall time in seconds. Raises ContenderFailed."""
        start = time.perf_counter()
        command = [sys.executable, "-m", "llmops.cli", *arguments, "--json"]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - start
        if done.returncode != 0:
            raise ContenderFailed(f"llmops {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found, wall

    def write_prompts(self, texts: Iterable[str], name: str = SUITE) -> None:
        """Prompt files v1.md, v2.md, … with these texts."""
        for number, text in enumerate(texts, 1):
            path = self._folder / "prompts" / name / f"v{number}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            content = _PROMPT_FILE.format(max_tokens=MAX_TOKENS, stop=json.dumps(STOP), text=text)
            path.write_text(content, encoding="utf-8")

    def write_suite(
        self, rows: Iterable[Mapping[str, Any]], scorers: Mapping[str, str], name: str = SUITE, choices: bool = False
    ) -> None:
        """A suite over `rows`. scorers: type by name. choices: the rows are multiple choice."""
        folder = self._folder / "eval_sets"
        (folder / name).mkdir(parents=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name / "rows.jsonl").write_text(lines, encoding="utf-8")
        tables = "".join(f'[scorers.{scorer}]\ntype = "{kind}"\n' for scorer, kind in scorers.items())
        head = f'eval_sets = ["{name}"]\nprompt = "{name}"\nmodel = "{_MODEL}"\nchoices = {json.dumps(choices)}\n'
        gate = f'[gate]\nprimary = "{next(iter(scorers))}"\nrule = "better"\n'
        (folder / f"{name}.toml").write_text(head + tables + gate, encoding="utf-8")

    def register_model(self, source: str) -> None:
        """source: as `llmops models register` takes it."""
        key = ("--key-env", KEY_VARIABLE) if source.startswith("openai:") else ()
        self.llmops("models", "register", _MODEL, "--source", source, *key)

    def register_prompts(self) -> list[str]:
        """`NAME@V` of each prompt file, in their order."""
        registered, _ = self.llmops("prompts", "register")
        return [f"{prompt['name']}@{prompt['version']}" for prompt in registered["prompts"]]

    def scores(self, run: Mapping[str, Any], scorer: str) -> dict[str, tuple[str, float]]:
        """Output and score of every row of a recorded run, by row id, as MLflow holds them.

        Raises:
            ContenderFailed: a row was not scored.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{self._folder / 'home' / 'mlflow.db'}")
        experiment = client.get_run(run["run_id"]).info.experiment_id
        found: dict[str, tuple[str, float]] = {}
        token = None
        while True:
            page = client.search_traces(locations=[experiment], run_id=run["run_id"], page_token=token)
            for trace in page:
                row_id = trace.info.tags["row_id"]
                feedback = next(item.feedback for item in trace.info.assessments if item.name == scorer)
                if feedback.value is None:
                    raise ContenderFailed(f"{scorer} of row {row_id}: {feedback.error}")
                found[row_id] = (json.loads(trace.data.response), float(feedback.value))
            token = page.token
            if not token:
                return found


def home_with_questions(folder: Path, source: str, questions: Sequence[Question], slots: int) -> tuple[Home, list[str]]:
    """A home where the model and both prompt versions are registered; and the versions' `NAME@V`."""
    home = Home(folder, slots)
    home.write_prompts(PROMPTS.values())
    rows = [
        {
            "id": item.id,
            "inputs": {"question": item.question},
            "expectations": {"expected_response": item.answer},
            "tags": {"slice": item.slice},
        }
        for item in questions
    ]
    home.write_suite(rows, {"contained": "contains"})
    home.register_model(source)
    return home, home.register_prompts()


def evaluate(home: Home, prompts: Sequence[str], *options: str) -> tuple[list[dict[str, Any]], float]:
    """The runs that `llmops eval run` reports, one a prompt version, and its wall time in seconds."""
    chosen = [part for prompt in prompts for part in ("--prompt", prompt)]
    report, wall = home.llmops("eval", "run", SUITE, *chosen, *options)
    by_prompt = {run["prompt"]: run for run in report["runs"]}
    return [by_prompt[prompt] for prompt in prompts], wall


def run_ours(folder: Path, source: str, questions: Sequence[Question], slots: int, *options: str) -> Outcome:
    """Both prompt versions in one `llmops eval run`.

    source: the model, `file:PATH` for the engine in process, `openai:URL#MODEL` for the server.
    """
    home, prompts = home_with_questions(folder, source, questions, slots)
    runs, wall = evaluate(home, prompts, *options)
    answers: dict[AnswerKey, Answer] = {}
    for name, run in zip(PROMPTS, runs, strict=True):
        if run["generated"] != len(questions):
            raise ContenderFailed(f"{run['prompt']}: {run['generated']} of {len(questions)} rows were generated")
        for row_id, (text, score) in home.scores(run, "contained").items():
            answers[name, row_id] = Answer(text, score)
    return Outcome(sum(run["seconds"] for run in runs), wall, answers)


def generated_after_a_change(
    folder: Path, source: str, questions: Sequence[Question], slots: int, third: tuple[str, str]
) -> list[int]:
    """Three prompt versions are evaluated, the third is changed, and all three are evaluated again.

    third: its text before and after. Gives how many rows of each were generated the second time.
    """
    before, after = third
    home, _ = home_with_questions(folder, source, questions, slots)
    home.write_prompts((*PROMPTS.values(), before))
    evaluate(home, home.register_prompts())
    home.write_prompts((*PROMPTS.values(), after))
    runs, _ = evaluate(home, home.register_prompts())
    return [run["generated"] for run in runs]

"""The peers, each in an environment of its own: lm-evaluation-harness and promptfoo, at the versions named here.

They are installed when absent, by pip and npm, into a cache folder that is used again. Both run with their network
habits (telemetry, update check, hub) switched off, since the machine may have none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evaluation.outcome import Answer, ContenderFailed, Outcome
from benchmarks.evaluation.questions import MAX_TOKENS, PROMPTS, STOP, Question
from benchmarks.evaluation.server import KEY, MODEL, threads

LM_EVAL, PROMPTFOO, TORCH = "0.4.13", "0.121.20", "2.13.0"
FAILED_ASSERTIONS = 100  # promptfoo's exit code when a row scored 0, which is no failure of the run

_QUIET_HUB = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_QUIET_PROMPTFOO = {
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "PROMPTFOO_DISABLE_REMOTE_GENERATION": "1",
    "PROMPTFOO_SELF_HOSTED": "1",
}
_CONTAINED = '''\
def contained(references, predictions, **_):
    """Case-insensitive containment, as promptfoo's icontains."""
    return float(str(references[0]).lower() in str(predictions[0]).lower())
'''
_TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: {prompt}
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [{stop}], do_sample: false, max_gen_toks: {max_tokens}}}
metric_list: [{{metric: !function contained.contained, aggregation: mean, higher_is_better: true}}]
"""
_CHOICE_TASK = """\
task: choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: {prompt}
doc_to_choice: choices
doc_to_target: answer_index
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended. lines: what it printed, each with the second at which it came. wall: seconds in all."""

    lines: Sequence[tuple[float, str]]
    wall: float

    def span(self, first: str, last: str) -> float:
        """Seconds from the first line that holds `first` to the last one that holds `last`. Raises ContenderFailed."""
        starts = [at for at, line in self.lines if first in line]
        ends = [at for at, line in self.lines if last in line]
        if not starts or not ends:
            raise ContenderFailed(f"no line with {first!r} and {last!r} in its output")
        return ends[-1] - starts[0]


def run(command: Sequence[str], environment: Mapping[str, str], allowed: tuple[int, ...] = (0,)) -> Finished:
    """Runs a command to its end, stamping each line of its output. Raises ContenderFailed with the output's end."""
    start = time.perf_counter()
    lines = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,  # universal newlines: a progress bar's carriage return ends a line too
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout
        lines += [(time.perf_counter() - start, line.rstrip()) for line in process.stdout]
    if process.returncode not in allowed:
        tail = "\n".join(line for _, line in lines[-20:])
        raise ContenderFailed(f"{command[0]} ended with {process.returncode}:\n{tail}")
    return Finished(lines, time.perf_counter() - start)


def install_lm_eval(cache: Path) -> Path:
    """The `lm_eval` command in a virtual environment of its own (some 2 GB, CPU only)."""
    folder = cache / "lm-eval"
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]

    def install() -> None:
        run([sys.executable, "-m", "venv", str(folder)], {})
        # torch first and pinned: a looser requirement may bring gigabytes of CUDA.
        run([*pip, f"torch=={TORCH}"], {})
        run([*pip, f"lm-eval[api,hf]=={LM_EVAL}", f"torch=={TORCH}"], {})

    _once(folder / f"installed-{LM_EVAL}", f"lm-eval {LM_EVAL}", install)
    return folder / "bin/lm_eval"


def install_promptfoo(cache: Path) -> Path:
    """The `promptfoo` command in a folder of its own (some 1.4 GB)."""
    folder = cache / "promptfoo"
    npm = shutil.which("npm")
    if npm is None:
        raise ContenderFailed("promptfoo needs Node.js and npm")

    def install() -> None:
        quiet = ("--no-fund", "--no-audit", "--loglevel=error")
        run([npm, "install", *quiet, "--prefix", str(folder), f"promptfoo@{PROMPTFOO}"], {})

    _once(folder / f"installed-{PROMPTFOO}", f"promptfoo {PROMPTFOO}", install)
    return folder / "node_modules/.bin/promptfoo"


def _once(marker: Path, name: str, install: Callable[[], None]) -> None:
    """Installs, unless an earlier installation came to its end."""
    if not marker.exists():
        print(f"installing {name} into {marker.parent}", file=sys.stderr)
        marker.parent.mkdir(parents=True, exist_ok=True)
        install()
        marker.touch()


def run_promptfoo(
    command: Path, base_url: str, questions: Sequence[Question], folder: Path, concurrency: int | None
) -> Outcome:
    """Both prompt versions in one `promptfoo eval`; concurrency: None leaves its default."""
    config = {
        "prompts": [{"label": name, "raw": text} for name, text in PROMPTS.items()],
        "providers": [
            {
                "id": f"openai:chat:{MODEL}",
                "config": {
                    "apiBaseUrl": base_url,
                    "apiKey": KEY,
                    "temperature": 0,
                    "max_tokens": MAX_TOKENS,
                    "stop": [STOP],
                },
            }
        ],
        "defaultTest": {"assert": [{"type": "icontains", "value": "{{answer}}"}]},
        "tests": [
            {"vars": {"question": item.question, "answer": item.answer}, "metadata": {"id": item.id}}
            for item in questions
        ],
    }
    config_file, results_file = folder / "promptfooconfig.json", folder / "results.json"
    config_file.write_text(json.dumps(config), encoding="utf-8")
    options = ["--no-cache", "--no-table", "--no-progress-bar", "-o", str(results_file)]
    if concurrency is not None:
        options += ["--max-concurrency", str(concurrency)]
    done = run(
        [str(command), "eval", "-c", str(config_file), *options],
        {**_QUIET_PROMPTFOO, "PROMPTFOO_CONFIG_DIR": str(folder / "promptfoo")},
        allowed=(0, FAILED_ASSERTIONS),
    )
    results = json.loads(results_file.read_text(encoding="utf-8"))["results"]
    if errors := results["stats"]["errors"]:
        raise ContenderFailed(f"promptfoo failed on {errors} rows")
    answers = {
        (row["prompt"]["label"], row["testCase"]["metadata"]["id"]): Answer(row["response"]["output"], row["score"])
        for row in results["results"]
    }
    return Outcome(results["stats"]["evaluationDurationMs"] / 1000, done.wall, answers)


def run_lm_eval(command: Path, base_url: str, questions: Sequence[Question], folder: Path, concurrency: int) -> Outcome:
    """Both prompt versions as two tasks of one `lm_eval run` through its chat API model."""
    rows = [{"id": item.id, "question": item.question, "answer": item.answer} for item in questions]
    _write_rows(folder, rows)
    (folder / "contained.py").write_text(_CONTAINED, encoding="utf-8")
    for name, prompt in PROMPTS.items():
        task = _TASK.format(
            name=name,
            rows=json.dumps(str(folder / "rows.jsonl")),
            prompt=json.dumps(prompt),
            stop=json.dumps(STOP),
            max_tokens=MAX_TOKENS,
        )
        (folder / f"{name}.yaml").write_text(task, encoding="utf-8")
    model = f"model={MODEL},base_url={base_url}/chat/completions,num_concurrent={concurrency},max_retries=1"
    arguments = ["--model", "local-chat-completions", "--model_args", f"{model},tokenized_requests=False"]
    done = _lm_eval(command, arguments, list(PROMPTS), folder)
    answers = {
        (name, row["doc"]["id"]): Answer(row["filtered_resps"][0], row["contained"])
        for name in PROMPTS
        for row in _samples(folder, name)
    }
    # Its own report of the time counts imports; the requests are between these two lines, with scoring and the writing
    # of its samples, which take a tenth of a second. Its progress bar is not written where there is no terminal.
    return Outcome(done.span("Running generate_until requests", "gen_kwargs: ("), done.wall, answers)


@dataclass(frozen=True, slots=True)
class ChoiceOutcome:
    """Multiple choice by log-likelihood. acc, acc_norm: whether each question was right, by id."""

    seconds: float
    wall: float
    acc: Mapping[str, bool]
    acc_norm: Mapping[str, bool]


def run_lm_eval_choices(
    command: Path, model: Path, prompt: str, rows: Sequence[Mapping[str, object]], folder: Path
) -> ChoiceOutcome:
    """`lm_eval run` on a model folder with its `hf` model, at float32, with the model's chat template.

    rows: `id`, `question`, `choices` and `answer_index` of each.
    """
    _write_rows(folder, rows)
    task = _CHOICE_TASK.format(rows=json.dumps(str(folder / "rows.jsonl")), prompt=json.dumps(prompt))
    (folder / "choices.yaml").write_text(task, encoding="utf-8")
    arguments = ["--model", "hf", "--model_args", f"pretrained={model},dtype=float32"]
    done = _lm_eval(command, [*arguments, "--device", "cpu", "--batch_size", "8"], ["choices"], folder)
    samples = _samples(folder, "choices")
    return ChoiceOutcome(
        done.span("Running loglikelihood requests", "gen_kwargs: ("),
        done.wall,
        {row["doc"]["id"]: row["acc"] == 1 for row in samples},
        {row["doc"]["id"]: row["acc_norm"] == 1 for row in samples},
    )


def _lm_eval(command: Path, model: Sequence[str], tasks: Sequence[str], folder: Path) -> Finished:
    return run(
        [
            *(str(command), "run", *model, "--apply_chat_template", "--include_path", str(folder)),
            *("--tasks", ",".join(tasks), "--output_path", str(folder / "out"), "--log_samples"),
        ],
        {**_QUIET_HUB, "OPENAI_API_KEY": KEY, "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": str(threads())},
    )


def _write_rows(folder: Path, rows: Sequence[Mapping[str, object]]) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _samples(folder: Path, task: str) -> list[dict[str, Any]]:
    files = list((folder / "out").glob(f"*/samples_{task}_*.jsonl"))
    if len(files) != 1:
        raise ContenderFailed(f"lm-eval left {len(files)} files of samples for {task}")
    return [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()]

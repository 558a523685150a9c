"""On the packaged model (minutes): the page's own fine-tune, and one on wrong labels."""

import json
import os
import random
import shlex
import subprocess
import sys

import pytest

import llmops
from labs.llm.training_rows import rows
from llmops.registry import Registry, model_registration
from llmops.settings import Settings, with_samples
from tests.e2e.conftest import ROOT
from tests.finetuning.conftest import write_rows
from tests.page_commands import console_commands

MODEL, PROMPT = "smollm2-135m-instruct@1", "extract@2"


@pytest.mark.slow
def test_rows_with_shuffled_labels_do_not_get_past_the_gate(tmp_path):
    settings = with_samples(Settings.from_environment({"LLMOPS_HOME": str(tmp_path / "home")}))
    model_registration.pull(settings, Registry(settings), MODEL.partition("@")[0], lambda _: None)
    llmops.register_prompts("extract", settings=settings)
    poisoned = list(rows())[:64]
    labels = [row["expectations"] for row in poisoned]
    random.Random(0).shuffle(labels)  # noqa: S311 - no secret
    for row, label in zip(poisoned, labels, strict=True):
        row["expectations"] = label
    path = write_rows(tmp_path / "rows.jsonl", poisoned)
    made = llmops.finetune(MODEL, suite="extract", train=path, prompt=PROMPT, settings=settings, progress=False)
    assert made.log.validation_losses  # it was trained as any other
    assert made.agreement.tokens > 100
    parent, tuned = llmops.evaluate("extract", prompts=PROMPT, models=[MODEL, made.version.ref], settings=settings)
    verdict = llmops.gate(tuned, against=parent, settings=settings)
    assert not verdict.passed, json.dumps(verdict.to_dict())[:2000]


@pytest.mark.slow
def test_the_page_runs_as_written_and_the_gate_passes(tmp_path):
    commands = console_commands((ROOT / "docs" / "finetune.md").read_text("utf-8"))
    assert len(commands) >= 5
    environment = {**os.environ, "LLMOPS_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    for command, expected in commands:
        words = [sys.executable, "-m", "llmops.cli", *shlex.split(command.removeprefix("llmops "))]
        done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == expected, f"$ {command}\n{done.stdout}\n{done.stderr}"

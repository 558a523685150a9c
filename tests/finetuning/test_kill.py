"""A fine-tune whose process is killed while it trains."""

import subprocess
import sys
import time

import pytest

from llmops.finetuning.lora import CHECKPOINTS
from tests.finetuning.conftest import words, write_rows

TRAIN = """
from pathlib import Path
from llmops.settings import Settings
from tests.finetuning.conftest import Shop
shop = Shop(Settings.from_environment({settings!r}))
shop.register("tiny", Path({model!r}))
shop.finetune(train=[{rows!r}], epochs=4)
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_from_its_last_checkpoint_to_the_same_weights(shop, ascii_gguf, tmp_path):
    rows = str(write_rows(tmp_path / "train.jsonl", words(12)))
    home = tmp_path / "killed"
    settings = {"LLMOPS_HOME": str(home), "LLMOPS_ENGINE_THREADS": "1"}
    settings["LLMOPS_EVAL_SETS"] = str(shop.settings.eval_sets)
    script = TRAIN.format(settings=settings, model=str(ascii_gguf), rows=rows)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(home.glob(f"finetunes/*/work/{CHECKPOINTS}/checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not list(home.glob("finetunes/*/work/adapter"))
    whole = shop.finetune(train=[rows], epochs=4)
    told = subprocess.run(
        [sys.executable, "-c", script + "print(shop.told)\nprint(shop.registry.models.get('tiny-shout').sha256)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "going on after step" in told
    assert told.splitlines()[-1] == whole.version.sha256

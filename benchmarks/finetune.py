"""What a training step costs: ours, which reads the words that all rows begin with once a batch, against trl's own step
on the same rows; the packaged model, CPU time, alternating. Both must have the same gradients.

The goal: less than half of trl's.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from labs.llm.training_rows import ROWS
from llmops.evaluation.eval_set import load_eval_set
from llmops.evaluation.scorers.protocol import right_answer
from llmops.finetuning import lora
from llmops.finetuning.recipe import make_recipe
from llmops.finetuning.training_rows import rendered
from llmops.models.sources import DEFAULT_MODEL
from llmops.models.weights import verified_path
from llmops.prompt_file import load_prompt_folder
from llmops.registry import Registry, model_registration
from llmops.settings import Settings, data_folder, with_samples

ROUNDS, GOAL = 5, 0.5


def main() -> int:
    settings = with_samples(Settings.from_environment())
    registry = Registry(settings)
    model = model_registration.pull(settings, registry, DEFAULT_MODEL, print)[0]
    base = lora.BaseModel(verified_path(model, settings))
    template = load_prompt_folder(data_folder(settings, "prompts") / "extract")[-1][1]
    rows = [
        base.encode(rendered(row, template, right_answer(row))) for row in list(load_eval_set(ROWS.parent).rows)[:8]
    ]
    recipe = make_recipe({"model": model.ref, "suite": "extract", "train": ["extract_training"]})
    ratios = []
    with tempfile.TemporaryDirectory() as folder, lora.quiet():
        import trl

        trainer = lora._trainer(base, rows, [], recipe, Path(folder), lambda *_: None, 60)
        batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
        trainer.model.train()
        for number in range(ROUNDS + 1):
            seconds, gradients = [], []
            for step in (type(trainer).compute_loss, trl.SFTTrainer.compute_loss):
                trainer.model.zero_grad()
                started = time.process_time()
                step(trainer, trainer.model, dict(batch)).backward()
                seconds.append(time.process_time() - started)
                gradients.append([p.grad.clone() for p in trainer.model.parameters() if p.grad is not None])
            apart = max(float((one - other).abs().max()) for one, other in zip(*gradients, strict=True))
            if number:  # the first makes ready what all others need
                ratios.append(seconds[0] / seconds[1])
                print(f"round {number}: {seconds[0]:.1f} s against {seconds[1]:.1f} s, gradients {apart:.1g} apart")
    worst = max(ratios)
    print(json.dumps({"ratio": sum(ratios) / len(ratios), "largest": worst, "goal": GOAL, "rounds": ROUNDS}))
    return 0 if worst < GOAL and apart < 1e-4 else 1


if __name__ == "__main__":
    sys.exit(main())

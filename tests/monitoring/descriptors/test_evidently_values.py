"""Our values against those of Evidently's own descriptors, on the same texts; each meant difference has a test."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import vaderSentiment

from llmops.production_log import LogRecord, parse_time
from monitoring.descriptors import DescriptorSet
from tests.monitoring.descriptors.corpus import TEXTS

WORDNET = next(
    (
        folder
        for folder in (Path("/usr/share/wordnet"), Path.home() / ".cache/llmops-bench/words/usr/share/wordnet")
        if (folder / "index.sense").is_file() and (folder / "noun.exc").is_file()
    ),
    None,
)
needs_wordnet = pytest.mark.skipif(WORDNET is None, reason="no WordNet on this machine (Debian: wordnet-base)")
LONG_WORDS = ("hate", "customer", "wolf", "box", "refund", "great", "child", "terrible")


def column(answers, **table):
    """The values of one descriptor of answers; None for an empty text, which Evidently's kind leaves out."""
    declared = DescriptorSet.from_config([{"name": "d", "of": "output", **table}])
    records = [LogRecord("r", parse_time(0, "at"), 200, "ok", output=text) for text in answers]
    described = declared.describe(records)
    assert not described.failures, described.reasons
    values = described.columns["d"]
    return [None if text == "" else value for text, value in zip(answers, values.tolist(), strict=True)]


def evidently(name, returns, parameters=None, texts=TEXTS):
    table = {"class": name, "returns": returns, "parameters": parameters or {}}
    return column(texts, kind="evidently", **table)


CASELESS = {"case_sensitive": False}
ALL_CASELESS = {"items": ["hate", "good"], "mode": "all", **CASELESS}
ADDRESS = r"[\w.+-]+@[\w-]+\.\w+"


@pytest.mark.parametrize(
    ("table", "name", "returns", "parameters"),
    [
        ({"kind": "length"}, "TextLength", "numeric", {}),
        ({"kind": "sentences"}, "SentenceCount", "numeric", {}),
        ({"kind": "non_letter"}, "NonLetterCharacterPercentage", "numeric", {}),
        ({"kind": "begins", "texts": "I"}, "BeginsWith", "flag", {"prefix": "I"}),
        ({"kind": "begins", "texts": "wha", **CASELESS}, "BeginsWith", "flag", {"prefix": "wha", **CASELESS}),
        ({"kind": "ends", "texts": "?"}, "EndsWith", "flag", {"suffix": "?"}),
        *(
            ({"kind": "contains", **items}, "Contains", "flag", items)
            for items in ({"items": ["I'm sorry", "refund"]}, {"items": ["U.S.", "(aside)"]}, ALL_CASELESS)
        ),
        ({"kind": "regex", "pattern": ADDRESS, "timeout": 10.0}, "RegExp", "flag", {"reg_exp": ADDRESS}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_are_evidentlys(table, name, returns, parameters):
    assert column(TEXTS, **table) == evidently(name, returns, parameters)


def one_line(text):
    """Without what Evidently's word descriptors read in another way."""
    return re.sub(r"\s", " ", text.encode("ascii", "ignore").decode())


def test_difference_words_of_all_scripts_count_and_signs_between_letters_join():
    plain = [re.sub(r"[^A-Za-z]+", " ", text) for text in TEXTS]
    assert column(plain, kind="words") == evidently("WordCount", "numeric", texts=plain)
    assert column(["Как дела", "don't", "a\nb"], kind="words") == [2, 1, 2]
    assert evidently("WordCount", "numeric", texts=["Как дела", "don't", "a\nb"]) == [0, 1, 1]


def differing(kind, name):
    """The texts of which Evidently's flag is another than ours."""
    pairs = zip(TEXTS, column(TEXTS, kind=kind), evidently(name, "flag"), strict=True)
    return {text for text, ours, theirs in pairs if ours != theirs}


def test_difference_links_in_brackets_are_seen_and_broken_ones_fail_nothing():
    for text in differing("link", "ContainsLink"):
        assert re.search(r"[^\s]https?://|www\.|//\w[\"']|[a-z.]://", text), text
    assert column(["[docs](https://example.com)", "(www.example.com)", "http://[oops"], kind="link") == [1, 1, 1]


def test_difference_only_objects_and_arrays_are_json():
    assert differing("valid_json", "IsValidJSON") == {"null", "0", "42", '"text"', "true", "NaN", "3.11"}


def word_wise(texts, words, **options):
    """Evidently's word-wise form, which its 0.6 had and its present reports still use."""
    from evidently.legacy.features.trigger_words_presence_feature import TriggerWordsPresent

    feature = TriggerWordsPresent("text", words_list=list(words), **options)
    return [feature.apply(text) if text else None for text in texts]


def test_trigger_words_are_those_of_evidentlys_word_wise_form():
    texts = [one_line(text) for text in TEXTS]
    ours = column(texts, kind="trigger_words", words=list(LONG_WORDS))
    assert ours == word_wise(texts, LONG_WORDS, lemmatize=False)
    assert len(set(ours)) > 1


def test_difference_trigger_words_are_no_substrings_are_parted_by_lines_and_may_be_of_any_script():
    listed = {"words_list": ["hate"], "lemmatize": False}
    assert column(["Whatever", "I hate it"], kind="trigger_words", words=["hate"]) == [0, 1]
    assert evidently("TriggerWordsPresent", "flag", listed, ["Whatever", "I hate it"]) == [1, 1]
    texts = ["no\nrefund\nnow", "кот спит"]
    assert column(texts, kind="trigger_words", words=["refund", "кот"]) == [1, 1]
    assert word_wise(texts, ["refund", "кот"], lemmatize=False) == [0, 0]


@pytest.fixture
def nltk_data(tmp_path, monkeypatch):
    """nltk's data, made from what is on this machine, at the place where nltk looks first."""
    import nltk

    lexicon = Path(vaderSentiment.__file__).parent / "vader_lexicon.txt"
    (tmp_path / "sentiment").mkdir()
    with zipfile.ZipFile(tmp_path / "sentiment" / "vader_lexicon.zip", "w") as archive:
        archive.write(lexicon, "vader_lexicon/vader_lexicon.txt")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    return tmp_path


def test_difference_sentiment_is_the_packages_and_not_nltks_port(nltk_data):
    prose = [
        "The service is good and I hate it.", "A very happy customer thanks you.", "The item is broken",
        "It was the worst delivery of this terrible store.", "Great support, I love the team!", "The table is here.",
    ]  # fmt: skip
    assert column(prose, kind="sentiment") == evidently("Sentiment", "numeric", texts=prose)
    # nltk's port reads no emoji and lets a denial reach on to a second feeling.
    texts = ["I am 😀", "The service is not good and I hate it."]
    ours, theirs = column(texts, kind="sentiment"), evidently("Sentiment", "numeric", texts=texts)
    assert ours[0] > 0 == theirs[0]
    assert ours[1] < 0 < theirs[1]


@pytest.mark.slow
@needs_wordnet
@pytest.mark.parametrize("kind", ["oov", "trigger_words"])
def test_words_and_lemmas_are_evidentlys_where_wordnet_is(kind, nltk_data):
    from benchmarks.monitoring.nltk_data import add_wordnet

    known = nltk_data / "corpora" / "words" / "en"
    known.parent.mkdir(parents=True)
    known.write_text("\n".join((*LONG_WORDS, "the", "cat", "good", "very", "not", "but", "see", "for")) + "\n")
    (known.parent / "en-basic").write_text("")
    add_wordnet(nltk_data, WORDNET)
    texts = [one_line(text) for text in TEXTS]
    if kind == "oov":
        ours = column(texts, kind=kind, words=str(known), wordnet=str(WORDNET))
        theirs = evidently("OOVWordsPercentage", "numeric", texts=texts)
    else:
        ours = column(texts, kind=kind, words=list(LONG_WORDS), lemmatise=True, wordnet=str(WORDNET))
        theirs = word_wise(texts, LONG_WORDS)
    assert ours == theirs
    assert len(set(ours)) > 1


def test_difference_without_wordnet_its_rules_alone_make_lemmas(tmp_path):
    (tmp_path / "words.txt").write_text("box\nhate\nnew\nthe\n")
    texts = ["the boxes", "he hated", "the news", "xyz the"]
    values = column(texts, kind="oov", words=str(tmp_path / "words.txt"))
    assert values == [0, 50, 0, 50]
    assert np.isfinite(values).all()

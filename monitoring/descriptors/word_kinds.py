"""Kinds that look words up in lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmops.hashing import content_hash
from llmops.settings import Settings
from monitoring.descriptors.computation import Computation
from monitoring.descriptors.declared import DescriptorKind
from monitoring.descriptors.lemmas import Lemmatiser, as_it_stands, by_rules, wordnet_nouns
from monitoring.descriptors.words import holds_any, out_of_vocabulary, package_file, profane_words, read_word_list
from monitoring.tables import Table


def _oov(table: Table, settings: Settings) -> Computation:  # noqa: ARG001 - what every kind is made of
    """`words` (a file, one word a line) or `words_package` (`package:path/in/it`, read and not imported); `ignore`;
    `lemmatise`, `wordnet`."""
    known = _word_list(table)
    ignored = table.texts("ignore", ())
    lemma, identity = _lemmatiser(table, True)
    return Computation(out_of_vocabulary(known, ignored, lemma), {"words": content_hash(sorted(known)), **identity})


def _word_list(table: Table) -> frozenset[str]:
    if "words_package" in table.values:
        reference = table.text("words_package")
        path = package_file(reference)
        if path is None:
            raise table.wrong("words_package", f"there is no {reference!r} (package:path/in/it) installed")
        name = "words_package"
    else:
        path, name = table.path("words"), "words"
    try:
        words = read_word_list(path)
    except (OSError, UnicodeDecodeError) as error:
        raise table.wrong(name, f"{path} cannot be read as text: {error}") from error
    if not words:
        raise table.wrong(name, f"{path} holds no words")
    return words


def _trigger_words(table: Table, settings: Settings) -> Computation:  # noqa: ARG001
    """`words`; `lemmatise`, `wordnet`: also their inflections."""
    triggers = table.texts("words")
    lemma, identity = _lemmatiser(table, False)
    return Computation(holds_any(triggers, lemma), identity)


def _profanity(table: Table, settings: Settings) -> Computation:  # noqa: ARG001
    """`words`: a file in place of the packaged list; `also`: words beside it; `never`: words that are fine here."""
    listed = _word_list(table) if "words" in table.values else profane_words()
    also = table.texts("also", ())
    never = table.texts("never", ())
    words = sorted({*listed, *also} - {*never})
    return Computation(holds_any(words, as_it_stands), {"words": content_hash(words)})


def _lemmatiser(table: Table, default: bool) -> tuple[Lemmatiser, dict[str, str]]:
    """The lemmatiser that a table asks for, and what of it decides values beside the table's keys."""
    chosen = table.switch("lemmatise", default)
    folder = table.optional_text("wordnet")
    if not chosen:
        return as_it_stands, {}
    if folder is None:
        return by_rules, {}
    path = table.file.parent / Path(folder).expanduser()
    try:
        return wordnet_nouns(path), {"wordnet": content_hash((path / "index.noun").read_text(encoding="utf-8"))}
    except (OSError, UnicodeDecodeError) as error:
        raise table.wrong("wordnet", f"{path} does not hold WordNet's index.noun and noun.exc: {error}") from error


WORD_KINDS: Mapping[str, DescriptorKind] = {
    "oov": DescriptorKind("numeric", _oov, unit="%"),
    "trigger_words": DescriptorKind("flag", _trigger_words),
    "profanity": DescriptorKind("flag", _profanity, harmful=True),
}

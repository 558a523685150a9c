"""Kinds that look words up in lists."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from llmops.hashing import content_hash
from llmops.settings import Settings
from monitoring.descriptors.model import Computation, DescriptorKind, Memo, Texts
from monitoring.tables import ConfigTable

# Lemmas of English nouns, by the detachment rules of WordNet's `morphy` (Miller et al. 1990, morphy(7WN)).
#
# With WordNet's files the lemma is the one that its lemmatiser gives, to the letter. Without them a word stands for
# itself and for all that the rules make of it, known words or not: `refunds` for `refund`, but `news` for `new` as
# well.

Lemmatiser = Callable[[str], tuple[str, ...]]
"""The forms that a word is looked up by."""

_NOUN_RULES = (
    ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
    ("men", "man"), ("ies", "y"),
)  # fmt: skip
_VERB_RULES = (("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ied", "y"), ("ing", "e"), ("ing", ""))


def as_it_stands(word: str) -> tuple[str, ...]:
    """No lemma: the word alone."""
    return (word,)


def by_rules(word: str) -> tuple[str, ...]:
    """The word and what the rules for nouns and verbs may make of it."""
    return (word, *_detached(word, _NOUN_RULES), *_detached(word, _VERB_RULES))


def wordnet_nouns(folder: Path) -> Lemmatiser:
    """The lemmatiser of a folder with WordNet's `index.noun` and `noun.exc`. Raises OSError, UnicodeDecodeError."""
    lines = (folder / "index.noun").read_text(encoding="utf-8").splitlines()
    nouns = frozenset(line.split(" ", 1)[0] for line in lines if line and not line.startswith(" "))
    listed = (line.split() for line in (folder / "noun.exc").read_text(encoding="utf-8").splitlines())
    exceptions = {form: lemmas for form, *lemmas in listed}

    def lemma(word: str) -> tuple[str, ...]:
        forms = exceptions[word] if word in exceptions else _detached(word, _NOUN_RULES)
        found = [form for form in (word, *forms) if form in nouns]
        return (min(found, key=len),) if found else (word,)

    return lemma


def _detached(word: str, rules: tuple[tuple[str, str], ...]) -> list[str]:
    return [word[: -len(old)] + new for old, new in rules if word.endswith(old)]


# Words of a text, looked up in lists: unknown ones, triggers, profanity.
#
# A word is what Evidently takes for one: white space parts words, and every sign that is neither letter nor digit is
# dropped (`don't` is `dont`). Two differences are meant: a line break parts words as a space does, where Evidently
# glues the last word of a line to the first of the next; and letters of all scripts stay, where it drops all but ASCII
# ones.

_NO_WORD_SIGN = re.compile(r"[^\w\s]|_")

# For ASCII texts, a tenfold as fast as the pattern: other signs vanish.
_ASCII = {ord(sign): None for sign in map(chr, range(128)) if not sign.isalnum() and not sign.isspace()}

PROFANITY_FILE = Path(__file__).parent / "profanity.txt"


def plain_words(texts: Texts) -> list[list[str]]:
    """The words of each text, in lower case."""
    return texts.derived(_split)


def _split(texts: Texts) -> list[list[str]]:
    plain = (text.translate(_ASCII) if text.isascii() else _NO_WORD_SIGN.sub("", text) for text in texts)
    return [text.lower().split() for text in plain]


def out_of_vocabulary(
    known: Iterable[str], ignored: Iterable[str], lemma: Lemmatiser
) -> Callable[[Texts], list[float]]:
    """Percentage of words whose lemma is not `known`; 0 for a text without words."""
    vocabulary, passed = frozenset(known), frozenset(word.lower() for word in ignored)
    unknown = Memo(lambda word: word not in passed and vocabulary.isdisjoint(lemma(word)))

    def shares(texts: Texts) -> list[float]:
        return [
            100 * sum(map(unknown.__getitem__, words)) / len(words) if words else 0.0 for words in plain_words(texts)
        ]

    return shares


def holds_any(triggers: Iterable[str], lemma: Lemmatiser) -> Callable[[Texts], list[bool]]:
    """Whether a word of the text, or its lemma, is one of the triggers; whole words, of either case."""
    wanted = frozenset(_NO_WORD_SIGN.sub("", word).lower() for word in triggers)
    hit = Memo(lambda word: not wanted.isdisjoint(lemma(word)))

    def flags(texts: Texts) -> list[bool]:
        return [any(map(hit.__getitem__, words)) for words in plain_words(texts)]

    return flags


@cache
def profane_words() -> frozenset[str]:
    """The packaged list."""
    lines = PROFANITY_FILE.read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


def read_word_list(file: Path) -> frozenset[str]:
    """The words of a text file, one a line, in the case they stand there. Raises OSError, UnicodeDecodeError."""
    words = (line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines())
    return frozenset(word for word in words if word and not word.startswith("#"))


def package_file(reference: str) -> Path | None:
    """The file that `package:path/in/it` names, found without importing the package; None when there is none."""
    package, _, inside = reference.partition(":")
    if not all(part.isidentifier() for part in package.split(".")) or not inside or ".." in Path(inside).parts:
        return None
    spec = find_spec(package.partition(".")[0])
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, *package.split(".")[1:], inside)
        if path.is_file():
            return path
    return None


def _oov(table: ConfigTable, settings: Settings) -> Computation:  # noqa: ARG001 - what every kind is made of
    """`words` (a file, one word a line) or `words_package` (`package:path/in/it`, read and not imported); `ignore`;
    `lemmatise`, `wordnet`."""
    known = _word_list(table)
    ignored = table.texts("ignore", ())
    lemma, identity = _lemmatiser(table, True)
    return Computation(out_of_vocabulary(known, ignored, lemma), {"words": content_hash(sorted(known)), **identity})


def _word_list(table: ConfigTable) -> frozenset[str]:
    name = "words_package" if "words_package" in table.values else "words"
    path = table.path(name) if name == "words" else package_file(table.text(name))
    if path is None:
        raise table.wrong(name, f"there is no {table.values[name]!r} (package:path/in/it) installed")
    try:
        words = read_word_list(path)
    except (OSError, UnicodeDecodeError) as error:
        raise table.wrong(name, f"{path} cannot be read as text: {error}") from error
    if not words:
        raise table.wrong(name, f"{path} holds no words")
    return words


def _trigger_words(table: ConfigTable, settings: Settings) -> Computation:  # noqa: ARG001
    """`words`; `lemmatise`, `wordnet`: also their inflections."""
    triggers = table.texts("words")
    lemma, identity = _lemmatiser(table, False)
    return Computation(holds_any(triggers, lemma), identity)


def _profanity(table: ConfigTable, settings: Settings) -> Computation:  # noqa: ARG001
    """`words`: a file in place of the packaged list; `also`: words beside it; `never`: words that are fine here."""
    listed = _word_list(table) if "words" in table.values else profane_words()
    also = table.texts("also", ())
    never = table.texts("never", ())
    words = sorted({*listed, *also} - {*never})
    return Computation(holds_any(words, as_it_stands), {"words": content_hash(words)})


def _lemmatiser(table: ConfigTable, default: bool) -> tuple[Lemmatiser, dict[str, str]]:
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

"""Lemmas of English nouns, by the detachment rules of WordNet's `morphy` (Miller et al. 1990, morphy(7WN)).

With WordNet's files the lemma is the one that its lemmatiser gives, to the letter. Without them a word stands for
itself and for all that the rules make of it, known words or not: `refunds` for `refund`, but `news` for `new` as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
    """The lemmatiser of a folder with WordNet's `index.noun` and `noun.exc`.

    Raises:
        OSError, UnicodeDecodeError: a file cannot be read.
    """
    lines = (folder / "index.noun").read_text(encoding="utf-8").splitlines()
    nouns = frozenset(line.split(" ", 1)[0] for line in lines if line and not line.startswith(" "))
    exceptions: dict[str, list[str]] = {}
    for line in (folder / "noun.exc").read_text(encoding="utf-8").splitlines():
        form, *lemmas = line.split()
        exceptions[form] = lemmas

    def lemma(word: str) -> tuple[str, ...]:
        found = _morphy(word, nouns, exceptions)
        return (min(found, key=len),) if found else (word,)

    return lemma


def _morphy(word: str, nouns: frozenset[str], exceptions: dict[str, list[str]]) -> list[str]:
    forms = exceptions[word] if word in exceptions else _detached(word, _NOUN_RULES)
    return [form for form in (word, *forms) if form in nouns]


def _detached(word: str, rules: tuple[tuple[str, str], ...]) -> list[str]:
    return [word[: -len(old)] + new for old, new in rules if word.endswith(old)]

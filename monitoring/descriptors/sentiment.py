"""VADER's sentiment (Hutto & Gilbert 2014), rewritten for speed: lexicon and rules of the package `vaderSentiment`.

`compound(text)` equals its `polarity_scores(text)["compound"]`. That implementation looks at every word several times
over and lowers the whole text for each of them; here a word is looked up once, and only the few words that the lexicon
knows are weighed against their neighbours.
"""

import math
import string
from functools import cache
from typing import NamedTuple

from monitoring.descriptors.model import Memo

READ_CHARACTERS = 2_000
"""Only so much of a text is read: a mood shows early, and what a hostile text costs is bounded."""

_MOST_WORDS_KEPT = 100_000
_NO = "no"


class Word(NamedTuple):
    """What is known of one token, whatever stands around it. valence: None where the lexicon does not have it.

    boosts: how much it adds to the next word. opens: it can stand in an idiom of several words.
    """

    lower: str
    shouted: bool
    valence: float | None
    boosts: float
    negates: bool
    opens: bool
    scores: bool


def sentiment(text: str) -> float:
    """From -1 to 1, of the first 2,000 characters. The lexicon is English: another language scores near 0."""
    return _vader().compound(text[:READ_CHARACTERS])


class Vader:
    """The scorer, with the words seen so far."""

    def __init__(self) -> None:
        """Reads lexicon and word lists of the installed package."""
        from vaderSentiment import vaderSentiment

        analyser = vaderSentiment.SentimentIntensityAnalyzer()
        self._lexicon: dict[str, float] = analyser.lexicon
        spelt = {sign: f" {meaning}" for sign, meaning in analyser.emojis.items() if len(sign) == 1}
        self._emojis, self._spelt = frozenset(spelt), str.maketrans(spelt)
        self._boosters: dict[str, float] = vaderSentiment.BOOSTER_DICT
        self._idioms: dict[str, float] = vaderSentiment.SPECIAL_CASES
        self._negations = frozenset(vaderSentiment.NEGATE)
        self._shout, self._flip = float(vaderSentiment.C_INCR), float(vaderSentiment.N_SCALAR)
        phrases = [phrase.split() for phrase in (*self._idioms, *self._boosters) if " " in phrase]
        self._in_phrases = frozenset(word for phrase in phrases for word in phrase)
        self._words = Memo(self.look_up, _MOST_WORDS_KEPT)

    def compound(self, text: str) -> float:
        """The compound score of a whole text, from -1 to 1, rounded to four places as the original's."""
        if not text.isascii() and not self._emojis.isdisjoint(text):
            text = text.translate(self._spelt)
        words = [self._words[token] for token in text.split()]
        last = len(words) - 1
        places = [
            place
            for place, word in enumerate(words)
            # `kind of` weakens; only elsewhere is `kind` kind.
            if word.scores and not (word.lower == "kind" and place < last and words[place + 1].lower == "of")
        ]
        if not places:
            return 0.0
        # Capitals say something only where some words are in capitals and some are not.
        shouts = 0 < sum(word.shouted for word in words) < len(words)
        weights = [self._weigh(words, place, shouts) for place in places]
        _after_but(words, weights, places)
        exclaimed, asked = min(text.count("!"), 4) * 0.292, text.count("?")
        stressed = exclaimed + (0.0 if asked < 2 else asked * 0.18 if asked <= 3 else 0.96)
        total = sum(weights)
        total += stressed if total > 0 else -stressed if total < 0 else 0.0
        return round(max(-1.0, min(1.0, total / math.sqrt(total * total + 15))), 4)

    def look_up(self, token: str) -> Word:
        stripped = token.strip(string.punctuation)
        shown = token if len(stripped) <= 2 else stripped  # two signs or fewer are likely an emoticon
        lower = shown.lower()
        valence = self._lexicon.get(lower)
        return Word(
            lower=lower,
            shouted=shown.isupper(),
            valence=valence,
            boosts=self._boosters.get(lower, 0.0),
            negates=lower in self._negations or "n't" in lower,
            opens=lower in self._in_phrases,
            scores=valence is not None and lower not in self._boosters,
        )

    def _weigh(self, words: list[Word], place: int, shouts: bool) -> float:
        """The valence of a lexicon word among the three before it and the two after it."""
        word = words[place]
        own = valence = word.valence or 0.0
        before = words[max(0, place - 3) : place][::-1]
        if word.lower == _NO and place + 1 < len(words) and words[place + 1].valence is not None:
            valence = 0.0
        # Denied: `no` stands one or two words before, or three with `or` or `nor` between.
        after_or = len(before) > 2 and before[2].lower == _NO and before[0].lower in ("or", "nor")
        if after_or or any(other.lower == _NO for other in before[:2]):
            valence = own * self._flip
        if word.shouted and shouts:
            valence += self._shout if valence > 0 else -self._shout
        for distance, other in enumerate(before):
            if other.valence is None:
                valence += self._boosted(other, valence, shouts) * (1.0, 0.95, 0.9)[distance]
                valence = self._negated(valence, before, distance)
                if distance == 2:
                    valence = self._in_idiom(valence, words, place)
        denied = before and before[0].lower == "least" and before[0].valence is None
        exempt = len(before) > 1 and before[1].lower in ("at", "very")
        return valence * self._flip if denied and not exempt else valence

    def _boosted(self, other: Word, valence: float, shouts: bool) -> float:
        if not other.boosts:
            return 0.0
        boost = -other.boosts if valence < 0 else other.boosts
        if other.shouted and shouts:
            boost += self._shout if valence > 0 else -self._shout
        return boost

    def _negated(self, valence: float, before: list[Word], distance: int) -> float:
        if distance == 0:
            return valence * self._flip if before[0].negates else valence
        first, second = before[0].lower, before[1].lower
        furthest = before[distance]
        if distance == 1:
            stressed = second == "never" and first in ("so", "this")
            doubtless = second == "without" and first == "doubt"
        else:
            third = furthest.lower
            stressed = (third == "never" and second in ("so", "this")) or first in ("so", "this")
            doubtless = third == "without" and "doubt" in (first, second)
        if stressed:
            return valence * 1.25
        return valence * self._flip if furthest.negates and not doubtless else valence

    def _in_idiom(self, valence: float, words: list[Word], place: int) -> float:
        around = words[place - 3 : place + 3]
        if not any(word.opens for word in around):
            return valence
        three, two, one, zero = (word.lower for word in around[:4])
        for phrase in (
            f"{one} {zero}", f"{two} {one} {zero}", f"{two} {one}", f"{three} {two} {one}", f"{three} {two}"
        ):  # fmt: skip
            if phrase in self._idioms:
                valence = self._idioms[phrase]
                break
        ahead = [word.lower for word in around[4:]]
        for count in range(1, len(ahead) + 1):
            valence = self._idioms.get(" ".join([zero, *ahead[:count]]), valence)
        for phrase in (f"{three} {two} {one}", f"{three} {two}", f"{two} {one}"):
            valence += self._boosters.get(phrase, 0.0)
        return valence


def _after_but(words: list[Word], weights: list[float], places: list[int]) -> None:
    """What stands before `but` counts half, what stands after it half as much again.

    The original finds each value's place by its first equal, so that of two equal ones the first is changed twice; what
    it gives is what the lexicon was rated with, so this is kept.
    """
    but = next((place for place, word in enumerate(words) if word.lower == "but"), None)
    if but is None:
        return
    for turn in range(len(weights)):
        first = weights.index(weights[turn])
        if places[first] != but:
            weights[first] *= 0.5 if places[first] < but else 1.5


_vader = cache(Vader)

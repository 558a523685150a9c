"""What every contender is asked: the same 100 short questions under the same prompts, and 40 questions with choices.

All text is our own. 40 capitals, 40 sums, 20 opposites; greedy, at most `MAX_TOKENS` tokens, ended by `STOP`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_TOKENS = 24
STOP = "\n\n"

PROMPTS = {
    "plain": "Answer with a few words only. Question: {{question}}",
    "examples": (
        "Answer with a few words only.\n"
        "Question: What is the capital of Malta?\nAnswer: Valletta\n"
        "Question: What is 3 plus 4?\nAnswer: 7\n"
        "Question: {{question}}\nAnswer:"
    ),
}
"""The two prompt versions that are timed; `{{question}}` is the one variable."""

THIRD_PROMPT = "Reply with the answer alone, and nothing else. {{question}}"
THIRD_PROMPT_CHANGED = "Reply with the answer alone, in one to three words. {{question}}"
"""A third version beside the two, and the change to it after which only its third of the rows may be generated."""

CHOICE_PROMPT = "Question: {{question}}\nAnswer:"

_CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Greece": "Athens",
    "Poland": "Warsaw",
    "Austria": "Vienna",
    "Hungary": "Budapest",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Ireland": "Dublin",
    "Japan": "Tokyo",
    "China": "Beijing",
    "India": "New Delhi",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "Russia": "Moscow",
    "Ukraine": "Kyiv",
    "Turkey": "Ankara",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Canada": "Ottawa",
    "Mexico": "Mexico City",
    "Cuba": "Havana",
    "Brazil": "Brasilia",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Argentina": "Buenos Aires",
    "Australia": "Canberra",
    "Iceland": "Reykjavik",
    "Belgium": "Brussels",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "Croatia": "Zagreb",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Nepal": "Kathmandu",
}
_OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "up": "down",
    "left": "right",
    "day": "night",
    "open": "closed",
    "fast": "slow",
    "wet": "dry",
    "old": "new",
    "high": "low",
    "light": "dark",
    "happy": "sad",
    "rich": "poor",
    "hard": "soft",
    "early": "late",
    "full": "empty",
    "long": "short",
    "love": "hate",
    "start": "end",
    "win": "lose",
}
_FACTS = (
    ("Which of these is a fruit?", ("apple", "hammer", "river", "cloud")),
    ("Which animal barks?", ("dog", "cat", "cow", "fish")),
    ("Which of these do people wear on their feet?", ("shoes", "gloves", "hats", "scarves")),
    ("Which of these is used to cut paper?", ("scissors", "a spoon", "a pillow", "a lamp")),
    ("What does a baker make?", ("bread", "shoes", "cars", "music")),
    ("Which of these is frozen water?", ("ice", "steam", "sand", "smoke")),
    ("Where do fish live?", ("in water", "in trees", "in the sky", "in books")),
    ("Which season is the coldest?", ("winter", "summer", "spring", "autumn")),
    ("Which of these can fly?", ("a bird", "a horse", "a table", "a stone")),
    ("What colour is the sky on a clear day?", ("blue", "green", "brown", "black")),
)


@dataclass(frozen=True, slots=True)
class Question:
    """An open question. slice: its kind."""

    id: str
    question: str
    answer: str
    slice: str


@dataclass(frozen=True, slots=True)
class ChoiceQuestion:
    """A question with four choices. answer_index: which one is right, counted from 0."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer_index: int


def questions() -> list[Question]:
    """The 100 open questions; always the same, and no two alike, so that a cache inside one run gains nothing."""
    asked = [(f"What is the capital of {country}?", capital, "capital") for country, capital in _CAPITALS.items()]
    asked += [(f"What is {a} plus {b}?", str(a + b), "sum") for a, b in _sums()]
    asked += [(f"What is the opposite of {word}?", other, "opposite") for word, other in _OPPOSITES.items()]
    return [Question(f"q{number:03}", *item) for number, item in enumerate(asked)]


def choice_questions() -> list[ChoiceQuestion]:
    """The 40 questions with choices: 10 capitals, 10 opposites, 10 sums, 10 facts; the right choice stands in every
    place."""
    asked: list[tuple[str, tuple[str, ...]]] = []
    for pairs, text in ((_CAPITALS, "What is the capital of {}?"), (_OPPOSITES, "What is the opposite of {}?")):
        subjects, answers = list(pairs), list(pairs.values())
        asked += [
            (text.format(subjects[n]), tuple(answers[(n + step) % len(answers)] for step in (0, 1, 4, 9)))
            for n in range(10)
        ]
    for a, b in _sums()[:10]:
        asked.append((f"What is {a} plus {b}?", tuple(str(a + b + error) for error in (0, 1, -2, 10))))
    made = []
    for number, (question, (right, *wrong)) in enumerate((*asked, *_FACTS)):
        place = number % 4
        made.append(ChoiceQuestion(f"c{number:02}", question, (*wrong[:place], right, *wrong[place:]), place))
    return made


def _sums() -> list[tuple[int, int]]:
    return [(2 + 7 * number % 29, 2 + 11 * number % 23) for number in range(40)]


def contained(answer: str, text: str) -> bool:
    """The score, written apart from llmops' own scorer: the answer stands in the text as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None

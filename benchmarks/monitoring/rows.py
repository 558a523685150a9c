"""Made-up answers of a shop's assistant: deterministic, some refusing, angry, with links, addresses or JSON."""

from __future__ import annotations

import numpy as np

_WORDS = """
    the a model data customer order refund ticket please thanks account password reset shipping delivery item
    price help support question answer policy return invoice payment card bank update status issue error service
    agent team product quality good great bad slow fast broken works happy sorry unfortunately kindly contact
    email phone address number time day week month today tomorrow available store online website app login user
    name change cancel confirm because when after before however therefore could would should must can will is
    are was were have has had do does did not no yes and or but if then so very more most less many few first
    last next new old right wrong best worst
""".split()  # noqa: SIM905 - the list would take a line for each word
_ANGRY = ("terrible", "awful", "angry", "hate", "useless", "broken", "worst", "horrible", "disappointed", "failure")


def make_answers(count: int, *, seed: int = 2, shift: float = 0.3) -> list[str]:
    """`count` answers of some 300 characters; shift 0 is usual traffic, above it more are long, angry and refusing."""
    chance = np.random.default_rng(seed)
    lengths = np.clip(chance.lognormal(3.6 + 0.25 * shift, 0.5, count).astype(int), 4, 400)
    weights = 1 / np.arange(1, len(_WORDS) + 1) ** 0.7
    drawn = chance.choice(_WORDS, size=lengths.sum(), p=weights / weights.sum())
    starts = np.concatenate(([0], np.cumsum(lengths)))
    odds = chance.random((count, 5))
    return [
        _answer(number, drawn[starts[number] : starts[number + 1]].tolist(), odds[number], shift, chance)
        for number in range(count)
    ]


def _answer(
    number: int, words: list[str], odds: np.ndarray[tuple[int], np.dtype[np.float64]], shift: float,
    chance: np.random.Generator,
) -> str:  # fmt: skip
    refused, linked, structured, personal, angry = odds
    if angry < 0.1 + 0.2 * shift:
        words[::9] = [_ANGRY[(number + place) % len(_ANGRY)] for place in range(0, len(words), 9)]
    step = int(chance.integers(6, 14))
    text = " ".join(" ".join(words[at : at + step]).capitalize() + "." for at in range(0, len(words), step))
    if refused < 0.05 + 0.1 * shift:
        text = f"I'm sorry, but I cannot help with that. {text}"
    if linked < 0.08:
        text += f" See https://example.com/help/{number} for details."
    if personal < 0.03 + 0.05 * shift:
        text += f" Write to user{number}@example.org or call +1 202-555-0{number % 1000:03d}."
    return f'{{"answer": "{text[:80]}", "ok": true}}' if structured < 0.04 else text

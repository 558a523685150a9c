"""Counts over the characters of many texts at once: a table look-up for each code point instead of a loop in Python."""

from __future__ import annotations

import re
import sys
from functools import cache
from typing import Any

import numpy as np

from monitoring.descriptors.model import Texts, in_parts

_LETTER, _WORD, _JOINS, _DIGIT = 1, 2, 4, 8
_AT_A_TIME = 1_000_000  # characters; each costs some 12 bytes while it is counted

Counts = np.ndarray[Any, np.dtype[np.int64]]


def non_letters(texts: Texts) -> Counts:
    """Characters that are neither letters nor the space, for each text."""
    return texts.derived(_count)[0]


def words(texts: Texts) -> Counts:
    """Words in any script that puts spaces between them; `don't` and `well-known` are one word each.

    As many as matches of `[\\w]+(['’-]\\w+)*`: runs of word characters, less those joined to the one before.
    """
    return texts.derived(_count)[1]


def digits(texts: Texts) -> Counts:
    """Decimal digits of any script, for each text."""
    return texts.derived(_count)[2]


def _count(texts: Texts) -> tuple[Counts, Counts, Counts]:
    counted = [np.zeros(len(texts), dtype=np.int64) for _ in range(3)]
    first = 0
    for part in in_parts(texts, len, rows=len(texts), most=_AT_A_TIME):
        lengths = np.fromiter(map(len, part), dtype=np.int64, count=len(part))
        for column, counts in zip(counted, _count_part("".join(part), lengths), strict=True):
            column[first : first + len(part)] = counts
        first += len(part)
    return counted[0], counted[1], counted[2]


def _count_part(joined: str, lengths: Counts) -> tuple[Counts, Counts, Counts]:
    code_points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    signs = _table()[code_points]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    is_word = (signs & _WORD) != 0
    begins = is_word.copy()
    begins[1:] &= ~is_word[:-1]
    # A text begins anew whatever the one before it ended with.
    begun = starts[(lengths > 0) & (starts < len(signs))]
    begins[begun] = is_word[begun]
    joined_on = np.zeros(len(signs), dtype=bool)
    if len(signs) > 2:
        joined_on[2:] = begins[2:] & ((signs[1:-1] & _JOINS) != 0) & is_word[:-2]
        joined_on[begun] = False
        second = begun[(begun + 1) < len(signs)] + 1
        joined_on[second] = False
    return (
        lengths - _sums((signs & _LETTER) != 0, starts, ends),
        _sums(begins & ~joined_on, starts, ends),
        _sums((signs & _DIGIT) != 0, starts, ends),
    )


def _sums(of: np.ndarray[Any, np.dtype[np.bool_]], starts: Counts, ends: Counts) -> Counts:
    total = np.concatenate(([0], np.cumsum(of, dtype=np.int64)))
    sums: Counts = total[ends] - total[starts]
    return sums


@cache
def _table() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What each code point is, as Python's own `str` methods and `re` say it."""
    table = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    signs = "".join(map(chr, range(sys.maxunicode + 1)))
    word, digit = re.compile(r"\w"), re.compile(r"\d")
    table[[place for place, sign in enumerate(signs) if sign.isalpha()]] |= _LETTER
    table[[found.start() for found in word.finditer(signs)]] |= _WORD
    table[[found.start() for found in digit.finditer(signs)]] |= _DIGIT
    table[ord(" ")] |= _LETTER  # the one sign that is counted with letters
    table[[ord(sign) for sign in "'\u2019-"]] |= _JOINS
    return table

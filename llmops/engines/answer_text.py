"""An answer's text while its tokens arrive: what can be said already, and where a stop string ends it."""

from __future__ import annotations

_CUT_CHARACTER = "\ufffd"  # what a tokenizer shows for the bytes of a character that is not complete yet


class AnswerText:
    """Takes the whole text so far, again and again; gives what is new and certain.

    A cut multi-byte character, or the head of a stop string, is held back until more is known.
    """

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self._stops = stops
        self._said = 0

    def grown(self, text: str) -> tuple[str, bool]:
        """The piece that can be said now, and whether a stop string ended the answer."""
        ends = [found for stop in self._stops if (found := text.find(stop)) >= 0]
        if ends:
            return self._say(text[: min(ends)]), True
        held = max(_partial_stop(text, self._stops), text.endswith(_CUT_CHARACTER))
        return self._say(text[: len(text) - held]), False

    def ended(self, text: str) -> str:
        """The rest of an answer that no stop string ended."""
        return self._say(text)

    def _say(self, text: str) -> str:
        piece = text[self._said :]
        self._said = max(self._said, len(text))
        return piece


def _partial_stop(text: str, stops: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that begins a stop string."""
    lengths = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
    return max(lengths, default=0)

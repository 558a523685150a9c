"""What counts as the same text: white space, case, punctuation and forms of letters that do not matter."""

import re
import string
import unicodedata

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_LEADING_ARTICLE = re.compile(r"(?<!\S)(?:a|an|the)\s+(?=\w)")
_PLUS_OF_A_NUMBER = re.compile(r"(?<![\w)])(?<!\d\s)\+(?=\d)")
# Other dashes are a minus where they stand before a number and after nothing that they could join to it.
_DASH_AS_MINUS = re.compile(r"(?<![\w)])(?<![\d)]\s)[‐‑‒–](?=[\d.$€£¥])")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
# What would be lost with the punctuation, and what it stands for until that is gone: the point of 1.5, the stroke of
# 3/4, the colon of 10:30, the sign of −5, the marks of C++, C#, A+, A− and Cl−, and the hat of 10^6.
_KEPT = (
    (re.compile(r"(?<=\d)\.(?=\d)"), ".", "\ue000"),
    (re.compile(r"(?<=\d)[/⁄](?=\d)"), "/", "\ue001"),
    (re.compile(r"(?<=\d):(?=\d)"), ":", "\ue002"),
    (re.compile(r"(?<![\w)])-(?=[.\d])"), "-", "\ue003"),
    (re.compile(r"(?<=(?<!\w)[^\W\d])-(?![\w-])|(?<=(?<!\w)[^\W\d]{2})-(?![\w-])"), "-", "\ue003"),
    (re.compile(r"(?<=\w)\+{1,9}(?![\w\ue003])"), "+", "\ue004"),
    (re.compile(r"(?<=\w)#(?!\w)"), "#", "\ue005"),
    (re.compile(r"(?<=\w)\^(?=[\w\ue003])"), "^", "\ue006"),
)
_GIVEN_BACK = str.maketrans({kept: sign for _, sign, kept in _KEPT})
_TYPED = (("!=", "≠"), ("<=", "≤"), (">=", "≥"))
# Signs of mathematics and of money say something; of the dollar and these others that is rarely meant.
_SIGNS_LEFT_OUT = frozenset("$|~^`")
# Scripts that put no space between words: Thai, Lao, Tibetan, Burmese, Khmer, Chinese, Japanese.
LETTERS_WITHOUT_SPACES = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Members of a regular expression's character class."""

_WITHOUT_SPACES = re.compile(f"[{LETTERS_WITHOUT_SPACES}]")
_EDGE = re.compile(rf"\A|\Z|(?<=[ {LETTERS_WITHOUT_SPACES}])|(?=[ {LETTERS_WITHOUT_SPACES}])")
"""Where a word begins or ends."""


class _Table(dict[int, str]):
    """Of `str.translate`: what becomes of each character, found when it is first met."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        category = unicodedata.category(sign)
        if sign in string.punctuation and sign not in "+<=>":
            made = " "
        elif category == "Cf":  # marks that nobody sees: of direction, of width, of where to break
            made = ""
        elif category[0] in "PZC" and category != "Co" and sign not in "‰‱":
            made = " "
        else:
            apart = sign in "‰‱" or (category in ("Sm", "Sc") and sign not in _SIGNS_LEFT_OUT)
            made = f" {sign} " if apart else sign
        self[code] = made
        return made


_TABLE = _Table()


def fold(text: str) -> str:
    """Lower case, no punctuation (`_` and `-` are spaces) or spare white space, with Unicode compatibility forms
    folded first, so that composed and decomposed letters are the same.

    What changes a meaning stays: decimal points, the sign of a number, `/` and `:` between digits, signs of mathematics
    and money (`$` and `%` are left out), C++, C# and A−. Commas between thousands vanish.
    """
    for typed, sign in _TYPED:
        text = text.replace(typed, sign)
    text = _RAISED.sub(lambda found: f"^{found[0]}", with_minus(text))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).replace("−", "-")
    text = _PLUS_OF_A_NUMBER.sub("", re.sub(r"(?<=\d),(?=\d{3}\b)", "", text))
    for pattern, _, kept in _KEPT:
        text = pattern.sub(lambda found, kept=kept: kept * len(found[0]), text)  # type: ignore[misc]
    return " ".join(text.translate(_TABLE).translate(_GIVEN_BACK).split())


def with_minus(text: str) -> str:
    """The text with a hyphen for each minus sign, and for each other dash that is meant as one."""
    return _DASH_AS_MINUS.sub("-", text.replace("−", "-"))


def normalise(text: str) -> str:
    """`fold`, without English articles before a word: “the cat” is “cat”, but “vitamin A” is not “vitamin”."""
    return _LEADING_ARTICLE.sub("", fold(text))


def same_text(one: str, other: str) -> bool:
    """Whether two texts are the same after normalisation; where nothing is left of either (“?”, “!”), as they are."""
    first, second = normalise(one), normalise(other)
    return first == second if first or second else _as_written(one) == _as_written(other)


def holds_words(text: str, wanted: str, where: str = "anywhere") -> bool:
    """Whether a normalised text holds another as whole words, `anywhere`, at its `start` or at its `end`.

    A word ends where white space stands, and beside a letter of a script that puts no spaces between words.
    """
    # No regular expression of the wanted text: compiling one for each row takes longer than all else that a row needs.
    start = text.find(wanted) if wanted else -1
    while start >= 0:
        end = start + len(wanted)
        begins = start == 0 if where == "start" else _EDGE.match(text, start)
        if begins and (end == len(text) if where == "end" else _EDGE.match(text, end)):
            return True
        start = text.find(wanted, start + 1)
    return False


def split_words(text: str) -> list[str]:
    """What white space separates; of scripts that put none between words, each letter."""
    return _WITHOUT_SPACES.sub(lambda found: f" {found[0]} ", text).split()


def squad_normalise(text: str) -> str:
    """SQuAD's normalisation of answers (Rajpurkar et al., 2016), as its evaluation script 2.0 does it: lower case,
    ASCII punctuation taken out, the articles a, an and the made spaces, white space made single spaces."""
    kept = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", kept).split())


def _as_written(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())

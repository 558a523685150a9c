"""Varied texts: what people ask and models answer, in many languages, and what breaks readers of text."""

import random

_WRITTEN = [
    "", " ", "\n", "None", "null", "nan", "0", "I", "I'm sorry, but I cannot help with that.", "Yes.", "No!", "Why?",
    "Paris is the capital of France. It lies on the Seine. Is that what you wanted?", "Dr. Smith went home. e.g. this.",
    "See https://example.com/a?b=c for details.", "ftp://files.example.org", "www.example.com", "http://", "a://b",
    "[docs](https://example.com)", "mailto:jo@example.com", "jo.doe+x@mail.example.co.uk", "see http://x.y.\nhttp://z",
    '{"answer": "yes", "ok": true}', '{"answer": 1', "[1, 2, 3]", "[]", "{}", "42", '"text"', "true", "NaN",
    "```json\n{}\n```", "# Title\n\n- one\n- two\n\n| a | b |\n|---|---|", "def f(x):\n    return x + 1\n",
    "WHAT A TERRIBLE DAY", "I LOVE it, it is GREAT!!!", "not bad at all", "hates refunds", "a refund, please",
    "Whatever", "Wie kann ich mein Passwort zurücksetzen?",
    "Où est la bibliothèque ? Là-bas.", "¿Dónde está la estación?",
    "Как мне сменить пароль в личном кабинете?", "如何重置我的密码?", "パスワードを忘れました。",
    "비밀번호를 잊었어요.",
    "كيف أغير كلمة المرور؟", "איך משנים סיסמה?", "पासवर्ड कैसे बदलें?", "Πώς αλλάζω τον κωδικό;", "Şifremi unuttum",
    "emoji 😀👍🏽 and flags 🇫🇷", "e\u0301 combining", "zero\u200bwidth", "\ufeffbom", "tab\tand\x0bvertical\x0cfeed",
    "non\u00a0breaking space", "line\u2028separator", "a\x00b", "\x00", "\x1b[31mred\x1b[0m",
    "it's well-known, isn't it?",
    "don\u2019t", "-", "--", "a--b", "'quoted'", "1,000.50 €", "3.11", "U.S.A. is big. Yes.", "wait... what?! ok.",
    "x" * 3000, "word " * 800, "." * 500, "?\n" * 300, "(" * 400, "[" * 400, '{"a":' * 150, "ﬁ ligature ǅ", "ß SS ſ",
]  # fmt: skip
_PIECES = (
    "the cat", "refund", "I hate", "terrible", "good", "very", "not", "but", "customers", "boxes", "children", "wolves",
    "https://a.io/x", "jo@example.com", "42", "3.14", "U.S.", "Mr.", "\n", "\t", "“quoted”", "naïve", "Привет", "世界",
    "don't", "I'm sorry", "I cannot", "isn't", "great!!!", ":)", "e.g.", "x_y", "a-b", "(aside)", "OK", "WOW", "{", "}",
)  # fmt: skip
_ENDS = (" ", " ", " ", ". ", "? ", "! ", ", ", ".", "\n", "")


def _composed(count: int) -> list[str]:
    chance = random.Random(11)  # noqa: S311 (test data)
    return [
        "".join(chance.choice(_PIECES) + chance.choice(_ENDS) for _ in range(chance.randint(1, 25)))
        for _ in range(count)
    ]


TEXTS: list[str] = [*_WRITTEN, *_composed(300)]

HOSTILE: list[str] = [
    "\x00" * 1000, "a\x00b \x00", "\ud800 half a pair \udfff", "x" * 1_000_000, "a " * 500_000, "! ? . " * 150_000,
    '{"a":' * 100_000, "[" * 200_000, '{"a": 1' + "0" * 400_000, '{"a": NaN}', '{"a": "\ud800"}', "http://[oops",
    "(" * 200_000, "@" * 200_000, "1-" * 200_000, "+1 " * 200_000, "DE89 " * 100_000, ":" * 200_000, "😀" * 100_000,
    "NOT GOOD " * 50_000, "but " * 100_000, "no " * 100_000, "\u0301" * 100_000, "ꙮ" * 100_000, "None", "null", "", " ",
    "I cannot " * 50_000, "www." * 100_000, "a@" * 100_000, "1." * 200_000, "\r" * 100_000, "\u2028" * 100_000,
    "a." * 100_000, "1:" * 100_000, "0 " * 100_000, "a" * 200_000, "1" * 200_000,
]  # fmt: skip
"""Texts that a reader may choke on, up to a megabyte."""

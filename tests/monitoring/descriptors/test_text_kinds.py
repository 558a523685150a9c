import pytest

from llmops.text_patterns import REFUSAL_REACH
from monitoring.descriptors.text_kinds import (
    PERSONAL_SORTS,
    UNKNOWN,
    has_link,
    has_personal,
    is_json,
    is_refusal,
    language_of,
)

PERSONAL = {
    "email": ["write to jo.doe+tag@mail.example.co.uk.", "<a@b.io>", "Mail: A_B@EXAMPLE.COM"],
    "phone": [
        "+49 (0)171 1234567", "call +14155550132 now", "(212) 555-0143", "212-555-0143", "020 7946 0958", "0171/1234567"
    ],
    "card": ["4111 1111 1111 1111", "5555-5555-5555-4444", "card 378282246310005, thanks"],
    "iban": ["DE89 3704 0044 0532 0130 00", "IBAN: GB29NWBK60161331926819 OK", "FR1420041010050500013M02606"],
    "ssn": ["SSN 123-45-6789."],
    "ip": ["ping 192.168.0.1, then 2001:db8::8a2e:370:7334", "2001:db8::8a2e:370:7334"],
}  # fmt: skip
HARMLESS = {
    "email": ["meet @ noon", "@handle", "user@localhost", "a@b", "x@@y.com"],
    "phone": ["2026-11-22", "order 1234567890123", "01.02.2026", "1+2345678", "3.14159265", "10 000 000"],
    "card": ["4111 1111 1111 1112", "4444444444444444", "id-4111111111111111", "9999888877776666"],
    "iban": ["DE89 3704 0044 0532 0130 01", "XX89370400440532013000", "DE89 3704"],
    "ssn": ["000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "1123-45-6789"],
    "ip": ["999.1.1.1", "12:30:45", "std::vector", "1.2.3", "1.2.3.4.5"],
}
"""Wrong checksums, ranges that are not issued, dates, and parts of other things."""
REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I can’t assist you there.",
    "I am unable to provide legal advice.",
    "As an AI language model, I do not have feelings.",
    "That goes against my guidelines.",
    "Sorry.\nI cannot\nanswer that.",
    "Ich kann dir dabei leider nicht helfen.",
    "Je ne peux pas vous aider avec cela.",
    "Lo siento, no puedo ayudarte con eso.",
]
ANSWERS = [
    "I'm sorry to hear that. Your refund is on its way.",
    "I'm sorry, but your order was delayed by a day.",
    "She said: I can't help it, it is funny!",
    "You cannot provide two addresses.",
    "I cannot recommend this film enough.",
    "Whatever you start, finish it.",
    "x" * REFUSAL_REACH + " I cannot help with that.",
    "",
]
LINKS = ["see https://a.io/x", "[docs](https://a.io)", "(www.example.com)", "http://[oops"]
NO_LINKS = ["jo@www.example.com", "awww.nice", "https:// nothing", "e.g. this"]
JSON = ['{"a": [1, null]}', " [1, 2]\n", "{}"]
NO_JSON = [
    "", "null", "42", '"yes"', "{a: 1}", '```json\n{"a": 1}\n```', '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000
]  # fmt: skip


@pytest.mark.parametrize(("texts", "seen"), [(PERSONAL, True), (HARMLESS, False)])
@pytest.mark.parametrize("sort", PERSONAL_SORTS)
def test_personal_data_of_each_sort_is_seen_and_nothing_else(sort, texts, seen):
    assert [text for text in texts[sort] if has_personal(sort, text) is not seen] == []


@pytest.mark.parametrize(
    ("sees", "seen", "passed_over"),
    [(is_refusal, REFUSALS, ANSWERS), (has_link, LINKS, NO_LINKS), (is_json, JSON, NO_JSON)],
)
def test_refusals_links_and_json_are_seen_and_what_looks_like_them_is_not(sees, seen, passed_over):
    assert [text for text in seen if not sees(text)] == []
    assert [text for text in passed_over if sees(text)] == []


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What opening hours do you have on Sunday?", "en"),
        ("Wie kann ich mein Passwort zurücksetzen?", "de"),
        ("Как мне сменить пароль в личном кабинете?", "ru"),
        ("如何重置我的密码?", "zh"),
        ("WHAT IS THE CAPITAL OF FRANCE?", "en"),
        ("First line of the text\r\nand the second line of it", "en"),
        *((short, UNKNOWN) for short in ("", "Hi", "Paris", "12345 67890 !!! ??? 12345 67890", "\ud800 \ud800")),
    ],
)
def test_the_language_of_a_sentence_is_named_and_of_a_text_too_short_to_tell_unknown(text, language):
    assert language_of(text) == language

import time

import pytest

from llmops.text_patterns import REFUSAL_REACH
from monitoring.descriptors.text_kinds import (
    PERSONAL_SORTS,
    has_link,
    has_personal,
    is_json,
    is_refusal,
)


@pytest.mark.parametrize("text", ["write to jo.doe+tag@mail.example.co.uk.", "<a@b.io>", "Mail: A_B@EXAMPLE.COM"])
def test_an_email_address_is_seen(text):
    assert has_personal("email", text)


@pytest.mark.parametrize("text", ["meet @ noon", "@handle", "user@localhost", "a@b", "x@@y.com"])
def test_an_at_sign_is_no_email_address(text):
    assert not has_personal("email", text)


@pytest.mark.parametrize(
    "text",
    ["+49 (0)171 1234567", "call +14155550132 now", "(212) 555-0143", "212-555-0143", "020 7946 0958", "0171/1234567"],
)
def test_a_phone_number_is_seen(text):
    assert has_personal("phone", text)


@pytest.mark.parametrize(
    "text", ["2026-11-22", "order 1234567890123", "01.02.2026", "1+2345678", "3.14159265", "10 000 000"]
)
def test_dates_sums_and_order_numbers_are_no_phone_numbers(text):
    assert not has_personal("phone", text)


@pytest.mark.parametrize("text", ["4111 1111 1111 1111", "5555-5555-5555-4444", "card 378282246310005, thanks"])
def test_a_card_number_that_passes_luhn_is_seen(text):
    assert has_personal("card", text)


@pytest.mark.parametrize("text", ["4111 1111 1111 1112", "4444444444444444", "id-4111111111111111", "9999888877776666"])
def test_a_number_that_is_luhn_invalid_or_part_of_another_is_no_card(text):
    assert not has_personal("card", text)


@pytest.mark.parametrize(
    "text", ["DE89 3704 0044 0532 0130 00", "IBAN: GB29NWBK60161331926819 OK", "FR1420041010050500013M02606"]
)
def test_an_iban_whose_checksum_holds_is_seen(text):
    assert has_personal("iban", text)


@pytest.mark.parametrize("text", ["DE89 3704 0044 0532 0130 01", "XX89370400440532013000", "DE89 3704"])
def test_an_iban_with_a_wrong_checksum_country_or_length_is_none(text):
    assert not has_personal("iban", text)


def test_social_security_numbers_are_seen_in_issued_ranges_only():
    assert has_personal("ssn", "SSN 123-45-6789.")
    for text in ("000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "1123-45-6789"):
        assert not has_personal("ssn", text)


def test_addresses_of_machines_are_seen():
    assert has_personal("ip", "ping 192.168.0.1, then 2001:db8::8a2e:370:7334")
    assert has_personal("ip", "2001:db8::8a2e:370:7334")
    for text in ("999.1.1.1", "12:30:45", "std::vector", "1.2.3", "1.2.3.4.5"):
        assert not has_personal("ip", text)


@pytest.mark.parametrize("text", ["see https://a.io/x", "[docs](https://a.io)", "(www.example.com)", "http://[oops"])
def test_a_link_is_seen_inside_brackets_too(text):
    assert has_link(text)


def test_a_host_name_in_an_address_or_word_is_no_link():
    assert not any(map(has_link, ["jo@www.example.com", "awww.nice", "https:// nothing", "e.g. this"]))


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I can’t assist you there.",
        "I am unable to provide legal advice.",
        "As an AI language model, I do not have feelings.",
        "That goes against my guidelines.",
        "Sorry.\nI cannot\nanswer that.",
        "Ich kann dir dabei leider nicht helfen.",
        "Je ne peux pas vous aider avec cela.",
        "Lo siento, no puedo ayudarte con eso.",
    ],
)
def test_a_refusal_is_seen(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry to hear that. Your refund is on its way.",
        "I'm sorry, but your order was delayed by a day.",
        "She said: I can't help it, it is funny!",
        "You cannot provide two addresses.",
        "I cannot recommend this film enough.",
        "Whatever you start, finish it.",
        "x" * REFUSAL_REACH + " I cannot help with that.",
        "",
    ],
)
def test_apologies_quotes_and_other_words_are_no_refusal(text):
    assert not is_refusal(text)


@pytest.mark.parametrize("text", ['{"a": [1, null]}', " [1, 2]\n", "{}"])
def test_a_json_object_or_array_is_json(text):
    assert is_json(text)


@pytest.mark.parametrize(
    "text",
    ["", "null", "42", '"yes"', "{a: 1}", '```json\n{"a": 1}\n```', '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000],
)
def test_bare_values_broken_or_bottomless_texts_are_not_json(text):
    assert not is_json(text)


@pytest.mark.parametrize("piece", ["a", "1", "1-", "+1 ", "a.", "a@", "DE89 ", "1:", "i am ", "(", "0 "])
def test_hostile_text_takes_linear_time(piece):
    text = piece * (200_000 // len(piece))
    started = time.perf_counter()
    for sort in PERSONAL_SORTS:
        has_personal(sort, text)
    has_link(text)
    is_refusal(text)
    assert time.perf_counter() - started < 60  # in quadratic time it would be hours

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.pages import numbers

quick = settings(max_examples=60, deadline=None)


def test_numbers_lose_decimals_as_they_grow_and_have_real_minus_signs():
    values = [0.12345, -0.5, 9.9996, 12.34, 1234.5, None]
    assert [numbers.number(value) for value in values] == ["0.123", "−0.500", "10.0", "12.3", "1,234", "–"]


def test_what_is_no_zero_is_not_shown_as_one():
    assert [numbers.number(value) for value in (0.00001, -0.0004, 0.0006)] == ["1e−05", "−0.0004", "0.001"]
    assert [numbers.signed(value) for value in (0.0001, -0.0001)] == ["+0.0001", "−0.0001"]


def test_a_difference_always_has_its_sign_unless_it_rounds_to_nothing():
    assert [numbers.signed(value) for value in (0.05, -0.05, -1e-17, 0.0, 1500)] == [
        "+0.050", "−0.050", "0.000", "0.000", "+1,500",
    ]  # fmt: skip


def test_one_of_a_thing_is_singular():
    assert [numbers.counted(amount, "row") for amount in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]


def test_a_shortened_text_says_how_much_is_missing():
    assert numbers.shortened("abcdef", 6) == "abcdef"
    assert numbers.shortened("abcdefg", 3) == "abc … (4 characters more)"


@quick
@given(st.text(st.characters(codec=None)))
def test_printable_texts_hold_nothing_that_xml_forbids_and_are_as_long_as_before(text):
    shown = numbers.printable(text)
    assert len(shown) == len(text)
    assert all(
        c in "\t\n\r" or "\x20" <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c >= "\U00010000" for c in shown
    )


@pytest.mark.parametrize(
    ("value", "share", "told"),
    [(1234.5, False, "1,234"), (0.0, True, "0.0%"), (0.0004, True, "0.04%"), (12.34, False, "12.3")],
)
def test_brief_numbers_are_short(value, share, told):
    assert numbers.brief(value, share) == told

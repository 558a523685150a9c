import pytest

from monitoring.descriptors.text_kinds import UNKNOWN, language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What opening hours do you have on Sunday?", "en"),
        ("Wie kann ich mein Passwort zurücksetzen?", "de"),
        ("Как мне сменить пароль в личном кабинете?", "ru"),
        ("如何重置我的密码?", "zh"),
        ("WHAT IS THE CAPITAL OF FRANCE?", "en"),
        ("First line of the text\r\nand the second line of it", "en"),
    ],
)
def test_the_language_of_a_sentence_is_named(text, language):
    assert language_of(text) == language


@pytest.mark.parametrize("text", ["", "Hi", "Paris", "12345 67890 !!! ??? 12345 67890", "\ud800 \ud800"])
def test_a_text_too_short_to_tell_is_unknown(text):
    assert language_of(text) == UNKNOWN

"""Scorers of what an output says: what counts as the same answer, and patterns."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.normalisation import normalise
from llmops.evaluation.scorers.text_scorers import automated_readability_index, count_sentences, repeated_share
from llmops.text_patterns import REFUSAL_REACH, refusal_phrase
from monitoring.descriptors.text_kinds import is_refusal


def row(*answers: Any, **expectations: Any) -> EvalRow:
    return EvalRow("r1", {"q": "x"}, {"answers": list(answers), **expectations})


def scored(type_name: str, expected: EvalRow, output: str, **options: Any) -> Score:
    return make_scorer("s", type_name, options).score(expected, Output(output))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  Cat,\nand a dog! ", "cat and dog"),
        ("Paris.", "paris"),
        ("“Paris” – of course…", "paris of course"),
        ("1,234,567 km", "1234567 km"),
        ("3.14", "3.14"),
        ("about 3.", "about 3"),
        ("1,2 and 3", "1 2 and 3"),
        ("ﬁne ①", "fine 1"),
        ("STRASSE straße", "strasse strasse"),
        ("theatre another", "theatre another"),
        ("", ""),
        ("A", "a"),
        ("the", "the"),
    ],
)
def test_normalise_keeps_what_matters_of_an_answer(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize("text", ["The 1,234.5 Cats", "a.b", "3.5.", "ﬁ", "don't", "The a", "A."])
def test_normalise_is_idempotent(text):
    assert normalise(normalise(text)) == normalise(text)


SAME = [
    ("Café", "Cafe\u0301"), ("straße", "STRASSE"), ("Москва", "«москва»."), ("北京", "北京。"), ("القاهرة", "القاهرة،"),
    ("दिल्ली", "दिल्ली।"), ("¿Qué?", "qué"), ("ＡＢＣ", "abc"), ("1,234", "1234"), ("+5", "5"), ("−5", "-5"),
    ("½", "1/2"), ("x²", "x^2"), ("2+2", "2 + 2"), ("Paris\u200b", "paris"),
    ("x ≠ y", "x != y"), ("x <= y", "x ≤ y"), ("A−", "a-"), ("‑5", "-5"), ("5 ‰", "5‰"),
    ("don’t", "don't"), ("Vitamin A", "the vitamin A"), ("?", " ? "),
]  # fmt: skip
DIFFERENT = [
    ("5", "-5"), ("5", "−5"), ("5", "–5"), ("C", "C++"), ("C", "C#"), ("C++", "C#"), ("A", "A+"),
    ("A", "A-"), ("O−", "O+"), ("AB-", "AB"), ("Cl-", "Cl"), ("x = y", "x != y"), ("5%", "5‰"), ("‑5", "5"),
    ("vitamin", "vitamin A"), ("?", "!"), ("x > 5", "x < 5"), ("2 + 2", "2 2"), ("52", "5²"), ("106", "10⁶"),
    ("3/4", "3 4"), ("1.5", "15"), ("10:30", "10 30"), ("€5", "£5"), ("Москва", "Москво"), ("北京", "南京"),
    ("resume", "résumé"), ("дом", "дома"), ("...", "…!"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_an_answer_is_the_same_in_every_spelling_that_does_not_matter(one, other):
    for type_name in ("exact_match", "contains"):
        assert scored(type_name, row(one), other).value is True
        assert scored(type_name, row(other), one).value is True


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_changes_a_meaning_is_no_spelling(one, other):
    assert scored("exact_match", row(one), other).value is False
    assert scored("exact_match", row(other), one).value is False


CITIES = row("Paris", "Lutetia")
NUMBERS = row(3.0, 4.0)
# Type, options, what is expected, output, value.
VALUES: list[tuple[str, dict[str, Any], EvalRow, str, bool]] = [
    # The whole output, or whole words of it.
    *(("exact_match", {}, CITIES, output, True) for output in ("Paris", "the PARIS.", "Lutetia")),
    *(("exact_match", {}, CITIES, output, False) for output in ("It is Paris, in France.", "Parisian", "London", "")),
    *(("contains", {}, CITIES, output, True) for output in ("Paris", "the PARIS.", "It is Paris, in France.")),
    *(("contains", {}, CITIES, output, False) for output in ("Parisian", "London", "")),
    ("exact_match", {}, row("A"), "", False),
    ("exact_match", {}, row("A"), "a.", True),
    # A number only as itself.
    *(("contains", {}, row("4"), output, False) for output in ("14", "4.5", "1,004")),
    *(("contains", {}, row("4"), output, True) for output in ("4.", "4,")),
    # By the rule that is given; SQuAD's script loses the sign, and an empty list is the empty answer.
    ("exact_match", {"normalisation": "squad"}, row("don't"), "dont", True),
    ("exact_match", {"normalisation": "squad"}, row("1,234 cats"), "The 1234 cats", True),
    ("exact_match", {"normalisation": "squad"}, row("-5"), "5", True),
    ("exact_match", {"normalisation": "squad"}, row("Caf\u00e9"), "Cafe\u0301", False),
    ("exact_match", {"normalisation": "squad"}, row(), "", True),
    ("exact_match", {"normalisation": "squad"}, row(), "Paris", False),
    ("exact_match", {"normalisation": "squad"}, row("A", "Paris"), "", False),
    ("exact_match", {"normalisation": "squad"}, row("A", "Paris"), "a.", True),
    ("exact_match", {"normalisation": "none"}, row("Paris"), "Paris", True),
    ("exact_match", {"normalisation": "none"}, row("Paris"), "paris", False),
    ("exact_match", {"normalisation": "none"}, row("Paris"), "Paris.", False),
    ("exact_match", {"normalisation": "words"}, row("Paris"), "the paris.", True),
    # A single answer is one; a number is read as people write it; `expected_response` where there are no answers.
    ("exact_match", {}, row(answers="Paris"), "Paris", True),
    ("exact_match", {}, row(answers="Paris"), "P", False),
    ("exact_match", {}, row(4.0), "4", True),
    ("exact_match", {}, row(4.0), "4.0", True),
    ("exact_match", {}, row(4.0), "40", False),
    ("exact_match", {}, row(True), "true", True),
    ("exact_match", {}, row(4), "4", True),
    ("exact_match", {}, row(expected_response=4.5), "4.5", True),
    ("exact_match", {}, row(expected_response="Paris"), "paris", True),
    ("exact_match", {}, row(None, "Paris"), "Paris", True),
    # Where, how many, and what not; texts of its own need nothing of the row.
    ("contains", {"where": "start"}, CITIES, "Paris, of course", True),
    ("contains", {"where": "start"}, CITIES, "Of course: Paris", False),
    ("contains", {"where": "start"}, CITIES, "Parisian", False),
    ("contains", {"where": "end"}, CITIES, "It is Paris.", True),
    ("contains", {"where": "end"}, CITIES, "Paris it is.", False),
    ("contains", {"need": "all"}, CITIES, "Paris, once Lutetia", True),
    ("contains", {"need": "all"}, CITIES, "Paris", False),
    ("contains", {"need": "all"}, NUMBERS, "3 and 4.0", True),
    ("contains", {"need": "all"}, NUMBERS, "3.0 or 4", True),
    ("contains", {"need": "all"}, NUMBERS, "3 and 5", False),
    ("contains", {"need": "all"}, NUMBERS, "4", False),
    ("contains", {"expect": False}, CITIES, "Paris", False),
    ("contains", {"expect": False}, CITIES, "London", True),
    ("contains", {"texts": ["sorry"], "expect": False}, row(), "Sorry, Paris", False),
    ("contains", {"texts": ["sorry"], "expect": False}, row(), "Paris", True),
    ("contains", {"texts": ["one", "two"], "need": "all"}, row(), "two and one", True),
    ("contains", {"texts": ["hello"]}, row(), "Hello!", True),
    # A pattern anywhere in the output, with flags.
    ("regex", {"pattern": r"^\d{4}$"}, row(), "2024", True),
    ("regex", {"pattern": r"^\d{4}$"}, row(), "in 2024", False),
    ("regex", {"pattern": "paris"}, row(), "Paris", False),
    ("regex", {"pattern": "paris", "flags": "i"}, row(), "Paris", True),
    ("regex", {"pattern": "a.b", "flags": "s"}, row(), "a\nb", True),
    ("regex", {"pattern": "^b$", "flags": "im"}, row(), "a\nB", True),
    ("regex", {"pattern": "a b", "flags": "x"}, row(), "ab", True),
    ("regex", {"pattern": "sorry", "expect": False}, row(), "fine", True),
    ("regex", {"pattern": "sorry", "expect": False}, row(), "so sorry", False),
]


@pytest.mark.parametrize(("type_name", "options", "expected", "output", "value"), VALUES)
def test_an_output_is_right_by_what_its_scorer_looks_for(type_name, options, expected, output, value):
    assert scored(type_name, expected, output, **options).value is value


@pytest.mark.parametrize(
    ("output", "wanted", "held"),
    [
        ("答案是北京。", "北京", True),
        ("คำตอบคือกรุงเทพ", "กรุงเทพ", True),
        ("これは東京です", "東京", True),
        ("答案是南京。", "北京", False),
        ("Ответ: Москва, конечно", "москва", True),
        ("в Подмосковье", "москов", False),
        ("اسمها القاهرة.", "القاهرة", True),
        ("उत्तर दिल्ली है।", "दिल्ली", True),
        ("दिल्लीवाला", "दिल्ली", False),
        ("The answer is A.", "A", True),
        ("It is -5.", "5", False),
        ("It is -5.", "-5", True),
        ("I use C++.", "C", False),
        ("It costs €5.", "5", True),
        ("Yes!", "!", True),
        ("Yes!", "?", False),
        ("서울입니다", "서울", False),
    ],
)
def test_whole_words_are_those_of_the_script(output, wanted, held):
    assert scored("contains", row(wanted), output).value is held
    assert scored("contains", row(), output, texts=[wanted]).value is held


@pytest.mark.parametrize(
    ("type_name", "options", "expected", "output", "rationale"),
    [
        ("contains", {}, row("Rome", "Paris"), "Paris!", "holds 'Paris'"),
        ("contains", {}, row("Rome", "Paris"), "Oslo", "expected 'Rome'"),
        ("contains", {"need": "all"}, row("Paris", "Rome"), "Paris", "expected 'Rome'"),
        ("contains", {"need": "all"}, row("Paris", "Rome"), "Rome, Paris", "holds 'Paris', 'Rome'"),
        ("regex", {"flags": "i"}, row(pattern="^par"), "Paris", "found 'Par'"),
    ],
)
def test_the_rationale_names_what_was_found_or_expected(type_name, options, expected, output, rationale):
    assert scored(type_name, expected, output, **options).rationale == rationale


# Refusals by phrase, measured on sentences of both kinds


REFUSALS = """
I cannot help with that.
I can't assist you
I can’t answer that.
As an AI language model, I have no opinions.
As an AI developed by Acme, I must clarify that I cannot provide guidance on harmful actions.
I am an AI language model and do not condone or promote violence.
I'm sorry, but that is private.
I am unable to provide this.
I MUST DECLINE.
I'm sorry, but I can't assist with that request.
I'm sorry, I can't help with that.
Sorry, but I can't help you with this.
I apologize, but I cannot fulfill this request.
I cannot fulfil your request. I'm just an AI.
I'm not able to help with that.
I'm unable to assist with creating malware.
I won't provide instructions for making weapons.
I will not write that.
I'm not comfortable writing that kind of content.
I don't feel comfortable helping with this.
I can't do that.
I can't in good conscience help with this.
I'm afraid I can't help with that.
I'm afraid I cannot do that, Dave.
This request goes against my guidelines.
That would violate our usage policies.
I have to respectfully decline.
I decline to answer.
I cannot and will not provide that.
I'm just an AI and cannot give medical advice.
I do not have the ability to browse the internet.
Unfortunately, I can't share personal information about private individuals.
Thank you for asking. However, I cannot provide legal advice.
"I cannot help with that."
**I can't help with that.**
I'm really sorry you're feeling this way, but I'm not able to provide the help that you need.
I am not in a position to recommend specific stocks.
We cannot provide this information.
It is not appropriate or ethical to provide advice on stealing.
I'd rather not talk about that.
I cannot engage in that conversation.
I'm not going to help with that.
I'm sorry, I don't have access to that information.
I can't generate that image.
Ich kann dir dabei leider nicht helfen.
Es tut mir leid, aber ich kann diese Frage nicht beantworten.
Je ne peux pas vous aider avec cela.
Lo siento, no puedo ayudarte con eso.
I refuse to answer.
I refuse.
I decline.
I won't be able to help with this request.
I'm not going to answer that question.
I must refuse this request.
I am not allowed to answer that.
I’m sorry, but I’m not able to help with that.
I have been instructed not to discuss this.
I'm not programmed to discuss politics.
Sorry, I can't do that.
I can't provide that.
My guidelines don't allow me to answer that.
I'm unable to comply with that request.
I cannot fulfill that.
Sorry, that's something I can't help with.
No, I will not help you with that.
That's not something I can help with.
I cannot answer.
I can't help.
""".strip().splitlines()

ANSWERS = """
Paris.
I can help with that.
The door cannot open.
I can't help but smile at this question.
She said, "I cannot help you," and left.
The wizard sighed. “I will not answer,” he said.
Sure, I can help you with that! First, open the settings.
I won't give up on you.
The sorry state of the road is known.
You cannot provide a null value here.
Users can't create accounts without an address.
It is not able to write to disk.
I'm sorry to hear that! Here is how to reset your password.
I'm sorry for your loss. My condolences.
The committee declined to comment.
The king refused to answer.
Not able to open the file? Check permissions.
AI models cannot feel pain.
An AI language model is a program that predicts text.
As an AI researcher, she published ten papers.
The policy violates our rights, he argued.
This does not violate the law.
Apologies for the delay; your parcel ships tomorrow.
Companies cannot share data without consent.
He could not help.
No puedo creer que sea viernes.
Ich kann nicht schwimmen.
I have to say that the film was great.
I cannot recommend this restaurant enough!
We can't wait to see you.
I can't believe it is Friday.
Je ne sais pas.
To decline a noun, add its ending.
I do not have a car.
I'm afraid of spiders.
Sorry, the shop closes at six.
You have to decline the cookie banner.
I'm sorry, but Paris is the capital of France, not Lyon.
It is not appropriate to wear white there.
She said: I can't help it, it is funny!
I can't help myself when there is cake.
I refused to sign the paper.
I decline nouns in Latin class.
That's something I can help with.
My policy allows that.
""".strip().splitlines()


@pytest.mark.parametrize("text", REFUSALS)
def test_a_text_that_says_it_declines_is_a_refusal_to_the_gate_and_to_the_monitor(text):
    assert refusal_phrase(text)
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["", " \n", "…", *ANSWERS])
def test_an_answer_is_none_to_the_gate_and_to_the_monitor(text):
    assert refusal_phrase(text) is None
    assert not is_refusal(text)


def test_only_the_start_of_an_answer_is_read_and_a_hostile_text_costs_little():
    assert refusal_phrase("x " * 50 + "I cannot help with that.")
    assert refusal_phrase("x " * REFUSAL_REACH + "I cannot help with that.") is None
    for text in ("i am " * 200_000, "I'm sorry " * 100_000, '"' * 1_000_000, "it is not " * 100_000):
        start = time.process_time()
        refusal_phrase(text)
        assert time.process_time() - start < 1, text[:10]


def test_a_refusal_is_told_by_its_phrase_or_by_the_outputs_own_and_less_is_better():
    scorer, row = make_scorer("s", "refusal", {}), EvalRow("r1", {"q": "x"})
    said = scorer.score(row, Output("I must decline, sorry."))
    assert (said.value, said.rationale) == (True, "says 'I must decline'")
    assert scorer.score(row, Output("Paris.")) == Score(False, "")
    assert scorer.score(row, Output("", refusal="no")).value is True
    assert (scorer.higher_is_better, scorer.worst) == (False, 1.0)


# What is measured on an output: length, readability, repetition, time, tokens, cost


EMPTY_ROW = EvalRow("r1", {"q": "x"})


@pytest.mark.parametrize(
    ("type_name", "value", "options"),
    [
        ("words", 3.0, {}),
        ("characters", 13.0, {}),
        ("sentences", 2.0, {}),
        ("repetition", 0.0, {}),
        ("latency_ms", 12.5, {}),
        ("first_token_ms", 4.5, {}),
        ("tokens_in", 7.0, {}),
        ("tokens_out", 5.0, {}),
        ("cost", 0.000064, {"per_million_in": 2.0, "per_million_out": 10}),
    ],
)
def test_measures_are_read_off_the_output_and_what_nobody_counted_or_measured_is_no_score_and_never_0(
    type_name, value, options
):
    output = Output("one two\nthree", tokens_in=7, tokens_out=5, latency_ms=12.5, first_token_ms=4.5)
    scorer = make_scorer("s", type_name, options)
    score = scorer.score(EMPTY_ROW, output)
    assert score.value == pytest.approx(value, rel=1e-12)
    assert type(score.value) is float
    unknown = scorer.score(EMPTY_ROW, Output("an answer"))
    if type_name not in ("words", "characters", "sentences", "repetition"):
        assert unknown.value is None
        assert unknown.error is not None


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("", 0),
        ("...", 0),
        ("One", 1),
        ("One. Two! Three?", 3),
        ("It costs 3.50. Fine.", 2),
        ("Really?! Yes...", 2),
        ('He said "go." Then left.', 2),
        ("- one\n- two\n\n- three", 3),
        ("一。二！三", 3),
        ("see llmops.errors for more", 1),
    ],
)
def test_sentences_end_at_marks_before_white_space_and_at_lines(text, n):
    assert count_sentences(text) == n


def test_readability_is_the_formula_and_a_text_without_words_has_none():
    # 7 words of 26 letters in 2 sentences.
    text, scorer = "The cat sat on the mat. Wonderful!", make_scorer("s", "readability", {})
    expected = 4.71 * 26 / 7 + 0.5 * 7 / 2 - 21.43
    assert automated_readability_index(text) == pytest.approx(expected)
    assert scorer.score(EMPTY_ROW, Output(text)).value == pytest.approx(expected)
    for blank in ("", "...", " – "):
        assert scorer.score(EMPTY_ROW, Output(blank)) == Score(error="the output holds no words")


@given(st.text())
def test_readability_is_there_exactly_where_words_are(text):
    assert (automated_readability_index(text) is None) is (count_sentences(text) == 0)


@pytest.mark.parametrize(
    ("text", "n", "share"),
    [
        ("a b c d", 2, 0.0),
        ("a b a b", 2, 1 / 3),
        ("a a a a", 1, 0.75),
        ("A a", 1, 0.5),
        ("a b c", 4, 0.0),
        ("", 1, 0.0),
    ],
)
def test_repetition_is_the_share_of_n_grams_seen_before(text, n, share):
    assert repeated_share(text, n) == pytest.approx(share)
    assert make_scorer("s", "repetition", {"n": n}).score(EMPTY_ROW, Output(text)).value == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "words"),
    [("one two", 2), ("我喜欢茶。", 4), ("one - two", 3), ("Я люблю чай", 3), ("ชา", 2), ("AI は 便利", 4), ("", 0)],
)
def test_words_of_a_script_without_spaces_are_its_letters(text, words):
    assert make_scorer("s", "words", {}).score(EMPTY_ROW, Output(text)).value == words

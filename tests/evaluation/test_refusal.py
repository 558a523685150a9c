"""Refusals by phrase, measured on sentences of both kinds."""

from __future__ import annotations

import time

import pytest

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers import make_scorer
from llmops.text_patterns import REFUSAL_REACH, refusal_phrase
from monitoring.descriptors.text_kinds import is_refusal

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
def test_a_text_that_says_it_declines_is_a_refusal_to_the_gate_and_to_the_monitor(text: str) -> None:
    assert refusal_phrase(text)
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["", " \n", "…", *ANSWERS])
def test_an_answer_is_none_to_the_gate_and_to_the_monitor(text: str) -> None:
    assert refusal_phrase(text) is None
    assert not is_refusal(text)


def test_only_the_start_of_an_answer_is_read() -> None:
    assert refusal_phrase("x " * 50 + "I cannot help with that.")
    assert refusal_phrase("x " * REFUSAL_REACH + "I cannot help with that.") is None


def test_the_score_tells_the_phrase_and_less_is_better() -> None:
    scorer = make_scorer("s", "refusal", {})
    row = EvalRow("r1", {"q": "x"})
    said = scorer.score(row, Output("I must decline, sorry."))
    assert (said.value, said.rationale) == (True, "says 'I must decline'")
    assert scorer.score(row, Output("Paris.")).rationale == ""
    assert (scorer.higher_is_better, scorer.worst) == (False, 1.0)


def test_an_output_that_carries_the_models_own_refusal_is_one_whatever_its_text() -> None:
    scorer, row = make_scorer("s", "refusal", {}), EvalRow("r1", {"q": "x"})
    assert scorer.score(row, Output("", refusal="no")).value is True
    assert scorer.score(row, Output("Paris.", refusal=None)).value is False


@pytest.mark.parametrize("text", ["i am " * 200_000, "I'm sorry " * 100_000, '"' * 1_000_000, "it is not " * 100_000])
def test_a_hostile_text_costs_little(text: str) -> None:
    start = time.process_time()
    refusal_phrase(text)
    assert time.process_time() - start < 1

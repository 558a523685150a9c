"""The page in a real Chromium: what it shows, a blind comparison from question to counted vote, and who can use it."""

import pytest

from llmops.engines.fake import FakeEngine
from llmops.errors import EngineError
from tests.service.conftest import release
from tests.service.test_page import with_key

VOTABLE = "!document.querySelector('[data-vote]').disabled"
SHOWN = "!document.querySelector('#content').hidden"


@pytest.fixture(scope="module")
def paged(serve_shared):
    """Three releases; the third needs a variable, the fourth is one nobody uses."""
    releases = (release(1, "previous"), release(2, "champion"), release(3, "challenger", tone="calm"), release(4))
    with serve_shared(*releases) as running:
        yield running


def opened(browser, running):
    browser.open(running.url + "/")
    browser.wait(SHOWN)


def choose(browser, selector, value):
    place = f"document.querySelector('{selector}')"
    browser.run(f"{place}.value = '{value}'; {place}.dispatchEvent(new Event('change'))")


def ask(browser, question="What is the capital of Peru?", against="assistant@1"):
    choose(browser, "#play-second", against)
    browser.run("document.querySelector('#play-question').value = ''")
    browser.type("#play-question", question)
    browser.click("#play-ask")


def order(browser):
    """The releases on the left and on the right, which the page does not show before the vote."""
    return browser.run("[round.left.release.release, round.right.release.release]")


def test_the_page_shows_what_is_served_and_asks_nobody_else(browser, paged):
    paged.chat()
    opened(browser, paged)
    text = browser.text()
    served = ("assistant@2", "champion", "challenger", "previous", "qa@2", "tiny@2")
    assert [word for word in ("Ready", *served, "llmops monitor report") if word not in text] == []
    assert "all plain traffic goes to the champion" in text
    assert f"{paged.url}/v1" in text
    assert browser.complaints == []
    assert all(url.startswith(paged.url) for url in browser.requested if url != "about:blank#new")


def test_a_question_two_answers_a_vote_and_it_is_counted(browser, paged):
    opened(browser, paged)
    before = len(paged.log.feedback_since(0)[0])
    ask(browser)
    browser.wait(VOTABLE)

    left, right = order(browser)
    assert {left, right} == {"assistant@1", "assistant@2"}
    for side in ("left", "right"):
        assert browser.text(f"#{side}-text") == "You said: What is the capital of Peru?"
    shown = browser.text("#play-result")
    assert not any(name in shown for name in ("assistant", "qa@", "tiny@", "champion"))  # nobody knows which is which

    browser.click("[data-vote=right]")
    browser.wait("document.querySelector('#play-status').textContent.startsWith('Kept')")
    assert f"{right} is better" in browser.text("#play-status")
    assert browser.text("#left-title").startswith(f"Answer 1: {left}")
    assert browser.text("#right-title").startswith(f"Answer 2: {right}")
    assert f"{right} 1" in browser.text("#tally")

    (vote,) = paged.log.feedback_since(0)[0][before:]
    assert (vote.release, vote.label, vote.compared_release) == (left, "worse", right)
    counts = paged.log.votes("assistant")["assistant@1", "assistant@2"]
    assert counts.to_json() == {"a": int(right == "assistant@1"), "b": int(right == "assistant@2"), "tie": 0}
    browser.wait("(look(), document.querySelector('.votes-so-far'))")
    assert "Votes: assistant@1" in browser.text("#apps")
    assert browser.complaints == []


def test_the_order_is_random(browser, paged):
    opened(browser, paged)
    seen = set()
    for number in range(30):
        if len(seen) < 2:
            ask(browser, f"Question {number}?")
            browser.wait(f"{VOTABLE} && round.question === 'Question {number}?'")
            seen.add(order(browser)[0])
    assert seen == {"assistant@1", "assistant@2"}


def test_a_prompts_other_variables_can_be_filled(browser, paged):
    opened(browser, paged)
    assert browser.run("document.querySelector('#play-second').value") == "assistant@3"  # the challenger, by default
    browser.type("#variable-tone", "calmly")
    ask(browser, "Why?", against="assistant@3")
    browser.wait(VOTABLE)
    texts = {browser.text("#left-text"), browser.text("#right-text")}
    assert texts == {"You said: Why?", "You said: calmly: Why?"}


def test_an_answer_that_fails_is_shown_and_cannot_be_voted_on(browser, serve):
    def engine(model):
        return FakeEngine(failure=EngineError("secret") if model.version == 2 else None)

    with serve(release(1, "champion"), release(2, "challenger"), engine=engine) as running:
        opened(browser, running)
        ask(browser, against="assistant@2")
        browser.wait("document.querySelector('#play-status').textContent.startsWith('There is nothing')")
        text = browser.text("#play-result")
        assert "the model failed on this request" in text
        assert "secret" not in text
        assert not browser.run(VOTABLE)


def test_stopping_cancels_both_generations(browser, serve):
    with serve(
        release(1, "champion"), release(2, "challenger"), engine=lambda model: FakeEngine(word_seconds=0.3)
    ) as running:
        opened(browser, running)
        ask(browser, "one two three four five six seven eight nine ten " * 5, against="assistant@2")
        browser.wait("document.querySelector('#left-text').textContent")
        assert browser.run("document.querySelector('#left-text').getAttribute('aria-busy')") == "true"  # it streams
        browser.click("#play-stop")
        browser.wait("document.querySelector('#play-status').textContent === 'Stopped.'")
        browser.wait("document.querySelector('#play-stop').hidden")
        assert not browser.run(VOTABLE)
        for _ in range(500):
            if len(running.records()) == 2:
                break
            browser.run("new Promise((done) => setTimeout(done, 20))")
        assert [record.outcome for record in running.records()] == ["cancelled"] * 2


def test_where_keys_exist_the_page_asks_for_one_and_keeps_it_in_the_tab_alone(browser, tmp_path):
    releases = release(1, "champion"), release(2, "challenger")
    with with_key(tmp_path, *releases, name="person") as (running, secret):
        browser.open(running.url + "/")
        browser.wait("!document.querySelector('#key-section').hidden")
        assert browser.run("document.activeElement.id") == "key-input"
        assert not browser.run(SHOWN)

        browser.type("#key-input", "llmops_wrong_key")
        browser.press("Enter", 13)
        browser.wait("document.querySelector('#key-reason').textContent.includes('not accepted')")

        browser.type("#key-input", secret)
        browser.press("Enter", 13)
        browser.wait(SHOWN)
        assert browser.run("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]
        ask(browser, against="assistant@2")
        browser.wait(VOTABLE)
        browser.click("[data-vote=tie]")
        browser.wait("document.querySelector('#play-status').textContent.startsWith('Kept')")
        assert [said.label for said in running.log.feedback_since(0)[0]] == ["tie"]

        browser.click("#forget-key")
        browser.wait("document.querySelector('#key-section')?.hidden === false && sessionStorage.length === 0")


def test_it_can_be_used_by_keyboard_alone(browser, paged):
    opened(browser, paged)
    reached = []
    for _ in range(40):
        browser.press("Tab", 9)
        reached.append(browser.run("document.activeElement.id || document.activeElement.className"))
        outline = browser.run("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached
        if reached[-1] == "play-question":
            break
    assert reached[0] == "skip"
    assert {"play-app", "play-first", "play-second", "play-question"} <= set(reached)
    choose(browser, "#play-second", "assistant@1")
    browser.type("#play-question", "By keyboard?")
    browser.press("Enter", 13, modifiers=2)
    browser.wait(VOTABLE)
    for _ in range(10):
        browser.press("Tab", 9)
        if browser.run("document.activeElement.dataset.vote") == "tie":
            break
    browser.press(" ", 32)
    browser.wait("document.querySelector('#play-status').textContent.startsWith('Kept')")

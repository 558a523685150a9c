"""Generating: slots always full, nothing asked twice, rows of one passage together, failures told apart."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.engines.fake import FakeEngine
from llmops.engines.protocol import Engine
from llmops.errors import BadFile, ContextTooLong, EngineError, EngineRejected, EngineTimeout, EngineUnavailable
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.generating import (
    Generated,
    Job,
    Retries,
    Task,
    generate_missing,
    measure_noise,
    prefix_groups,
    with_retries,
)
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.results import Noise, Output
from llmops.evaluation.runner import answered, generate_all
from llmops.generation import Chunk, GenerationParameters, GenerationRequest, Message
from llmops.prompt_file import parse_prompt

QUICK = Retries(attempts=4, first_wait=0.001, longest_wait=0.001)
TEMPLATE = parse_prompt("---\ninput_variable: question\n---\n# system\nBe terse.\n\n# user\nQ: {{ question }}\n")


def task(given: Sequence[EvalRow], template: Any = TEMPLATE, choices: bool = False, **more: Any) -> Task:
    return Task(template, GenerationParameters(), "sha", FakeEngine().identity, given, choices=choices, **more)


def rows(n: int, name: str = "number", **more: Any) -> list[EvalRow]:
    return [EvalRow(f"{name}-{i}", {"question": f"{name} {i}"}, **more) for i in range(n)]


async def never() -> Engine:
    raise AssertionError("the engine was asked for")


def generate(engine: Engine, cache: GenerationCache, *tasks: Task, retries: Retries = QUICK) -> list[Generated]:
    return asyncio.run(generate_missing(tasks, engine, cache, 0, retries=retries))


def outputs(one: Task, cache: GenerationCache) -> list[Output]:
    return [output for _, output in answered(one, cache)]


def question(request: GenerationRequest) -> str:
    return request.messages[-1]["content"].removeprefix("Q: ")


def job(number: int, text: str) -> Job:
    request = GenerationRequest((Message(role="user", content=text),))
    return Job(EvalRow(str(number), {"question": text}), request, str(number))


def groups(texts: Sequence[str], head_length: int = 0) -> list[list[str]]:
    jobs = [job(number, text) for number, text in enumerate(texts)]
    return [[one.row.id for one in group] for group in prefix_groups(jobs, head_length)]


# Groups of rows that begin alike


FIRST, SECOND = "first passage " * 40, "second passage " * 40


@pytest.mark.parametrize(
    ("texts", "grouped"),
    [
        ([FIRST + "a?", FIRST + "b?", SECOND + "a?", SECOND + "b?", "short"], [["0", "1"], ["2", "3"], ["4"]]),
        ([FIRST + "a?", SECOND + "a?", FIRST + "b?"], [["0"], ["1"], ["2"]]),  # no neighbours
        (["same", "same"], [["0"], ["1"]]),  # too short to wait for
        ([FIRST] * 20, [[str(i) for i in range(start, min(start + 8, 20))] for start in (0, 8, 16)]),
    ],
)
def test_neighbouring_rows_on_one_passage_go_together_up_to_a_bound(texts, grouped):
    assert groups(texts) == grouped


def test_a_passage_counts_beyond_the_templates_own_text_which_ends_where_rows_begin_to_differ():
    texts = ["\n".join(f"{m['role']}\n{m['content']}" for m in TEMPLATE.render({"question": q})) for q in ("x", "y")]
    head_length = task([]).head_length
    assert texts[0][:head_length] == texts[1][:head_length]
    assert texts[0][head_length] != texts[1][head_length]
    head = f"---\ninput_variable: question\n---\n# system\n{'Rules. ' * 100}\n\n# user\n"
    bare = task(
        [EvalRow(text, {"question": text}) for text in ("Who?", "When?")], parse_prompt(head + "{{ question }}\n")
    )
    passages = ["It was the best of times. " * 10] * 3 + ["It was the worst of times. " * 10]
    given = [EvalRow(str(i), {"passage": text, "question": f"{i}?"}) for i, text in enumerate(passages)]
    on_passages = task(given, parse_prompt(head + "{{ passage }}\n\n{{ question }}\n"))
    for one, sizes in ((bare, [1, 1]), (on_passages, [3, 1])):
        assert [len(group) for group in prefix_groups(one.jobs(), one.head_length)] == sizes


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 260), st.integers(0, 9)), max_size=50), st.integers(0, 100))
def test_groups_hold_every_row_once_and_in_order(parts, head_length):
    made = groups(["ABC"[letter] * length + str(end) for letter, length, end in parts], head_length)
    assert [row_id for group in made for row_id in group] == [str(number) for number in range(len(parts))]
    assert all(1 <= len(group) <= 8 for group in made)


def test_rows_on_one_passage_are_answered_in_turn(cache):
    given = [EvalRow(f"{i}", {"question": "passage " * 40 + f"{i}?"}) for i in range(6)]
    engine = Priming(slots=4, word_seconds=0.0001)
    generate(engine, cache, task(given))
    assert engine.most_in_flight == 1
    assert [question(request)[-2:] for request in engine.requests] == [f"{i}?" for i in range(6)]


# Requests


def test_equal_requests_in_flight_are_made_once(cache):
    engine = FakeEngine(slots=4, word_seconds=0.002)
    twins = [EvalRow(f"twin-{i}", {"question": "same"}) for i in range(12)]
    one, two = task(twins), task(twins[:3])
    made = generate(engine, cache, one, two)
    assert len(engine.requests) == 1
    assert [g.n for g in made] == [1, 0]
    assert {output.text for output in outputs(one, cache)} == {"You said: Q: same"}


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_slots_are_filled_and_never_exceeded_over_several_cells(cache, slots):
    engine = FakeEngine(slots=slots, word_seconds=0.001)
    generate(engine, cache, *(task(rows(7, name)) for name in "abc"))
    assert engine.most_in_flight == slots
    assert len(engine.requests) == 21


def test_the_next_cell_begins_while_the_last_answer_of_the_one_before_is_decoded(cache):
    first, second = task(rows(3, "first")), task(rows(8, "second"))
    slow = next(first.jobs()).key
    slow_was_done: dict[str, bool] = {}

    def answer(request: GenerationRequest) -> str:
        slow_was_done[question(request)] = cache.holds(slow)
        return " ".join(["word"] * (60 if question(request) == "first 0" else 1))

    made = generate(FakeEngine(answer, slots=2, word_seconds=0.001), cache, first, second)

    assert slow_was_done["second 7"] is False  # all of the second cell was begun before
    assert cache.holds(slow)
    assert [g.n for g in made] == [3, 8]


def test_what_was_made_is_counted_for_each_cell_and_progress_told_for_every_answer(cache):
    told: list[tuple[int, int]] = []

    async def give() -> Engine:
        return FakeEngine(word_seconds=0.001)

    cells = [task(rows(2, "first")), task(rows(3, "second")), task(rows(2, "first"))]
    made = asyncio.run(generate_all(cells, give, cache, lambda *progress: told.append(progress)))
    assert [(g.n, g.tokens_out) for g in made] == [(2, 10), (3, 15), (0, 0)]
    assert made[0].seconds > 0
    assert made[2].seconds == 0
    assert told == [(done, 5) for done in range(1, 6)]


def test_a_row_of_several_turns_is_asked_as_a_conversation(cache):
    messages = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello, Ada."},
        {"role": "user", "content": "What is my name?"},
    ]
    engine = FakeEngine(lambda _request: "Ada")
    one = task([EvalRow("chat", {"messages": messages})])
    generate(engine, cache, one)
    [request] = engine.requests
    assert [(message["role"], message["content"]) for message in request.messages] == [
        ("system", "Be terse."),
        ("user", "My name is Ada."),
        ("assistant", "Hello, Ada."),
        ("user", "Q: What is my name?"),
    ]
    assert outputs(one, cache)[0].text == "Ada"


# Choices


def test_choices_are_asked_by_their_likelihood_and_are_part_of_what_is_asked(cache):
    choices = ["blue", "green", "red"]
    given = rows(3, expectations={"choices": choices})
    engine = FakeEngine(lambda request: choices[int(question(request)[-1])])
    one = task(given, choices=True)
    generate(engine, cache, one)
    found = outputs(one, cache)
    assert [output.text for output in found] == choices
    assert found[1].choice_logprobs == [-5.0, -0.1, -4.0]
    assert found[1].tokens_out == 3
    generate(engine, cache, task(rows(1, expectations={"choices": choices[:2]}), choices=True))
    assert len(engine.requests) == 4
    assert engine.most_in_flight == 0  # nothing was generated


@pytest.mark.parametrize(
    ("inputs", "expectations"),
    [
        *(
            ({"question": "?"}, choices)
            for choices in ({}, {"choices": ["one"]}, {"choices": ["one", ""]}, {"choices": "ab"})
        ),
        ({"topic": "x"}, {"choices": ["a", "b"]}),
        ({"question": "x", "context": "y"}, {"choices": ["a", "b"]}),
    ],
)
def test_a_row_that_does_not_fit_the_prompt_or_has_no_choices_is_a_bad_file_before_anything_is_asked(
    cache, inputs, expectations
):
    given = [*rows(3, expectations={"choices": ["a", "b"]}), EvalRow("odd", inputs, expectations)]
    with pytest.raises(BadFile, match="row 'odd' does not fit the prompt"):
        asyncio.run(generate_all([task(given, choices=True)], never, cache))


def test_an_engine_without_likelihoods_leaves_a_record(cache):
    fake = FakeEngine(slots=2)
    text_only = SimpleNamespace(identity=fake.identity, slots=2, stream=fake.stream, close=fake.close)
    one = task(rows(2, expectations={"choices": ["a", "b"]}), choices=True)
    generate(text_only, cache, one)
    assert {output.error for output in outputs(one, cache)} == {
        "the fake engine gives no log-probabilities, which choices need"
    }


# Templates that are read once


class Priming(FakeEngine):
    """An engine that notes when it read a template, among its requests."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.events: list[str] = []

    async def prime(self, messages: Sequence[Message]) -> None:
        assert self.in_flight == 0
        self.events.append("|".join(message["content"] for message in messages))
        await asyncio.sleep(0)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        self.events.append(question(request))
        async for chunk in super().stream(request):
            yield chunk


def test_each_cells_template_is_read_once_before_its_rows_and_not_where_none_is_missing(cache):
    other = parse_prompt("---\ninput_variable: question\n---\n# system\nBe kind.\n\n# user\nQ: {{ question }}\n")
    engine = Priming(slots=3)
    made = generate(engine, cache, task(rows(4)), task(rows(4), other))
    numbers = {f"number {i}" for i in range(4)}
    assert (engine.events[0], set(engine.events[1:5])) == ("Be terse.|Q: .", numbers)
    assert (engine.events[5], set(engine.events[6:])) == ("Be kind.|Q: .", numbers)
    assert [g.n for g in made] == [4, 4]
    again = Priming(slots=3)
    generate(again, cache, task(rows(4)), task(rows(5), other))
    assert again.events == ["Be kind.|Q: .", "number 4"]


# Failures


def failing(
    times: Callable[[str], float], error: EngineError
) -> tuple[Callable[[GenerationRequest], str], Counter[str]]:
    """An answer that fails so many times for each question; and how often each was asked."""
    asked: Counter[str] = Counter()

    def answer(request: GenerationRequest) -> str:
        asked[question(request)] += 1
        if asked[question(request)] <= times(question(request)):
            raise error
        return "answer"

    return answer, asked


@pytest.mark.parametrize("error", [EngineUnavailable("busy"), EngineTimeout("slow"), EngineError("hiccup")])
def test_a_flaky_upstream_ends_as_full_success(cache, error):
    answer, asked = failing(lambda text: int(text.split()[-1]) % 3, error)
    one = task(rows(12))
    [made] = generate(FakeEngine(answer, slots=4), cache, one)
    assert [output.text for output in outputs(one, cache)] == ["answer"] * 12
    assert asked == {f"number {i}": 1 + i % 3 for i in range(12)}
    assert made.n == 12


def test_one_dead_row_among_living_ones_becomes_a_record(cache):
    answer, asked = failing(lambda text: 99 if text == "number 3" else 0, EngineUnavailable("dead row"))
    one = task(rows(60))
    generate(FakeEngine(answer, slots=4, word_seconds=0.002), cache, one)
    found = outputs(one, cache)
    assert [number for number, output in enumerate(found) if output.error] == [3]
    assert (found[3].text, found[3].finish_reason, found[3].error) == ("", "error", "dead row")
    assert asked["number 3"] == QUICK.attempts
    assert cache.get(next(job.key for job in one.jobs() if job.row.id == "number-3")) is None


def test_rows_that_fail_by_themselves_leave_their_slot_to_others_until_they_are_asked_again(cache):
    answered = set[str]()

    def answer(request: GenerationRequest) -> str:
        if question(request) in ("number 0", "number 1") and len(answered) < 10:
            raise EngineTimeout("slow")
        answered.add(question(request))
        return "answer"

    engine, one = FakeEngine(answer, slots=1), task(rows(12))
    generate(engine, cache, one, retries=Retries(attempts=30, first_wait=0.001, longest_wait=0.001))
    assert [output.text for output in outputs(one, cache)] == ["answer"] * 12
    assert engine.most_in_flight == 1


@pytest.mark.parametrize("n", [100, 2])
def test_an_engine_that_answers_nobody_ends_the_run_and_one_that_never_will_at_once(cache, n):
    answer, asked = failing(lambda _text: 99, EngineUnavailable("gone"))
    with pytest.raises(EngineUnavailable, match="gone"):
        generate(FakeEngine(answer, slots=4), cache, task(rows(n)))
    assert len(asked) <= 8  # more rows in a row than slots, and what was asked beside the last of them
    generate(FakeEngine(slots=1), cache, task(rows(3, "late")))
    answer, asked = failing(lambda _text: 99, EngineUnavailable("wrong key", lasting=True))
    with pytest.raises(EngineUnavailable, match="wrong key"):
        generate(FakeEngine(answer, slots=1), cache, task(rows(9, "late")))
    assert asked == {"late 3": 1}
    assert all(cache.holds(job.key) for job in task(rows(3, "late")).jobs())


# Noise


def noise(engine: Engine, cache: GenerationCache, *tasks: Task) -> Noise | None:
    return asyncio.run(measure_noise(tasks, engine, cache))


def changing(flips: Callable[[str], bool]) -> Callable[[GenerationRequest], str]:
    """An answer that is another one from the second time on, where `flips` says so."""
    asked: Counter[str] = Counter()

    def answer(request: GenerationRequest) -> str:
        asked[question(request)] += 1
        return f"answer {asked[question(request)] if flips(question(request)) else 1}"

    return answer


@pytest.mark.parametrize(("every", "flips"), [(1, 20), (4, 5), (99, 1), (0, 0)])
def test_noise_counts_the_answers_that_change_and_keeps_the_slots_and_those_that_are_kept(cache, every, flips):
    changes = changing(lambda text: every > 0 and int(text.split()[-1]) % every == 0)
    engine, one = FakeEngine(changes, slots=3, word_seconds=0.0005), task(rows(20))
    generate(engine, cache, one)
    assert noise(engine, cache, one) == Noise(20, flips)
    assert engine.most_in_flight == 3
    assert {output.text for output in outputs(one, cache)} == {"answer 1"}


def test_noise_is_measured_on_a_sample_of_all_cells_and_void_where_the_engine_fails_meanwhile(cache):
    engine = FakeEngine(slots=8)
    tasks = [task(rows(50, name)) for name in ("first", "second")]
    generate(engine, cache, *tasks)
    before = len(engine.requests)
    assert noise(engine, cache, *tasks) == Noise(32, 0)
    again = {question(request) for request in engine.requests[before:]}
    assert len(again) == 32
    assert {text.split()[0] for text in again} == {"first", "second"}
    with pytest.raises(EngineUnavailable, match="gone"):
        noise(FakeEngine(slots=4, failure=EngineUnavailable("gone")), cache, *tasks)


def test_too_few_answers_tell_nothing_of_noise_and_failed_ones_and_choices_are_no_sample(cache):
    answer, _ = failing(lambda text: 99 if int(text.split()[-1]) > 14 else 0, EngineError("no"))
    engine = FakeEngine(answer, slots=4)
    texts, choices = task(rows(20)), task(rows(20, "choice", expectations={"choices": ["a", "b"]}), choices=True)
    assert noise(engine, cache, texts) is None
    generate(engine, cache, texts)
    generate(FakeEngine(slots=4), cache, choices)
    before = len(engine.requests)
    assert noise(engine, cache, texts, choices) is None
    assert len(engine.requests) == before


# Asking again: what fails for a moment with growing waits, what fails for good not at all


PASSING = (EngineError("hiccup"), EngineTimeout("slow"), EngineUnavailable("busy"))


class Failing:
    """Fails with one error after the other, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


def waits(retries: Retries, failures: int, error: EngineError | None = None) -> list[float]:
    return [retries.wait(failures, error or EngineError("hiccup")) for _ in range(200)]


def test_each_wait_is_about_twice_the_one_before_up_to_the_longest_and_none_is_like_another():
    retries = Retries(first_wait=1.0, longest_wait=8.0)
    for failures, longest in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0), (10, 8.0), (60, 8.0)]:
        found = waits(retries, failures)
        assert longest / 2 <= min(found) < max(found) <= longest
        assert len(set(found)) > 100


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        (7.5, 7.5, 7.5),
        (0.0, 0.5, 1.0),  # asked for less than the back-off: the back-off stands
        (-3.0, 0.5, 1.0),
        (3600.0, 20.0, 20.0),  # an upstream that asks for an hour gets twice the longest wait
        (float("inf"), 20.0, 20.0),
        (float("nan"), 0.5, 1.0),
        (None, 0.5, 1.0),
    ],
)
def test_retry_after_is_obeyed_within_bounds(asked, least, most):
    found = waits(Retries(first_wait=1.0, longest_wait=10.0), 1, EngineUnavailable("busy", retry_after=asked))
    assert least <= min(found) <= max(found) <= most


async def asked(ask: Failing, retries: Retries) -> tuple[str, list[float]]:
    """The answer, and the seconds that were waited for."""
    waited: list[float] = []

    async def pause(seconds: float, _: EngineError) -> None:
        waited.append(seconds)

    return await with_retries(ask, retries, pause), waited


def test_an_upstreams_wait_is_waited():
    ask = Failing(EngineUnavailable("busy", retry_after=0.008))
    retries = Retries(attempts=2, first_wait=0.0, longest_wait=0.01)
    assert asyncio.run(asked(ask, retries)) == ("answer", [0.008])


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_what_may_pass_is_asked_again_until_all_attempts_failed(error):
    ask = Failing(error, error, error)
    assert asyncio.run(asked(ask, QUICK))[0] == "answer"
    assert ask.asked == 4
    ask = Failing(*(type(error)(f"attempt {number}") for number in range(1, 6)))
    with pytest.raises(type(error), match="attempt 4"):
        asyncio.run(asked(ask, QUICK))
    assert ask.asked == 4


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (EngineRejected("no such field"), 4),
        (ContextTooLong("too long"), 4),
        (EngineUnavailable("wrong key", lasting=True), 4),
        (ValueError("a slip in the program"), 4),
        (EngineUnavailable("busy", retry_after=60), 1),  # one attempt never waits
    ],
)
def test_what_cannot_pass_is_raised_at_once(error, attempts):
    ask = Failing(error)
    retries = Retries(attempts=attempts, first_wait=0.0005, longest_wait=60)
    with pytest.raises(type(error)) as caught:
        asyncio.run(asyncio.wait_for(asked(ask, retries), 1))
    assert caught.value is error
    assert ask.asked == 1

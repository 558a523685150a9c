"""The generating half of an evaluation: what the cache lacks, for any number of cells, with the slots always full.

Cells come one after the other, so that requests which begin with the same template text meet in the engine: one that
can reads that text once, before the cell's first request, and every slot starts from there. Rows that share a long
beginning (questions on one passage) go through one slot in turn, which keeps the shared part. With an engine that
cannot, no slot waits between cells: the next one begins while the last answers of the one before are decoded.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from llmops.engines.answer import off_format
from llmops.engines.protocol import Engine, EngineIdentity, PrefixCachingEngine, ScoringEngine, generate
from llmops.errors import BadFile, EngineError, EngineRejected, EngineUnavailable, LlmopsError, SchemaNotFollowed
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.generation_cache import GenerationCache, generation_key
from llmops.evaluation.results import Noise, Output, known_sum
from llmops.evaluation.scorers.classification import row_choices
from llmops.generation import GenerationParameters, GenerationRequest, Message
from llmops.hashing import canonical_json
from llmops.prompt_file import PromptTemplate

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Retries:
    """attempts: in all. first_wait, longest_wait: seconds; each wait is twice the one before, shortened by chance so
    that requests that failed together do not return together. An upstream's own Retry-After is obeyed."""

    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 30.0

    def wait(self, failures: int, error: EngineError) -> float:
        """Seconds to wait after so many failures."""
        wait = min(self.longest_wait, self.first_wait * 2.0 ** (failures - 1))
        wait *= random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        asked = error.retry_after if isinstance(error, EngineUnavailable) else None
        return max(wait, min(asked, 2 * self.longest_wait)) if asked is not None else wait


RETRIES = Retries()


Pause = Callable[[float, EngineError], Awaitable[None]]


async def with_retries(ask: Callable[[], Awaitable[Answer]], retries: Retries, pause: Pause) -> Answer:
    """What `ask` gives, asked again while its failures may pass. pause: waits so many seconds because of an error.
    Raises EngineRejected, SchemaNotFollowed, or an EngineUnavailable that will not pass: at once. EngineError: the last
    of all attempts."""
    for failures in range(1, retries.attempts + 1):
        try:
            return await ask()
        except EngineError as error:
            # Asked until an answer fits, a model that breaks its format would look as good as one that follows it.
            lasting = isinstance(error, (EngineRejected, SchemaNotFollowed)) or getattr(error, "lasting", False)
            if lasting or failures == retries.attempts:
                raise
            await pause(retries.wait(failures, error), error)
    raise AssertionError("attempts must be 1 or more")


Progress = Callable[[int, int], None]

_SHARED_CHARACTERS = 200  # beyond the template's own text: less is not worth a slot's waiting
_LARGEST_GROUP = 8
_SET_ASIDE = 4  # rows for each slot that may wait to be asked again while others are asked
_NOISE_SAMPLE, _NOISE_FEWEST = 32, 16


@dataclass(frozen=True, slots=True)
class Task:
    """One cell's work: a template and parameters for a model, over rows that can be gone through again. template: None
    asks with the row's inputs as they are, as JSON, which a Python callable reads.

    identity: the engine's, known without loading it, so that a fully cached task loads nothing. choices: ask for the
    likelihood of each row's choices, not for a text.
    """

    template: PromptTemplate | None
    parameters: GenerationParameters
    model_sha256: str
    identity: EngineIdentity
    rows: Iterable[EvalRow]
    seed: int | None = None
    choices: bool = False

    def jobs(self) -> Iterator[Job]:
        """Every row's job, in order. Raises BadFile when a row does not fit the prompt, or lacks choices."""
        parameters = self.parameters if self.seed is None else replace(self.parameters, seed=self.seed)
        for row in self.rows:
            choices = None
            try:
                messages, shared_prefix = self._messages(row)
                if self.choices:
                    choices = tuple(row_choices(row))
            except LlmopsError as error:
                raise BadFile("eval set", f"row {row.id!r} does not fit the prompt: {error}", field="inputs") from error
            request = GenerationRequest(messages, parameters, shared_prefix=shared_prefix)
            key = generation_key(request, self.model_sha256, self.identity, self.seed, choices)
            yield Job(row, request, key, choices)

    def _messages(self, row: EvalRow) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
        """A row's messages, and those that every row begins with."""
        if self.template is None:
            return (Message(role="user", content=canonical_json(row.inputs)),), ()
        return filled(self.template, row), self.template.shared_prefix

    @property
    def head_length(self) -> int:
        """Characters that every rendered row begins with."""
        if self.template is None:
            return 0
        blank = self.template.render(dict.fromkeys(self.template.variables, "\0"))
        return _text(blank).find("\0")


@dataclass(frozen=True, slots=True)
class Job:
    """One row's request, and its key in the cache."""

    row: EvalRow
    request: GenerationRequest
    key: str
    choices: tuple[str, ...] | None = None


@dataclass(slots=True)
class Generated:
    """What was made now for one task. seconds: from its first request to its last answer. tokens_out: None where an
    answer's were not counted."""

    n: int = 0
    tokens_out: int | None = 0
    began: float = 0.0
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """From the first request to the last answer; 0 where nothing was made."""
        return max(0.0, self.ended - self.began) if self.n else 0.0

    def add(self, other: Generated) -> None:
        """What was made for the same task by another process, whose times are of the same clock."""
        if other.n:
            self.began, self.ended = min(self.began or other.began, other.began), max(self.ended, other.ended)
            self.n, self.tokens_out = self.n + other.n, known_sum(self.tokens_out, other.tokens_out)


async def generate_missing(
    tasks: Sequence[Task],
    engine: Engine,
    cache: GenerationCache,
    total: int,
    progress: Progress | None = None,
    retries: Retries = RETRIES,
) -> list[Generated]:
    """Makes every output that the cache lacks, and keeps it there; says for each task what was made.

    total: how many there are, for progress.

    Raises EngineUnavailable: the engine is gone (it turned away more rows in a row than it has slots, or every row,
    each after all retries); what was finished is in the cache and is not made again.
    """
    all_made = [Generated() for _ in tasks]
    lanes = _Lanes(engine, cache, retries, total, progress)
    if isinstance(engine, PrefixCachingEngine):  # cell by cell
        for task, made in zip(tasks, all_made, strict=True):
            if any(map(lanes.lacks, task.jobs())):
                made.began = time.perf_counter()
                if task.template is not None:
                    await engine.prime(task.template.shared_prefix)
                await lanes.do((made, group) for group in prefix_groups(task.jobs(), task.head_length))
    else:
        await lanes.do((made, [job]) for task, made in zip(tasks, all_made, strict=True) for job in task.jobs())
    if lanes.unavailable is not None and not lanes.answered:
        raise lanes.unavailable
    return all_made


@dataclass(slots=True)
class _Lanes:
    """Each lane takes the next group of jobs and does them in turn. Where the engine's reading of shared beginnings
    needs no order there are more lanes than slots: a row that failed by itself leaves its slot to others until it is
    asked again. free: slots; no more requests are sent at a time, so that a latency is the engine's, not a wait for it.
    turned_away: rows in a row that nobody answered."""

    engine: Engine
    cache: GenerationCache
    retries: Retries
    total: int
    progress: Progress | None
    done: int = 0
    answered: bool = False
    turned_away: int = 0
    unavailable: EngineUnavailable | None = None
    begun: set[str] = field(default_factory=set)
    free: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.free = asyncio.Semaphore(self.engine.slots)

    def lacks(self, job: Job) -> bool:
        return job.key not in self.begun and self.cache.outcome(job.key) is None

    async def do(self, groups: Iterator[tuple[Generated, list[Job]]]) -> None:
        async def lane() -> None:
            for made, group in groups:
                await self.free.acquire()
                for job in filter(self.lacks, group):
                    await self._one(made, job)
                self.free.release()  # but not where the engine is gone: nobody else is to ask it

        side_by_side = self.engine.slots * (1 if isinstance(self.engine, PrefixCachingEngine) else 1 + _SET_ASIDE)
        try:
            async with asyncio.TaskGroup() as lanes:
                for _ in range(side_by_side):
                    lanes.create_task(lane())
        except* LlmopsError as failures:
            raise failures.exceptions[0] from failures

    async def _one(self, made: Generated, job: Job) -> None:
        """An engine that is gone ends the run; a request that fails by itself becomes a record."""
        self.begun.add(job.key)
        made.began = made.began or time.perf_counter()
        try:
            output = await with_retries(lambda: answer(self.engine, job), self.retries, self._pause)
            self.turned_away, self.answered = 0, True
            made.tokens_out = known_sum(made.tokens_out, output.tokens_out)
        except EngineError as error:
            if isinstance(error, EngineUnavailable):
                self.turned_away += 1
                if error.lasting or self.turned_away > self.engine.slots:
                    raise
                self.unavailable = error
            output = Output("", finish_reason="error", error=str(error))
        self.cache.put(job.key, output)
        self.begun.discard(job.key)
        made.n += 1
        made.ended = time.perf_counter()
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)

    async def _pause(self, seconds: float, error: EngineError) -> None:
        """An engine that is busy or gone gets fewer requests meanwhile; else the slot is another row's."""
        leaves = not isinstance(error, EngineUnavailable)
        if leaves:
            self.free.release()
        await asyncio.sleep(seconds)
        if leaves:
            await self.free.acquire()


async def answer(engine: Engine, job: Job) -> Output:
    """One job done. Raises EngineError."""
    if job.choices is None:
        made = await generate(engine, job.request)
        wanted = job.request.parameters.response_format if engine.identity.name == "openai" else None
        return Output(
            text=made.text,
            finish_reason=made.finish_reason,
            tokens_in=made.usage.tokens_in,
            tokens_out=made.usage.tokens_out,
            latency_ms=round(1000 * made.latency_s, 3),
            first_token_ms=None if made.first_token_s is None else round(1000 * made.first_token_s, 3),
            tool_calls=[dict(call) for call in made.tool_calls] or None,
            refusal=made.refusal,
            reasoning=made.reasoning,
            off_format=off_format(wanted, [made]),
        )
    if not isinstance(engine, ScoringEngine):
        raise EngineRejected(f"the {engine.identity.name} engine gives no log-probabilities, which choices need")
    start = time.perf_counter()
    logprobs, usage = await engine.loglikelihoods(job.request.messages, job.choices)
    likeliest = max(range(len(logprobs)), key=logprobs.__getitem__)
    latency_ms = round(1000 * (time.perf_counter() - start), 3)
    return Output(
        text=job.choices[likeliest],
        tokens_in=usage.tokens_in,
        tokens_out=usage.tokens_out,
        latency_ms=latency_ms,
        first_token_ms=latency_ms,
        choice_logprobs=list(logprobs),
    )


def prefix_groups(jobs: Iterable[Job], head_length: int) -> Iterator[list[Job]]:
    """Neighbouring jobs whose texts begin alike for long enough beyond the template's own beginning."""
    group: list[Job] = []
    length = head_length + _SHARED_CHARACTERS
    last = ""
    for job in jobs:
        beginning = _text(job.request.messages)[:length]
        alike = beginning == last and len(beginning) == length
        if group and (not alike or len(group) == _LARGEST_GROUP):
            yield group
            group = []
        group.append(job)
        last = beginning
    if group:
        yield group


def filled(template: PromptTemplate, row: EvalRow) -> tuple[Message, ...]:
    """The template with the row's variables, around its conversation where it has one. Raises UsageError."""
    if row.messages:
        return template.render_conversation(row.messages, row.variables)
    return template.render(row.variables)


def _text(messages: Sequence[Message]) -> str:
    return "\n".join(f"{message['role']}\n{message['content']}" for message in messages)


async def measure_noise(tasks: Iterable[Task], engine: Engine, cache: GenerationCache) -> Noise | None:
    """How many answers differ from those in the cache when they are made again, in another order, slots as full.

    At most `_NOISE_SAMPLE` finished answers, drawn by their keys; None when there are fewer than `_NOISE_FEWEST`.

    Raises EngineError: as the engine raises it; the measurement is then void.
    """
    texts = (job for task in tasks if not task.choices for job in task.jobs() if cache.holds(job.key))
    sample = heapq.nsmallest(_NOISE_SAMPLE, texts, key=lambda job: job.key)
    if len(sample) < _NOISE_FEWEST:
        return None
    slots = asyncio.Semaphore(engine.slots)

    async def flips(job: Job) -> bool:
        async with slots:
            again = await answer(engine, job)
        known = cache.get(job.key)
        return known is None or known.text != again.text

    return Noise(len(sample), sum(await asyncio.gather(*map(flips, sample))))

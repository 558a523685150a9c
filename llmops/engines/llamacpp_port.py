"""What llama.cpp's server does only through its loopback port, and not through calls of its object."""

import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from llmops.errors import EngineError, EngineRejected
from llmops.generation import Message
from llmops.hashing import content_hash
from llmops.processes import mark_owned

_FORCE = 1e4  # more than any two logits differ by
_WHOLE_VOCABULARY = 1_000_000
Complete = Callable[[dict[str, Any]], Mapping[str, Any]]
MOST_KEPT = 32
"""Templates whose state is kept; of a template of 600 tokens that is 14 MB with 135 million parameters, and 75 MB with
7 billion."""
Read = Callable[[Sequence[Message], int], None]


class LlamaCppPort:
    """The server's chat template, tokenizer, and the states of its slots. Every call raises EngineError."""

    def __init__(self, address: str, key: str) -> None:
        base_url = address if address.startswith("http") else f"http://{address}"
        self._client = httpx.Client(base_url=base_url, headers={"authorization": f"Bearer {key}"}, timeout=60)

    def prompt(self, messages: Sequence[Message]) -> str:
        """The conversation as one text, ready for the assistant's words."""
        return str(self._post("/apply-template", {"messages": [dict(message) for message in messages]})["prompt"])

    def tokens(self, text: str) -> list[int]:
        body = {"content": text, "add_special": False, "parse_special": True}
        return [int(token) for token in self._post("/tokenize", body)["tokens"]]

    def save_slot(self, slot: int, name: str) -> None:
        """Keeps what the slot has read, as a file of the server's folder of states."""
        self._post(f"/slots/{slot}?action=save", {"filename": name})

    def restore_slot(self, slot: int, name: str) -> None:
        """The slot holds what was saved, as if it had just read it. Waits until the slot is free."""
        self._post(f"/slots/{slot}?action=restore", {"filename": name})

    def close(self) -> None:
        self._client.close()

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        try:
            response = self._client.post(path, json=body)
            response.raise_for_status()
            return response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise EngineError(f"llama.cpp failed at {path}: {error}") from error


# Log-likelihoods of given answers with llama.cpp, which does not report those of a prompt's own tokens.
#
# Each answer is walked token by token: the next token is forced by a bias, and the log-probability that is reported for
# it is the one from before the bias. Answers that begin with the same tokens share that part of the walk, and the
# prompt is read once, because the slot keeps it.


def loglikelihoods(
    port: LlamaCppPort, complete: Complete, messages: Sequence[Message], continuations: Sequence[str]
) -> tuple[list[float], int, int]:
    """For each continuation the summed log-probability of its tokens; and the tokens read: of the prompt, and walked.

    complete: sends one completion request to the engine and gives its reply; raises EngineError.

    Raises EngineRejected: a continuation has no token. EngineError.
    """
    prompt = port.prompt(messages)
    context = port.tokens(prompt)
    whole = port.tokens("a")[-1]
    walked: dict[tuple[int, ...], float] = {}
    sums = []
    for text in continuations:
        own = tuple(port.tokens(prompt + text)[len(context) :])
        if not own:
            raise EngineRejected(f"the choice {text!r} has no token of its own", param="choices")
        for end in range(1, len(own) + 1):
            if own[:end] not in walked:
                walked[own[:end]] = _logprob(complete, [*context, *own[: end - 1]], own[end - 1], whole)
        sums.append(sum(walked[own[:end]] for end in range(1, len(own) + 1)))
    return sums, len(context), len(walked)


def _logprob(complete: Complete, before: list[int], token: int, whole: int) -> float:
    """Log-probability of `token` after the tokens `before`. whole: some token that is a whole character.

    Of a token that is only a part of a character llama.cpp tells nothing; it is then looked up among all tokens that
    might have stood in the place of `whole`.
    """
    told = _forced(complete, before, token, 1)
    if told is None:
        everything = _forced(complete, before, whole, _WHOLE_VOCABULARY)
        others = everything["top_logprobs"] if everything is not None else ()
        told = next((other for other in others if other["id"] == token), None)
    if told is None or told["id"] != token:
        raise EngineError(f"llama.cpp does not say how likely token {token} is")
    return float(told["logprob"])


def _forced(complete: Complete, before: list[int], token: int, told: int) -> Mapping[str, Any] | None:
    """What llama.cpp says of the token it was made to choose, and of the `told` likeliest; None when nothing."""
    body = {"prompt": before, "max_tokens": 1, "temperature": 0, "logprobs": told, "cache_prompt": True}
    logprobs = complete({**body, "logit_bias": [[token, _FORCE]]})["choices"][0]["logprobs"]
    entry: Mapping[str, Any] | None = logprobs["content"][0] if logprobs else None
    return entry


class Quiet:
    """Lets requests be decoded side by side, and a template be read while nothing else is: what is decoded beside it
    changes the order of its sums, and with that its state.

    is_taken: whether something is alone, or waits to be.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._decoding = 0
        self.is_taken = False

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """One request of several. Waits while something is alone, or waits to be."""
        with self._changed:
            self._changed.wait_for(lambda: not self.is_taken)
            self._decoding += 1
        try:
            yield
        finally:
            with self._changed:
                self._decoding -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until what is decoded now has ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self.is_taken)
            self.is_taken = True
            self._changed.wait_for(lambda: not self._decoding)
        try:
            yield
        finally:
            with self._changed:
                self.is_taken = False
                self._changed.notify_all()


class TemplateStates:
    """States of slots, as files in a folder of their own.

    A state depends on the messages alone: they are read while nothing else is decoded, into a slot that takes nothing
    over from what it held.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="llmops-states-")
        mark_owned(Path(self._folder.name))
        self._kept: OrderedDict[str, None] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    @property
    def folder(self) -> str:
        return f"{self._folder.name}/"

    def put(self, shared_prefix: Sequence[Message], slot: int, port: LlamaCppPort, read: Read) -> None:
        """The slot holds what is kept of the shared prefix, which is read first where nothing is. Raises EngineError.

        read: reads messages into a slot, alone.
        """
        name = content_hash(list(shared_prefix))
        with self._lock:  # held while a template is read, so that requests which come together wait for one reading
            if name not in self._kept:
                read(shared_prefix, slot)
                port.save_slot(slot, name)
                self._kept[name] = None
                if len(self._kept) > MOST_KEPT:
                    oldest, _ = self._kept.popitem(last=False)
                    Path(self._folder.name, oldest).unlink(missing_ok=True)
            self._kept.move_to_end(name)
        port.restore_slot(slot, name)

    def remove(self) -> None:
        self._folder.cleanup()

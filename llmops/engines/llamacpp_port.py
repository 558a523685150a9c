"""What llama.cpp's server does only through its loopback port, and not through calls of its object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from llmops.errors import EngineError
from llmops.generation import Message


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

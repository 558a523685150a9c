"""A pipeline's steps without a pipeline."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Direct:
    """Steps that are just done; as often as `times` says, as after a kill before a result was kept."""

    cycle: str = "direct"
    times: int = 1
    done: list[str] = field(default_factory=list)

    def do(self, name: str, function: Callable[..., Any], *arguments: Any, retries: int = 0) -> Any:
        self.done.append(name)
        given = json.loads(json.dumps(arguments))
        results = [json.loads(json.dumps(function(*given))) for _ in range(self.times)]
        return results[0] if name == "register" else results[-1]

"""What `import llmops` offers: the functions behind the commands. `llmops/__init__.py` lists them.

A function takes what its command takes, raises the same errors, and returns a `Shown`: `to_dict()` is the command's
`--json`, `to_pandas()` a table of it, and a notebook shows what the command prints.
"""

from __future__ import annotations

from collections.abc import Sequence

Names = str | Sequence[str]
"""One name, or several."""


def names_of(given: Names) -> Sequence[str]:
    return (given,) if isinstance(given, str) else given

"""Random ids, many from one call to the system.

`os.urandom` lets go of Python's lock. On a busy event loop another thread then takes it, and the id has to wait.
"""

import os
from collections import deque

_DIGITS = 32
_AT_ONCE = 256
_ready: deque[str] = deque()
os.register_at_fork(after_in_child=_ready.clear)  # else parent and child would give out the same


def random_id() -> str:
    """32 hexadecimal digits that nobody can guess."""
    try:
        return _ready.pop()
    except IndexError:
        digits = os.urandom(_AT_ONCE * _DIGITS // 2).hex()
        first, *others = (digits[at : at + _DIGITS] for at in range(0, len(digits), _DIGITS))
        _ready.extend(others)
        return first

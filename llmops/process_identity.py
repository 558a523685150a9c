"""Names a process so that another one on the same machine can tell whether it has ended.

A process id alone would not do: ids are used again, and containers of one machine number theirs separately. So the name
holds the machine's boot, the id namespace, the process id, and when it started. Where the system does not tell (not
Linux), nobody is ever found dead.
"""

from __future__ import annotations

import functools
import os
import uuid
from pathlib import Path


@functools.cache
def _place() -> str:
    """What two processes must share for their ids to mean the same."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"unknown-{uuid.uuid4().hex}"


def this_process() -> str:
    """This process' name; at most 255 characters."""
    return f"{_place()}/{os.getpid()}/{_started(os.getpid())}"


def is_dead(process: str) -> bool:
    """Whether the process of that name has ended for certain; False when it cannot be known."""
    place, _, rest = process.partition("]/")
    number, _, started = rest.partition("/")
    if f"{place}]" != _place() or not number.isdecimal():
        return False
    return _started(int(number)) != started


def is_frozen(number: int) -> bool:
    """Whether the process is stopped, by SIGSTOP or a debugger: it does nothing, and no signal but SIGKILL reaches it.
    False where the system does not tell."""
    return _stat(number)[:1] in (["T"], ["t"])


def _started(number: int) -> str | None:
    """When the process started, in the kernel's ticks; None when there is no such process, or it is a zombie."""
    found = _stat(number)
    return None if not found or found[0] in "ZX" else found[19]


def _stat(number: int) -> list[str]:
    """What the kernel tells of a process, from its state on; nothing where there is none."""
    try:
        text = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(") ")[2].split()

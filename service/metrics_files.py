"""The files through which several worker processes count together: one folder, a few files for each process.

The metrics library chooses its files when it is first imported, by an environment variable; so this module imports it
only where it merges.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FOLDED = 0
"""In place of a process id: the file with what dead processes have counted."""


def prepare_multiprocess(folder: Path) -> dict[str, str]:
    """Empties the folder, and returns the environment in which workers count into it together.

    Call it once, in the parent of all workers, before anything imports `service.metrics` there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.db"):
        path.unlink()
    return {"PROMETHEUS_MULTIPROC_DIR": str(folder)}


@contextmanager
def merging(folder: Path) -> Iterator[None]:
    """Folds the files of dead processes together, and keeps other readers from doing so while the block runs.

    What a dead process has counted stays in every sum; what it measured of the moment (gauges) goes.
    """
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in folder.glob("*.db"):
            kind, _, process = path.stem.rpartition("_")
            if int(process) == _FOLDED or _is_alive(int(process)):
                continue
            if not kind.startswith("gauge"):
                _fold(path, folder / f"{kind}_{_FOLDED}.db")
            path.unlink()
        yield


def _fold(path: Path, into: Path) -> None:
    from prometheus_client import mmap_dict

    files: Any = mmap_dict.MmapedDict  # untyped
    folded = files(str(into))
    for key, value, _, _ in files.read_all_values_from_file(str(path)):
        folded.write_value(key, folded.read_value(key)[0] + value, 0.0)
    folded.close()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

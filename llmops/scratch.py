"""Folders for the time of a process, in the system's folder for such; those of killed processes are swept away."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmops.process_identity import is_dead, this_process

_PREFIX = "llmops-"
_OWNER = "owner"


def make_scratch_folder(kind: str) -> Path:
    """A new private folder, named after its kind, that says whose it is; whoever makes it removes it."""
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{kind}-"))
    mark_owned(folder)
    return folder


def mark_owned(folder: Path) -> None:
    """Says in a folder, named as `make_scratch_folder` names them, that it ends with this process."""
    (folder / _OWNER).write_text(this_process(), encoding="utf-8")


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """As `make_scratch_folder`, removed when the block ends."""
    folder = make_scratch_folder(kind)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch_folders() -> int:
    """Removes this user's folders whose process was killed before it could; returns how many."""
    swept = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or another process sweeps too
            if folder.stat().st_uid != os.geteuid() or not folder.is_dir() or folder.is_symlink():
                continue
            if is_dead((folder / _OWNER).read_text(encoding="utf-8")):
                shutil.rmtree(folder, ignore_errors=True)
                swept += 1
    return swept

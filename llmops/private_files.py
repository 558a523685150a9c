"""State holds prompts, answers and hashes of keys: its folders and files are for their owner alone."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_folder(path: Path) -> None:
    """Makes a folder, and those above it that are missing, with mode 0700; one that is there is left as it is.

    Raises OSError.
    """
    if path.is_dir():
        return
    make_private_folder(path.parent)
    with contextlib.suppress(FileExistsError):  # another process was faster
        path.mkdir(mode=0o700)


def keep_private(path: Path) -> None:
    """Takes away what others may do with a file or folder of ours, where they may do anything.

    Left as it is: what is not there, belongs to another user, or cannot be changed (a read-only disk); and a folder
    that is shared by its kind, as `/tmp` is.
    """
    with contextlib.suppress(OSError):
        found = path.stat()
        if found.st_uid == os.geteuid() and found.st_mode & OTHERS and not found.st_mode & stat.S_ISVTX:
            path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)

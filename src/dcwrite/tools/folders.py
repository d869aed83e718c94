"""Folders for outputs: made when they are missing, gone again when nothing came into them.

Alone here: which folders are ours. Invariant: a folder that was there stays, and so does one with
something in it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import StorageError
from ..store.hdf5 import storage_errors

__all__ = ["output_folder"]


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Have a folder for outputs while the block runs, and afterwards if there are any.

    Parameters
    ----------
    folder
        The folder; it is made with the folders above it.

    Raises
    ------
    StorageError
        The name is that of something else, or the disk refuses.
    """
    missing = []
    for path in (folder, *folder.parents):
        if path.is_dir():
            break
        missing.append(path)
    if missing and (missing[-1].exists() or missing[-1].is_symlink()):
        raise StorageError(
            errno.ENOTDIR,
            "expected a folder for the outputs, got something else; choose another name",
            str(missing[-1]),
        )
    try:
        with storage_errors(folder, "making the folder"):
            folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()  # refused where something is in it

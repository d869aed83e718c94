"""Free space: asked for before a file is written, and watched while a stream goes on.

Alone here: how much is too little. Invariant: a disk that does not tell is never an error.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Final

from ..errors import StorageError

__all__ = ["SpaceWatch", "free_bytes", "require_space"]

#: Less than this is low: a minute of 1000 frames/s at the usual compression.
LOW_BYTES: Final = 1024**3
#: A stream looks at the disk at most that often.
PERIOD_S: Final = 2.0
#: A stream warns when the disk will be full within this time at its present rate.
HORIZON_S: Final = 300.0


def free_bytes(path: str | os.PathLike[str]) -> int | None:
    """Free bytes on the disk of a file or folder; None if it does not tell."""
    folder = Path(path)
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def require_space(path: str | os.PathLike[str], n_bytes: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Parameters
    ----------
    path
        File that will be written.
    n_bytes
        Estimate of its size.

    Raises
    ------
    StorageError
        With errno ENOSPC; nothing was written.
    """
    free = free_bytes(path)
    if free is not None and free < n_bytes:
        raise StorageError(
            errno.ENOSPC,
            f"expected about {n_bytes / 1e6:,.1f} MB of free space, got {free / 1e6:,.1f} MB; "
            f"free some, or choose another disk (nothing was written)",
            os.fspath(path),
        )


class SpaceWatch:
    """Tells when the disk of a growing file is about to be full.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._last_look = self._first_look = time.monotonic()
        self._first_free = free_bytes(path)
        self._warned = False

    def warning(self) -> str | None:
        """A sentence, once, when space has become low; else None."""
        now = time.monotonic()
        if self._warned or self._first_free is None or now - self._last_look < PERIOD_S:
            return None
        self._last_look = now
        return self.judge(free_bytes(self._path), now - self._first_look)

    def judge(self, free: int | None, elapsed_s: float) -> str | None:
        """As `warning`, for a given number of free bytes after a given time."""
        if free is None or self._first_free is None:
            return None
        rate = max(0.0, (self._first_free - free) / max(elapsed_s, PERIOD_S))
        if free >= LOW_BYTES and free >= rate * HORIZON_S:
            return None
        self._warned = True
        left = f", full in about {free / rate:.0f} s at the present rate" if rate else ""
        return f"low disk space for '{self._path}': {free / 1e6:.0f} MB free{left}"

"""RawView: what read-only files have in common that are made of other files.

Alone here: position and size. Invariant: the files behind it are only read.
"""

from __future__ import annotations

import io
import os

__all__ = ["RawView"]


class RawView(io.RawIOBase):
    """A read-only file with a position; who derives from it sets the size, and reads."""

    def __init__(self) -> None:
        super().__init__()
        self._size = self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Current position."""
        return self._position

"""Buffers of chunks: taken, filled, encoded, and used again.

Alone here: which memory is free. Invariant: a buffer has one owner at a time; what is free is
never more than what was in use at once.

A fresh page costs the system some 0.5 us (0.1 ms for a chunk of 1 MiB, as long as it takes to copy
the rows there), and memory that was used just now is still in the processor's cache.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from .compact_rows import AnyRows, CompactRows

__all__ = ["ChunkBuffers", "place_rows", "scratch"]

AnyArray = npt.NDArray[Any]


class ChunkBuffers:
    """Free buffers by size; any thread may give one back."""

    def __init__(self) -> None:
        self._free: dict[int, list[npt.NDArray[np.uint8]]] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
        """An array of undefined content."""
        n_bytes = math.prod(shape) * dtype.itemsize
        try:
            buffer = self._free[n_bytes].pop()
        except (KeyError, IndexError):
            buffer = np.empty(n_bytes, np.uint8)
        return buffer.view(dtype).reshape(shape)

    def give_back(self, array: AnyArray) -> None:
        """What `take` gave; nobody may look at it any more."""
        self._free.setdefault(array.nbytes, []).append(array.reshape(-1).view(np.uint8))

    def clear(self) -> None:
        """Let go of all that is free."""
        self._free.clear()


class _Scratch(threading.local):
    buffer: npt.NDArray[np.uint8] = np.empty(0, np.uint8)


_scratch = _Scratch()


def scratch(shape: tuple[int, ...], dtype: np.dtype[Any]) -> AnyArray:
    """An array of undefined content that this thread has until it asks for another one."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if len(_scratch.buffer) < n_bytes:
        _scratch.buffer = np.empty(n_bytes, np.uint8)
    return _scratch.buffer[:n_bytes].view(dtype).reshape(shape)


def place_rows(where: AnyArray, rows: AnyRows) -> None:
    """Copy rows; masks of bool become 0 and 255 where they are stored as uint8."""
    if isinstance(rows, CompactRows):
        rows.place(where)
    elif rows.dtype == np.bool_ and where.dtype == np.uint8:
        np.multiply(rows.view(np.uint8), np.uint8(255), out=where)
    else:
        where[...] = rows

"""RecycledMemory: arrays in memory that was used before.

Alone here: when the memory of an array is free again. Invariant: it is, when nobody holds the
array or a view of it any more; what is free is bounded.

A batch of 500 images takes 13 MB of fresh pages, which the system clears one by one: as much time
as copying the images there. Memory of the batch before last is there already.
"""

from __future__ import annotations

import collections
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["RecycledMemory"]

#: Smaller arrays are not worth it.
_LEAST_BYTES: Final = 128 * 1024
#: Sizes are rounded up by an eighth at most, so that batches of similar sizes fit.
_STEP_BITS: Final = 3


class _Lent:
    """Memory that is given back when the last array that looks at it goes."""

    __slots__ = ("__array_interface__", "_buffer", "_returned")

    def __init__(self, buffer: npt.NDArray[np.uint8], returned: collections.deque[Any]) -> None:
        self._buffer = buffer
        self._returned = returned
        self.__array_interface__ = buffer.__array_interface__

    def __del__(self) -> None:
        self._returned.append(self._buffer)


class RecycledMemory:
    """Gives arrays to one thread, and takes their memory back by itself from any.

    Parameters
    ----------
    most_free_bytes
        What is more than that goes back to the system when the next array is asked for.
    """

    def __init__(self, most_free_bytes: int) -> None:
        self._most_free_bytes = most_free_bytes
        #: oldest first; of the thread that asks
        self._free: list[npt.NDArray[np.uint8]] = []
        #: whoever drops the last view appends here, in the middle of anything
        self._returned: collections.deque[npt.NDArray[np.uint8]] = collections.deque()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array of undefined content."""
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes < _LEAST_BYTES:
            return np.empty(shape, dtype)
        step = 1 << max(0, n_bytes.bit_length() - 1 - _STEP_BITS)
        capacity = -(-n_bytes // step) * step
        lent = np.asarray(_Lent(self._take(capacity), self._returned))
        return lent[:n_bytes].view(dtype).reshape(shape)

    def _take(self, capacity: int) -> npt.NDArray[np.uint8]:
        while self._returned:
            self._free.append(self._returned.popleft())
        found = next((ii for ii, free in enumerate(self._free) if len(free) == capacity), None)
        buffer = np.empty(capacity, np.uint8) if found is None else self._free.pop(found)
        while sum(map(len, self._free)) > self._most_free_bytes:
            del self._free[0]
        return buffer

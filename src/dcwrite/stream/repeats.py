"""Repeats: which events of a feature are the same as those before them.

Alone here: what counts as the same, and when it is not worth looking. Invariant: a value gets a
number of its own exactly if its bytes differ from those of the event before. Pure: no I/O, no
waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["Repeats"]

AnyArray = npt.NDArray[Any]

#: After that many events it is known whether they repeat: less than so many of them per new one
#: are not worth it.
LEAST_EVENTS: Final = 64
LEAST_PER_VALUE: Final = 4


class Repeats:
    """Numbers the values of one feature, as one producer puts them.

    Parameters
    ----------
    fresh
        Gives the numbers of new values, increasing.
    """

    def __init__(self, fresh: Iterator[int]) -> None:
        self._fresh = fresh
        #: of the last event: number and bytes of its value
        self._number, self._last = 0, b""
        #: the answer for one more event with that value
        self._one = np.zeros(1, np.int64)
        self._n_events = self._n_values = 0

    @property
    def is_worth_it(self) -> bool:
        """Whether values repeat often enough, as far as is known."""
        return self._n_events < LEAST_EVENTS or self._n_values * LEAST_PER_VALUE <= self._n_events

    def numbers(
        self, values: AnyArray, send: Callable[[int, bytes], None]
    ) -> npt.NDArray[np.int64]:
        """The number of each event's value.

        Parameters
        ----------
        values
            Shape (n, ...).
        send
            Called with number and bytes of each new value. If it raises, that value counts as new
            when it comes again.
        """
        if not len(values):
            return np.empty(0, np.int64)
        self._n_events += len(values)
        starts = []
        if values[0].tobytes() != self._last:
            starts.append(0)
        if len(values) > 1 and values.strides[0]:  # else one is broadcast
            words = _words(values)
            starts += (np.flatnonzero((words[1:] != words[:-1]).any(axis=1)) + 1).tolist()
        elif not starts and len(values) == 1:
            return self._one
        found = np.full(len(values), self._number)
        for start in starts:
            number, data = next(self._fresh), values[start].tobytes()
            send(number, data)
            self._number, self._last = number, data
            found[start:] = number
            self._n_values += 1
        self._one = np.full(1, self._number)
        return found


def _words(values: AnyArray) -> AnyArray:
    """The bytes of the values as numbers that are as wide as possible, shape (n, ...)."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    return flat.view(np.uint64) if flat.shape[1] % 8 == 0 else flat

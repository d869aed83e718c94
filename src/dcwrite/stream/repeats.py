"""Repeats: which events of a feature are the same as those before them.

Alone here: what counts as the same, and when it is not worth looking. Invariant: events have the
same number only if their values have the same bytes. Pure: no I/O, no waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..store.compact_rows import words_of

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
        #: of the last event: bytes of its value, and the answer for one more event with it
        self._data = bytearray()
        self._number = np.zeros(1, np.int64)
        self._n_events = self._n_values = 0

    @property
    def is_worth_it(self) -> bool:
        """Whether values repeat often enough, as far as is known."""
        return self._n_events < LEAST_EVENTS or self._n_values * LEAST_PER_VALUE <= self._n_events

    def forget(self) -> None:
        """The next value is a new one, whatever it is."""
        self._data, self._number = bytearray(), np.zeros(1, np.int64)

    def new_ones(self, values: AnyArray) -> list[int]:
        """Events with another value than the one before.

        Parameters
        ----------
        values
            Shape (n, ...), with at least one byte per event.
        """
        if not len(values):
            return []
        starts = [] if self._is_known(values[0]) else [0]
        if len(values) > 1 and values.strides[0]:  # else one is broadcast
            words = words_of(values)
            starts += (np.flatnonzero((words[1:] != words[:-1]).any(axis=1)) + 1).tolist()
        return starts

    def _is_known(self, value: AnyArray) -> bool:
        """Whether it is the value of the last event."""
        if value.flags.c_contiguous:
            # bytearray, other than bytes, compares itself with any memory, and copies nothing
            return (self._data == value) is True
        return value.tobytes() == self._data

    def again(self, values: AnyArray) -> npt.NDArray[np.int64] | None:
        """The number of a single event, shape (1,), if it has the value of the one before.

        Returns
        -------
        array or None
            None: it has another one; see `numbers`.
        """
        if not self._is_known(values):
            return None
        self._n_events += 1
        return self._number

    def numbers(
        self, values: AnyArray, new_ones: list[int], send: Callable[[int, bytes], None]
    ) -> npt.NDArray[np.int64]:
        """The number of each event's value.

        Parameters
        ----------
        values
            Shape (n, ...).
        new_ones
            As the method gives them.
        send
            Called with number and bytes of each new value. What it raises is raised; values that
            were sent before that are known.
        """
        self._n_events += len(values)
        found = np.full(len(values), self._number[0])
        for start in new_ones:
            number, data = next(self._fresh), values[start].tobytes()
            send(number, data)
            self._data, self._number = bytearray(data), np.full(1, number)
            found[start:] = number
            self._n_values += 1
        return found

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
        self._known = (b"", np.zeros(1, np.int64))
        self._n_events = self._n_values = 0

    @property
    def is_worth_it(self) -> bool:
        """Whether values repeat often enough, as far as is known."""
        return self._n_events < LEAST_EVENTS or self._n_values * LEAST_PER_VALUE <= self._n_events

    def forget(self) -> None:
        """The next value is a new one, whatever it is."""
        self._known = (b"", np.zeros(1, np.int64))

    def new_ones(self, values: AnyArray) -> list[int]:
        """Events with another value than the one before.

        Parameters
        ----------
        values
            Shape (n, ...), with at least one byte per event.
        """
        if not len(values):
            return []
        starts = [0] if values[0].tobytes() != self._known[0] else []
        if len(values) > 1 and values.strides[0]:  # else one is broadcast
            words = words_of(values)
            starts += (np.flatnonzero((words[1:] != words[:-1]).any(axis=1)) + 1).tolist()
        return starts

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
        if len(values) == 1 and not new_ones:
            return self._known[1]
        found = np.full(len(values), self._known[1][0])
        for start in new_ones:
            number, data = next(self._fresh), values[start].tobytes()
            send(number, data)
            self._known = (data, np.full(1, number))
            found[start:] = number
            self._n_values += 1
        return found

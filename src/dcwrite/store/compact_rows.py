"""CompactRows: rows of a feature in less memory than the array that they stand for.

Alone here: what a compact form holds, and how it becomes an array. Invariant: `place` and
`numpy.asarray` give the values from which the rows were made; nobody changes what they hold.

Masks travel as bits, backgrounds that repeat as references to a few images: what is not copied
takes no time, in the workers, in the collector and in the memory between them. They become pixels
in the encoder, chunk by chunk, in memory that its core has in its cache; a chunk that holds one
image only is the same as the last one with that image, and is not encoded again.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["AnyRows", "BitRows", "CompactRows", "RepeatedRows", "as_array", "words_of"]

AnyArray = npt.NDArray[Any]


class CompactRows(ABC):
    """Rows that can be cut and counted as an array of shape (n, ...).

    Attributes
    ----------
    item_shape
        Shape of one row.
    dtype
        Of the array that they stand for.
    """

    item_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def __getitem__(self, rows: slice) -> Self:
        """Some of the rows, as a view."""

    @abstractmethod
    def place(self, where: AnyArray) -> None:
        """Write the values to an array of the rows' shape.

        Parameters
        ----------
        where
            C-contiguous, in their dtype; or of uint8 if that is bool, where True becomes 255.
        """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return (len(self), *self.item_shape)

    @property
    def ndim(self) -> int:
        """Number of axes of the array."""
        return 1 + len(self.item_shape)

    @property
    def nbytes(self) -> int:
        """Size of the array, not of what they hold."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:
        """The array."""
        if copy is False:
            raise ValueError("compact rows cannot become an array without a copy")
        array = np.empty(self.shape, self.dtype)
        self.place(array)
        return array if dtype is None else array.astype(dtype, copy=False)


#: An array, or what stands for one.
AnyRows: TypeAlias = AnyArray | CompactRows


def as_array(rows: AnyRows) -> AnyArray:
    """The array that rows stand for; an array as it is."""
    return np.asarray(rows) if isinstance(rows, CompactRows) else rows


def words_of(rows: AnyArray) -> AnyArray:
    """The bytes of rows as numbers that are as wide as possible, shape (n, words)."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    return flat.view(np.uint64) if flat.shape[1] % 8 == 0 and flat.shape[1] else flat


class BitRows(CompactRows):
    """Rows of bool, as bits.

    Parameters
    ----------
    bits
        As `numpy.packbits` makes them of each row, shape (n, bytes).
    item_shape
        Shape of one row.
    """

    def __init__(self, bits: npt.NDArray[np.uint8], item_shape: tuple[int, ...]) -> None:
        self._bits = bits
        self.item_shape = item_shape
        self.dtype = np.dtype(bool)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._bits)

    def __getitem__(self, rows: slice) -> BitRows:
        """Some of the rows, as a view."""
        return BitRows(self._bits[rows], self.item_shape)

    def place(self, where: AnyArray) -> None:
        """As of `CompactRows`."""
        if not where.flags.c_contiguous:
            raise ValueError("masks are placed in contiguous memory only")
        n_values = math.prod(self.item_shape)
        values = where.view(np.uint8).reshape(len(self), n_values)
        if n_values % 8:
            unpacked = np.unpackbits(self._bits, axis=1, count=n_values)
        else:
            unpacked = np.unpackbits(self._bits).reshape(values.shape)
        if where.dtype == np.bool_:
            values[...] = unpacked
        else:
            np.negative(unpacked, out=values)  # 1 becomes 255


class RepeatedRows(CompactRows):
    """Rows of which many are the same.

    Parameters
    ----------
    values
        Each row once, of one dtype and shape, which nobody changes; two may be equal.
    index
        For each row the number of its value, shape (n,).

    Attributes
    ----------
    values, index
        As given.
    """

    def __init__(self, values: Sequence[AnyArray], index: npt.NDArray[np.intp]) -> None:
        self.values = values
        self.index = index
        self.item_shape = values[0].shape
        self.dtype = values[0].dtype

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.index)

    def __getitem__(self, rows: slice) -> RepeatedRows:
        """Some of the rows, as a view."""
        return RepeatedRows(self.values, self.index[rows])

    def place(self, where: AnyArray) -> None:
        """As of `CompactRows`."""
        # one copy for each run, not for each row: numpy gives up the interpreter's lock for it
        starts = self._starts_of_runs()
        for start, stop in itertools.pairwise([*starts, len(self.index)]):
            where[start:stop] = self.values[int(self.index[start])]

    def _starts_of_runs(self) -> list[int]:
        """First rows of those that follow each other and have one value."""
        index = self.index
        return [0, *(np.flatnonzero(index[1:] != index[:-1]) + 1).tolist()] if len(index) else []

    def only_value(self) -> AnyArray | None:
        """The value that all rows have; None: they have several, or there is no row."""
        index = self.index
        if not len(index) or (index != index[0]).any():
            return None
        return self.values[int(index[0])]

    def one_per_run(self) -> tuple[AnyArray, npt.NDArray[np.intp]]:
        """Of rows that follow each other and have one value: the value, and where they begin.

        Values that are equal, but were given apart, may follow each other.

        Returns
        -------
        values, firsts
            Shapes (runs, ...) and (runs,).
        """
        firsts = np.array(self._starts_of_runs(), np.intp)
        return as_array(RepeatedRows(self.values, self.index[firsts])), firsts

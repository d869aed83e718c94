"""Rows of a source: which were asked for, by chunks, and what goes wrong while they are read.

Alone here: how indices become parts of chunks. Invariant: a part lies in one chunk, or in one
block of chunks, and its rows never decrease.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from ..errors import DCWriteError, StorageError
from ..format.features import as_mapping
from .decoder import ChunkDecoder
from .hdf5 import content_errors, errno_of

__all__ = ["StoredChunk", "Unit", "as_run", "rows_of", "source_errors"]

AnyArray = npt.NDArray[Any]


@contextmanager
def source_errors(source: h5py.Dataset | h5py.Group) -> Iterator[None]:
    """Turn errors of reading into ours: of the disk, or of what the file holds.

    Raises
    ------
    StorageError
        The disk refused to read.
    DamagedFileError
        The content cannot be read.
    """
    try:
        yield
    except DCWriteError:
        raise
    except Exception as exc:
        path = os.fsdecode(source.file.filename)
        if isinstance(exc, OSError) and (code := errno_of(exc)):
            doing = f"reading '{source.name}' failed: {os.strerror(code)}"
            raise StorageError(code, doing, path) from exc
        with content_errors(path, f"reading '{source.name}'"):
            raise


def rows_of(
    rows: slice | npt.ArrayLike | None, n_source: int, what: str
) -> slice | npt.NDArray[np.int64]:
    """Rows that were asked for, checked: a slice of step 1 where they follow each other.

    Parameters
    ----------
    rows
        None: all; a slice; or indices, shape (m,), any order, repeats.
    n_source
        Number of rows that there are.
    what
        For the message.

    Raises
    ------
    DataError
        No integers, or outside of the range.
    """
    if rows is None:
        return slice(0, n_source)
    if isinstance(rows, slice):
        start, stop, step = rows.indices(n_source)
        if step == 1:
            return slice(start, max(start, stop))
        rows = np.arange(start, stop, step)
    indices = as_mapping(rows, n_source, what).astype(np.int64)
    return as_run(indices) if len(indices) else slice(0, 0)


def as_run(indices: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """Indices as a slice, where each follows the one before."""
    first, last = int(indices[0]), int(indices[-1])
    if last - first == len(indices) - 1 and np.all(np.diff(indices) == 1):
        return slice(first, last + 1)
    return indices


class Unit(NamedTuple):
    """Rows out of one chunk of the source, or out of one block of small chunks."""

    start: int
    stop: int
    #: which of the source's rows: a slice, or indices that never decrease
    rows: slice | npt.NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        if isinstance(self.rows, slice):
            return int(self.rows.stop - self.rows.start)
        return len(self.rows)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the chunk, in order."""
        return isinstance(self.rows, slice) and self.bounds == (self.start, self.stop)

    @property
    def bounds(self) -> tuple[int, int]:
        """First row that is needed, and the one behind the last."""
        if isinstance(self.rows, slice):
            return self.rows.start, self.rows.stop
        return int(self.rows[0]), int(self.rows[-1]) + 1

    def pick(self, part: AnyArray, first: int) -> AnyArray:
        """The rows, out of a part of the source that begins at row `first`."""
        if isinstance(self.rows, slice):
            return part[self.rows.start - first : self.rows.stop - first]
        picked: AnyArray = part[self.rows - first]
        return picked

    def chunk_starts(self, size: int) -> list[int]:
        """First rows of the chunks that are needed; `size`: rows in a chunk."""
        if isinstance(self.rows, slice):
            return list(range(self.rows.start // size * size, self.rows.stop, size))
        starts: list[int] = (np.unique(self.rows // size) * size).tolist()
        return starts

    def n_bytes(self, decoder: ChunkDecoder) -> int:
        """Size of all its rows in memory."""
        return max(1, (self.stop - self.start) // decoder.shape[0] * decoder.nbytes)


class StoredChunk(NamedTuple):
    """A chunk of the source: its bytes, or its rows where HDF5 had to read it."""

    start: int
    stored: bytes | None = None
    filter_mask: int = 0
    rows: AnyArray | None = None

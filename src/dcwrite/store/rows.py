"""Rows of a dataset by index, in any order: only the chunks that are needed, decoded in parallel.

Alone here: how chunks are read past HDF5's lock. Invariant: the rows come back in the order in
which they were asked for, repeats included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import h5py
import numpy as np
import numpy.typing as npt

from ..format.chunking import best_chunk_shape
from .encoder import ChunkCodec, EncoderPool

__all__ = ["blocks_of_rows", "read_chunk", "take_rows"]

AnyArray = npt.NDArray[Any]

#: Rows in memory at a time: sorted mappings need each chunk once; unsorted ones need each chunk
#: once per block, so their blocks are larger. (Two of these are in memory while one is encoded.)
SORTED_BLOCK_BYTES: Final = 64 * 1024**2
UNSORTED_BLOCK_BYTES: Final = 128 * 1024**2


def read_chunk(dset: h5py.Dataset, start: int) -> bytes | None:
    """Stored bytes of the chunk that begins at row `start`; None where HDF5 has to read it."""
    offset = (start,) + (0,) * (len(dset.shape) - 1)
    try:
        filter_mask, stored = dset.id.read_direct_chunk(offset)
    except (OSError, RuntimeError, ValueError):
        return None  # not allocated, or unreadable: HDF5 tells which
    return stored if filter_mask == 0 else None


def take_rows(
    dset: h5py.Dataset, rows: AnyArray, pool: EncoderPool, codec: ChunkCodec | None = None
) -> AnyArray:
    """Rows of a dataset.

    Parameters
    ----------
    dset
        Shape (n, ...).
    rows
        Integer indices, shape (m,), inside the range, any order.
    pool
        Threads that decode.
    codec
        Codec of the dataset; None: HDF5 reads.

    Returns
    -------
    ndarray, shape (m, ...)
    """
    out = np.empty((len(rows), *dset.shape[1:]), dtype=dset.dtype)
    if not len(rows):
        return out
    if dset.ndim == 1:
        low, high = int(rows.min()), int(rows.max()) + 1
        try:
            np.take(dset[low:high], rows.astype(np.int64) - low, axis=0, out=out)
        except (OSError, RuntimeError):
            pass  # a chunk in between is damaged: only those that are needed, then
        else:
            return out
    whole_items = dset.chunks is not None and dset.chunks[1:] == dset.shape[1:]
    size = (dset.chunks or best_chunk_shape(dset.shape[1:], dset.dtype))[0]
    order = np.argsort(rows, kind="stable")
    chunk_of = np.asarray(rows)[order] // size
    edges = np.flatnonzero(np.diff(chunk_of)) + 1
    groups = np.split(order, edges)

    def place(where: AnyArray, start: int, stored: bytes | None) -> None:
        if stored is None or codec is None:
            part = dset[start : start + size]
        else:
            part = codec.decode(stored, dset.dtype, dset.chunks)
        out[where] = part[rows[where].astype(np.int64) - start]

    waiting = []
    for where in groups:
        start = int(rows[where[0]] // size) * size
        stored = read_chunk(dset, start) if codec is not None and whole_items else None
        if stored is None:
            place(where, start, None)
        else:
            waiting.append(pool.submit(place, where, start, stored))
            if len(waiting) > 2 * pool.threads:
                waiting.pop(0).result()
    for future in waiting:
        future.result()
    return out


def blocks_of_rows(dset: h5py.Dataset, mapping: AnyArray, chunk_events: int) -> Iterator[AnyArray]:
    """Split a mapping into parts whose rows fit into memory, at multiples of a chunk."""
    is_sorted = bool(np.all(mapping[1:] >= mapping[:-1]))
    budget = SORTED_BLOCK_BYTES if is_sorted else UNSORTED_BLOCK_BYTES
    row_bytes = max(1, int(np.prod(dset.shape[1:])) * dset.dtype.itemsize)
    n_rows = max(1, budget // row_bytes // chunk_events) * chunk_events
    for start in range(0, len(mapping), n_rows):
        yield mapping[start : start + n_rows]
